import type { Attempt, MetricsMessage, SeriesColumns, Series, Axis } from "../api/types";
import { floatOrNaN } from "./number";
import { unixSeconds } from "./time";

/** One metric of one run over the window that is shown, in buckets of `bucketSteps` steps on fixed boundaries. */
export interface Line {
  run: string;
  metric: string;
  attempt: number | null;
  bucketSteps: number;
  x: number[];
  step: number[];
  min: number[];
  max: number[];
  last: number[];
  mean: number[];
  n: number[];
  nonFinite: number[];
}

const columns = ["x", "step", "min", "max", "last", "mean", "n", "nonFinite"] as const;

/** The buckets of a line that `keep` wants. */
function pick(line: Line, keep: (index: number) => boolean): Line {
  const picked = { ...line };
  for (const column of columns) picked[column] = line[column].filter((_, index) => keep(index));
  return picked;
}

/** Of an attempt, the steps that a later one made again: the rest is the line itself. */
export const supersededPart = (line: Line, ranges: Attempt["superseded"]): Line =>
  pick(line, (index) => ranges.some(({ fromStep, toStep }) => (line.step[index] as number) >= fromStep && (line.step[index] as number) <= toStep));

export function lineFrom(run: string, answer: Series, series: SeriesColumns, attempt: number | null = null): Line {
  const line: Line = {
    run,
    metric: series.metric,
    attempt,
    bucketSteps: answer.bucketSteps,
    x: series.x.map(floatOrNaN),
    step: [...series.step],
    min: series.min.map(floatOrNaN),
    max: series.max.map(floatOrNaN),
    last: series.last.map(floatOrNaN),
    mean: series.mean.map(floatOrNaN),
    n: [...series.n],
    nonFinite: [...series.nonFinite],
  };
  return line.x.every(Number.isFinite) ? line : pick(line, (index) => Number.isFinite(line.x[index]));
}

/** A line of single steps that were read one by one. */
export function lineOfSteps(run: string, metric: string, steps: readonly number[], values: readonly number[]): Line {
  const column = () => [...values];
  return {
    run, metric, attempt: null, bucketSteps: 1, x: [...steps], step: [...steps], min: column(), max: column(), last: column(), mean: column(),
    n: steps.map(() => 1), nonFinite: values.map((value) => (Number.isFinite(value) ? 0 : 1)),
  };
}

export interface LivePoint {
  step: number;
  x: number;
  value: number;
}

/** x of a live point; null where this run has no such axis. */
export function livePointX(point: MetricsMessage["points"][number], x: Axis, flopsPerToken: number | null): number | null {
  switch (x) {
    case "step":
      return point.step;
    case "tokens":
      return point.tokens;
    case "flops":
      return flopsPerToken === null ? null : point.tokens * flopsPerToken;
    case "time":
      return unixSeconds(point.time);
  }
}

/**
 * Adds a point as the server would have bucketed it. A step that is not later than the newest one comes from a new attempt: it
 * supersedes what was drawn from there on.
 */
export function appendPoint(line: Line, { step, x, value }: LivePoint): void {
  let end = line.step.length - 1;
  while (end >= 0 && (line.step[end] as number) >= step) {
    for (const column of columns) line[column].pop();
    end -= 1;
  }
  const finite = Number.isFinite(value);
  const bucket = (at: number) => Math.floor(at / line.bucketSteps);
  if (end >= 0 && line.bucketSteps > 1 && bucket(line.step[end] as number) === bucket(step)) {
    const count = line.n[end] as number;
    line.x[end] = x;
    line.step[end] = step;
    line.last[end] = value;
    if (finite) {
      const finiteCount = count - (line.nonFinite[end] as number);
      const mean = line.mean[end] as number;
      line.min[end] = finiteCount > 0 ? Math.min(line.min[end] as number, value) : value;
      line.max[end] = finiteCount > 0 ? Math.max(line.max[end] as number, value) : value;
      line.mean[end] = finiteCount > 0 ? mean + (value - mean) / (finiteCount + 1) : value;
    } else {
      line.nonFinite[end] = (line.nonFinite[end] as number) + 1;
    }
    line.n[end] = count + 1;
    return;
  }
  line.x.push(x);
  line.step.push(step);
  line.min.push(value);
  line.max.push(value);
  line.last.push(value);
  line.mean.push(value);
  line.n.push(1);
  line.nonFinite.push(finite ? 0 : 1);
}

/** Index of the point nearest to `x`, by halving; -1 for an empty line. */
export function nearestIndex(sorted: readonly number[], x: number): number {
  if (sorted.length === 0) return -1;
  let [low, high] = [0, sorted.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((sorted[middle] as number) < x) low = middle + 1;
    else high = middle;
  }
  if (low > 0 && x - (sorted[low - 1] as number) <= (sorted[low] as number) - x) return low - 1;
  return low;
}

/** The steps behind a range of x, wide enough to keep the buckets at both ends. */
export function stepsOfRange(lines: readonly Line[], from: number, to: number): { from: number; to: number } | null {
  let [low, high] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
  for (const line of lines) {
    for (let index = 0; index < line.x.length; index += 1) {
      const x = line.x[index] as number;
      if (x < from || x > to) continue;
      low = Math.min(low, (line.step[index] as number) - line.bucketSteps + 1);
      high = Math.max(high, line.step[index] as number);
    }
  }
  return high > low ? { from: Math.max(0, low), to: high } : null;
}

/** Lowest and highest finite value inside a range of x; the band counts, so that a spike of one step sets the scale. */
export function valueRange(
  lines: readonly Line[],
  range: readonly [number, number] | null,
  positiveOnly: boolean,
): [number, number] | null {
  let [low, high] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
  for (const { x, min, max } of lines) {
    for (let index = 0; index < x.length; index += 1) {
      const at = x[index] as number;
      if (range && (at < range[0] || at > range[1])) continue;
      for (const value of [min[index] as number, max[index] as number]) {
        if (!Number.isFinite(value) || (positiveOnly && value <= 0)) continue;
        low = Math.min(low, value);
        high = Math.max(high, value);
      }
    }
  }
  return high >= low ? [low, high] : null;
}

/** x of a step on a line, for event pins. */
export function xOfStep(line: Line, step: number): number | null {
  const index = nearestIndex(line.step, step);
  if (index < 0) return null;
  const first = line.step[0] as number;
  if (step < first - line.bucketSteps || step > (line.step[line.step.length - 1] as number) + line.bucketSteps) return null;
  // Between its neighbours, or pins would stand on the next validation, which may be hundreds of steps away.
  const [before, after] = (line.step[index] as number) <= step ? [index, index + 1] : [index - 1, index];
  const [s0, s1] = [line.step[before], line.step[after]];
  if (s0 === undefined || s1 === undefined || s1 === s0) return line.x[index] as number;
  const share = (step - s0) / (s1 - s0);
  return (line.x[before] as number) + share * ((line.x[after] as number) - (line.x[before] as number));
}
