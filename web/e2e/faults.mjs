// Seeded faults on the Health page: records go in as a worker's spool would send them, and the page must say what is wrong, since which step,
// where, and what to do. Numbers that are none must break no page.
//   FATHOM_BIN=...   the program whose server is tested
// SCREENSHOTS=folder keeps pictures. Exit code 77: there is no browser.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdirSync } from "node:fs";
import { join, resolve } from "node:path";
import { findChromium, launch, openPage, server, settle } from "./browser.mjs";
import { World } from "./world.mjs";

const KEY = "0123456789abcdef".repeat(4);
const CLEAN = 400;
const LAYERS = 2;
const EXPERTS = 8;
/** Records of a request: a server that sees them in parts judges as it does beside a run. */
const PART = 200;
const FOLDER = process.env.SCREENSHOTS ?? null;
if (FOLDER) mkdirSync(FOLDER, { recursive: true });

const runOf = (job) => `${job}.pretrain.${KEY.slice(0, 12)}`;
const packed = (values) => Buffer.from(new Float32Array(values).buffer).toString("base64");
const evenLoad = () => Array.from({ length: LAYERS * EXPERTS }, (_, place) => 1000 + 10 * (place % 3));

/** One step of a run without a fault, `seconds` after the one before. */
function step(number, time) {
  const wave = (number % 5) - 2;
  return { time, scalars: { "loss.main": 3 + wave / 16, gradient_norm: 0.5 + wave / 16, tokens_per_second: 4096, step_seconds: 1 }, load: evenLoad() };
}

/** A job whose worker is this test: `steps` steps of `seconds`, the last of them `silence` seconds ago, each as `change` leaves it. */
async function seed(world, { name, state = "running", steps, seconds = 1, silence = 0, change = () => {} }) {
  const run = runOf(name);
  const text = `apiVersion: fathom.dev/v1alpha1\nkind: DeepSeekV3Job\nmetadata: {name: ${name}}\nspec: {}\n`;
  const phase = { name: "pretrain", kind: "pretrain", state, key: KEY, run, attempt: 1, restarts: 0, checkpointStep: CLEAN - 100 };
  const status = { uid: `e2e:${name}`, manifest: text, effective: text, state, phases: [phase], runs: [{ name: run, phase: "pretrain", kind: "pretrain", key: KEY, state }] };
  await world.request(`/jobs/${name}/status`, { method: "PUT", body: JSON.stringify(status) });
  const start = Date.now() / 1000 - silence - steps * seconds;
  const writer = `${run}/1/0`;
  const records = [{ event: { kind: "AttemptStarted", step: 0, message: "attempt 1 starts from the beginning" } }];
  const times = [start];
  for (let number = 1; number <= steps; number += 1) {
    const time = start + number * seconds;
    const made = step(number, time);
    change(made, number);
    const matrices = { "moe.load": { rows: LAYERS, columns: EXPERTS, values: packed(made.load) } };
    records.push({ metrics: { step: number, tokens: 4096 * number, scalars: made.scalars, matrices } });
    times.push(time);
    if (number === CLEAN - 100) {
      records.push({ event: { kind: "CheckpointCommitted", step: number, message: `checkpoint of step ${number}` } });
      times.push(time);
    }
  }
  const numbered = records.map((body, sequence) => ({ writer, sequence, time: times[sequence], body }));
  for (let first = 0; first < numbered.length; first += PART) {
    const body = JSON.stringify({ writer, previous: first === 0 ? null : first - 1, records: numbered.slice(first, first + PART) });
    await world.request(`/runs/${run}/metrics:batch`, { method: "POST", body });
  }
}

