// What the three heavy pages do under load: figures, and what must hold whatever the machine.
import assert from "node:assert/strict";
import { server, settle } from "../browser.mjs";
import { EXPERTS, LONG, spikesOf, train } from "./seed.mjs";

const quantile = (values, share) => [...values].sort((a, b) => a - b)[Math.max(0, Math.ceil(values.length * share) - 1)] ?? Number.NaN;
const spread = (values) => `${quantile(values, 0.5).toFixed(1)} / ${quantile(values, 0.95).toFixed(1)} / ${Math.max(...values).toFixed(1)} ms`;
const ms = (value) => `${value.toFixed(0)} ms`;
const kilobytes = (bytes) => `${(bytes / 1000).toFixed(1)} kB`;

/** Remembers what blocks the page, and gives the page's code a way to wait for pixels. */
export function instrument() {
  window.__long = [];
  new PerformanceObserver((list) => window.__long.push(...list.getEntries().map(({ duration }) => duration))).observe({ type: "longtask", buffered: true });
  window.__painted = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
}

const takeLong = (page) => page.evaluate(() => window.__long.splice(0));
const showLong = (tasks) => (tasks.length === 0 ? "none" : `${tasks.length}, longest ${ms(Math.max(...tasks))}`);

async function heap(page) {
  const session = await page.context().newCDPSession(page);
  await session.send("HeapProfiler.collectGarbage");
  const { usedSize } = await session.send("Runtime.getHeapUsage");
  await session.detach();
  return `${(usedSize / 1e6).toFixed(1)} MB`;
}

/** Requests to the API while `work` is done, by path without names. */
async function requestsDuring(page, work) {
  const seen = [];
  const note = (request) => {
    const { pathname } = new URL(request.url());
    if (pathname.startsWith("/api/")) seen.push(pathname);
  };
  page.on("request", note);
  const start = Date.now();
  await work();
  page.off("request", note);
  return { seen, perSecond: seen.length / ((Date.now() - start) / 1000) };
}

/** Milliseconds between frames while the page is scrolled down and up again. */
const scrollFrames = (page) =>
  page.evaluate(async () => {
    const times = [];
    let previous = performance.now();
    for (const direction of [1, -1]) {
      for (let frame = 0; frame < 90; frame += 1) {
        scrollBy(0, direction * 60);
        const now = await new Promise((done) => requestAnimationFrame(done));
        times.push(now - previous);
        previous = now;
      }
    }
    return times;
  });

async function timeAnswers(request, path, turns) {
  const times = [];
  let bytes = 0;
  for (let turn = 0; turn < turns; turn += 1) {
    const start = performance.now();
    const answer = await request(path);
    times.push(performance.now() - start);
    bytes = JSON.stringify(answer).length;
  }
  return { first: times[0], rest: times.slice(1), bytes };
}

export async function measureJobs({ page, complaints }, { request, counts, live, seconds, show, picture }) {
  const jobs = counts.jobs + 2;
  const answers = await timeAnswers(request, "/jobs?limit=100", counts.turns + 1);
  show("GET /jobs, first after the start", ms(answers.first));
  show("GET /jobs, p50 / p95 / max", spread(answers.rest));
  show("GET /jobs, answer", kilobytes(answers.bytes));
  await takeLong(page);
  const start = performance.now();
  await page.goto(`${server.url}/`);
  await page.locator("tbody tr").nth(Math.min(99, jobs - 1)).waitFor();
  await page.evaluate(() => window.__painted());
  show("jobs page, all rows on screen", ms(performance.now() - start));
  show("jobs page, long tasks while opening", showLong(await takeLong(page)));
  const nodes = await page.evaluate(() => document.querySelectorAll("*").length);
  show("jobs page, nodes", String(nodes));
  assert.ok(nodes < 150 * Math.min(100, jobs), `the jobs page has ${nodes} nodes`);
  show("jobs page, frames while scrolling, p50 / p95 / max", spread(await scrollFrames(page)));
  show("jobs page, long tasks while scrolling", showLong(await takeLong(page)));
  await picture(page, "load-jobs");
  // What happened before has been read by now.
  await page.waitForTimeout(6000);
  const idle = await requestsDuring(page, () => page.waitForTimeout(seconds * 1000));
  show("jobs page, requests a second, nothing happens", idle.perSecond.toFixed(2));
  assert.deepEqual(idle.seen, [], "an idle page asks for nothing");
  await takeLong(page);
  const step = live[0].step;
  const busy = await requestsDuring(page, async () => {
    const end = Date.now() + seconds * 1000;
    while (Date.now() < end) {
      await train(live);
      await page.waitForTimeout(450);
    }
  });
  show(`jobs page, requests a second, ${live.length} jobs report twice a second`, busy.perSecond.toFixed(2));
  show("jobs page, long tasks meanwhile", showLong(await takeLong(page)));
  assert.ok(busy.seen.length >= 1, "the page follows jobs that report");
  assert.ok(busy.perSecond < 1.5, `${busy.seen.length} requests in ${seconds} s: ${busy.seen.join(" ")}`);
  assert.ok(live[0].step > step);
  const shown = (await request("/jobs?limit=100")).items.find(({ name }) => name === live[0].name);
  assert.equal(shown.phases.at(-1).step, live[0].step, "a job that changes is shown at once");
  show("jobs page, JS heap", await heap(page));
  // Pages of a job that reports twice a second.
  for (const view of ["", "/curves", "/logs"]) {
    await page.goto(`${server.url}/jobs/${live[0].name}${view}`);
    await settle(page);
    await page.waitForTimeout(500);
    const { seen, perSecond } = await requestsDuring(page, async () => {
      const end = Date.now() + seconds * 500;
      while (Date.now() < end) {
        await train(live.slice(0, 1));
        await page.waitForTimeout(450);
      }
    });
    show(`page ${view || "/"} of a job that reports twice a second, requests a second`, perSecond.toFixed(2));
    assert.ok(perSecond < 3, `${view || "/"}: ${seen.length} requests: ${seen.join(" ")}`);
    assert.ok(view !== "/logs" || !seen.some((path) => path.endsWith("/logs")), "metrics make the log be read again");
  }
  assert.deepEqual(complaints, [], "the browser complained");
}

