import { describe, expect, test } from "vitest";
import { formatBytes, formatChange, formatCount, formatNumber, formatPercent, formatReading, formatSi, formatTokens, parseFloatValue } from "./number";

test.each([
  [1.5, 1.5],
  ["NaN", Number.NaN],
  ["Infinity", Number.POSITIVE_INFINITY],
  ["-Infinity", Number.NEGATIVE_INFINITY],
  [null, null],
  [undefined, null],
] as const)("wire float %s", (wire, value) => expect(parseFloatValue(wire)).toEqual(value));

test.each([
  [0, "0"],
  [1.23456, "1.235"],
  [2, "2"],
  [0.0003, "3e-4"],
  [2.2e-5, "2.2e-5"],
  [12345, "12,345"],
  [3_500_000, "3.5e6"],
  [1e7, "1e7"],
  [-0.5, "-0.5"],
  ["NaN", "NaN"],
  ["-Infinity", "-Inf"],
  [null, "–"],
] as const)("number %s", (value, text) => expect(formatNumber(value)).toBe(text));

test.each([
  [999, "999"],
  [999_999, "1M"],
  [14.8e12, "14.8T"],
  [0.25, "0.25"],
  [0, "0"],
  [-2500, "-2.5k"],
  ["Infinity", "+Inf"],
] as const)("SI %s", (value, text) => expect(formatSi(value)).toBe(text));

describe("units", () => {
  test("tokens count in billions", () => expect(formatTokens(1.31e9)).toBe("1.31B"));
  test.each([[0, "0 B"], [1023, "1023 B"], [1024, "1 KiB"], [1_048_575, "1 MiB"], [1.47e12, "1.34 TiB"]] as const)("%s bytes", (bytes, text) => expect(formatBytes(bytes)).toBe(text));
  test("percent", () => expect([formatPercent(0.9712), formatPercent(Number.NaN), formatPercent(null)]).toEqual(["97.1%", "–", "–"]));
  test("change has a real minus", () => expect([formatChange(-0.31), formatChange(212.4), formatChange(1430), formatChange(null)]).toEqual(["−0.3%", "+212.4%", "×15.3", "–"]));
  test("count", () => expect([formatCount(1_000_000), formatCount(null)]).toEqual(["1,000,000", "–"]));
  test("reading", () => expect([formatReading(3_503_000), formatReading(1.9704), formatReading(Number.NaN)]).toEqual(["3.503M", "1.97", "NaN"]));
});
