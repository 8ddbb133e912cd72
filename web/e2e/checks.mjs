// Behaviour, one check a promise. Each works on the mock and on a real server that has at least one run with steps.
import assert from "node:assert/strict";
import { openPage, readApi, server, settle } from "./browser.mjs";

/** A server that trains beside the browser on the same cores takes its time. */
const PATIENCE = process.env.FATHOM_BIN ? 2 : 1;
const trained = ({ runs }) => runs.find(({ kind }) => kind === "pretrain") ?? runs[0];
const pageOf = ({ job }, view = "") => `${server.url}/jobs/${encodeURIComponent(job)}${view}`;

const UNDERFLOW = "numerics.underflowed";
const MAP = "Underflow by class and layer";

/** The runs that report what quantisation lost, and those that have steps and report nothing of it. */
async function byNumerics(page, { runs }) {
  const reports = async ({ id }) => (await readApi(page, `/runs/${encodeURIComponent(id)}/metrics`)).items.some(({ name, kind }) => name === UNDERFLOW && kind === "matrix");
  const found = await Promise.all(runs.map(async (run) => ({ run, quantised: await reports(run) })));
  return { quantised: found.find(({ quantised }) => quantised)?.run ?? null, plain: found.find(({ quantised }) => !quantised)?.run ?? null };
}

const numericsOf = (run) => `${pageOf(run, "/numerics")}?run=${encodeURIComponent(run.id)}`;

async function post(path, body) {
  const response = await fetch(`${server.url}/api/v1${path}`, { method: "POST", headers: { authorization: `Bearer ${server.secret}`, "content-type": "application/json" }, body: JSON.stringify(body) });
  assert.ok(response.ok, `${path}: ${response.status} ${await response.text()}`);
}

/** A panel can be kept in each form. */
async function downloads(page, title) {
  for (const kind of ["PNG", "SVG", "CSV"]) {
    await page.locator(`summary[aria-label='Download ${title}']`).click();
    const waiting = page.waitForEvent("download");
    await page.getByRole("button", { name: `Download ${kind} of ${title}` }).click();
    const stream = await (await waiting).createReadStream();
    let bytes = 0;
    for await (const chunk of stream) bytes += chunk.length;
    assert.ok(bytes > 500, `${kind} of ${title} has ${bytes} bytes`);
  }
}