/** Waits for the curves to be drawn: nothing is being read, and a frame has passed. Returns the time on the page's clock. */
const curvesDrawn = (page) =>
  page.evaluate(async () => {
    const ready = () => document.querySelector(".panels")?.getAttribute("aria-busy") === "false" && document.querySelector(".panels canvas") !== null;
    while (!ready()) await new Promise((done) => requestAnimationFrame(done));
    await window.__painted();
    return performance.now();
  });

/** Whether a chart has ink of its own colour where each of these values is: `points` in steps and values. */
function inkAt(page, title, points) {
  return page.evaluate(
    ([name, wanted]) => {
      const section = document.querySelector(`section[aria-label="${name}"]`);
      const canvas = section.querySelector("canvas");
      const { width, height } = canvas;
      // A copy to read: reading the chart itself would make the browser draw it another way from then on.
      const copy = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
      copy.drawImage(canvas, 0, 0);
      const { data } = copy.getImageData(0, 0, width, height);
      const coloured = (x, y) => {
        if (x < 0 || y < 0 || x >= width || y >= height) return false;
        const at = 4 * (y * width + x);
        return data[at + 3] > 0 && data[at + 2] - data[at] > 24;
      };
      const over = section.querySelector(".u-over").getBoundingClientRect();
      const own = canvas.getBoundingClientRect();
      const ratio = width / own.width;
      return wanted.map(({ share, level }) => {
        const x = Math.round((over.left - own.left + share * over.width) * ratio);
        const y = Math.round((over.top - own.top + (1 - level) * over.height) * ratio);
        for (let dy = -1; dy <= 3; dy += 1) for (let dx = -2; dx <= 2; dx += 1) if (coloured(x + dx, y + dy)) return true;
        return false;
      });
    },
    [title, points],
  );
}

/** As the chart chooses its scale: a little more than what the buckets hold. */
function scaleOf({ min, max }) {
  const [low, high] = [Math.min(...min), Math.max(...max)];
  const pad = (high - low) * 0.06;
  return [low >= 0 && low - pad < 0 ? 0 : low - pad, high + pad];
}

/** Every spike of the window is in the data that the chart was given; a sample of them is looked for in its pixels. */
async function checkSpikes(page, answer, spikes, label) {
  const { series, from, to } = answer.items[0];
  const line = series.find(({ metric }) => metric === "loss.main");
  const inside = spikes.filter(({ step }) => step >= Math.max(from, line.step[0]) && step <= Math.min(to, line.step.at(-1)));
  const [low, high] = scaleOf(line);
  const points = inside.map(({ step, value }) => {
    const index = line.step.findIndex((last) => last >= step);
    assert.ok(index >= 0 && line.max[index] >= value - 1e-6, `${label}: the data lacks the spike at step ${step}`);
    return { step, share: (line.x[index] - line.x[0]) / (line.x.at(-1) - line.x[0]), level: (value - low) / (high - low) };
  });
  const stride = Math.ceil(points.length / 40);
  const sample = points.filter((_, index) => index % stride === 0);
  const ink = await inkAt(page, "LM loss", sample);
  const hidden = sample.filter((_, index) => !ink[index]).map(({ step }) => step);
  assert.deepEqual(hidden, [], `${label}: spikes without pixels`);
  return { inside: inside.length, looked: sample.length };
}

