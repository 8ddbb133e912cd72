// Job, health, event, checkpoint and manifest views over the seeded world.
import { HOSTILE, START, ago, key, runById, runs, runsOf } from "./world.mjs";

const wire = (value) => (Number.isFinite(value) ? value : Number.isNaN(value) ? "NaN" : value > 0 ? "Infinity" : "-Infinity");
export { wire };

const trainer = (job) => runsOf(job).find((run) => run.kind === "pretrain");
const phase = (fields) => ({
  run: null, attempt: null, restarts: 0, key: null, startedAt: null, finishedAt: null, step: null, fraction: null, stage: null, done: null, total: null,
  unit: null, etaSeconds: null, loss: null, tokensPerSecond: null, checkpointStep: null, message: null, summary: null, ...fields,
});

const dataPhase = (job, name, state, hours, minutes, summary) => {
  const run = runsOf(job).find((one) => one.phase === name);
  return phase({ name, kind: name, state, run: run?.id ?? null, attempt: 1, key: run?.key ?? null, startedAt: ago(hours), finishedAt: ago(hours - minutes / 60), fraction: 1, summary });
};

function trainingPhase(job, state, restarts, message = null) {
  const run = trainer(job);
  return phase({
    name: "pretrain", kind: "pretrain", state, run: run.id, attempt: run.attempt, restarts, key: run.key, startedAt: run.createdAt,
    finishedAt: state === "succeeded" ? ago(29.8) : null, step: run.lastStep, fraction: run.lastStep / run.total, stage: "training", done: run.tokensAt(run.lastStep),
    total: run.tokensAt(run.total), unit: "tokens", etaSeconds: state === "running" ? (run.total - run.lastStep) * 1.2 : null,
    loss: wire(run.scalars["loss.main"].at(run.lastStep)), tokensPerSecond: wire(run.scalars.tokens_per_second.at(run.lastStep)), checkpointStep: Math.floor(run.lastStep / 500) * 500, message,
    summary: state === "succeeded" ? "loss 4.11, 798,720 tokens" : null,
  });
}

const sparkline = (run, name, points) =>
  Array.from({ length: points }, (_, index) => wire(run.scalars[name].at(Math.max(1, Math.round(((index + 1) / points) * run.lastStep))) ?? Number.NaN));

const REASONS = {
  "router-collapse": [
    { code: "loss.nonFinite", severity: "failing", text: "LM loss is NaN for 61 steps", since: { step: 11_940, time: ago(0.04) }, page: "curves", metric: "loss.main" },
    { code: "balance.deadExpert", severity: "failing", text: "Layer 7 expert 19 received no token for 2,200 steps", since: { step: 9_800, time: ago(1.4) }, page: "experts", metric: "moe.load" },
    { code: "balance.maxViolation", severity: "watch", text: "Layer 7 expert load: MaxVio 5.4, rising for 2,000 steps", since: { step: 9_900, time: ago(1.3) }, page: "experts", metric: "moe.load" },
    { code: "restarts", severity: "watch", text: "1 restart in the last 8 hours", since: { step: 7_000, time: ago(3) }, page: "logs", metric: null },
  ],
};
const VERDICT = { "v3-proxy": "healthy", "router-collapse": "failing", quickstart: "healthy", "waiting-for-gpus": "noData" };

const STATES = { "v3-proxy": "running", "router-collapse": "running", quickstart: "succeeded", "waiting-for-gpus": "queued" };
const ACTIONS = { running: ["pause", "cancel", "fork"], paused: ["resume", "cancel", "fork"], succeeded: ["fork", "delete"], queued: ["cancel"], cancelled: ["delete"] };

const PHASES = {
  "v3-proxy": () => [
    dataPhase("v3-proxy", "tokenizer", "cached", 340, 0, "129,280 tokens, 4.12 bytes/token"),
    dataPhase("v3-proxy", "corpus", "succeeded", 338, 312, "14.8T tokens, packing 99.2%"),
    trainingPhase("v3-proxy", "running", 0),
    phase({ name: "yarn-32k", kind: "extend", state: "pending" }),
    phase({ name: "sft", kind: "sft", state: "pending" }),
  ],
  "router-collapse": () => [
    dataPhase("router-collapse", "tokenizer", "succeeded", 9, 14, "32,768 tokens"),
    dataPhase("router-collapse", "corpus", "succeeded", 8.7, 40, "1.31B tokens, packing 97.1%"),
    trainingPhase("router-collapse", "running", 1),
  ],
  quickstart: () => [
    dataPhase("quickstart", "tokenizer", "succeeded", 30, 0.4, "4,096 tokens"),
    dataPhase("quickstart", "corpus", "succeeded", 29.98, 0.6, "8.1M tokens"),
    trainingPhase("quickstart", "succeeded", 0),
  ],
  "waiting-for-gpus": () => ["tokenizer", "corpus", "pretrain"].map((name) => phase({ name, kind: name, state: "pending" })),
};

