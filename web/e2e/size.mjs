// JavaScript that the first page loads, gzipped: what index.html names and what those modules import at once.
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

const LIMIT = 95_000;
const dist = join(dirname(fileURLToPath(import.meta.url)), "../dist");
const html = readFileSync(join(dist, "index.html"), "utf8");
const scripts = [...html.matchAll(/(?:src|href)="(\/[^"]+\.js)"/g)].map(([, path]) => path);
const bytes = scripts.reduce((sum, path) => sum + gzipSync(readFileSync(join(dist, path)), { level: 9 }).length, 0);
console.log(`${scripts.length} scripts, ${bytes} bytes gzipped of ${LIMIT} allowed`);
process.exitCode = bytes <= LIMIT ? 0 : 1;
