import { svelte } from "@sveltejs/vite-plugin-svelte";
import { loadEnv } from "vite";
import { defineConfig } from "vitest/config";

// The mock's address; FATHOM_SERVER names a real server instead, which hears its own name as host and origin.
const server = loadEnv("development", ".", "FATHOM_").FATHOM_SERVER ?? "http://127.0.0.1:4400";
const forward = { target: server, changeOrigin: true, headers: { origin: server } };
const proxy = { "/api": forward, "^/\\?secret=": forward };

export default defineConfig({
  plugins: [svelte()],
  build: { target: "es2023", assetsInlineLimit: 0 },
  server: { proxy },
  preview: { host: "127.0.0.1", proxy },
  test: { include: ["src/**/*.test.ts"], environment: "node" },
});
