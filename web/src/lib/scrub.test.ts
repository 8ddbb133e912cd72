import { describe, expect, test } from "vitest";
import { nearestPosition, neighbours, sampleSteps, scrubSteps } from "./scrub";

describe("scrubbing", () => {
  test("short ranges stop at every step, long ones keep both ends", () => {
    expect(scrubSteps({ first: 1, last: 3 })).toEqual([1, 2, 3]);
    const long = scrubSteps({ first: 1, last: 1_000_000 });
    expect([long.length, long[0], long.at(-1)]).toEqual([240, 1, 1_000_000]);
    expect(scrubSteps({ first: 1, last: 0 })).toEqual([]);
  });
  test("samples have both ends, and stay where they are while a run goes on", () => {
    expect(sampleSteps({ first: 1, last: 3 }, 8)).toEqual([1, 2, 3]);
    expect(sampleSteps({ first: 1, last: 16 }, 4)).toEqual([1, 4, 8, 12, 16]);
    expect(sampleSteps({ first: 5, last: 18 }, 4)).toEqual([5, 8, 12, 16, 18]);
    expect([sampleSteps({ first: 7, last: 7 }, 4), sampleSteps({ first: 1, last: 0 }, 4)]).toEqual([[7], []]);
    const [before, after] = [sampleSteps({ first: 1, last: 1000 }, 64), sampleSteps({ first: 1, last: 1010 }, 64)];
    expect(after.slice(0, before.length - 1)).toEqual(before.slice(0, -1));
  });
  test("neighbours are the nearest first", () => {
    expect(neighbours([1, 2, 3, 4, 5], 2, 2)).toEqual([4, 2, 5, 1]);
    expect(nearestPosition([10, 20, 30], 24)).toBe(1);
  });
});