export const checks = {
  "the palette opens, finds and goes by keys alone": async ({ page }, world) => {
    await settle(page);
    await page.keyboard.press("Control+k");
    await page.getByRole("combobox", { name: "Search jobs, pages, runs, metrics" }).fill(trained(world).job);
    await page.keyboard.press("Enter");
    await page.waitForURL(`**/jobs/${encodeURIComponent(trained(world).job)}`);
    await page.keyboard.press("Control+k");
    await page.getByRole("combobox", { name: "Search jobs, pages, runs, metrics" }).fill("curves");
    await page.keyboard.press("Enter");
    await page.waitForURL("**/curves");
    await page.keyboard.press("Control+k");
    await page.keyboard.press("Escape");
    assert.equal(await page.locator("dialog[open]").count(), 0);
  },

  "the theme goes round and is kept": async ({ page }) => {
    await settle(page);
    await page.keyboard.press("t");
    assert.equal(await page.evaluate(() => document.documentElement.dataset.theme), "dark");
    assert.equal(await page.evaluate(() => localStorage.getItem("fathom.theme")), "dark");
  },

  "shortcuts are listed by ?": async ({ page }) => {
    await settle(page);
    await page.keyboard.press("?");
    await page.getByRole("heading", { name: "Keyboard shortcuts" }).waitFor();
  },

  "the first Tab reaches the skip link": async ({ page }) => {
    await settle(page);
    await page.keyboard.press("Tab");
    assert.equal(await page.evaluate(() => document.activeElement?.textContent), "Skip to content");
    await page.keyboard.press("Enter");
    assert.equal(await page.evaluate(() => document.activeElement?.id), "content");
  },

  "dragging over a chart zooms all of them and Back returns": async ({ page }, world) => {
    await page.goto(pageOf(trained(world), "/curves"));
    await settle(page);
    const plot = page.locator(".u-over").first();
    const box = await plot.boundingBox();
    await page.mouse.move(box.x + box.width * 0.3, box.y + 40);
    await page.mouse.down();
    await page.mouse.move(box.x + box.width * 0.6, box.y + 60, { steps: 6 });
    await page.mouse.up();
    await page.waitForURL(/from=\d+&to=\d+/);
    await page.getByRole("button", { name: /^steps / }).waitFor();
    await page.goBack();
    assert.ok(!page.url().includes("from="));
  },

  "the address holds the whole view": async ({ page }, world) => {
    await page.goto(pageOf(trained(world), "/curves?x=tokens&smooth=0.9&log=1&pins=0"));
    await settle(page);
    assert.equal(await page.getByLabel("x axis").inputValue(), "tokens");
    assert.equal(await page.getByLabel("Log y").isChecked(), true);
    assert.equal(await page.getByLabel("Events").isChecked(), false);
  },

  "arrows move the cell of the expert map and the readout follows": async ({ page }, world) => {
    await page.goto(pageOf(trained(world), "/experts"));
    await settle(page);
    const map = page.getByRole("application", { name: /Relative load/ });
    await map.focus();
    await page.keyboard.press("ArrowDown");
    await page.keyboard.press("ArrowRight");
    await page.waitForURL(/layer=1&expert=1/);
    await page.getByText(/layer 1, expert 1: /).first().waitFor();
  },

  "the load on each source is beside that of training": async ({ page }, world) => {
    const loads = async ({ id }) => (await readApi(page, `/runs/${encodeURIComponent(id)}/metrics`)).items.filter(({ name }) => name.startsWith("validation.load."));
    const found = await Promise.all(world.runs.map(async (run) => ({ run, loads: await loads(run) })));
    const { run, loads: [{ name }] } = found.find(({ loads }) => loads.length > 0) ?? { loads: [{}] };
    assert.ok(run, "a run of several sources");
    await page.goto(`${pageOf(run, "/experts")}?run=${encodeURIComponent(run.id)}`);
    await settle(page);
    const source = name.slice("validation.load.".length);
    await page.getByLabel("Load in").selectOption({ label: `validation: ${source}` });
    await page.waitForURL(`**source=${encodeURIComponent(source)}*`);
    await page.getByText("Validation of step", { exact: true }).waitFor();
    await page.getByRole("combobox", { name: "Layer", exact: true }).selectOption("0");
    await page.getByRole("application", { name: /^Load by source, layer 0: \d+ sources by \d+ experts/ }).focus();
    await page.keyboard.press("ArrowRight");
    await page.waitForURL(/layer=0&expert=1/);
    await page.getByText(/^source .+, expert 1: [\d.]+$/).waitFor();
    await page.getByRole("button", { name: "Table of Load by source, layer 0" }).click();
    await page.getByRole("region", { name: "Table of Load by source, layer 0" }).getByRole("rowheader", { name: source, exact: true }).waitFor();
  },

  "scrubbing from the cache takes less than 30 ms a frame": async ({ page }, world) => {
    await page.goto(pageOf(trained(world), "/experts"));
    await settle(page);
    const slider = page.getByLabel("Step of the map");
    const visit = (positions) =>
      slider.evaluate(async (input, wanted) => {
        const times = [];
        for (const position of wanted) {
          const start = performance.now();
          input.value = String(position);
          input.dispatchEvent(new InputEvent("input", { bubbles: true }));
          await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
          times.push(performance.now() - start);
        }
        return times.sort((a, b) => a - b);
      }, positions);
    const positions = [4, 5, 6, 7, 8, 9, 10];
    for (const position of positions) {
      await visit([position]);
      await page.waitForTimeout(150);
    }
    const rounds = [];
    for (let round = 0; round < 3; round += 1) rounds.push(await visit([...positions, ...positions]));
    const [median, worst] = rounds.map((times) => [times[times.length >> 1], times.at(-1)]).sort(([a], [b]) => a - b)[0];
    console.log(`      median ${median.toFixed(1)} ms, worst ${worst.toFixed(1)} ms`);
    assert.ok(median < 30 * PATIENCE, `median ${median} ms`);
  },

  "a run that quantises nothing says so, and where its precision is": async ({ page }, world) => {
    const { plain } = await byNumerics(page, world);
    if (plain === null) return;
    await page.goto(numericsOf(plain));
    await page.getByText(/precision is (f32|bf16): nothing is quantised/).waitFor();
    await page.locator("main").getByRole("link", { name: "Config" }).last().click();
    await page.waitForURL("**/config?tab=effective");
    await page.getByText(/precision:/).first().waitFor();
  },

  "the worst cells of a run in FP8 are in words, and lead to the map": async ({ page }, world) => {
    const { quantised } = await byNumerics(page, world);
    if (quantised === null) return;
    await page.goto(numericsOf(quantised));
    await settle(page);
    assert.equal(await page.locator("article").count(), 3, "a tile for each statistic");
    const worst = page.getByRole("region", { name: "Worst cells" });
    const count = await worst.getByRole("listitem").count();
    assert.ok(count <= 5, `${count} cells`);
    if (count === 0) return;
    const first = worst.getByRole("button").first();
    const words = await first.innerText();
    assert.match(words, /^(layer \d+|MTP module \d+), .+: [<\d.]+% underflow$/);
    await first.click();
    await page.waitForURL(/class=\d+&layer=\d+/);
    const name = words.slice(0, words.lastIndexOf(": "));
    await page.getByRole("region", { name: MAP, exact: true }).getByText(`${name}: `).waitFor();
    await page.getByRole("region", { name: "Underflow over time", exact: true }).getByText(name).waitFor();
    await downloads(page, MAP);
  },

  "arrows move the cell of the numerics map, in each statistic": async ({ page }, world) => {
    const { quantised } = await byNumerics(page, world);
    if (quantised === null) return;
    await page.goto(`${numericsOf(quantised)}&class=0&layer=0`);
    await settle(page);
    await page.getByRole("application", { name: new RegExp(`^${MAP}`) }).focus();
    await page.keyboard.press("ArrowDown");
    await page.keyboard.press("ArrowRight");
    await page.waitForURL(/class=1&layer=1/);
    await page.getByText(/^(layer 1|MTP module 1), latents: /).first().waitFor();
    await page.getByRole("button", { name: "Headroom", exact: true }).click();
    await page.waitForURL(/show=headroom/);
    await page.getByRole("application", { name: /^Headroom by class and layer: 14 tensors/ }).waitFor();
    await page.getByRole("button", { name: "Table of Headroom by class and layer" }).click();
    assert.equal(await page.getByRole("region", { name: "Table of Headroom by class and layer" }).locator("tbody tr").count(), 14);
    await page.goBack();
    await page.getByRole("application", { name: new RegExp(`^${MAP}`) }).waitFor();
  },

  "a table twin has rows": async ({ page }, world) => {
    await page.goto(pageOf(trained(world), "/curves"));
    await settle(page);
    await page.getByRole("button", { name: "Table of LM loss" }).click();
    assert.ok((await page.getByRole("region", { name: /^Table of/ }).locator("tbody tr").count()) > 1);
  },

  "downloads have content": async ({ page }, world) => {
    await page.goto(pageOf(trained(world), "/curves"));
    await settle(page);
    await downloads(page, "LM loss");
  },

  "markup in metric names and logs is text": async ({ page }, world) => {
    const run = trained(world);
    await page.goto(pageOf(run, "/logs"));
    await settle(page);
    assert.equal(await page.locator("main img").count(), 0);
    if (process.env.FATHOM_BIN) await page.getByText('<img src=x onerror="window.__injected=1"><b>bold</b>').first().waitFor();
    await page.goto(pageOf(run, `/curves?metric=${encodeURIComponent('custom.<img src=x onerror="window.__injected=1"><b>bold</b>')}`));
    await settle(page);
    assert.equal(await page.locator("main img, main b").count(), 0);
    assert.equal(await page.evaluate(() => window.__injected), undefined);
  },

  "a job that is not there is explained": async ({ page }) => {
    await page.goto(`${server.url}/jobs/no-such-job`);
    await page.getByRole("alert").waitFor();
    assert.match(await page.getByRole("alert").innerText(), /no-such-job/);
  },

  "without a session the page says how to open it": async ({ page, context }) => {
    if (server.secret === "") return;
    await context.clearCookies();
    await page.goto(server.url);
    await page.getByText("fathom ui").first().waitFor();
  },

  "seven tabs are live at once, and hear the same": async ({ context }, world) => {
    // One more than the connections that a browser allows to a host.
    const tabs = await Promise.all(Array.from({ length: 7 }, () => context.newPage()));
    for (const tab of tabs) await tab.goto(pageOf(trained(world)));
    for (const tab of tabs) {
      await tab.locator("[aria-label=Verdict]").waitFor();
      await tab.getByText(/^Live/).first().waitFor();
    }
    if (process.env.FATHOM_BIN) {
      await post(`/runs/${encodeURIComponent(trained(world).id)}/logs:batch`, { attempt: 1, rank: 6, offset: 0, nextOffset: 1, lines: [{ level: "info", position: 0, text: "seven tabs", time: Date.now() / 1000 }] });
    }
    for (const tab of tabs) await tab.getByText(/^Live$|^Live, data/).first().waitFor();
    for (const tab of tabs) await tab.close();
  },

  "a tab is live where workers cannot be shared": async ({ page, context }, world) => {
    await context.addInitScript(() => delete window.SharedWorker);
    const streams = [];
    page.on("request", (request) => request.url().endsWith("/api/v1/events") && streams.push(request.url()));
    await page.goto(pageOf(trained(world)));
    await page.getByText(/^Live/).first().waitFor();
    assert.equal(streams.length, 1, "the tab reads the stream itself");
  },

  "the page loads within a second": async ({ page, context }, world) => {
    const browser = context.browser();
    const { page: fresh, context: second } = await openPage(browser);
    await settle(fresh);
    const start = performance.now();
    await fresh.goto(pageOf(trained(world)));
    await fresh.locator("[aria-label=Verdict]").waitFor();
    const took = performance.now() - start;
    await second.close();
    console.log(`      verdict after ${took.toFixed(0)} ms`);
    assert.ok(took < 1500 * PATIENCE, `${took} ms`);
    void page;
  },
};
