import { describe, expect, test } from "vitest";
import { nearestPosition, neighbours, scrubSteps } from "./scrub";

describe("scrubbing", () => {
  test("short ranges stop at every step, long ones keep both ends", () => {
    expect(scrubSteps({ first: 1, last: 3 })).toEqual([1, 2, 3]);
    const long = scrubSteps({ first: 1, last: 1_000_000 });
    expect([long.length, long[0], long.at(-1)]).toEqual([240, 1, 1_000_000]);
    expect(scrubSteps({ first: 1, last: 0 })).toEqual([]);
  });
  test("neighbours are the nearest first", () => {
    expect(neighbours([1, 2, 3, 4, 5], 2, 2)).toEqual([4, 2, 5, 1]);
    expect(nearestPosition([10, 20, 30], 24)).toBe(1);
  });
});
