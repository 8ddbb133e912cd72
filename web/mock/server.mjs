// Serves dist and the HTTP contract over a seeded world: for development and for browser tests. No dependencies.
//   node mock/server.mjs [port]        SECRET=... demands the session cookie as the real server does
import { createReadStream, existsSync, statSync } from "node:fs";
import { createServer } from "node:http";
import { dirname, extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";
import * as world from "./jobs.mjs";
import { matrixAnswer, matrixRows, matrixSteps, seriesAnswer } from "./series.mjs";
import { advance, runById, runs, runsOf } from "./world.mjs";

const PORT = Number(process.argv[2] ?? process.env.PORT ?? 4400);
const SECRET = process.env.SECRET ?? null;
const DIST = join(dirname(fileURLToPath(import.meta.url)), "../dist");
const TYPES = { ".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml" };

class Refusal extends Error {
  constructor(status, code, title, detail, hint) {
    super(detail);
    Object.assign(this, { status, code, title, hint });
  }
}
const missing = (what) => new Refusal(404, "notFound", "Not found", `There is no ${what}.`, "`fathom get jobs` lists what there is.");

const jobOf = (name) => {
  if (!world.jobNames.includes(name)) throw missing(`job ${name}`);
  return name;
};
const runOf = (id) => runById.get(id) ?? (() => { throw missing(`run ${id}`); })();
const number = (query, name) => (query.has(name) ? Number(query.get(name)) : undefined);
const list = (items) => ({ items, nextCursor: null });

function metricsOf(run) {
  const scalars = Object.entries(run.scalars).map(([name, { at, unit, description, better }]) => ({
    name, kind: "scalar", unit, description, better, axes: null, shape: null, points: run.lastStep, firstStep: 1, lastStep: run.lastStep, last: at(run.lastStep) === undefined ? null : world.wire(at(run.lastStep)),
  }));
  const matrices = (run.matrices ?? []).map((name) => ({ name, kind: "matrix", unit: name === "moe.load" ? "tokens" : null, description: null, better: null, axes: ["layer", name.startsWith("numerics.") ? "class" : "expert"], shape: [run.matrix(name, 1).rows, run.matrix(name, 1).columns], points: run.lastStep, firstStep: 1, lastStep: run.lastStep, last: null }));
  return { items: [...scalars, ...matrices] };
}

function attemptsOf(run) {
  const past = run.superseded?.[0];
  const attempt = (fields) => ({ attempt: 1, startedAt: run.createdAt, endedAt: null, fromStep: 0, lastStep: run.lastStep, superseded: [], outcome: run.state === "succeeded" ? "completed" : "running", message: null, ...fields });
  if (!past) return { items: [attempt({})] };
  return { items: [attempt({ lastStep: past.toStep, endedAt: run.createdAt, outcome: "failed", superseded: [{ fromStep: past.fromStep, toStep: past.toStep }], message: "CUDA error 719" }), attempt({ attempt: 2, fromStep: past.fromStep - 1 })] };
}

const LEVELS = ["error", "warn", "info", "debug"];
function logsOf(ids, query) {
  const [after, before, limit] = [number(query, "after"), number(query, "before"), number(query, "limit") ?? 50];
  const [level, attempt, contains] = [query.get("level"), number(query, "attempt"), (query.get("contains") ?? "").toLowerCase()];
  const found = world.logs.filter((line) => ids.has(line.run) && (after === undefined || line.id > after) && (before === undefined || line.id < before) &&
    (!level || LEVELS.indexOf(line.level) <= LEVELS.indexOf(level)) && (attempt === undefined || line.attempt === attempt) && line.text.toLowerCase().includes(contains));
  return list(after === undefined ? found.slice(-limit).reverse() : found.slice(0, limit));
}

function compare(ids) {
  const compared = ids.map(runOf);
  const names = [...new Set(compared.flatMap((run) => Object.keys(run.scalars)))];
  const last = (run, name) => (run.scalars[name] ? world.wire(run.scalars[name].at(run.lastStep - (run.lastStep % run.every)) ?? NaN) : null);
  return {
    runs: compared.map(world.runView),
    manifest: [
      { path: "spec.model.preset", values: compared.map(({ job }) => (job === "v3-proxy" ? "v3" : "small")) },
      { path: "spec.phases[2].pretrain.learningRate.peak", values: compared.map(({ peak }) => peak) },
      { path: "spec.phases[2].pretrain.balance.biasUpdateSpeed", values: compared.map((_, index) => (index === 0 ? null : 0.0001)) },
    ],
    metrics: names.map((name) => ({ name, last: compared.map((run) => last(run, name)), best: compared.map((run) => (/loss|violation/.test(name) ? last(run, name) : null)) })),
  };
}

const ROUTES = [
  ["GET", /^\/jobs$/, (_, query) => list(world.jobNames.map(world.job).filter((job) => (!query.get("state") || job.state === query.get("state")) && job.name.includes(query.get("filter") ?? "")).sort((a, b) => (query.get("sort") === "name" ? a.name.localeCompare(b.name) : b.createdAt.localeCompare(a.createdAt))))],
  ["GET", /^\/jobs\/([^/]+)$/, ([job]) => world.job(jobOf(job))],
  ["GET", /^\/jobs\/([^/]+)\/health$/, ([job]) => world.health(jobOf(job))],
  ["GET", /^\/jobs\/([^/]+)\/runs$/, ([job]) => list(runsOf(jobOf(job)).map(world.runView))],
  ["GET", /^\/jobs\/([^/]+)\/phases$/, ([job]) => ({ items: world.job(jobOf(job)).phases })],
  ["GET", /^\/jobs\/([^/]+)\/events$/, ([job], query) => list(world.events.filter((event) => event.job === jobOf(job)).sort((a, b) => b.id - a.id).slice(0, number(query, "limit") ?? 50))],
  ["GET", /^\/jobs\/([^/]+)\/logs$/, ([job], query) => logsOf(new Set(runsOf(jobOf(job)).map(({ id }) => id)), query)],
  ["GET", /^\/jobs\/([^/]+)\/checkpoints$/, ([job]) => list(world.checkpoints.filter((one) => one.job === jobOf(job)))],
  ["GET", /^\/jobs\/([^/]+)\/lineage$/, ([job]) => world.lineage(jobOf(job))],
  ["GET", /^\/jobs\/([^/]+)\/manifest$/, ([job], query) => world.manifest(jobOf(job), number(query, "generation") ?? world.job(job).generation)],
  ["GET", /^\/jobs\/([^/]+)\/generations$/, ([job]) => list(Array.from({ length: world.job(jobOf(job)).generation }, (_, index) => ({ generation: index + 1, createdAt: world.manifest(job, index + 1).createdAt })))],
  ["POST", /^\/jobs\/([^/:]+):(pause|resume|cancel)$/, ([job, action]) => {
    world.setState(jobOf(job), { pause: "paused", resume: "running", cancel: "cancelled" }[action]);
    send("job", { job, state: world.job(job).state, phase: world.job(job).phase });
    return world.job(job);
  }],
  ["POST", /^\/jobs\/([^/:]+):fork$/, ([job], _, body) => {
    if (world.jobNames.includes(body.name)) throw new Refusal(409, "nameTaken", "The name is taken", `There is a job ${body.name} already.`, "Choose another name.");
    return world.job(jobOf(job));
  }],
  ["GET", /^\/runs\/([^/]+)$/, ([run]) => world.runView(runOf(run))],
  ["GET", /^\/runs\/([^/]+)\/attempts$/, ([run]) => attemptsOf(runOf(run))],
  ["GET", /^\/runs\/([^/]+)\/metrics$/, ([run]) => metricsOf(runOf(run))],
  ["GET", /^\/runs\/([^/]+)\/data$/, ([run]) => world.statistics(runOf(run))],
  ["GET", /^\/runs\/([^/]+)\/series$/, ([run], query) => seriesAnswer(runOf(run), query.getAll("metric"), { x: query.get("x") ?? "step", from: number(query, "from"), to: number(query, "to"), points: number(query, "points"), attempt: number(query, "attempt") })],
  ["POST", /^\/series:query$/, (_, __, body) => ({ items: body.runs.map((id) => ({ run: id, ...seriesAnswer(runOf(id), body.metrics, body) })) })],
  ["GET", /^\/runs\/([^/]+)\/matrices\/([^/]+)\/steps$/, ([run], query) => matrixSteps(runOf(run), { from: number(query, "from"), to: number(query, "to"), limit: number(query, "limit") })],
  ["GET", /^\/runs\/([^/]+)\/matrices\/([^/]+)\/rows$/, ([run], query) => matrixRows(runOf(run), { points: number(query, "points"), reduce: query.get("reduce") })],
  ["GET", /^\/runs\/([^/]+)\/matrices\/([^/]+)$/, ([run, name], query) => {
    if (!runOf(run).matrices?.includes(name)) throw missing(`matrix ${name} of ${run}`);
    return matrixAnswer(runOf(run), name, number(query, "step"));
  }],
  ["GET", /^\/compare$/, (_, query) => compare(query.getAll("run"))],
  ["GET", /^\/version$/, () => ({ version: "mock" })],
];

const streams = new Set();
const send = (event, data) => streams.forEach((stream) => stream.write(`event: ${event}\ndata: ${JSON.stringify(data)}\n\n`));

setInterval(() => {
  for (const run of runs.filter((one) => one.state === "running" && world.job(one.job).state === "running")) {
    advance(run);
    const step = run.lastStep;
    const scalars = Object.fromEntries(Object.entries(run.scalars).flatMap(([name, { at }]) => (at(step) === undefined ? [] : [[name, world.wire(at(step))]])));
    send("metrics", { run: run.id, points: [{ step, tokens: run.tokensAt(step), time: new Date().toISOString(), attempt: run.attempt, scalars }], matrices: run.matrices.filter((name) => !name.startsWith("validation.")) });
    if (step % 6 === 0) {
      world.addLog(run.id, run.attempt, Date.now(), "info", `step ${step} loss ${scalars["loss.main"]} tokens/s ${Math.round(scalars.tokens_per_second)}`);
      send("log", { run: run.id, lastId: world.logs.length });
    }
  }
}, 500).unref();
setInterval(() => streams.forEach((stream) => stream.write(": alive\n\n")), 15_000).unref();

function refuse(response, { status = 500, code = "internal", title = "Internal error", message, hint }, path) {
  response.writeHead(status, { "content-type": "application/problem+json" }).end(JSON.stringify({ type: `https://fathom.dev/problems/${code}`, title, status, detail: message, instance: path, code, hint, requestId: "req-mock" }));
}

async function answerApi(request, response, url) {
  const cookie = /(?:^|; )fathom_session=([^;]*)/.exec(request.headers.cookie ?? "")?.[1];
  if (SECRET !== null && cookie !== SECRET && request.headers.authorization !== `Bearer ${SECRET}`) throw new Refusal(401, "unauthenticated", "Not signed in", "The request has no valid session.", "Run `fathom ui`.");
  if (request.method !== "GET" && request.headers["x-fathom-csrf"] !== "1") throw new Refusal(403, "csrf", "Refused", "The header X-Fathom-Csrf is missing.");
  const path = url.pathname.slice("/api/v1".length);
  if (path === "/events") {
    response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store", "x-accel-buffering": "no" }).write(": hello\n\n");
    streams.add(response);
    request.on("close", () => streams.delete(response));
    return;
  }
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const body = chunks.length > 0 ? JSON.parse(Buffer.concat(chunks).toString()) : {};
  for (const [method, pattern, handle] of ROUTES) {
    const match = pattern.exec(path);
    if (!match || method !== request.method) continue;
    const answer = handle(match.slice(1).map(decodeURIComponent), url.searchParams, body);
    response.writeHead(method === "POST" && !path.startsWith("/series") ? 202 : 200, { "content-type": "application/json", etag: '"1"' }).end(JSON.stringify(answer));
    return;
  }
  throw missing(`route ${request.method} ${url.pathname}`);
}

function answerFile(response, url) {
  if (SECRET !== null && url.searchParams.get("secret") === SECRET) {
    response.writeHead(303, { location: "/", "set-cookie": `fathom_session=${SECRET}; HttpOnly; SameSite=Strict; Path=/` }).end();
    return;
  }
  const wanted = join(DIST, normalize(url.pathname));
  const file = wanted.startsWith(DIST) && existsSync(wanted) && statSync(wanted).isFile() ? wanted : join(DIST, "index.html");
  // Stricter than most servers, so that a page that needs more fails here first.
  const policy = "default-src 'self'; object-src 'none'; base-uri 'none'; frame-ancestors 'none'";
  response.writeHead(200, { "content-type": TYPES[extname(file)] ?? "application/octet-stream", "content-security-policy": policy });
  createReadStream(file).pipe(response);
}

createServer((request, response) => {
  const url = new URL(request.url ?? "/", "http://mock");
  if (!url.pathname.startsWith("/api/")) answerFile(response, url);
  else answerApi(request, response, url).catch((error) => refuse(response, error, url.pathname));
}).listen(PORT, "127.0.0.1", () => console.log(`mock at http://127.0.0.1:${PORT}${SECRET === null ? "" : "/?secret=…"}`));