export const jobNames = Object.keys(PHASES);
const CREATED = { "v3-proxy": 341, "router-collapse": 9.1, quickstart: 30.1, "waiting-for-gpus": 0.2 };

export function job(name) {
  const run = trainer(name) ?? null;
  const state = STATES[name];
  const phases = PHASES[name]();
  return {
    name, project: "default", uid: `uid-${name}`, state, message: name === "waiting-for-gpus" ? "Waiting for 16 GPUs: 8 of 24 are free" : null,
    phase: phases.find((one) => one.state === "running")?.name ?? null, createdAt: ago(CREATED[name]), updatedAt: new Date().toISOString(),
    startedAt: run ? ago(CREATED[name]) : null, finishedAt: state === "succeeded" ? ago(29.8) : null, generation: name === "router-collapse" ? 2 : 1, phases,
    health: { verdict: VERDICT[name], reasons: REASONS[name] ?? [] }, progress: run && state === "running" ? run.lastStep / run.total : null,
    lossSparkline: run ? sparkline(run, "loss.main", 48) : [], loss: run ? wire(run.scalars["loss.main"].at(run.lastStep)) : null,
    tokens: run ? run.tokensAt(run.lastStep) : null, tokensPerSecond: run ? wire(run.scalars.tokens_per_second.at(run.lastStep)) : null,
    etaSeconds: run && state === "running" ? (run.total - run.lastStep) * 1.2 : null, restarts: name === "router-collapse" ? 1 : 0,
    allowedActions: ACTIONS[state] ?? [], labels: name === "v3-proxy" ? { team: "pretraining" } : {},
  };
}

export function setState(name, state) {
  STATES[name] = state;
}

export const runView = ({ id, job: owner, phase: name, kind, key: content, state, attempt, createdAt, lastStep, tokensAt, timeAt, flopsPerToken }) => ({
  id, job: owner, phase: name, kind, key: content, state, attempt, createdAt, lastStep, lastTokens: lastStep === null ? null : tokensAt(lastStep),
  lastTime: lastStep === null ? null : new Date(timeAt(lastStep) * 1000).toISOString(), flopsPerToken,
});

const tile = (id, title, fields) => ({ id, title, value: null, text: "–", unit: null, state: "noData", rule: "", detail: "", band: null, changePercent: null, sparkline: [], ...fields });

const RULES = {
  loss: "Watch above robust z 4 over 200 steps; failing when non-finite or above z 8 for 5 steps.",
  gradient: "Watch above z 6; failing when non-finite or clipped on half of 100 steps.",
  throughput: "Watch 10% below the trailing median for 5 min; failing at 30% for 10 min.",
  balance: "Watch above MaxVio 1 for 100 steps; failing above 4, or an expert dead for 500 steps.",
  numerics: "Failing when any loss, gradient or weight is NaN or infinite.",
  infrastructure: "Watch when the checkpoint is older than 2 intervals or 2 restarts in an hour.",
};

