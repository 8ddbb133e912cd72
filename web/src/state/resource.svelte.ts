import { untrack } from "svelte";
import { ApiError } from "../api/client";
import type { LiveMessage, Problem } from "../api/types";
import { live } from "./live.svelte";

const RETRY_MS = 5000;

/** What went wrong, in the form in which pages show it. */
export function problemFrom(error: unknown): Problem {
  if (error instanceof ApiError) return error.problem;
  return {
    type: "about:blank",
    title: "The page could not read the answer",
    status: 0,
    detail: error instanceof Error ? error.message : String(error),
    instance: location.pathname,
    code: "client",
    requestId: "",
  };
}

export interface Options {
  /** Messages after which the value is stale. */
  stale?: (message: LiveMessage) => boolean;
  /** At most one read in this time for stale messages. */
  everyMs?: number;
}

/** A value of the server. While it is read again the old value stays, so nothing flickers. */
export class Resource<T> {
  value = $state.raw<T | null>(null);
  problem = $state.raw<Problem | null>(null);
  loading = $state(true);
  private version = $state(0);

  constructor(load: (signal: AbortSignal) => Promise<T> | null, options: Options = {}) {
    $effect(() => {
      void this.version;
      void live.epoch;
      const abort = new AbortController();
      let retry: ReturnType<typeof setTimeout> | undefined;
      const pending = load(abort.signal);
      if (pending === null) return;
      this.loading = true;
      pending.then(
        (value) => {
          if (abort.signal.aborted) return;
          this.value = value;
          this.problem = null;
          this.loading = false;
        },
        (error: unknown) => {
          if (abort.signal.aborted) return;
          this.problem = problemFrom(error);
          this.loading = false;
          if (this.problem.status === 0 || this.problem.status >= 500) retry = setTimeout(() => this.reload(), RETRY_MS);
        },
      );
      return () => {
        abort.abort();
        clearTimeout(retry);
      };
    });
    const { stale, everyMs = 1000 } = options;
    if (stale) {
      $effect(() => {
        let waiting: ReturnType<typeof setTimeout> | undefined;
        // A read that is under way comes to its end: a server slower than `everyMs` would else never be heard.
        const read = () => {
          waiting = untrack(() => this.loading) ? setTimeout(read, everyMs) : undefined;
          if (waiting === undefined) this.reload();
        };
        const stop = live.listen((message) => {
          if (waiting !== undefined || !stale(message)) return;
          waiting = setTimeout(read, everyMs);
        });
        return () => {
          stop();
          clearTimeout(waiting);
        };
      });
    }
  }

  reload(): void {
    untrack(() => {
      this.version += 1;
    });
  }
}
