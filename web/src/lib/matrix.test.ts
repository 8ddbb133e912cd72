import { describe, expect, test } from "vitest";
import { columnMeans, decodeFloats, extremes, labelIndexes, maxViolations, relativeLoad, stackRow, transpose } from "./matrix";

describe("matrices", () => {
  const counts = { rows: 2, columns: 4, values: Float32Array.from([1, 1, 1, 1, 4, 0, 0, 0]) };
  test("relative load", () => expect([...relativeLoad(counts).values]).toEqual([1, 1, 1, 1, 4, 0, 0, 0]));
  test("MaxVio", () => expect([...maxViolations(relativeLoad(counts))]).toEqual([0, 3]));
  test("a layer without tokens has no share", () => expect(relativeLoad({ rows: 1, columns: 2, values: new Float32Array(2) }).values[0]).toBeNaN());
  test("marginals and transpose", () => {
    expect([...columnMeans(counts)]).toEqual([2.5, 0.5, 0.5, 0.5]);
    expect([...transpose(counts).values]).toEqual([1, 4, 1, 0, 1, 0, 1, 0]);
  });
  test("a row of several matrices", () => {
    const other = { rows: 1, columns: 2, values: Float32Array.from([7, 8]) };
    expect(stackRow([counts, other], 0)).toEqual({ rows: 2, columns: 4, values: Float32Array.from([1, 1, 1, 1, 7, 8, Number.NaN, Number.NaN]) });
    expect([...stackRow([other, counts], 1).values.subarray(0, 6)]).toEqual([Number.NaN, Number.NaN, Number.NaN, Number.NaN, 4, 0]);
    expect(stackRow([], 0)).toEqual({ rows: 0, columns: 0, values: new Float32Array(0) });
  });
  test("extremes", () => {
    const { top, bottom } = extremes(relativeLoad(counts), 1);
    expect([top[0], bottom[0]?.value]).toEqual([{ row: 1, column: 0, value: 4 }, 0]);
  });
  test("labels stand where there is room", () => expect([labelIndexes(3, 10), labelIndexes(10, 3)]).toEqual([[0, 1, 2], [0, 4, 8]]));
  test("little-endian f32 in base64", () => expect([...decodeFloats("AACAPwAAAMA=")]).toEqual([1, -2]));
});
