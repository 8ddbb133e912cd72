// The seeded world of the mock: a healthy run that trains now, one that fails, one that is finished, and one that waits.
import { NUMERICS, numericsMatrix, numericsScalars } from "./numerics.mjs";
import { normal, uniform } from "./random.mjs";

export const START = Date.now();
const HOUR = 3600_000;
const ago = (hours) => new Date(START - hours * HOUR).toISOString();
const key = (text) => Array.from({ length: 64 }, (_, index) => Math.floor(uniform(text.length * 31 + text.charCodeAt(index % text.length), index) * 16).toString(16)).join("");

/** Text that would run if it were ever put into a page as HTML. */
export const HOSTILE = '<img src=x onerror="window.__injected=1"><b>bold</b>';

const decay = (step, total, from, to) => to + (from - to) * Math.exp((-6 * step) / total) + 0.25 * (from - to) * Math.exp((-60 * step) / total);

/** Scalar metrics of a run, each a function of the step. Validation has a value at every `every`-th step only. */
function scalarsOf({ seed, total, from, to, peak, spikes = [], nonFiniteFrom = null, dead = null, tokensPerSecond, every }) {
  const spike = (step) => spikes.reduce((sum, at) => sum + (step === at ? 3.2 : 0), 0);
  const broken = (step) => nonFiniteFrom !== null && step >= nonFiniteFrom;
  const loss = (step) => (broken(step) ? Number.NaN : decay(step, total, from, to) + 0.018 * normal(seed, step) + spike(step));
  const warm = total * 0.01;
  const rate = (step) => (step < warm ? (peak * step) / warm : peak * (0.1 + 0.9 * 0.5 * (1 + Math.cos((Math.PI * (step - warm)) / (total - warm)))));
  const worst = (step) => 0.35 + 0.08 * Math.abs(normal(seed + 5, step)) + (dead !== null && step > dead ? Math.min(5, (step - dead) / 400) : 0);
  return {
    "loss.main": { at: loss, unit: "nats", better: "lower", description: "Cross-entropy of the next token." },
    "loss.mtp.1": { at: (step) => loss(step) * 1.12 + 0.01 * normal(seed + 1, step), unit: "nats", better: "lower", description: "Cross-entropy of the token after the next." },
    "loss.balance": { at: (step) => 1.01 + 0.004 * normal(seed + 2, step), unit: null, better: "lower", description: "Sequence-wise balance loss." },
    "loss.total": { at: (step) => loss(step) * 1.34, unit: "nats", better: "lower", description: null },
    gradient_norm: { at: (step) => (step === nonFiniteFrom ? Number.POSITIVE_INFINITY : broken(step) ? Number.NaN : 0.4 + 2 * Math.exp(-step / (total * 0.02)) + 0.05 * Math.abs(normal(seed + 3, step)) + spike(step) * 4), unit: null, better: null, description: "Global norm before clipping." },
    learning_rate: { at: rate, unit: null, better: null, description: null },
    tokens_per_second: { at: (step) => tokensPerSecond * (1 + 0.02 * normal(seed + 4, step) - (uniform(seed + 9, step) > 0.999 ? 0.4 : 0)), unit: "tokens/s", better: "higher", description: null },
    step_seconds: { at: (step) => 1.2 + 0.02 * normal(seed + 6, step), unit: "s", better: "lower", description: null },
    batch_sequences: { at: (step) => (step < total * 0.03 ? 3072 : 15360), unit: "sequences", better: null, description: null },
    bias_update_speed: { at: (step) => (step < total * 0.96 ? 0.001 : 0), unit: null, better: null, description: null },
    mtp_weight: { at: (step) => (step < total * 0.67 ? 0.3 : 0.1), unit: null, better: null, description: null },
    "moe.max_violation.mean": { at: (step) => worst(step) * 0.5, unit: null, better: "lower", description: "Mean over layers of (max load - mean) / mean." },
    "moe.max_violation.worst": { at: worst, unit: null, better: "lower", description: "Worst layer's (max load - mean) / mean." },
    "validation.loss": { at: (step) => (step % every === 0 ? (broken(step) ? Number.NaN : decay(step, total, from, to) + 0.03) : undefined), unit: "nats", better: "lower", description: null },
    "validation.bits_per_byte": { at: (step) => (step % every === 0 ? (broken(step) ? Number.NaN : (decay(step, total, from, to) + 0.03) / 3.1) : undefined), unit: "bits/byte", better: "lower", description: null },
    [`custom.${HOSTILE}`]: { at: (step) => Math.sin(step / (total / 20)) + 0.1 * normal(seed + 8, step), unit: null, better: null, description: "A metric whose name holds markup." },
  };
}