export function health(name) {
  const run = trainer(name);
  if (!run) {
    const none = [["loss", "Loss"], ["gradient", "Gradient"], ["throughput", "Throughput"], ["balance", "Expert balance"], ["numerics", "Numerics"], ["infrastructure", "Infrastructure"]];
    return { verdict: "noData", since: null, reasons: [], nextAction: { kind: "wait", text: "Starts when 8 more GPUs are free", href: null }, tiles: none.map(([id, title]) => tile(id, title, { rule: RULES[id], detail: "Nothing measured yet" })), evaluatedAt: new Date().toISOString(), step: null, run: null };
  }
  const bad = name === "router-collapse";
  const at = (metric) => run.scalars[metric].at(run.lastStep);
  const loss = at("loss.main");
  return {
    verdict: VERDICT[name], since: bad ? ago(0.04) : ago(71), reasons: REASONS[name] ?? [],
    nextAction: bad ? { kind: "rollback", text: "Fork from step 9,500, before layer 7 collapsed", href: `/jobs/${name}/checkpoints` } : { kind: "none", text: "", href: null },
    tiles: [
      tile("loss", "Loss", { value: wire(loss), text: Number.isFinite(loss) ? loss.toFixed(3) : "NaN", unit: "nats", state: bad ? "failing" : "healthy", rule: RULES.loss, detail: bad ? "NaN since step 11,940; last finite 3.012" : "z 0.4 against the last 200 steps", band: [1.85, 2.05].map((value) => (name === "quickstart" ? value + 2.2 : bad ? value + 1.1 : value)), changePercent: bad ? null : -0.3, sparkline: sparkline(run, "loss.main", 64).slice(20) }),
      tile("gradient", "Gradient", { value: wire(at("gradient_norm")), text: bad ? "NaN" : at("gradient_norm").toFixed(3), state: bad ? "failing" : "healthy", rule: RULES.gradient, detail: bad ? "Infinite at step 11,940" : "Clipped on 3 of 100 steps", band: [0.3, 0.8], changePercent: bad ? null : 1.8, sparkline: sparkline(run, "gradient_norm", 64).slice(20) }),
      tile("throughput", "Throughput", { value: wire(at("tokens_per_second")), text: bad ? "31.0k" : name === "quickstart" ? "2.9k" : "3.50M", unit: "tokens/s", state: "healthy", rule: RULES.throughput, detail: bad ? "Median of 5 min: 31.0k" : "MFU 41.2%", band: bad ? [28_000, 34_000] : null, changePercent: 0.6, sparkline: sparkline(run, "tokens_per_second", 64) }),
      tile("balance", "Expert balance", { value: wire(at("moe.max_violation.worst")), text: at("moe.max_violation.worst").toFixed(2), unit: "MaxVio", state: bad ? "failing" : "healthy", rule: RULES.balance, detail: bad ? "Layer 7; 1 dead expert" : "Worst: layer 41", band: [0, 1], changePercent: bad ? 212.4 : -2.1, sparkline: sparkline(run, "moe.max_violation.worst", 64) }),
      tile("numerics", "Numerics", { value: bad ? 61 : 0, text: bad ? "61" : "0", unit: "non-finite steps", state: bad ? "failing" : "healthy", rule: RULES.numerics, detail: bad ? "loss.main, gradient_norm" : "All finite since the start", sparkline: [] }),
      tile("infrastructure", "Infrastructure", { value: 12, text: bad ? "1" : "0", unit: bad ? "restart" : "restarts", state: bad ? "watch" : "healthy", rule: RULES.infrastructure, detail: "Heartbeat 1 s ago; checkpoint 7 min old", sparkline: [] }),
    ],
    evaluatedAt: new Date().toISOString(), step: run.lastStep, run: run.id,
  };
}

let eventId = 0;
const event = (owner, run, hours, kind, severity, step, message, attempt = 1, superseded = false) => ({ id: (eventId += 1), job: owner, run, time: ago(hours), kind, severity, step, message, attempt, superseded });
const proxy = "v3-proxy.pretrain.4be1c09a";
const collapse = "router-collapse.pretrain.d07aa1f3";
const quick = "quickstart.pretrain.90c2e6b7";

