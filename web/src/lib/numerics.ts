import { type ColourScale, sequentialScale, shareScale } from "./colour";
import { type Cell, type Grid, extremes, reach } from "./matrix";
import { HEADROOM, SATURATED, UNDERFLOWED } from "./metric";
import { formatNumber } from "./number";

/** Kinds of quantised tensors of a layer, in the order of the columns of the trainer's matrices. */
const TENSOR_CLASSES: readonly string[] = [
  "attention input",
  "latents",
  "attention output",
  "cached attention output (E5M6)",
  "FFN input",
  "cached pre-activations",
  "SwiGLU output",
  "attention weights",
  "FFN weights",
  "gradient: attention output",
  "gradient: queries, keys and values",
  "gradient: latents",
  "gradient: FFN output",
  "gradient: pre-activations",
];

/** A newer trainer may know more of them than this page. */
export const tensorClass = (index: number): string => TENSOR_CLASSES[index] ?? `class ${index}`;

/** As a telephone has room for it. */
export const shortTensorClass = (index: number): string => tensorClass(index).replace("gradient:", "∇").replace(/ \(.*\)$/, "");

/** The rows of the trainer's matrices: multi-token prediction modules come after the layers of the main model. */
export interface Layers {
  count: number;
  modules: number;
}

const moduleNumber = (layer: number, { count, modules }: Layers): number => layer - (count - modules) + 1;

/** As an axis has room for it. */
export function layerLabel(layer: number, layers: Layers): string {
  const number = moduleNumber(layer, layers);
  return number < 1 ? String(layer) : `MTP ${number}`;
}

export function layerName(layer: number, layers: Layers): string {
  const number = moduleNumber(layer, layers);
  return number < 1 ? `layer ${layer}` : `MTP module ${number}`;
}

/** Of a run whose metrics have these names. */
export const countModules = (metrics: readonly string[]): number => metrics.filter((name) => /^loss\.mtp\.\d+$/.test(name)).length;

/** Above this share of underflow a class of a layer is worth watching; in the precision of the values that are judged. */
export const UNDERFLOW_WATCH = Math.fround(0.05);
/** Shares below it are told apart from nothing, and from no other. */
const LEAST_SHARE = 1e-5;
const SHARES = shareScale(LEAST_SHARE);

/** `7.12%`; what is less than can be told apart is said to be so. */
export function formatShare(share: number, digits = 3): string {
  const percent = Number((share * 100).toPrecision(digits));
  return percent > 0 && percent < LEAST_SHARE * 100 ? `<${formatNumber(LEAST_SHARE * 100)}%` : `${formatNumber(percent, digits)}%`;
}

/** What quantisation reports of each class of tensors in each layer. More is worse in all of them. */
export interface Statistic {
  key: "underflow" | "saturation" | "headroom";
  /** Over all layers and classes. */
  scalar: string;
  /** A row a layer, a column a class. */
  matrix: string;
  title: string;
  meaning: string;
  unit: string;
  /** From what is reported to `unit`. */
  factor: number;
  format: (value: number, digits?: number) => string;
  words: (value: number) => string;
  /** Null: it is measured and not judged. */
  watchAbove: number | null;
  legend: string;
  scale: (grid: Grid) => ColourScale;
}

const share = { unit: "%", factor: 100, format: formatShare, legend: "share of elements, logarithmic", scale: () => SHARES };

export const STATISTICS: readonly Statistic[] = [
  {
    ...share,
    key: "underflow",
    scalar: UNDERFLOWED,
    matrix: "numerics.underflowed",
    title: "Underflow",
    meaning: "Share of elements that are not zero and were coded as zero.",
    words: (value) => `${formatShare(value)} underflow`,
    watchAbove: UNDERFLOW_WATCH,
  },
  {
    ...share,
    key: "saturation",
    scalar: SATURATED,
    matrix: "numerics.saturated",
    title: "Saturation",
    meaning: "Share of elements that were coded as the format's largest value.",
    words: (value) => `${formatShare(value)} saturated`,
    watchAbove: null,
  },
  {
    key: "headroom",
    scalar: HEADROOM,
    matrix: "numerics.headroom",
    title: "Headroom",
    meaning: "Unused range above the elements: 0 is full; much means that outliers set the scales, or that the format is badly used.",
    unit: "powers of two",
    factor: 1,
    format: (value, digits = 3) => formatNumber(value, digits),
    words: (value) => `${formatNumber(value, 3)} powers of two unused`,
    watchAbove: null,
    legend: "unused powers of two",
    // A whole number of doublings, so that colours mean the same from step to step.
    scale: ({ values }) => sequentialScale(Math.max(1, 2 ** Math.ceil(Math.log2(reach(values))))),
  },
];

/** The cells that lost most, worst first; those that lost nothing are none of them. */
export const worstCells = (grid: Grid, count: number): Cell[] => extremes(grid, count).top.filter(({ value }) => value > 0);

export const isWatch = ({ watchAbove }: Statistic, value: number): boolean => watchAbove !== null && value > watchAbove;

/** Cells that are measured, and those of them that are worth watching. */
export function judge(grid: Grid, statistic: Statistic): { measured: number; watched: number } {
  const measured = grid.values.filter((value) => !Number.isNaN(value));
  return { measured: measured.length, watched: measured.filter((value) => isWatch(statistic, value)).length };
}

/** The job's arithmetic, from its manifest with every default filled in. */
export function precisionOf(effective: string): string | null {
  return /^ {0,2}precision:\s*["']?(\w+)/m.exec(effective)?.[1] ?? null;
}