function trainingRun(options) {
  const { id, job, seed, lastStep, total, tokensPerStep, hours, layers, experts, depth = null, dead = null } = options;
  const startedAt = START - hours * HOUR;
  return {
    ...options,
    phase: "pretrain",
    kind: "pretrain",
    key: key(id),
    scalars: { ...scalarsOf(options), ...(depth === null ? {} : { ...numericsScalars(options), ...sourceScalars(scalarsOf(options)) }) },
    matrix(name, step) {
      if (NUMERICS.includes(name)) return numericsMatrix(name, options, step);
      if (name.startsWith(LOAD)) return { rows: layers, columns: experts, values: this.load(step, SOURCE_NAMES.indexOf(name.slice(LOAD.length)) + 1) };
      return { rows: layers, columns: experts, values: name === "moe.load" ? this.load(step) : this.bias(step) };
    },
    matrices: ["moe.load", "moe.bias", ...(depth === null ? [] : [...NUMERICS, ...SOURCE_NAMES.map((source) => LOAD + source)])],
    tokensAt: (step) => step * tokensPerStep,
    timeAt: (step) => (startedAt + ((step / Math.max(1, lastStep)) * hours * HOUR)) / 1000,
    flopsPerToken: 2.5e11,
    createdAt: new Date(startedAt).toISOString(),
    /** Tokens of every expert of every layer: skewed early, even later, as bias balancing works. On the text of one source experts differ more. */
    load(step, source = 0) {
      const values = new Float32Array(layers * experts);
      const epoch = Math.floor(step / Math.max(1, Math.floor(total / 4000)));
      const skew = 0.14 + 0.8 * Math.exp((-12 * step) / total);
      const fair = (tokensPerStep * 8) / experts;
      for (let layer = 0; layer < layers; layer += 1) {
        for (let expert = 0; expert < experts; expert += 1) {
          const cell = layer * 1000 + expert;
          let share = Math.exp(skew * normal(seed + 11, cell) * 0.7 + 0.08 * normal(seed + 12 + epoch, cell));
          if (source > 0) share *= Math.exp(0.6 * normal(seed + 40 + source, cell));
          if (dead !== null && step > dead && layer === 7 && expert === 19) share = 0;
          if (dead !== null && step > dead && layer === 7 && expert === 3) share *= 1 + Math.min(5, (step - dead) / 400);
          values[layer * experts + expert] = Math.round(fair * share);
        }
      }
      return values;
    },
    bias(step) {
      return Float32Array.from({ length: layers * experts }, (_, index) => {
        const cell = Math.floor(index / experts) * 1000 + (index % experts);
        return -0.12 * (1 - Math.exp((-8 * step) / total)) * normal(seed + 11, cell) + 0.004 * normal(seed + 20, cell);
      });
    },
    superseded: options.superseded ?? [],
    job,
  };
}

const SOURCES = { web: -0.06, code: 0.12, math: 0.2 };
const SOURCE_NAMES = Object.keys(SOURCES);
const LOAD = "validation.load.";

