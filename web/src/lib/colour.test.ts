import { describe, expect, test } from "vitest";
import { NON_FINITE_COLOUR, css, legendGradient, relativeLoadScale, sequentialScale, shareScale, signedScale } from "./colour";

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
  test("shares are logarithmic, and zero is apart from the least of them", () => {
    const share = shareScale(1e-4);
    expect([share.position(0), share.position(1), share.position(2)]).toEqual([0, 1, 1]);
    expect(share.position(1e-9)).toBe(share.start);
    expect(share.position(0.1) - share.position(0.01)).toBeCloseTo(share.position(0.01) - share.position(0.001));
    expect(share.colour(0)).not.toEqual(share.colour(1e-9));
  });
  test("the legend has the colours of its scale, without that of zero", () => {
    const share = shareScale(1e-4);
    const stops = legendGradient(share).split(", ");
    expect([stops[0], stops.at(-1)]).toEqual([css(share.colour(1e-4)), css(share.colour(1))]);
    expect(legendGradient(load).split(", ")[8]).toBe(css(load.colour(1)));
  });
  test("css", () => expect(css(NON_FINITE_COLOUR)).toBe("rgb(214 46 174)"));
});