export async function measureCurves({ page, complaints }, { request, counts, run, show, picture }) {
  const spikes = spikesOf(counts);
  const path = (from, to) => `/runs/${encodeURIComponent(run)}/series?metric=loss.main&from=${from}&to=${to}&points=1000`;
  const third = Math.floor(counts.long / 3);
  const answers = await timeAnswers(request, path(0, counts.long), 2 * counts.turns + 1);
  const parts = [];
  for (let turn = 0; turn < 2 * counts.turns; turn += 1) parts.push(...(await timeAnswers(request, path(turn * 1000, turn * 1000 + third), 1).then(({ first }) => [first])));
  show(`series of ${counts.long.toLocaleString("en-US")} points, p50 / p95 / max`, spread([...answers.rest, ...parts]));
  show("series, answer", kilobytes(answers.bytes));

  // Values as they were sent, to be found again.
  const values = await Promise.all(
    spikes.map(({ step }) => request(`/runs/${encodeURIComponent(run)}/series?metric=loss.main&from=${step}&to=${step}`).then(({ series }) => ({ step, value: series[0].last[0] }))),
  );
  await page.goto(`${server.url}/jobs/${LONG}`);
  await settle(page);
  await takeLong(page);
  let answer = null;
  page.on("response", (response) => {
    if (new URL(response.url()).pathname === "/api/v1/series:query") answer = response.json();
  });
  const nextAnswer = async () => {
    const end = Date.now() + 20_000;
    while (answer === null && Date.now() < end) await page.waitForTimeout(5);
    return answer;
  };
  const stamp = () => page.evaluate(() => addEventListener("pointerdown", () => (window.__clicked = performance.now()), { capture: true, once: true }));
  await stamp();
  await page.getByRole("link", { name: "Curves", exact: true }).click();
  const drawn = await curvesDrawn(page);
  const clicked = await page.evaluate(() => window.__clicked);
  show("curves page, click to pixels", ms(drawn - clicked));
  const reads = await page.evaluate((since) => performance.getEntriesByType("resource").filter(({ name, startTime }) => name.includes("/api/") && startTime >= since).map(({ name, startTime, responseEnd }) => [name.replace(/.*\/api\/v1/, ""), startTime - since, responseEnd - since]), clicked);
  const again = reads.filter(([name]) => name === `/jobs/${LONG}` || name.startsWith(`/jobs/${LONG}/runs`));
  assert.deepEqual(again, [], "another page of the same job reads the job again");
  if (process.env.DETAIL) for (const [name, from, to] of reads) console.log(`      ${name} ${from.toFixed(0)} to ${to.toFixed(0)} ms`);
  show("curves page, long tasks while opening", showLong(await takeLong(page)));
  const whole = await checkSpikes(page, await nextAnswer(), values, "whole run");
  assert.equal(whole.inside, spikes.length, "the whole run shows every spike");
  await picture(page, "load-curves");

  const zooms = [];
  let [checked, looked, levels, smallest] = [whole.inside, whole.looked, 1, counts.long];
  for (;;) {
    answer = null;
    const plot = await page.locator("section[aria-label='LM loss'] .u-over").boundingBox();
    // Around a spike, so that the last window holds one.
    const target = values[values.length >> 1].step;
    const [from, to] = await page.evaluate(() => ["from", "to"].map((name) => new URLSearchParams(location.search).get(name)));
    const [low, high] = [Number(from ?? 1), Number(to ?? counts.long)];
    const share = Math.min(0.8, Math.max(0.2, (target - low) / (high - low)));
    await page.mouse.move(plot.x + (share - 0.15) * plot.width, plot.y + 60);
    await page.mouse.down();
    await page.mouse.move(plot.x + (share + 0.15) * plot.width, plot.y + 70, { steps: 3 });
    await page.evaluate(() => addEventListener("mouseup", () => (window.__released = performance.now()), { capture: true, once: true }));
    await page.mouse.up();
    const got = await nextAnswer();
    assert.ok(got, "zooming reads the window");
    const end = await curvesDrawn(page);
    zooms.push(end - (await page.evaluate(() => window.__released)));
    const found = await checkSpikes(page, got, values, `steps ${got.items[0].from} to ${got.items[0].to}`);
    checked += found.inside;
    looked += found.looked;
    levels += 1;
    smallest = got.items[0].to - got.items[0].from + 1;
    if (levels === 4) await picture(page, "load-curves-zoom");
    if (smallest < 40 || levels > 20) break;
  }
  assert.ok(smallest < 40, `the smallest window has ${smallest} steps`);
  show("curves page, zoom, p50 / p95 / max", spread(zooms));
  show("curves page, zoom levels down to single steps", String(levels));
  show("spikes found in the data of all levels / looked for in pixels", `${checked} / ${looked}`);
  show("curves page, long tasks while zooming", showLong(await takeLong(page)));
  show("curves page, JS heap", await heap(page));
  const nodes = await page.evaluate(() => document.querySelectorAll("*").length);
  assert.ok(nodes < 3000, `the curves page has ${nodes} nodes`);
  assert.deepEqual(complaints, [], "the browser complained");
}

