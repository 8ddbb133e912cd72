// Visits every page: no complaint of the browser, no axe violation, text stays text, keys work. What is tested:
//   BASE_URL=... SECRET=...   that server (the mock at port 4400 if neither this nor the next is set)
//   FATHOM_BIN=...            a server that it starts, with a job that has ended and one that trains while it is looked at
// SCREENSHOTS=folder keeps pictures; ONLY=regular expression picks by name. Exit code 77: there is no browser.
import { AxeBuilder } from "@axe-core/playwright";
import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { join, resolve } from "node:path";
import { findChromium, launch, openPage, readApi, server, settle } from "./browser.mjs";
import { checks } from "./checks.mjs";
import { World } from "./world.mjs";

const FOLDER = process.env.SCREENSHOTS ?? null;
/** 2,187 steps: the second job trains while its pages are visited. */
const LIVE_TOKENS = 280_000;
const VIEWS = ["", "/curves", "/experts", "/numerics", "/data", "/checkpoints", "/logs", "/config", "/config?tab=diff"];
if (FOLDER) mkdirSync(FOLDER, { recursive: true });

const only = new RegExp(process.env.ONLY ?? "");
const failures = [];
const started = Date.now();
/** A server that hangs fails each page after its patience; all of them together would take an hour. */
let deadline = Infinity;
const attempt = async (name, work) => {
  if (!only.test(name)) return;
  try {
    assert.ok(Date.now() < deadline, "not tried: the time is over");
    await work();
    console.log(`ok    ${name}`);
  } catch (error) {
    failures.push(name);
    console.log(`FAIL  ${name}\n      ${String(error.message ?? error).replaceAll("\n", "\n      ")}`);
  }
};

