// A page that is signed in and remembers every complaint of the browser.
import { execFileSync, spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { chromium } from "playwright-core";

const ARGS = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
  "--disable-dev-shm-usage",
];

/** What is tested; `run.mjs` fills it in when it starts a server of its own. */
export const server = { url: process.env.BASE_URL ?? "http://127.0.0.1:4400", secret: process.env.SECRET ?? "" };

const which = (name) => spawnSync("sh", ["-c", 'command -v "$1"', "sh", name], { encoding: "utf8" }).stdout.trim();

/** The browser's path; root on Debian gets it from the distribution. Null where there is none. */
export function findChromium() {
  const wanted = process.env.CHROMIUM ?? "chromium";
  if (wanted.includes("/")) return existsSync(wanted) ? wanted : null;
  const found = which(wanted);
  if (found !== "") return found;
  if (process.getuid?.() !== 0 || !existsSync("/etc/debian_version") || which("apt-get") === "") return null;
  try {
    const environment = { ...process.env, DEBIAN_FRONTEND: "noninteractive" };
    const apt = (...args) => execFileSync("apt-get", args, { stdio: ["ignore", "ignore", "inherit"], env: environment });
    apt("update", "-q");
    apt("install", "-y", "-q", "--no-install-recommends", "chromium");
  } catch {
    return null;
  }
  return which("chromium") || null;
}

export const launch = (executablePath) => chromium.launch({ executablePath, headless: true, args: ARGS });

/** Signs in by the address that `fathom ui` prints. */
export async function openPage(browser, { theme = "light", width = 1440, height = 900 } = {}) {
  const context = await browser.newContext({ viewport: { width, height }, colorScheme: theme });
  context.setDefaultTimeout(20_000);
  await context.addInitScript((choice) => localStorage.setItem("fathom.theme", choice), theme);
  const page = await context.newPage();
  const complaints = [];
  page.on("console", (message) => {
    if (message.type() === "error" || message.type() === "warning") complaints.push(`${message.text()} (${message.location().url})`);
  });
  page.on("pageerror", (error) => complaints.push(String(error)));
  await page.goto(`${server.url}/${server.secret === "" ? "" : `?secret=${encodeURIComponent(server.secret)}`}`);
  return { page, context, complaints };
}

/** Charts and maps draw after their data; an idle network says nothing while a stream is open. */
export async function settle(page) {
  await page.waitForFunction(() => document.querySelectorAll("[role=status] > .visually-hidden, [aria-busy=true]").length === 0, null, { timeout: 20_000 });
  await page.waitForTimeout(600);
}

export const readApi = (page, path) => page.evaluate((address) => fetch(`/api/v1${address}`).then((response) => response.json()), path);