/** Moves the scrubber to each position and waits until its map is on screen; milliseconds each. */
const scrub = (page, positions) =>
  page.getByLabel("Step of the map").evaluate(async (input, stops) => {
    const times = [];
    for (const position of stops) {
      const start = performance.now();
      input.value = String(position);
      input.dispatchEvent(new InputEvent("input", { bubbles: true }));
      // The slider names the step that is wanted, the facts the one that is drawn.
      const digits = (text) => /[\d,]+/.exec(text ?? "")?.[0];
      const wanted = () => digits(input.getAttribute("aria-valuetext"));
      const shown = () => digits(document.querySelector("dl.facts dd")?.textContent);
      await Promise.resolve();
      while (shown() !== wanted()) await new Promise((done) => setTimeout(done));
      await window.__painted();
      times.push(performance.now() - start);
    }
    return times;
  }, positions);

export async function measureExperts({ page, complaints }, { request, counts, run, seconds, show, picture }) {
  const rows = await timeAnswers(request, `/runs/${encodeURIComponent(run)}/matrices/moe.load/rows?reduce=maxViolation&points=240`, 6);
  show(`MaxVio of 58 layers over ${counts.matrices.toLocaleString("en-US")} steps, first / p50`, `${ms(rows.first)} / ${ms(quantile(rows.rest, 0.5))}`);
  show("MaxVio over time, answer", kilobytes(rows.bytes));
  await page.goto(`${server.url}/jobs/${EXPERTS}`);
  await settle(page);
  await takeLong(page);
  await page.evaluate(() => addEventListener("pointerdown", () => (window.__clicked = performance.now()), { capture: true, once: true }));
  await page.getByRole("link", { name: "Experts", exact: true }).click();
  await page.getByRole("application", { name: /^Relative load/ }).waitFor();
  const map = await page.evaluate(() => window.__painted().then(() => performance.now() - window.__clicked));
  await page.getByRole("application", { name: /^MaxVio over time/ }).waitFor();
  const both = await page.evaluate(() => window.__painted().then(() => performance.now() - window.__clicked));
  show("experts page, click to map / to MaxVio over time", `${ms(map)} / ${ms(both)}`);
  show("experts page, long tasks while opening", showLong(await takeLong(page)));
  await picture(page, "load-experts");
  const last = Number(await page.getByLabel("Step of the map").getAttribute("max"));
  // Far enough apart that none was read ahead.
  const far = Array.from({ length: Math.min(12, Math.floor(last / 16)) }, (_, index) => 8 + index * 16);
  const cold = [];
  for (const position of far) cold.push(...(await scrub(page, [position])));
  show("scrub, cold, p50 / p95 / max", spread(cold));
  const near = Array.from({ length: 12 }, (_, index) => far[0] + index - 5);
  for (const position of near) await scrub(page, [position]);
  await page.waitForTimeout(500);
  await takeLong(page);
  const reads = await requestsDuring(page, async () => {
    const cached = [];
    for (let round = 0; round < 4; round += 1) cached.push(...(await scrub(page, near)));
    show("scrub, from the cache, p50 / p95 / max", spread(cached));
  });
  const again = reads.seen.filter((path) => path.includes("/matrices/"));
  assert.ok(again.length <= 12, `scrubbing over steps that were seen reads ${again.length} matrices again`);
  show("scrub, long tasks", showLong(await takeLong(page)));
  await scrub(page, [20]);
  const began = Number(await page.getByLabel("Step of the map").inputValue());
  await page.getByRole("button", { name: "Play" }).click();
  await page.waitForTimeout(seconds * 500);
  await page.getByRole("button", { name: "Stop" }).click();
  const played = Number(await page.getByLabel("Step of the map").inputValue()) - began;
  show("play, maps a second", (played / (seconds / 2)).toFixed(1));
  assert.ok(played > 2, `playing moved the map by ${played} stops`);
  show("play, long tasks", showLong(await takeLong(page)));
  for (let position = 0; position < Math.min(last, 240); position += counts.turns > 5 ? 1 : 8) await scrub(page, [position]);
  show("experts page, JS heap after a walk through the run", await heap(page));
  await page.goto(`${server.url}/jobs/${EXPERTS}/experts?step=${counts.matrices}`);
  await page.getByText(/✕ 1/).first().waitFor();
  const nodes = await page.evaluate(() => document.querySelectorAll("*").length);
  assert.ok(nodes < 3000, `the experts page has ${nodes} nodes`);
  assert.deepEqual(complaints, [], "the browser complained");
}
