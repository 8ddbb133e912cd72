import type { EventSeverity, Axis } from "../api/types";
import { formatNumber, formatSi } from "./number";
import { type Line, nearestIndex } from "./series";
import { movingAverage } from "./smoothing";
import { formatDuration, formatTime } from "./time";

/** A line as it is drawn: colour for the metric or run, dashes for the second one, so that neither depends on colour alone. */
export interface Trace {
  id: string;
  label: string;
  line: Line;
  colour: number;
  dash: readonly number[];
  /** Steps that a later attempt made again. */
  ghost: boolean;
}

export interface Pin {
  step: number;
  severity: EventSeverity;
  message: string;
}

export const COLOURS = 6;
export const DASHES: readonly (readonly number[])[] = [[], [7, 4], [2, 3], [10, 3, 2, 3]];

/** What the line itself shows: the points where there is one a bucket, else the bucket's mean; the band shows min and max. */
export const centre = (line: Line): number[] => (line.bucketSteps === 1 ? line.last : line.mean);

export type Column = (number | null)[];

const drawable = (values: readonly number[], positiveOnly: boolean): Column =>
  values.map((value) => (Number.isFinite(value) && !(positiveOnly && value <= 0) ? value : null));

// Fewer points than this are validations and the like: smoothing would invent a delay instead of removing noise.
const SMOOTHED_POINTS = 30;

/** The y columns of a trace: with smoothing the raw line first, as a ghost beneath the smooth one. */
export function columnsOf(trace: Trace, smoothing: number, positiveOnly: boolean): Column[] {
  const raw = centre(trace.line);
  const rawColumn = drawable(raw, positiveOnly);
  return smoothing > 0 ? [rawColumn, raw.length < SMOOTHED_POINTS ? rawColumn : drawable(movingAverage(raw, smoothing), positiveOnly)] : [rawColumn];
}

/** Lines of one run and window share their x, and then need no join. */
export function shareX(traces: readonly Trace[]): boolean {
  const first = traces[0]?.line.x ?? [];
  return traces.every(
    ({ line: { x } }) => x.length === first.length && x[0] === first[0] && x[x.length >> 1] === first[x.length >> 1] && x.at(-1) === first.at(-1),
  );
}

export function extent(traces: readonly Trace[]): [number, number] | null {
  let [low, high] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
  for (const { line } of traces) {
    if (line.x.length === 0) continue;
    low = Math.min(low, line.x[0] as number);
    high = Math.max(high, line.x[line.x.length - 1] as number);
  }
  if (low > high) return null;
  return low === high ? [low - 0.5, high + 0.5] : [low, high];
}

export interface Readout {
  step: number;
  x: number;
  value: number;
  min: number;
  max: number;
  n: number;
  nonFinite: number;
}

/** What a trace says at `x`, or its newest point without one. */
export function readoutAt({ line }: Trace, x: number | null): Readout | null {
  const index = x === null ? line.x.length - 1 : nearestIndex(line.x, x);
  if (index < 0) return null;
  return {
    step: line.step[index] as number,
    x: line.x[index] as number,
    value: centre(line)[index] as number,
    min: line.min[index] as number,
    max: line.max[index] as number,
    n: line.n[index] as number,
    nonFinite: line.nonFinite[index] as number,
  };
}

/** `elapsed`: several runs on a time axis are laid over each other at their starts. */
export function formatX(x: number, axis: Axis, elapsed: boolean): string {
  switch (axis) {
    case "step":
      return Math.round(x).toLocaleString("en-US");
    case "tokens":
      return formatSi(x, 4, true);
    case "flops":
      return formatNumber(x, 4);
    case "time":
      return elapsed ? formatDuration(x) : formatTime(new Date(x * 1000).toISOString());
  }
}

export const X_TITLES: Record<Axis, string> = { step: "Step", tokens: "Tokens", flops: "FLOPs", time: "Time" };

const HEADER = ["run", "metric", "attempt", "step", "x", "n", "min", "max", "mean", "last", "nonFinite"];

export function traceRows(traces: readonly Trace[]): (string | number | null)[][] {
  const rows: (string | number | null)[][] = [HEADER];
  for (const { line } of traces) {
    for (let index = 0; index < line.step.length; index += 1) {
      const columns = [line.step, line.x, line.n, line.min, line.max, line.mean, line.last, line.nonFinite];
      rows.push([line.run, line.metric, line.attempt, ...columns.map((column) => column[index] as number)]);
    }
  }
  return rows;
}