const FAULTS = [
  {
    name: "nan", steps: CLEAN + 1, verdict: "Failing", reason: "is Infinity at step 401", since: "since step 401", next: "Roll back to the checkpoint of step 300", page: "/curves", code: 10,
    change: (made, number) => {
      if (number <= CLEAN) return;
      Object.assign(made.scalars, { "loss.main": "NaN", gradient_norm: "Infinity", "validation.loss": "-Infinity", tokens_per_second: "NaN" });
      made.load[3] = Number.NaN;
    },
  },
  {
    name: "spike", steps: CLEAN + 5, verdict: "Failing", reason: "Loss jumped at step 401", since: "since step 401", next: "lower learningRate.peak", page: "/curves", code: 10,
    change: (made, number) => number > CLEAN && Object.assign(made.scalars, { "loss.main": 6 }),
  },
  {
    name: "dead", steps: CLEAN + 500, verdict: "Failing", reason: "Expert 5 of MoE layer 1 has had no token for 500 steps", since: "since step 401", next: "Open the expert map at MoE layer 1", page: "/experts", code: 10,
    change: (made, number) => number > CLEAN && Object.assign(made.load, { [EXPERTS + 5]: 0 }),
  },
  { name: "slow", steps: CLEAN, seconds: 60, silence: 190, verdict: "Watch", reason: "No step for 3 min", since: "since step 400", next: "Wait", page: "/logs", code: 0 },
  { name: "hung", steps: CLEAN, seconds: 60, silence: 620, verdict: "Stalled", reason: "No step for 10 min", since: "since step 400", next: "Open the logs of the worker after step 400", page: "/logs", code: 10 },
];

const failures = [];
const attempt = async (name, work) => {
  try {
    await work();
    console.log(`ok    ${name}`);
  } catch (error) {
    failures.push(name);
    console.log(`FAIL  ${name}\n      ${String(error.message ?? error).replaceAll("\n", "\n      ")}`);
  }
};

/** What the page says of a fault, and where its links lead. */
async function look({ page, complaints }, { name, verdict, reason, since, next, page: target }) {
  complaints.length = 0;
  await page.goto(`${server.url}/jobs/${name}`);
  await settle(page);
  const line = page.getByRole("region", { name: "Verdict" });
  assert.equal(await line.locator(".word").innerText(), verdict);
  const first = line.getByRole("listitem").filter({ hasText: reason });
  assert.equal(await first.count(), 1, `no reason "${reason}": ${await line.innerText()}`);
  assert.match(await first.innerText(), new RegExp(since));
  assert.match(await line.locator(".next").innerText(), new RegExp(next));
  const href = await first.getByRole("link").getAttribute("href");
  assert.ok(href.startsWith(`/jobs/${name}${target}`), href);
  if (FOLDER) await page.screenshot({ path: join(FOLDER, `fault-${name}.png`), fullPage: true });
  // The link, and every other page of the job, shows what is there.
  for (const address of [href, ...["/curves", "/experts", "/numerics", "/data", "/checkpoints", "/logs", "/config"].map((view) => `/jobs/${name}${view}`)]) {
    await page.goto(server.url + address);
    await settle(page);
    assert.equal(await page.locator("[role=alert]").count(), 0, `${address} shows a problem`);
  }
  assert.deepEqual(complaints, [], "the browser complained");
}

/** The command's exit code; the server must answer while it waits. */
const check = (world, name) =>
  new Promise((done) => {
    const args = ["--dir", join(world.folder, ".fathom"), "health", name, "--check"];
    execFile(world.program, args, { cwd: world.folder, timeout: 60_000 }, (error) => done(error === null ? 0 : error.code));
  });

if (!process.env.FATHOM_BIN) {
  console.error("name the program that is tested in FATHOM_BIN");
  process.exit(2);
}
const chromium = findChromium();
if (chromium === null) {
  console.error("skipped: there is no chromium here; install it or name it in CHROMIUM");
  process.exit(77);
}
const world = new World(resolve(process.env.FATHOM_BIN));
const browser = await launch(chromium);
try {
  Object.assign(server, await world.serve());
  for (const fault of FAULTS) await seed(world, fault);
  const opened = await openPage(browser);
  for (const fault of FAULTS) {
    await attempt(`${fault.name}: the page says ${fault.verdict}, why and what next`, () => look(opened, fault));
    await attempt(`${fault.name}: fathom health --check ends with ${fault.code}`, async () => assert.equal(await check(world, fault.name), fault.code));
  }
  await attempt("the list of jobs and a comparison with numbers that are none", async () => {
    opened.complaints.length = 0;
    for (const address of ["/", `/compare?run=${runOf("nan")}&run=${runOf("spike")}`]) {
      await opened.page.goto(server.url + address);
      await settle(opened.page);
      assert.equal(await opened.page.locator("[role=alert]").count(), 0, `${address} shows a problem`);
    }
    assert.deepEqual(opened.complaints, [], "the browser complained");
  });
} finally {
  await browser.close();
  await world.close();
}
console.log(failures.length === 0 ? "all passed" : `${failures.length} failed`);
process.exitCode = failures.length === 0 ? 0 : 1;
