import { describe, expect, test } from "vitest";
import { STATISTICS, type Statistic, countModules, formatShare, judge, layerLabel, layerName, precisionOf, shortTensorClass, tensorClass, worstCells } from "./numerics";

const statistic = (key: Statistic["key"]) => STATISTICS.find((one) => one.key === key) as Statistic;
const grid = (...values: number[]) => ({ rows: 2, columns: values.length / 2, values: Float32Array.from(values) });

test.each([
  [0, "0%"],
  [1e-7, "<0.001%"],
  [Math.fround(1e-5), "0.001%"],
  [0.0712, "7.12%"],
  [0.5, "50%"],
  [1, "100%"],
  [Number.NaN, "NaN%"],
])("share %s", (share, text) => expect(formatShare(share)).toBe(text));

describe("names", () => {
  const layers = { count: 5, modules: 1 };
  test("modules follow the layers", () => {
    expect([3, 4].map((layer) => layerName(layer, layers))).toEqual(["layer 3", "MTP module 1"]);
    expect([3, 4].map((layer) => layerLabel(layer, layers))).toEqual(["3", "MTP 1"]);
    expect(layerName(4, { count: 5, modules: 0 })).toBe("layer 4");
  });
  test("modules are counted by their losses", () => expect(countModules(["loss.main", "loss.mtp.1", "loss.mtp.2", "loss.mtp"])).toBe(2));
  test("classes have names, also those that this page does not know", () => {
    expect([tensorClass(0), tensorClass(3), tensorClass(13), tensorClass(14)]).toEqual(["attention input", "cached attention output (E5M6)", "gradient: pre-activations", "class 14"]);
  });
  test("and shorter ones", () => expect([3, 10].map(shortTensorClass)).toEqual(["cached attention output", "∇ queries, keys and values"]));
  test("values in words", () => {
    expect(STATISTICS.map(({ words }) => words(0.071))).toEqual(["7.1% underflow", "7.1% saturated", "0.071 powers of two unused"]);
  });
});

describe("what is worst", () => {
  test("is the most, without layers that have no such tensor and without what lost nothing", () => {
    expect(worstCells(grid(0.25, Number.NaN, 0, 0.5, 0.125, 0), 5)).toEqual([
      { row: 1, column: 0, value: 0.5 },
      { row: 0, column: 0, value: 0.25 },
      { row: 1, column: 1, value: 0.125 },
    ]);
    expect(worstCells(grid(0.25, 0.5, 0.75, 1), 1)).toEqual([{ row: 1, column: 1, value: 1 }]);
  });
  test("underflow above 5% is watched, and nothing else", () => {
    const values = grid(0.05, Number.NaN, 0.51, 0.06, 0, 1);
    expect(judge(values, statistic("underflow"))).toEqual({ measured: 5, watched: 3 });
    expect(judge(values, statistic("saturation"))).toEqual({ measured: 5, watched: 0 });
    expect(judge(values, statistic("headroom"))).toEqual({ measured: 5, watched: 0 });
  });
});

describe("scales", () => {
  test("shares have one scale at all steps", () => expect(statistic("underflow").scale(grid(0, 0))).toBe(statistic("saturation").scale(grid(1, 1))));
  test.each([[0, 1], [0.4, 1], [1, 1], [1.5, 2], [2, 2], [5, 8]])("headroom of %s goes up to %s", (largest, top) => {
    expect(statistic("headroom").scale(grid(largest, Number.NaN)).ticks.at(-1)).toBe(top);
  });
});

test.each([
  ["metadata:\n  name: a\nprecision: fp8\nphases: []\n", "fp8"],
  ["spec:\n  seed: 1\n  precision: \"bf16\"  # why\n", "bf16"],
  ["spec:\n  phases:\n    - pretrain:\n        precision: odd\n", null],
  ["", null],
])("precision of %j", (manifest, precision) => expect(precisionOf(manifest)).toBe(precision));
