// A real server with one finished job and one that trains: FATHOM_BIN makes them in a temporary directory that is removed at the end.
import { execFileSync, spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const WEB = join(dirname(fileURLToPath(import.meta.url)), "..");
const MARKUP = '<img src=x onerror="window.__injected=1"><b>bold</b>';
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

/** A little text with structure to learn, the same every time. */
function story(seed) {
  let state = seed + 1;
  const pick = (words) => words[(state = (state * 48_271) % 2_147_483_647) % words.length];
  const nouns = ["the tensor", "a gradient", "the router", "an expert", "the latent", "a token"];
  const verbs = ["meets", "feeds", "scales", "balances", "ignores", "predicts"];
  return `Story ${seed}.\n${Array.from({ length: 12 }, () => `${pick(nouns)} ${pick(verbs)} ${pick(nouns)}.\n`).join("")}`;
}

const manifest = (folder, { name, tokens, peak, precision = "f32" }) => `apiVersion: fathom.dev/v1alpha1
kind: DeepSeekV3Job
metadata: {name: ${name}, labels: {team: e2e}}
spec:
  seed: 7
  model: {preset: unit, architecture: {vocab_size: 384}}
  precision: ${precision}
  worker: {threads: 1}
  phases:
    - name: tokenizer
      tokenizer:
        vocabSize: 384
        input: &text [{name: even, paths: ["${folder}/text/*[02468].txt"]}, {name: odd, paths: ["${folder}/text/*[13579].txt"]}]
    - name: corpus
      corpus: {sequenceLength: 32, validationFraction: 0.1, input: *text}
    - name: pretrain
      pretrain:
        tokens: ${tokens}
        batch: {sequences: 4, microBatch: 2}
        learningRate: {peak: ${peak}}
        checkpoint: {every: 25%, keep: 2}
        validation: {every: 20%, rows: 8}
`;

/** First line of a program's standard output. */
function firstLine(child, what) {
  return new Promise((done, fail) => {
    createInterface({ input: child.stdout }).once("line", done);
    child.once("exit", (code) => fail(new Error(`${what} ended with ${code}`)));
    setTimeout(() => fail(new Error(`${what} said nothing for two minutes`)), 120_000).unref();
  });
}

export class World {
  constructor(program) {
    this.program = program;
    this.folder = mkdtempSync(join(tmpdir(), "fathom-e2e-"));
    this.children = [];
    mkdirSync(join(this.folder, "text"));
    for (let seed = 0; seed < 60; seed += 1) writeFileSync(join(this.folder, "text", `${seed}.txt`), story(seed));
  }

  /** Trains `name` to its end, without a server. */
  train(job) {
    const file = join(this.folder, `${job.name}.yaml`);
    writeFileSync(file, manifest(this.folder, job));
    execFileSync(this.program, ["--dir", join(this.folder, ".fathom"), "run", "--no-ui", file], { cwd: this.folder, stdio: ["ignore", "ignore", "inherit"], timeout: 300_000 });
  }

  start(program, args, environment = {}) {
    const child = spawn(program, args, { cwd: this.folder, stdio: ["ignore", "pipe", "inherit"], env: { ...process.env, ...environment } });
    this.children.push(child);
    return child;
  }

  /** Address and secret of the server; PREVIEW=1 puts dist of this folder in front of what the program holds. */
  async serve() {
    const child = this.start(this.program, ["--dir", join(this.folder, ".fathom"), "ui", "--no-open", "--port", "0", "-o", "json"]);
    const address = new URL(JSON.parse(await firstLine(child, "fathom ui")).url);
    this.api = address.origin;
    this.secret = address.searchParams.get("secret");
    if (!process.env.PREVIEW) return { url: this.api, secret: this.secret };
    const port = 4300 + (process.pid % 90);
    const vite = join(WEB, "node_modules/vite/bin/vite.js");
    await firstLine(this.start(process.execPath, [vite, "preview", WEB, "--config", join(WEB, "vite.config.ts"), "--port", String(port), "--strictPort"], { FATHOM_SERVER: this.api }), "vite preview");
    return { url: `http://127.0.0.1:${port}`, secret: this.secret };
  }

  async request(path, { method = "GET", type = "application/json", body } = {}) {
    const response = await fetch(`${this.api}/api/v1${path}`, {
      method,
      headers: { authorization: `Bearer ${this.secret}`, ...(body === undefined ? {} : { "content-type": type }) },
      body,
      signal: AbortSignal.timeout(60_000),
    });
    const text = await response.text();
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${text}`);
    return text === "" ? null : JSON.parse(text);
  }

  create(job) {
    return this.request("/jobs", { method: "POST", type: "application/yaml", body: manifest(this.folder, job) });
  }

  /** Lines of a worker's log, one of them with markup. */
  log(run) {
    const texts = ["loaded 60 documents", MARKUP, "a long line ".repeat(40).trim()];
    const lines = texts.map((text, position) => ({ level: position === 1 ? "warn" : "info", position, text, time: Date.now() / 1000 }));
    const body = JSON.stringify({ attempt: 1, rank: 7, offset: 0, nextOffset: texts.length, lines });
    return this.request(`/runs/${encodeURIComponent(run)}/logs:batch`, { method: "POST", body });
  }

  /** Reads a job until `wanted` holds for it. */
  async wait(job, what, wanted, seconds = 300) {
    const end = Date.now() + 1000 * seconds;
    for (;;) {
      const value = await this.request(`/jobs/${job}`);
      if (wanted(value)) return value;
      if (value.state === "failed" || value.state === "cancelled") throw new Error(`${job} ${value.state}: ${value.message}`);
      if (Date.now() > end) throw new Error(`${job} is not ${what} after ${seconds} s: ${JSON.stringify(value)}`);
      await pause(300);
    }
  }

  /** Ends what was started; the folder stays, to be served again. */
  async stop() {
    for (const child of this.children.splice(0).reverse()) {
      const ended = new Promise((done) => (child.exitCode === null && child.signalCode === null ? child.once("exit", done) : done()));
      child.kill("SIGTERM");
      await Promise.race([ended, pause(15_000)]);
      child.kill("SIGKILL");
    }
  }

  async close() {
    await this.stop();
    rmSync(this.folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 500 });
  }
}
