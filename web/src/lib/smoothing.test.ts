import { describe, expect, test } from "vitest";
import { movingAverage } from "./smoothing";

describe("moving average", () => {
  test("without weight it is the values", () => expect(movingAverage([1, 5], 0)).toEqual([1, 5]));
  test("it is debiased: a constant stays that constant", () => {
    for (const value of movingAverage([3, 3, 3, 3], 0.9)) expect(value).toBeCloseTo(3, 12);
  });
  test("a NaN is passed over", () => {
    const [first, gap, next] = movingAverage([2, Number.NaN, 2], 0.5);
    expect([first, next]).toEqual([2, 2]);
    expect(gap).toBeNaN();
  });
});
