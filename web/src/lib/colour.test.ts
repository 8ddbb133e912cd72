import { describe, expect, test } from "vitest";
import { NON_FINITE_COLOUR, css, legendGradient, relativeLoadScale, sequentialScale, signedScale } from "./colour";

describe("colour scales", () => {
  const load = relativeLoadScale(4);
  test("fair share is the middle; a half and a double are equally far", () => {
    expect(load.position(1)).toBe(0.5);
    expect(load.position(2) - 0.5).toBeCloseTo(0.5 - load.position(0.5));
    expect([load.position(0), load.position(100)]).toEqual([0, 1]);
  });
  test("blue below, orange above", () => {
    const [red, , blue] = load.colour(0.3);
    expect(blue).toBeGreaterThan(red);
    expect(load.colour(3)[0]).toBeGreaterThan(load.colour(3)[2]);
  });
  test("a flat matrix has a scale too", () => expect([signedScale(0).position(0), sequentialScale(0).position(0)]).toEqual([0.5, 0]));
  test("css", () => expect([css(NON_FINITE_COLOUR), legendGradient("signed").split(",").length]).toEqual(["rgb(214 46 174)", 7]));
});
