// The dashboard under load: FATHOM_BIN serves a large history, a real browser reads it. Prints figures and fails only where structure is
// wrong, such as a spike that nobody sees. `--small` seeds less and takes under a minute. DATABASE_URL chooses the database;
// SCREENSHOTS=folder keeps pictures; ONLY=jobs|curves|experts measures one page. Exit code 77: there is no browser.
import { mkdirSync } from "node:fs";
import { join, resolve } from "node:path";
import { findChromium, launch, openPage, server } from "./browser.mjs";
import { instrument, measureCurves, measureExperts, measureJobs } from "./load/pages.mjs";
import { FULL, SMALL, seed } from "./load/seed.mjs";
import { World } from "./world.mjs";

const FOLDER = process.env.SCREENSHOTS ?? null;
const small = process.argv.includes("--small");
const counts = small ? SMALL : FULL;
const only = new RegExp(process.env.ONLY ?? "");
if (FOLDER) mkdirSync(FOLDER, { recursive: true });
if (!process.env.FATHOM_BIN) {
  console.error("FATHOM_BIN must name the program: FATHOM_BIN=../target/debug/fathom npm run load");
  process.exit(2);
}

const figures = [];
const show = (name, value) => {
  figures.push([name, value]);
  console.log(`  ${name.padEnd(68)} ${value}`);
};
const picture = async (page, name) => {
  if (FOLDER) await page.screenshot({ path: join(FOLDER, `${name}.png`) });
};

const chromium = findChromium();
if (chromium === null) {
  console.error("skipped: there is no chromium here; install it or name it in CHROMIUM");
  process.exit(77);
}
const started = Date.now();
const world = new World(resolve(process.env.FATHOM_BIN));
for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => void world.close().then(() => process.exit(1)));
const browser = await launch(chromium);
const failures = [];
try {
  Object.assign(server, await world.serve());
  const request = (path, options) => world.request(path, options);
  const { jobs: live, long, experts } = await seed(request, counts, (line) => console.log(line));
  // A server that was just started knows nothing yet of what runs did.
  await world.stop();
  Object.assign(server, await world.serve());
  const shared = { request, counts, show, picture, seconds: small ? 4 : 15 };
  const pages = {
    jobs: (opened) => measureJobs(opened, { ...shared, live }),
    curves: (opened) => measureCurves(opened, { ...shared, run: long }),
    experts: (opened) => measureExperts(opened, { ...shared, run: experts }),
  };
  for (const [name, measure] of Object.entries(pages)) {
    if (!only.test(name)) continue;
    const opened = await openPage(browser);
    await opened.page.addInitScript(instrument);
    await opened.page.reload();
    try {
      await measure(opened);
      console.log(`ok    ${name}`);
    } catch (error) {
      failures.push(name);
      console.log(`FAIL  ${name}\n      ${String(error.stack ?? error).replaceAll("\n", "\n      ")}`);
    }
    await opened.context.close();
  }
} finally {
  await browser.close();
  await world.close();
}
console.log(`${failures.length === 0 ? "all passed" : `${failures.length} failed`} in ${Math.round((Date.now() - started) / 1000)} s`);
process.exitCode = failures.length === 0 ? 0 : 1;
