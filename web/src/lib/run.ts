import type { Run } from "../api/types";

/** Kinds of phases whose runs step through an optimizer and so have curves. */
const TRAINS = new Set(["pretrain", "extend", "contextExtension", "sft", "grpo"]);

/** The run that a page shows when its address names none: the newest that trains, else the newest at all. */
export function defaultRun(runs: readonly Run[], wanted: string | null): Run | null {
  const named = runs.find(({ id }) => id === wanted);
  if (named) return named;
  const byAge = [...runs].sort((a, b) => Date.parse(a.createdAt) - Date.parse(b.createdAt));
  return byAge.findLast(({ kind, lastStep }) => TRAINS.has(kind) && lastStep !== null) ?? byAge.findLast(({ lastStep }) => lastStep !== null) ?? byAge.at(-1) ?? null;
}
