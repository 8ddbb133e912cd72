import { describe, expect, test } from "vitest";
import type { Series } from "../api/types";
import { type Line, appendPoint, lineFrom, lineOfSteps, livePointX, nearestIndex, stepsOfRange, supersededPart, valueRange, xOfStep } from "./series";

const line = (values: number[], bucketSteps = 1): Line => ({
  run: "r",
  metric: "m",
  attempt: null,
  bucketSteps,
  x: values.map((_, index) => (index + 1) * bucketSteps),
  step: values.map((_, index) => (index + 1) * bucketSteps),
  min: [...values],
  max: [...values],
  last: [...values],
  mean: [...values],
  n: values.map(() => bucketSteps),
  nonFinite: values.map(() => 0),
});

describe("append", () => {
  test("a raw point is a point of its own", () => {
    const grown = line([3, 2]);
    appendPoint(grown, { step: 3, x: 3, value: 1 });
    expect(grown.last).toEqual([3, 2, 1]);
    expect(grown.n).toEqual([1, 1, 1]);
  });

  test("points of one bucket fold into min, max, mean and last", () => {
    const grown = line([5], 4);
    [grown.step[0], grown.x[0], grown.n[0]] = [3, 3, 4];
    for (const [step, value] of [[4, 8], [5, 2], [6, 5]] as const) appendPoint(grown, { step, x: step, value });
    expect(grown.step).toEqual([3, 6]);
    expect([grown.min[1], grown.max[1], grown.mean[1], grown.last[1], grown.n[1]]).toEqual([2, 8, 5, 5, 3]);
  });

  test("a non-finite value is counted and leaves the band alone", () => {
    const grown = line([5], 4);
    [grown.step[0], grown.n[0]] = [3, 4];
    appendPoint(grown, { step: 4, x: 4, value: 7 });
    appendPoint(grown, { step: 5, x: 5, value: Number.NaN });
    expect([grown.min[1], grown.max[1], grown.nonFinite[1], grown.n[1]]).toEqual([7, 7, 1, 2]);
    appendPoint(grown, { step: 6, x: 6, value: 9 });
    expect([grown.mean[1], grown.max[1]]).toEqual([8, 9]);
  });

  test("a bucket that begins non-finite takes its band from the first finite value", () => {
    const grown = line([], 4);
    appendPoint(grown, { step: 4, x: 4, value: Number.POSITIVE_INFINITY });
    appendPoint(grown, { step: 5, x: 5, value: 2 });
    expect([grown.min[0], grown.max[0], grown.mean[0], grown.nonFinite[0]]).toEqual([2, 2, 2, 1]);
  });

  test("a step made again supersedes what was drawn from there on", () => {
    const grown = line([5, 4, 3, 2]);
    appendPoint(grown, { step: 3, x: 3, value: 30 });
    expect(grown.last).toEqual([5, 4, 30]);
  });
});

test("wire strings become numbers", () => {
  const answer: Series = { x: "step", bucketSteps: 1, from: 1, to: 2, series: [], complete: true };
  const made = lineFrom("r", answer, { metric: "m", x: [1, 2], step: [1, 2], min: ["NaN", 1], max: ["NaN", 1], last: ["Infinity", 1], mean: ["NaN", 1], n: [1, 1], nonFinite: [1, 0] });
  expect(made.last).toEqual([Number.POSITIVE_INFINITY, 1]);
  expect(made.min[0]).toBeNaN();
});

test("a point without a place on the axis is left out", () => {
  const answer: Series = { x: "flops", bucketSteps: 1, from: 1, to: 2, series: [], complete: true };
  expect(lineFrom("r", answer, { metric: "m", x: ["NaN", 9], step: [1, 2], min: [5, 6], max: [5, 6], last: [5, 6], mean: [5, 6], n: [1, 1], nonFinite: [0, 0] }).last).toEqual([6]);
});

test("of an attempt only the superseded steps are a ghost", () => {
  expect(supersededPart(line([1, 2, 3, 4]), [{ fromStep: 2, toStep: 3 }]).last).toEqual([2, 3]);
});

test("x of a live point", () => {
  const point = { step: 7, tokens: 700, time: "1970-01-01T00:01:00Z", attempt: 1, scalars: {} };
  expect([livePointX(point, "step", null), livePointX(point, "tokens", null), livePointX(point, "time", null), livePointX(point, "flops", 2), livePointX(point, "flops", null)]).toEqual([7, 700, 60, 1400, null]);
});

test.each([[0, 0], [1.4, 0], [1.6, 1], [99, 2]] as const)("nearest to %s", (x, index) => expect(nearestIndex([1, 2, 3], x)).toBe(index));
test("nearest in nothing", () => expect(nearestIndex([], 1)).toBe(-1));

test("a range of x gives whole buckets", () => {
  expect(stepsOfRange([line([1, 2, 3, 4], 10)], 15, 35)).toEqual({ from: 11, to: 30 });
  expect(stepsOfRange([line([1, 2], 10)], 50, 60)).toBeNull();
});

test("the band sets the scale, non-finite values do not", () => {
  const spiky = line([1, 2, 3]);
  spiky.max[1] = 90;
  spiky.min[2] = Number.NaN;
  expect(valueRange([spiky], null, false)).toEqual([1, 90]);
  expect(valueRange([line([-1, 5])], null, true)).toEqual([5, 5]);
  expect(valueRange([line([Number.NaN])], null, false)).toBeNull();
});

test("a pin stands between sparse points", () => {
  const sparse = line([1, 2], 100);
  expect(xOfStep(sparse, 150)).toBe(150);
  expect(xOfStep(sparse, 200)).toBe(200);
  expect(xOfStep(sparse, 900)).toBeNull();
});

test("steps that were read one by one make a line", () => {
  const read = lineOfSteps("r", "m", [1, 8], [0.5, Number.NaN]);
  expect([read.x, read.last, read.n, read.nonFinite]).toEqual([[1, 8], [0.5, Number.NaN], [1, 1], [0, 1]]);
  appendPoint(read, { step: 9, x: 9, value: 1 });
  expect(read.mean).toEqual([0.5, Number.NaN, 1]);
  expect(read.min, "columns are not shared").not.toBe(read.max);
});
