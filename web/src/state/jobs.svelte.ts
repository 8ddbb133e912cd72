import { api } from "../api/client";
import { Resource } from "./resource.svelte";

const NAVIGATION_JOBS = 50;
const METRICS_EVERY_MS = 5000;

/** The newest jobs, for navigation, palette and the list; read again when one changes and now and then while one trains. */
export const newestJobs = () =>
  new Resource((signal) => api.jobs({ sort: "-createdAt", limit: NAVIGATION_JOBS }, signal), {
    stale: ({ event }) => event === "job" || event === "health" || event === "metrics",
    everyMs: METRICS_EVERY_MS,
  });
