// A history that is large and the same every time, sent through the ingest of the API as a worker's shipper does.

/** What is seeded: everything for figures, or as little as shows the same structure. */
export const FULL = { jobs: 100, steps: 2_000, long: 1_000_000, spikes: 200, matrices: 10_000, turns: 50 };
export const SMALL = { jobs: 40, steps: 120, long: 40_000, spikes: 24, matrices: 96, turns: 5 };

export const LONG = "long";
export const EXPERTS = "experts";
export const ROWS = 58;
export const COLUMNS = 256;
/** Records of one request; the limits are 100,000 points and 8 MiB. */
const MOST_RECORDS = 20_000;
const MOST_MATRICES = 90;
const LIVE = 5;

/** A value in [0, 1) that depends on its arguments only. */
export function noise(a, b = 0) {
  let x = (Math.imul(a, 0x9e3779b1) ^ Math.imul(b + 1, 0x85ebca6b)) >>> 0;
  x = Math.imul(x ^ (x >>> 16), 0x7feb352d);
  x = Math.imul(x ^ (x >>> 15), 0x846ca68b);
  return ((x ^ (x >>> 16)) >>> 0) / 2 ** 32;
}

const key = (index) => `a${index.toString(16).padStart(11, "0")}`.padEnd(64, "0");
const runName = (job, phase, index) => `${job}.${phase}.${key(index).slice(0, 12)}`;
const loss = (step, length, seed) => 2.1 + 8.4 / (1 + step / (length / 60)) ** 0.55 + 0.08 * (noise(step, seed) - 0.5);

/** Steps of the long run at which its loss and gradient norm jump for one step, with the height of the jump. */
export function spikesOf({ long, spikes }) {
  const stride = Math.floor((long * 0.94) / spikes);
  return Array.from({ length: spikes }, (_, index) => {
    const step = Math.floor(long * 0.05) + index * stride + Math.floor(noise(index, 7) * stride * 0.8);
    return { step, height: 3 + 4 * noise(index, 9) };
  });
}

/** What a job of that position in the list looks like. */
function lookOf(index) {
  if (index < LIVE) return { state: "running", last: "running" };
  const kind = ["succeeded", "succeeded", "failed", "succeeded", "paused", "succeeded", "cancelled", "succeeded", "queued", "stopped"][index % 10];
  return { state: kind, last: { queued: "pending", succeeded: "succeeded", failed: "failed" }[kind] ?? "stopped" };
}

const WORDS = ["ablation", "baseline", "bias-speed", "deeper", "fim", "long-warmup", "mtp", "no-shared", "peak-lr", "seed", "top-4", "wide"];
const PHASES = ["tokenizer", "corpus", "warmup", "pretrain"];

const manifest = (name) => `apiVersion: fathom.dev/v1alpha1\nkind: DeepSeekV3Job\nmetadata: {name: ${name}}\nspec:\n  seed: 7\n  model: {preset: nano}\n`;

function status(name, index, { state, last }, kinds = PHASES) {
  const failed = "The loss was not finite at three steps in a row; resume from the last good checkpoint with a lower learning rate";
  const phases = kinds.map((kind, position) => {
    const phaseState = position < kinds.length - 1 ? (index % 3 === 0 && position === 0 ? "cached" : "succeeded") : last;
    return {
      name: kind, kind: kind === "warmup" ? "pretrain" : kind, state: phaseState, key: key(index * 16 + position), run: runName(name, kind, index * 16 + position),
      attempt: 1, restarts: index % 11 === 0 && position === kinds.length - 1 ? 2 : 0,
    };
  });
  const runs = phases.map((phase) => ({ name: phase.run, phase: phase.name, kind: phase.kind, key: phase.key, state: phase.state, flopsPerToken: 2.6e7 }));
  return {
    uid: `load-${index}`, manifest: manifest(name), effective: manifest(name), state, labels: { team: ["data", "core", "scaling"][index % 3], sweep: String(index % 7) },
    ...(state === "failed" ? { message: failed } : {}), phases, runs, artifacts: [],
  };
}

/** Scalars of a step as the trainer reports them. */
function scalars(step, length, seed) {
  const main = loss(step, length, seed);
  return {
    "loss.main": main, "loss.total": main * 1.1, "loss.mtp.1": main * 1.07 + 0.05 * noise(step, seed + 1), "loss.balance": 1e-4 * (1 + noise(step, seed + 2)),
    gradient_norm: 0.4 + 1.5 / (1 + step / 90) + 0.1 * noise(step, seed + 3), learning_rate: 3e-3 * Math.min(1, step / 100) * (1 - (0.9 * step) / length),
    tokens_per_second: 41_000 + 900 * noise(step, seed + 4), step_seconds: 0.1 + 0.002 * noise(step, seed + 5),
    "moe.max_violation.mean": 0.12 + 0.9 / (1 + step / 60) + 0.02 * noise(step, seed + 6), "moe.max_violation.worst": 0.4 + 1.4 / (1 + step / 60) + 0.1 * noise(step, seed + 7),
  };
}

const round = (values) => Object.fromEntries(Object.entries(values).map(([name, value]) => [name, Math.fround(value)]));

