import type { Float } from "../api/types";

/** The number behind a wire float; absent stays `null`, so that "no value" and "NaN" never mix. */
export function parseFloatValue(value: Float | null | undefined): number | null {
  if (value === null || value === undefined) return null;
  if (typeof value === "number") return value;
  switch (value) {
    case "NaN":
      return Number.NaN;
    case "Infinity":
      return Number.POSITIVE_INFINITY;
    case "-Infinity":
      return Number.NEGATIVE_INFINITY;
    default:
      return null;
  }
}

/** For typed arrays and charts: absent becomes NaN. */
export const floatOrNaN = (value: Float | null | undefined): number => parseFloatValue(value) ?? Number.NaN;

export const ABSENT = "–";

function nonFiniteText(value: number): string | null {
  if (Number.isNaN(value)) return "NaN";
  if (value === Number.POSITIVE_INFINITY) return "+Inf";
  if (value === Number.NEGATIVE_INFINITY) return "-Inf";
  return null;
}

/** `digits` significant digits, plain where that is short and with an exponent where it is not. */
export function formatNumber(value: Float | null | undefined, digits = 4): string {
  const number = parseFloatValue(value);
  if (number === null) return ABSENT;
  const special = nonFiniteText(number);
  if (special !== null) return special;
  if (number === 0) return "0";
  const magnitude = Math.abs(number);
  if (magnitude >= 1e6 || magnitude < 1e-3) return number.toExponential(digits - 1).replace(/\.?0*e\+?/, "e");
  if (magnitude >= 10 ** (digits - 1)) return Math.round(number).toLocaleString("en-US");
  return trimZeros(number.toPrecision(digits));
}

const trimZeros = (text: string): string => (text.includes(".") ? text.replace(/\.?0+$/, "") : text);

const SI = [
  [1e24, "Y"], [1e21, "Z"], [1e18, "E"], [1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"],
] as const;

/** `14.8T`, `3.2k`: counts and rates. `G` is written `B` for tokens, as the field does. */
export function formatSi(value: Float | null | undefined, digits = 3, billions = false): string {
  const number = parseFloatValue(value);
  if (number === null) return ABSENT;
  const special = nonFiniteText(number);
  if (special !== null) return special;
  // Rounding first, so that 999,999 becomes 1M and never 1000k.
  const rounded = Number(number.toPrecision(digits));
  for (const [unit, prefix] of SI) {
    if (Math.abs(rounded) >= unit) return trimZeros((rounded / unit).toPrecision(digits)) + (billions && prefix === "G" ? "B" : prefix);
  }
  if (Math.abs(rounded) >= 1 || rounded === 0) return trimZeros(rounded.toPrecision(digits));
  return formatNumber(rounded, digits);
}

/** As a person reads a chart: large values with a prefix, small ones in full. */
export function formatReading(value: number): string {
  return Math.abs(value) >= 1e5 && Number.isFinite(value) ? formatSi(value, 4) : formatNumber(value);
}

export const formatTokens = (value: number | null | undefined): string => formatSi(value, 3, true);

export function formatCount(value: number | null | undefined): string {
  return value === null || value === undefined ? ABSENT : Math.round(value).toLocaleString("en-US");
}

export function formatBytes(bytes: number | null | undefined): string {
  if (bytes === null || bytes === undefined) return ABSENT;
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let scaled = bytes;
  let unit = 0;
  while (scaled >= 1023.5 && unit < units.length - 1) {
    scaled /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? scaled : trimZeros(scaled.toPrecision(3))} ${units[unit]}`;
}

export function formatPercent(fraction: number | null | undefined, digits = 1): string {
  return fraction === null || fraction === undefined || !Number.isFinite(fraction) ? ABSENT : `${(fraction * 100).toFixed(digits)}%`;
}

/** `+3.2%` of a value that is in percent already; the minus is a real one. Growth that percent cannot tell is a factor. */
export function formatChange(percent: number | null | undefined): string {
  if (percent === null || percent === undefined || !Number.isFinite(percent)) return ABSENT;
  if (percent >= 900) return `×${formatSi(1 + percent / 100)}`;
  const text = Math.abs(percent) >= 1000 ? formatSi(Math.abs(percent)) : Math.abs(percent).toFixed(1);
  return `${percent < 0 ? "−" : "+"}${text}%`;
}
