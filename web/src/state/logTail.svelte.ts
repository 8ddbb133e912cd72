import { type LogFilter, api } from "../api/client";
import type { LogLine, Problem } from "../api/types";
import { mergeLines } from "../lib/logs";
import { live } from "./live.svelte";
import { problemFrom } from "./resource.svelte";

const PAGE = 300;
const KEPT = 5000;
const REFRESH_MS = 400;

export interface LogRequest {
  job: string;
  filter: Pick<LogFilter, "level" | "attempt" | "contains">;
  /** A line to start around; null starts at the newest and follows. */
  around: number | null;
  runs: readonly string[];
}

/** A window of a job's log: read from its end or around a line, extended on both sides. */
export class LogTail {
  lines = $state.raw<readonly LogLine[]>([]);
  problem = $state.raw<Problem | null>(null);
  loading = $state(true);
  /** Nothing older is left. */
  complete = $state(false);

  private abort = new AbortController();

  constructor(private readonly request: () => LogRequest) {
    $effect(() => {
      void live.epoch;
      const wanted = request();
      this.abort = new AbortController();
      const { signal } = this.abort;
      void this.read(wanted, signal);
      let waiting: ReturnType<typeof setTimeout> | undefined;
      const stop = live.listen((message) => {
        if (message.event !== "log" || !wanted.runs.includes(message.data.run)) return;
        waiting ??= setTimeout(() => {
          waiting = undefined;
          void this.readNewer(wanted, signal);
        }, REFRESH_MS);
      });
      return () => {
        stop();
        clearTimeout(waiting);
        this.abort.abort();
      };
    });
  }

  /** Older lines above the ones shown. */
  async older(): Promise<void> {
    const { job, filter } = this.request();
    const first = this.lines[0];
    if (!first) return;
    await this.guard(this.abort.signal, async (signal) => {
      const { items } = await api.logs(job, { ...filter, before: first.id, limit: PAGE }, signal);
      this.complete = items.length < PAGE;
      this.lines = mergeLines(items, this.lines, KEPT + this.lines.length);
    });
  }

  private async read({ job, filter, around }: LogRequest, outer: AbortSignal): Promise<void> {
    this.loading = true;
    await this.guard(outer, async (signal) => {
      if (around === null) {
        const { items } = await api.logs(job, { ...filter, limit: PAGE }, signal);
        this.complete = items.length < PAGE;
        this.lines = mergeLines([], items, KEPT);
      } else {
        const [before, after] = await Promise.all([
          api.logs(job, { ...filter, before: around, limit: PAGE / 3 }, signal),
          api.logs(job, { ...filter, after: around - 1, limit: PAGE }, signal),
        ]);
        this.complete = before.items.length < PAGE / 3;
        this.lines = mergeLines(before.items, after.items, KEPT);
      }
    });
    if (!outer.aborted) this.loading = false;
  }

  private async readNewer({ job, filter }: LogRequest, outer: AbortSignal): Promise<void> {
    await this.guard(outer, async (signal) => {
      const { items } = await api.logs(job, { ...filter, after: this.lines.at(-1)?.id ?? 0, limit: PAGE }, signal);
      if (items.length > 0) this.lines = mergeLines(this.lines, items, KEPT);
    });
  }

  private async guard(signal: AbortSignal, work: (signal: AbortSignal) => Promise<void>): Promise<void> {
    try {
      await work(signal);
      this.problem = null;
    } catch (error) {
      if (!signal.aborted) this.problem = problemFrom(error);
    }
  }
}
