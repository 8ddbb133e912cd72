/** sRGB, 0..255. */
export type Rgb = readonly [number, number, number];

type Stop = readonly [number, Rgb];

const mix = (a: Rgb, b: Rgb, t: number): Rgb => [a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t];

function ramp(stops: readonly Stop[], at: number): Rgb {
  const first = stops[0] as Stop;
  if (at <= first[0]) return first[1];
  for (let index = 1; index < stops.length; index += 1) {
    const [low, lowColour] = stops[index - 1] as Stop;
    const [high, highColour] = stops[index] as Stop;
    if (at <= high) return mix(lowColour, highColour, (at - low) / (high - low));
  }
  return (stops[stops.length - 1] as Stop)[1];
}

// Blue to white to orange: the pair that all common colour-vision deficiencies keep apart, with falling lightness on both sides.
const DIVERGING: readonly Stop[] = [
  [-1, [8, 48, 107]],
  [-0.6, [33, 102, 172]],
  [-0.25, [146, 197, 222]],
  [0, [247, 247, 245]],
  [0.25, [253, 208, 162]],
  [0.6, [230, 110, 20]],
  [1, [127, 39, 4]],
];

const SEQUENTIAL: readonly Stop[] = [
  [0, [250, 247, 240]],
  [0.2, [206, 224, 228]],
  [0.45, [120, 173, 204]],
  [0.7, [52, 106, 170]],
  [1, [16, 36, 94]],
];

/** A map from values to colours, with the numbers that its legend shows. */
export interface ColourScale {
  colour(value: number): Rgb;
  /** The colour at a position. */
  shade(position: number): Rgb;
  ticks: readonly number[];
  /** Position of a value along the legend, 0..1. */
  position(value: number): number;
  /** Where the legend's bar begins. Zero has the colour below it for itself. */
  start: number;
}

const diverging = (position: number): Rgb => ramp(DIVERGING, position * 2 - 1);
const sequential = (position: number): Rgb => ramp(SEQUENTIAL, position);

const scaleOf = (position: ColourScale["position"], shade: ColourScale["shade"], ticks: readonly number[], start = 0): ColourScale => ({
  position,
  shade,
  colour: (value) => shade(position(value)),
  ticks,
  start,
});

/** Of a load relative to the fair share: 1 is white, halves and doubles are equally far from it, and `reach` is full orange. */
export function relativeLoadScale(reach = 4): ColourScale {
  const position = (value: number) => (value <= 0 ? 0 : Math.min(1, Math.max(0, (Math.log(value) / Math.log(reach) + 1) / 2)));
  return scaleOf(position, diverging, [1 / reach, 1 / Math.sqrt(reach), 1, Math.sqrt(reach), reach]);
}

/** Around zero, symmetric. */
export function signedScale(reach: number): ColourScale {
  const safe = reach > 0 && Number.isFinite(reach) ? reach : 1;
  const position = (value: number) => Math.min(1, Math.max(0, (value / safe + 1) / 2));
  return scaleOf(position, diverging, [-safe, -safe / 2, 0, safe / 2, safe]);
}

/** From zero to `high`. */
export function sequentialScale(high: number): ColourScale {
  const safe = high > 0 && Number.isFinite(high) ? high : 1;
  const position = (value: number) => Math.min(1, Math.max(0, value / safe));
  return scaleOf(position, sequential, [0, safe / 4, safe / 2, (safe * 3) / 4, safe]);
}

const ZERO_SHARE = 0.16;

/** Of shares of a whole, which differ by powers of ten: logarithmic from `floor` to 1. Nothing at all has a colour for itself. */
export function shareScale(floor: number): ColourScale {
  const decades = -Math.log10(floor);
  const position = (value: number) => (value <= 0 ? 0 : ZERO_SHARE + (1 - ZERO_SHARE) * Math.min(1, Math.max(0, 1 + Math.log10(value) / decades)));
  return scaleOf(position, sequential, [floor, floor ** 0.5, 1], ZERO_SHARE);
}

/** Non-finite cells; no scale contains it. */
export const NON_FINITE_COLOUR: Rgb = [214, 46, 174];

export const css = ([red, green, blue]: Rgb): string => `rgb(${Math.round(red)} ${Math.round(green)} ${Math.round(blue)})`;

const LEGEND_STOPS = 16;

/** The scale's colours from low to high, as stops of a CSS gradient. */
export const legendGradient = ({ shade, start }: ColourScale): string =>
  Array.from({ length: LEGEND_STOPS + 1 }, (_, stop) => css(shade(start + (1 - start) * (stop / LEGEND_STOPS)))).join(", ");