export const events = [
  event("v3-proxy", null, 341, "JobCreated", "info", null, "Job created by generation 1", null),
  event("v3-proxy", proxy, 332, "AttemptStarted", "info", 0, "Attempt 1 started"),
  event("v3-proxy", proxy, 286, "Detected", "warning", 137_311, "Loss spike: robust z 31 for one step, recovered at once"),
  event("v3-proxy", proxy, 126, "Detected", "warning", 618_204, "Loss spike: robust z 29 for one step, recovered at once"),
  event("v3-proxy", proxy, 1.1, "CheckpointCommitted", "info", 996_500, "Checkpoint of step 996,500 committed, 1.34 TiB"),
  event("quickstart", quick, 30, "AttemptStarted", "info", 0, "Attempt 1 started"),
  event("quickstart", quick, 29.8, "PhaseCompleted", "info", 780, "pretrain is complete: loss 4.11"),
  event("router-collapse", null, 9.1, "JobCreated", "info", null, "Job created by generation 1", null),
  event("router-collapse", collapse, 8, "AttemptStarted", "info", 0, "Attempt 1 started"),
  event("router-collapse", collapse, 5.2, "DataWarning", "warning", 3_120, `Document skipped, its title is not UTF-8: ${HOSTILE}`),
  event("router-collapse", collapse, 3.1, "CheckpointCommitted", "info", 7_500, "Checkpoint of step 7,500 committed, 18.2 GiB", 1, true),
  event("router-collapse", collapse, 3, "AttemptFailed", "error", 7_640, "Rank 3: CUDA error 719, unspecified launch failure; the node was replaced", 1, true),
  event("router-collapse", collapse, 2.9, "AttemptStarted", "info", 7_000, "Attempt 2 resumes after step 7,000 and supersedes 640 steps", 2),
  event("router-collapse", collapse, 1.4, "Detected", "error", 9_800, "Layer 7 expert 19 receives no tokens", 2),
  event("router-collapse", collapse, 0.04, "NonFinite", "error", 11_940, "loss became NaN at step 11940", 2),
  event("router-collapse", collapse, 0.03, "HealthChanged", "error", 11_941, "Health is failing: LM loss is NaN", 2),
];
export const addEvent = (...fields) => {
  const added = event(...fields);
  events.push(added);
  return added;
};

const LOG_TEXTS = [
  ["info", (step) => `step ${step} loss ${(3 + Math.sin(step)).toFixed(4)} lr 2.2e-04 ${HOSTILE}`],
  ["debug", (step) => `dispatch ${step}: 58 layers, 256 experts, 12.1 ms`],
  ["info", (step) => `step ${step} grad 0.412 tokens/s 31,004`],
  ["warn", (step) => `data: shard 0412 read took 1.8 s at step ${step}`],
];
export const logs = [];
export function addLog(run, attempt, time, level, text) {
  const line = { id: logs.length + 1, run, attempt, rank: logs.length % 4, time: new Date(time).toISOString(), level, text };
  logs.push(line);
  return line;
}
for (let index = 0; index < 900; index += 1) {
  const [level, text] = LOG_TEXTS[index % 13 === 12 ? 3 : index % 3];
  const run = runById.get(index % 3 === 0 ? proxy : collapse);
  const attempt = run.id === collapse && index > 320 ? 2 : 1;
  addLog(run.id, attempt, START - (900 - index) * 32_000, level, text(6800 + index * 6));
  if (index === 319) addLog(collapse, 1, START - 581 * 32_000, "error", "rank 3: CUDA error 719 (unspecified launch failure) in combine_bf16\n  at worker/src/parallel/exchange.rs:212");
}
addLog(collapse, 2, START - 30_000, "error", "step 11940: loss is NaN; gradient norm is infinite; update skipped");

const checkpoint = (owner, run, step, hours, bytes, fields = {}) => ({
  id: `${run}/${step}`, job: owner, run, phase: "pretrain", attempt: 1, step, tokens: runById.get(run).tokensAt(step), bytes, files: 16, path: `runs/${run}/checkpoints/step-${step}`,
  state: "committed", verified: true, verifiedAt: ago(hours - 0.1), createdAt: ago(hours), validationLoss: wire(runById.get(run).scalars["validation.loss"].at(step) ?? Number.NaN), key: null, lineage: [], pinned: false, ...fields,
});
export const checkpoints = [
  checkpoint("v3-proxy", proxy, 1_000_000, 0.1, 1.47e12, { verified: false, verifiedAt: null }),
  checkpoint("v3-proxy", proxy, 995_000, 1.7, 1.47e12),
  checkpoint("v3-proxy", proxy, 800_000, 66, 1.47e12, { pinned: true }),
  checkpoint("v3-proxy", proxy, 990_000, 3.4, 1.47e12, { state: "deleted" }),
  checkpoint("router-collapse", collapse, 11_600, 0.3, 1.95e10, { attempt: 2 }),
  checkpoint("router-collapse", collapse, 9_600, 1.5, 1.95e10, { attempt: 2 }),
  checkpoint("router-collapse", collapse, 7_600, 3.1, 1.95e10, { state: "deleted" }),
  checkpoint("quickstart", quick, 780, 29.8, 9.9e7, { state: "artifact", key: key("quickstart"), files: 4 }),
];