async function visit({ page, complaints }, address, name) {
  complaints.length = 0;
  await page.goto(server.url + address);
  await settle(page);
  if (FOLDER) {
    // Charts below the fold are drawn when they are scrolled to.
    await page.evaluate(async () => {
      for (let y = 0; y < document.body.scrollHeight; y += 500) {
        scrollTo(0, y);
        await new Promise((done) => setTimeout(done, 30));
      }
      scrollTo(0, 0);
      await new Promise((done) => setTimeout(done, 150));
    });
  }
  if (FOLDER) await page.screenshot({ path: join(FOLDER, `${name}.png`), fullPage: true });
  assert.deepEqual(complaints, [], "the browser complained");
  assert.equal(await page.locator("[role=alert]").count(), 0, "the page shows a problem");
  const { violations } = await new AxeBuilder({ page }).withTags(["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]).analyze();
  assert.deepEqual(violations.map(({ id, nodes }) => `${id}: ${nodes.slice(0, 3).map(({ html, failureSummary }) => `${html.slice(0, 160)} ${failureSummary?.split("\n")[1] ?? ""}`).join(" | ")}`), []);
  assert.equal(await page.evaluate(() => window.__injected), undefined, "text from the server ran as code");
  const overflow = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  assert.ok(overflow <= 1, `the page is ${overflow} px too wide`);
}

const pagesOf = (job) => VIEWS.map((view) => `/jobs/${encodeURIComponent(job)}${view}`);

async function visitAll(browser, label, options, addresses) {
  const opened = await openPage(browser, options);
  for (const address of addresses) {
    const name = `${label}-${address.replace(/\?.*=/, "-").replace(/[^a-z0-9-]+/gi, "_")}`.replaceAll(" ", "-").slice(0, 90);
    await attempt(`${label} ${address}`, () => visit(opened, address, name));
  }
  await opened.context.close();
}

async function readWorld(browser) {
  const { page, context } = await openPage(browser);
  const jobs = (await readApi(page, "/jobs?limit=500")).items;
  const lists = await Promise.all(jobs.map(({ name }) => readApi(page, `/jobs/${name}/runs`)));
  await context.close();
  return { jobs, runs: lists.flatMap(({ items }) => items).filter(({ lastStep }) => lastStep !== null) };
}

/** Each page in both themes; on a telephone those that are read there. */
async function visitWorld(browser, { jobs, runs }, light = jobs, dark = jobs) {
  const compare = ["/compare", ...(runs.length > 1 ? [`/compare?run=${encodeURIComponent(runs[0].id)}&run=${encodeURIComponent(runs[1].id)}`] : [])];
  const all = (some) => ["/", ...some.flatMap(({ name }) => pagesOf(name)), ...compare];
  await visitAll(browser, "light 1440", { theme: "light" }, all(light));
  await visitAll(browser, "dark 1440", { theme: "dark" }, all(dark));
  await visitAll(browser, "dark 360", { theme: "dark", width: 360, height: 780 }, all(dark).filter((one) => !/config|compare/.test(one)));
}

async function runChecks(browser, world) {
  for (const [name, check] of Object.entries(checks)) {
    await attempt(name, async () => {
      const opened = await openPage(browser);
      try {
        await check(opened, world);
      } finally {
        await opened.context.close();
      }
    });
  }
}

/** What a page shows of a job that trains moves by itself. */
async function watch(browser, job) {
  const { page, context, complaints } = await openPage(browser);
  try {
    await page.goto(`${server.url}/jobs/${job}`);
    await page.getByText(/step [\d,]+/).first().waitFor();
    const step = async () => Number(/step ([\d,]+)/.exec(await page.locator("ol.phases").innerText())?.[1].replaceAll(",", "") ?? -1);
    const first = await step();
    const end = Date.now() + 60_000;
    while ((await step()) <= first) {
      assert.ok(Date.now() < end, `the page stays at step ${first}`);
      await page.waitForTimeout(200);
    }
    assert.deepEqual(complaints, [], "the browser complained");
  } finally {
    await context.close();
  }
}

async function testOwn(browser, program) {
  const world = new World(program);
  deadline = Date.now() + 420_000;
  for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => void world.close().then(() => process.exit(1)));
  try {
    world.train({ name: "ended", tokens: 40_000, peak: "4.2e-4", precision: "fp8" });
    Object.assign(server, await world.serve());
    const ended = await world.wait("ended", "known", ({ state }) => state === "succeeded");
    await attempt("a log with markup is accepted", () => world.log(ended.phases.at(-1).run));
    await world.create({ name: "trains", tokens: LIVE_TOKENS, peak: "2.0e-3" });
    await world.wait("trains", "training", ({ phases }) => (phases.at(-1)?.step ?? 0) > 10);
    await attempt("a page follows a job that trains", () => watch(browser, "trains"));
    await visitAll(browser, "live", { theme: "dark" }, ["/", ...pagesOf("trains").slice(0, 7)]);
    console.log(`      trains is ${(await world.request("/jobs/trains")).state} after the visit`);
    await world.wait("trains", "finished", ({ state }) => state === "succeeded");
    const { jobs, runs } = await readWorld(browser);
    assert.equal(jobs.length, 2);
    const named = (wanted) => jobs.filter(({ name }) => name === wanted);
    await visitWorld(browser, { jobs, runs }, named("ended"), named("trains"));
    await runChecks(browser, { jobs, runs: runs.filter(({ job }) => job === "ended") });
  } finally {
    await world.close();
  }
}

const chromium = findChromium();
if (chromium === null) {
  console.error("skipped: there is no chromium here; install it or name it in CHROMIUM");
  process.exit(77);
}
const browser = await launch(chromium);
try {
  if (process.env.BASE_URL === undefined && process.env.FATHOM_BIN) {
    await testOwn(browser, resolve(process.env.FATHOM_BIN));
  } else {
    const world = await readWorld(browser);
    await visitWorld(browser, world);
    await runChecks(browser, world);
  }
} finally {
  await browser.close();
}
console.log(`${failures.length === 0 ? "all passed" : `${failures.length} failed`} in ${Math.round((Date.now() - started) / 1000)} s`);
process.exitCode = failures.length === 0 ? 0 : 1;
