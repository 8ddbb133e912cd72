// Series and matrix answers: min, max, last and mean in buckets on fixed boundaries, computed from the step functions.
import { wire } from "./jobs.mjs";
import { valuesOf } from "./world.mjs";

const xOf = (run, step, x) => {
  if (x === "tokens") return run.tokensAt(step);
  if (x === "flops") return run.tokensAt(step) * run.flopsPerToken;
  return x === "time" ? run.timeAt(step) : step;
};

const bucketSize = (count, points) => {
  let size = 1;
  while (count / size > points) size *= 2;
  return size;
};

export function seriesAnswer(run, metrics, { x = "step", from, to, points = 1000, attempt }) {
  let [first, last] = [Math.max(1, from ?? 1), Math.min(run.lastStep ?? 0, to ?? Number.POSITIVE_INFINITY)];
  const ghost = attempt === undefined ? null : run.superseded?.find((one) => one.attempt === attempt);
  if (attempt !== undefined) [first, last] = ghost ? [Math.max(first, ghost.fromStep), Math.min(last, ghost.toStep)] : [1, 0];
  const size = bucketSize(Math.max(0, last - first + 1), points);
  const series = metrics.filter((name) => run.scalars[name]).map((metric) => {
    const values = valuesOf(run, metric, ghost !== null);
    const out = { metric, x: [], step: [], min: [], max: [], last: [], mean: [], n: [], nonFinite: [] };
    for (let bucket = Math.floor(first / size); bucket * size <= last; bucket += 1) {
      let [min, max, sum, n, nonFinite, lastStep, lastValue] = [Infinity, -Infinity, 0, 0, 0, 0, NaN];
      for (let step = Math.max(first, bucket * size); step < Math.min(last + 1, (bucket + 1) * size); step += 1) {
        const value = values[step];
        if (value === undefined) continue;
        n += 1;
        [lastStep, lastValue] = [step, value];
        if (!Number.isFinite(value)) {
          nonFinite += 1;
          continue;
        }
        if (value < min) min = value;
        if (value > max) max = value;
        sum += value;
      }
      if (n === 0) continue;
      const finite = n - nonFinite;
      out.x.push(xOf(run, lastStep, x));
      out.step.push(lastStep);
      out.min.push(finite ? min : "NaN");
      out.max.push(finite ? max : "NaN");
      out.mean.push(finite ? sum / finite : "NaN");
      out.last.push(wire(lastValue));
      out.n.push(n);
      out.nonFinite.push(nonFinite);
    }
    return out;
  });
  return { x, bucketSteps: size, from: first, to: last, series, complete: run.state !== "running" };
}

const base64 = (values) => Buffer.from(values.buffer, values.byteOffset, values.byteLength).toString("base64");
const packed = (matrix) => ({ ...matrix, values: base64(matrix.values) });
const stride = (run) => Math.max(1, Math.floor(run.total / 4000));

export function matrixAnswer(run, name, step) {
  const wanted = Math.min(run.lastStep, Math.max(1, step ?? run.lastStep));
  const size = stride(run);
  const firstStep = Math.floor((wanted - 1) / size) * size + 1;
  const lastStep = Math.min(run.lastStep, firstStep + size - 1);
  return { name, step: lastStep, firstStep, lastStep, exact: size === 1, ...packed(run.matrix(name, lastStep)) };
}

export function matrixSteps(run, { from = 1, to = run.lastStep, limit = 50 }) {
  const size = stride(run);
  const items = [];
  for (let first = 1; first <= Math.min(to, run.lastStep); first += size) if (first + size > from) items.push({ step: Math.min(run.lastStep, first + size - 1), firstStep: first, exact: size === 1 });
  return { items: items.slice(0, limit), total: items.length };
}

export function matrixRows(run, { points = 240, reduce = "mean" }) {
  const count = Math.min(points, run.lastStep);
  const steps = Array.from({ length: count }, (_, index) => Math.max(1, Math.round(((index + 1) / count) * run.lastStep)));
  const values = new Float32Array(count * run.layers);
  steps.forEach((step, at) => {
    const load = run.load(step);
    for (let layer = 0; layer < run.layers; layer += 1) {
      const row = load.subarray(layer * run.experts, (layer + 1) * run.experts);
      const mean = row.reduce((sum, value) => sum + value, 0) / row.length;
      values[at * run.layers + layer] = (Math.max(...row) - mean) / mean;
    }
  });
  return { step: steps, rows: run.layers, columns: run.experts, reduce, values: base64(values) };
}