const MANIFEST = (name, speed) => `apiVersion: fathom.dev/v1alpha1
kind: DeepSeekV3Job
metadata:
  name: ${name}
spec:
  seed: 42
  model:
    preset: ${name === "v3-proxy" ? "v3" : "small"}   # ${name === "v3-proxy" ? "671B parameters" : "133M parameters"}
  phases:
    - name: tokenizer
      tokenizer:
        vocabSize: 32768
        input: &text
          - name: "web <script>alert(1)</script>"
            paths: ["/data/web/*.jsonl.zst"]
          - name: code
            paths: ["/data/code/*.parquet"]
    - name: corpus
      corpus:
        sequenceLength: 4096
        fim: {rate: 0.1}
        input: *text
    - name: pretrain
      pretrain:
        tokens: ${name === "v3-proxy" ? "5T" : "1.3B"}
        learningRate: {peak: ${speed === 1 ? "4.5e-4" : "9e-4"}}
        balance: {biasUpdateSpeed: ${speed === 1 ? "0.001" : "0.0001"}}
        checkpoint: {every: 5%}
`;
export const manifest = (name, generation) => ({
  generation, submitted: MANIFEST(name, generation), createdAt: ago(CREATED[name] - generation + 1),
  effective: `${MANIFEST(name, generation)}        batch: {sequences: 15360, rampFrom: 3072}\n        optimizer: {beta1: 0.9, beta2: 0.95, weightDecay: 0.1}\n        clip: 1.0\n        mtp: {depth: 1, weight: 0.3}\n  precision: ${name === "v3-proxy" ? "fp8" : "bf16"}\n  storage:\n    uri: file:///data/runs\n`,
});

export const statistics = (run) => ({
  items: [
    { phase: "tokenizer", kind: "tokenizer", key: key(`${run.job}tokenizer`), statistics: { adopted: false, bytes_per_token: 4.117, documents: 5_120_331, vocabulary_tokens: 32_768, sampled_bytes: 268_435_456, invalid_utf8_documents: 12, sources: { web: { bytes_per_token: 4.31 }, code: { bytes_per_token: 3.62 } } } },
    { phase: "corpus", kind: "corpus", key: key(`${run.job}corpus`), statistics: { documents: 48_200_113, train_tokens: 1_310_220_048, train_rows: 319_878, packing_efficiency: 0.9712, fim_share: 0.0998, exact_duplicates: 812_004, near_duplicates: 1_240_558, dropped_tokens: 11_302, text_bytes: 5_402_118_332, validation_zstd_19_bits_per_byte: 1.92, sources: { [`web ${HOSTILE}`]: { documents: 31_004_221, text_bytes: 3.9e9, train_tokens: 905_000_000, train_share: 0.691 }, code: { documents: 9_110_220, text_bytes: 1.1e9, train_tokens: 301_000_000, train_share: 0.23 }, math: { documents: 8_085_672, text_bytes: 4e8, train_tokens: 104_220_048, train_share: 0.079 } } } },
  ],
});

export function lineage(name) {
  const [text, tok, corpus] = [`${name}/in`, `${name}/tok`, `${name}/corpus`];
  const node = (id, kind, label, fields = {}) => ({ id, kind, label, phase: null, key: null, step: null, bytes: null, cached: false, ...fields });
  const saved = checkpoints.filter((one) => one.job === name);
  if (runsOf(name).length === 0) return { nodes: [], edges: [] };
  return {
    nodes: [
      node(`${text}/web`, "input", "web", { bytes: 3.9e9 }), node(`${text}/code`, "input", "code", { bytes: 1.1e9 }),
      node(tok, "artifact", "tokenizer", { phase: "tokenizer", key: key(`${name}tokenizer`), bytes: 2.1e6, cached: name === "v3-proxy" }),
      node(corpus, "artifact", "corpus", { phase: "corpus", key: key(`${name}corpus`), bytes: 2.6e9 }),
      ...saved.map((one) => node(one.id, "checkpoint", `step ${one.step.toLocaleString("en-US")}`, { phase: "pretrain", step: one.step, bytes: one.bytes })),
      node(`${name}/eval`, "evaluation", "validation", { phase: "pretrain" }),
    ],
    edges: [
      { from: `${text}/web`, to: tok }, { from: `${text}/code`, to: tok }, { from: `${text}/web`, to: corpus }, { from: `${text}/code`, to: corpus }, { from: tok, to: corpus },
      ...saved.map((one) => ({ from: corpus, to: one.id })), ...(saved[0] ? [{ from: saved[0].id, to: `${name}/eval` }] : []),
    ],
  };
}
export { runs };
