import { api } from "../api/client";
import type { Attempt, LiveMessage, Problem, Run, Series, Axis } from "../api/types";
import { floatOrNaN } from "../lib/number";
import { type Line, appendPoint, lineFrom, livePointX, supersededPart } from "../lib/series";
import { live } from "./live.svelte";
import { problemFrom } from "./resource.svelte";

export interface LinesRequest {
  runs: readonly Run[];
  metrics: readonly string[];
  x: Axis;
  /** Steps; null shows everything and follows the run. */
  window: { from: number; to: number } | null;
  points: number;
  /** Attempts of the first run whose superseded steps are drawn too. */
  ghosts: readonly Pick<Attempt, "attempt" | "superseded">[];
}

const ghostLines = (run: string, answer: Series, of: LinesRequest["ghosts"][number] | undefined): Line[] =>
  of ? answer.series.map((series) => supersededPart(lineFrom(run, answer, series, of.attempt), of.superseded)) : [];

/** The lines of a page: read once for a window, then grown by live points, one redraw a frame. */
export class LiveLines {
  lines = $state.raw<readonly Line[]>([]);
  ghosts = $state.raw<readonly Line[]>([]);
  problem = $state.raw<Problem | null>(null);
  loading = $state(true);

  /** Messages that came while the lines were read; the answer may be older than they are. */
  private waiting: LiveMessage[] = [];
  /** Metrics that were not there when the lines were read, such as the first validation; each causes one more read. */
  private readonly missed = new Set<string>();
  private frame = 0;
  private version = $state(0);

  constructor(request: () => LinesRequest | null) {
    $effect(() => {
      void [live.epoch, this.version];
      const wanted = request();
      if (wanted === null) return;
      const abort = new AbortController();
      void this.load(wanted, abort.signal);
      const stop = live.listen((message) => this.receive(wanted, message));
      return () => {
        abort.abort();
        stop();
        cancelAnimationFrame(this.frame);
        this.frame = 0;
      };
    });
  }

  private async load(wanted: LinesRequest, signal: AbortSignal): Promise<void> {
    const { runs, x, points, window, ghosts } = wanted;
    const metrics = [...wanted.metrics];
    if (runs.length === 0 || metrics.length === 0) {
      [this.lines, this.ghosts, this.loading] = [[], [], false];
      return;
    }
    this.loading = true;
    this.waiting = [];
    try {
      const answer = await api.series({ runs: runs.map(({ id }) => id), metrics, x, points, ...(window ?? {}) }, signal);
      this.lines = answer.items.flatMap((item) => item.series.map((series) => lineFrom(item.run, item, series)));
      this.problem = null;
      const owner = runs[0] as Run;
      const past = await Promise.all(ghosts.map(({ attempt }) => api.ghost(owner.id, metrics, attempt, { x, points, ...(window ?? {}) }, signal)));
      this.ghosts = past.flatMap((item, index) => ghostLines(owner.id, item, ghosts[index]));
    } catch (error) {
      if (!signal.aborted) this.problem = problemFrom(error);
    } finally {
      if (!signal.aborted) {
        this.loading = false;
        for (const message of this.waiting.splice(0)) this.receive(wanted, message, true);
      }
    }
  }

  private receive(wanted: LinesRequest, message: LiveMessage, late = false): void {
    if (message.event !== "metrics" || wanted.window !== null) return;
    if (this.loading) {
      this.waiting.push(message);
      return;
    }
    const run = wanted.runs.find(({ id }) => id === message.data.run);
    if (!run) return;
    for (const point of message.data.points) {
      const x = livePointX(point, wanted.x, run.flopsPerToken);
      if (x === null) continue;
      const missing = wanted.metrics.filter((metric) => metric in point.scalars && !this.lines.some((line) => line.run === run.id && line.metric === metric));
      for (const key of missing.map((metric) => `${run.id}/${metric}`)) {
        if (this.missed.has(key)) continue;
        this.missed.add(key);
        this.version += 1;
      }
      for (const line of this.lines) {
        const value = point.scalars[line.metric];
        if (line.run !== run.id || value === undefined || (late && point.step <= (line.step.at(-1) ?? 0))) continue;
        appendPoint(line, { step: point.step, x, value: floatOrNaN(value) });
      }
    }
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      // Buckets of the first read grow too many over hours; the server then gives coarser ones.
      if (this.lines.some((line) => line.x.length > 2 * wanted.points)) this.version += 1;
      else this.lines = [...this.lines];
    });
  }
}