/** Loads of all experts at a step: slow drifts, a little noise, one expert that dies in the second half. */
function loads(step, length) {
  const values = new Float32Array(ROWS * COLUMNS);
  for (let row = 0; row < ROWS; row += 1) {
    const skew = 0.1 + 0.8 / (1 + (12 * step) / length) + (row === 17 ? 0.3 : 0);
    for (let column = 0; column < COLUMNS; column += 1) {
      const own = noise(row * COLUMNS + column, 3) - 0.5;
      values[row * COLUMNS + column] = Math.floor(512 * (1 + 1.6 * skew * own + 0.15 * (noise(step * 61 + row, column) - 0.5)));
    }
  }
  if (step > length / 2) values[9 * COLUMNS + 77] = 0;
  return Buffer.from(values.buffer).toString("base64");
}

/** Sends the records of one writer in requests that keep the server's limits. */
class Writer {
  constructor(request, run, { every = 0.5, end = 0 } = {}) {
    Object.assign(this, { request, run, writer: `${run}/1/0`, sequence: 0, every, end, records: [] });
    this.now = Date.now() / 1000;
  }

  /** The last of `end` steps is now. */
  time(step) {
    return this.now - (this.end - step) * this.every;
  }

  async add(body, time, most = MOST_RECORDS) {
    this.records.push({ writer: this.writer, sequence: this.sequence, time, body });
    this.sequence += 1;
    if (this.records.length >= most) await this.flush();
  }

  async start() {
    await this.add({ event: { kind: "AttemptStarted", step: 0, message: "Started from the beginning" } }, this.time(0));
  }

  async step(step, values, matrices = {}, most) {
    await this.add({ metrics: { step, tokens: step * 4096, scalars: values, matrices } }, this.time(step), most);
  }

  async flush() {
    if (this.records.length === 0) return;
    const body = JSON.stringify({ writer: this.writer, records: this.records });
    this.records = [];
    await this.request(`/runs/${encodeURIComponent(this.run)}/metrics:batch`, { method: "POST", body });
  }
}

const report = (request, name, body) => request(`/jobs/${name}/status`, { method: "PUT", body: JSON.stringify(body) });

/** Many jobs; returns the writers of those that are running, which go on in `train`. */
async function seedJobs(request, { jobs, steps }) {
  const live = [];
  for (let index = jobs - 1; index >= 0; index -= 1) {
    const look = lookOf(index);
    const name = `${WORDS[index % WORDS.length]}-${String(index).padStart(3, "0")}`;
    const body = status(name, index, look);
    await report(request, name, body);
    if (look.state === "queued") continue;
    const length = look.state === "succeeded" ? steps : Math.floor(steps * (0.35 + 0.5 * noise(index, 2)));
    for (const phase of body.phases.filter(({ kind }) => kind === "pretrain")) {
      const last = phase.name === "pretrain";
      const writer = new Writer(request, phase.run, { end: last ? length : 20 });
      await writer.start();
      for (let step = 1; step <= (last ? length : 20); step += 1) await writer.step(step, round(scalars(step, steps, index)));
      if (look.state === "failed" && last) await writer.step(length + 1, { ...round(scalars(length + 1, steps, index)), "loss.main": "NaN" });
      if (last && look.state === "succeeded") await writer.add({ event: { kind: "PhaseCompleted", step: length, message: "The phase is complete" } }, writer.time(length));
      await writer.flush();
      if (last && look.state === "running") live.push({ writer, name, step: length, steps, index });
    }
  }
  return live;
}

async function seedLong(request, counts) {
  const { long } = counts;
  const body = status(LONG, 4001, { state: "succeeded", last: "succeeded" }, ["pretrain"]);
  await report(request, LONG, body);
  const heights = new Map(spikesOf(counts).map(({ step, height }) => [step, height]));
  const writer = new Writer(request, body.phases[0].run, { every: 0.02, end: long });
  await writer.start();
  for (let step = 1; step <= long; step += 1) {
    const height = heights.get(step) ?? 0;
    await writer.step(step, {
      "loss.main": Math.fround(loss(step, long, 1) + height),
      gradient_norm: Math.fround(0.4 + 1.5 / (1 + step / 9000) + 0.1 * noise(step, 3) + 2 * height),
      "moe.max_violation.mean": Math.fround(0.12 + 0.9 / (1 + step / 30_000) + 0.02 * noise(step, 6)),
    });
  }
  await writer.flush();
  return body.phases[0].run;
}

async function seedExperts(request, { matrices }) {
  const body = status(EXPERTS, 4002, { state: "succeeded", last: "succeeded" }, ["pretrain"]);
  await report(request, EXPERTS, body);
  const writer = new Writer(request, body.phases[0].run, { every: 0.5, end: matrices });
  await writer.start();
  const shape = { rows: ROWS, columns: COLUMNS };
  for (let step = 1; step <= matrices; step += 1) {
    await writer.step(step, round(scalars(step, matrices, 5)), { "moe.load": { ...shape, values: loads(step, matrices) } }, MOST_MATRICES);
  }
  await writer.flush();
  return body.phases[0].run;
}

/** Fills the history of a server; `say` hears what each part took. */
export async function seed(request, counts, say) {
  const parts = { jobs: seedJobs, long: seedLong, experts: seedExperts };
  const found = {};
  for (const [name, part] of Object.entries(parts)) {
    const start = Date.now();
    found[name] = await part(request, counts);
    say(`seeded ${name} in ${((Date.now() - start) / 1000).toFixed(1)} s`);
  }
  return found;
}

/** One more step of each job that is running. */
export async function train(live) {
  for (const job of live) {
    job.step += 1;
    await job.writer.step(job.step, round(scalars(job.step, job.steps, job.index)));
    await job.writer.flush();
  }
}
