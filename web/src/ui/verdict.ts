import type { JobState, PhaseStateWord, EventSeverity, Verdict } from "../api/types";

/** How a state looks: the shape carries the meaning, the colour only repeats it. */
export interface Look {
  label: string;
  tone: "healthy" | "watch" | "failing" | "stalled" | "no-data" | "accent";
  shape: Shape;
}

export type Shape = "check" | "triangle" | "cross" | "clock" | "ring" | "play" | "pause" | "square" | "dash";

export const VERDICTS: Record<Verdict, Look> = {
  healthy: { label: "Healthy", tone: "healthy", shape: "check" },
  watch: { label: "Watch", tone: "watch", shape: "triangle" },
  failing: { label: "Failing", tone: "failing", shape: "cross" },
  stalled: { label: "Stalled", tone: "stalled", shape: "clock" },
  noData: { label: "No data", tone: "no-data", shape: "ring" },
};

export const JOB_STATES: Record<JobState, Look> = {
  pending: { label: "Pending", tone: "no-data", shape: "ring" },
  queued: { label: "Queued", tone: "no-data", shape: "ring" },
  running: { label: "Running", tone: "accent", shape: "play" },
  paused: { label: "Paused", tone: "watch", shape: "pause" },
  stopped: { label: "Stopped", tone: "watch", shape: "square" },
  cancelled: { label: "Cancelled", tone: "no-data", shape: "dash" },
  succeeded: { label: "Succeeded", tone: "healthy", shape: "check" },
  failed: { label: "Failed", tone: "failing", shape: "cross" },
};

export const PHASE_STATES: Record<PhaseStateWord, Look> = {
  pending: { label: "Pending", tone: "no-data", shape: "ring" },
  cached: { label: "Cached", tone: "healthy", shape: "check" },
  running: { label: "Running", tone: "accent", shape: "play" },
  stopped: { label: "Stopped", tone: "watch", shape: "square" },
  succeeded: { label: "Succeeded", tone: "healthy", shape: "check" },
  failed: { label: "Failed", tone: "failing", shape: "cross" },
};

export const SEVERITIES: Record<EventSeverity, Look> = {
  info: { label: "Info", tone: "accent", shape: "ring" },
  warning: { label: "Warning", tone: "watch", shape: "triangle" },
  error: { label: "Error", tone: "failing", shape: "cross" },
};

/** A word that a newer server may send and this page does not know. */
export const lookOf = <K extends string>(looks: Record<K, Look>, word: K): Look =>
  looks[word] ?? { label: word, tone: "no-data", shape: "ring" };
