// What quantisation reports of a run in FP8: gradients underflow, those of late layers more and more.
import { normal } from "./random.mjs";

export const NUMERICS = ["numerics.headroom", "numerics.saturated", "numerics.underflowed"];
const CLASSES = 14;
const FIRST_GRADIENT = 9;
const CACHED_E5M6 = 3;

const growth = (step, total) => 0.004 * (0.2 + step / total);

function cellOf(name, { seed, total, depth }, step, layer, column) {
  // A layer that keeps nothing for the backward pass has no such tensor.
  if (column === CACHED_E5M6 && layer === depth - 1) return Number.NaN;
  const [place, gradient] = [layer * CLASSES + column, column >= FIRST_GRADIENT];
  const noise = 1 + 0.08 * normal(seed + 31, step * 1000 + place);
  switch (name) {
    case "numerics.headroom":
      return Math.max(0, (0.45 + 0.2 * normal(seed + 32, place) + (gradient ? 0.3 : 0)) * noise);
    case "numerics.saturated":
      return gradient ? 0.0008 * Math.exp(normal(seed + 33, place)) * noise : 0;
    default:
      if (gradient) return Math.min(1, growth(step, total) * Math.exp((2.4 * layer) / depth + 0.5 * normal(seed + 34, place)) * noise);
      return column < CACHED_E5M6 ? 3e-6 * noise : 0;
  }
}

export const numericsMatrix = (name, run, step) => ({
  rows: run.depth,
  columns: CLASSES,
  values: Float32Array.from({ length: run.depth * CLASSES }, (_, index) => cellOf(name, run, step, Math.floor(index / CLASSES), index % CLASSES)),
});

export function numericsScalars({ seed, total }) {
  const scalar = (at) => ({ at, unit: null, better: "lower", description: null });
  const noise = (step) => 1 + 0.05 * normal(seed + 35, step);
  return {
    "numerics.headroom.mean": scalar((step) => 0.56 * noise(step)),
    "numerics.saturated.mean": scalar((step) => 0.00042 * noise(step)),
    "numerics.underflowed.mean": scalar((step) => 1.4 * growth(step, total) * noise(step)),
  };
}