/** What validation measures of each source. */
const sourceScalars = (scalars) =>
  Object.fromEntries(
    Object.entries(SOURCES).flatMap(([source, offset]) => {
      const loss = (step) => scalars["validation.loss"].at(step);
      const derived = (of) => (step) => (loss(step) === undefined ? undefined : of(loss(step)));
      const scalar = (at, unit) => ({ at, unit, better: "lower", description: null });
      return [
        [`validation.loss.${source}`, scalar(derived((value) => value + offset), "nats")],
        [`validation.bits_per_byte.${source}`, scalar(derived((value) => (value + offset) / 3.1), "bits/byte")],
        [`validation.max_violation.${source}`, scalar(derived(() => 1.1 + 3 * Math.abs(offset)), null)],
      ];
    }),
  );

const dataRun = (job, phase, kind, hours) => ({
  id: `${job}.${phase}.${key(job + phase).slice(0, 8)}`, job, phase, kind, key: key(job + phase), attempt: 1, state: "succeeded", createdAt: ago(hours), lastStep: null, total: null, scalars: {}, flopsPerToken: null,
});

export const runs = [
  dataRun("v3-proxy", "tokenizer", "tokenizer", 340),
  dataRun("v3-proxy", "corpus", "corpus", 338),
  trainingRun({ id: "v3-proxy.pretrain.4be1c09a", job: "v3-proxy", seed: 11, total: 1_200_000, lastStep: 1_000_000, tokensPerStep: 4_194_304, hours: 332, layers: 58, experts: 256, depth: 62, from: 11.7, to: 1.92, peak: 2.2e-4, spikes: [137_311, 618_204], tokensPerSecond: 3.5e6, attempt: 1, state: "running", every: 5000 }),
  dataRun("router-collapse", "tokenizer", "tokenizer", 9),
  dataRun("router-collapse", "corpus", "corpus", 8.7),
  trainingRun({ id: "router-collapse.pretrain.d07aa1f3", job: "router-collapse", seed: 23, total: 20_000, lastStep: 12_000, tokensPerStep: 65_536, hours: 8, layers: 26, experts: 64, from: 10.4, to: 2.9, peak: 9e-4, spikes: [6_107], nonFiniteFrom: 11_940, dead: 9_800, tokensPerSecond: 31_000, attempt: 2, state: "running", every: 400, superseded: [{ attempt: 1, fromStep: 7_001, toStep: 7_640 }] }),
  dataRun("quickstart", "tokenizer", "tokenizer", 30),
  dataRun("quickstart", "corpus", "corpus", 29.9),
  trainingRun({ id: "quickstart.pretrain.90c2e6b7", job: "quickstart", seed: 5, total: 780, lastStep: 780, tokensPerStep: 1024, hours: 0.08, layers: 3, experts: 16, from: 8.3, to: 4.1, peak: 2.5e-3, tokensPerSecond: 2900, attempt: 1, state: "succeeded", every: 156 }),
];

export const runById = new Map(runs.map((run) => [run.id, run]));
export const runsOf = (job) => runs.filter((run) => run.job === job);

const SERIES_CACHE = new Map();

/** The values of a metric at steps 1..lastStep; NaN where infinite, undefined steps are told by `present`. */
export function valuesOf(run, name, past = false) {
  const id = `${run.id}/${name}/${past}`;
  let cached = SERIES_CACHE.get(id);
  if (!cached || cached.length < run.lastStep + 1) {
    const metric = run.scalars[name];
    cached = new Array(run.lastStep + 1);
    for (let step = 1; step <= run.lastStep; step += 1) {
      const value = metric.at(step);
      cached[step] = past && value !== undefined ? value * 1.03 : value;
    }
    SERIES_CACHE.set(id, cached);
  }
  return cached;
}

export function advance(run) {
  run.lastStep += 1;
  for (const [id, values] of SERIES_CACHE) {
    if (id.startsWith(`${run.id}/`)) values[run.lastStep] = run.scalars[id.slice(run.id.length + 1, id.lastIndexOf("/"))]?.at(run.lastStep);
  }
}

export { ago, key };
