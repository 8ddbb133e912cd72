import { untrack } from "svelte";
import { api } from "../api/client";
import type { Problem } from "../api/types";
import { type Grid, decodeMatrix } from "../lib/matrix";
import { live } from "./live.svelte";
import { problemFrom } from "./resource.svelte";

export interface MatrixAt {
  step: number;
  firstStep: number;
  lastStep: number;
  exact: boolean;
  grid: Grid;
}

// 256 matrices of 58 x 256 are 15 MB.
const CAPACITY = 256;
/** Steps that are read ahead at the same time. */
const AT_A_TIME = 2;

/** Matrices of one run and metric by the step that was asked for, so that scrubbing back and forth reads each once. */
export class MatrixCache {
  private readonly entries = new Map<number, MatrixAt>();
  private readonly pending = new Map<number, Promise<MatrixAt>>();
  private ahead: number[] = [];
  private reading = 0;

  constructor(
    readonly run: string,
    readonly name: string,
  ) {}

  /** Without waiting: what a frame of scrubbing can show. */
  peek(step: number): MatrixAt | null {
    return this.entries.get(step) ?? null;
  }

  /** `null` asks for the newest, which is never served from the cache. */
  async read(step: number | null): Promise<MatrixAt> {
    const cached = step === null ? undefined : this.entries.get(step);
    if (step !== null && cached) {
      // Re-inserted, so that the Map's order is the order of use.
      this.entries.delete(step);
      this.entries.set(step, cached);
      return cached;
    }
    // Who wants a step now does not wait for what was to be read ahead of another.
    this.ahead = [];
    return this.request(step);
  }

  /** Reads ahead, a few at a time, and only what was asked for last; a failure shows when the step is really wanted. */
  prefetch(steps: readonly number[]): void {
    this.ahead = [...steps];
    this.readAhead();
  }

  private readAhead(): void {
    while (this.reading < AT_A_TIME) {
      const step = this.ahead.shift();
      if (step === undefined) return;
      if (this.entries.has(step) || this.pending.has(step)) continue;
      this.reading += 1;
      this.request(step)
        .catch(() => undefined)
        .finally(() => {
          this.reading -= 1;
          this.readAhead();
        });
    }
  }

  private async request(step: number | null): Promise<MatrixAt> {
    const waiting = step === null ? undefined : this.pending.get(step);
    if (waiting) return waiting;
    const request = api.matrix(this.run, this.name, step).then((answer) => {
      const { firstStep, lastStep, exact } = answer;
      const found = { step: answer.step, firstStep, lastStep, exact, grid: decodeMatrix(answer) };
      this.store(answer.step, found);
      if (step !== null) this.store(step, found);
      return found;
    });
    if (step === null) return request;
    this.pending.set(step, request);
    return request.finally(() => this.pending.delete(step));
  }

  private store(step: number, found: MatrixAt): void {
    this.entries.set(step, found);
    for (const oldest of this.entries.keys()) {
      if (this.entries.size <= CAPACITY) break;
      this.entries.delete(oldest);
    }
  }
}

/** The matrix at a step that changes; the last one stays until the next is there. */
export class MatrixView {
  current = $state.raw<MatrixAt | null>(null);
  problem = $state.raw<Problem | null>(null);
  private wanted = 0;

  async show(cache: MatrixCache, step: number | null): Promise<void> {
    this.wanted += 1;
    const ticket = this.wanted;
    const cached = step === null ? null : cache.peek(step);
    if (cached) {
      [this.current, this.problem] = [cached, null];
      return;
    }
    try {
      const found = await cache.read(step);
      if (ticket === this.wanted) [this.current, this.problem] = [found, null];
    } catch (error) {
      if (ticket === this.wanted) this.problem = problemFrom(error);
    }
  }
}

const FOLLOW_MS = 1000;

/** Matrices that are shown together. */
export interface Followed {
  shown: readonly { view: MatrixView; cache: MatrixCache }[];
  /** `null` follows the newest. */
  step: number | null;
  everyMs?: number;
}

/** Shows matrices while a component lives: those of a step that was chosen, or the newest as they come. */
export function followMatrices(request: () => Followed | null): void {
  $effect(() => {
    void live.epoch;
    const wanted = request();
    if (wanted === null) return;
    const { shown, step, everyMs = FOLLOW_MS } = wanted;
    const show = () => shown.forEach(({ view, cache }) => void view.show(cache, step));
    untrack(show);
    if (step !== null) return;
    let waiting: ReturnType<typeof setTimeout> | undefined;
    const stop = live.listen((message) => {
      if (message.event !== "metrics" || !shown.some(({ cache }) => cache.run === message.data.run && message.data.matrices.includes(cache.name))) return;
      waiting ??= setTimeout(() => {
        waiting = undefined;
        show();
      }, everyMs);
    });
    return () => {
      stop();
      clearTimeout(waiting);
    };
  });
}

/** The matrices of some steps, in their order: what a cell was over time. What has been read is there while the rest comes. */
export class MatrixHistory {
  matrices = $state.raw<readonly MatrixAt[]>([]);
  problem = $state.raw<Problem | null>(null);
  private of: MatrixCache | null = null;
  private wanted = 0;

  async show(cache: MatrixCache, steps: readonly number[]): Promise<void> {
    this.wanted += 1;
    const ticket = this.wanted;
    if (cache !== this.of) [this.of, this.matrices] = [cache, []];
    const found: MatrixAt[] = [];
    try {
      for (let first = 0; first < steps.length; first += AT_A_TIME) {
        const read = await Promise.all(steps.slice(first, first + AT_A_TIME).map((step) => cache.read(step)));
        if (ticket !== this.wanted) return;
        // Of a long run one matrix may stand for several of the steps.
        for (const matrix of read) if (matrix.lastStep > (found.at(-1)?.lastStep ?? -1)) found.push(matrix);
        if (found.length > this.matrices.length) this.matrices = [...found];
      }
      [this.matrices, this.problem] = [found, null];
    } catch (error) {
      if (ticket === this.wanted) this.problem = problemFrom(error);
    }
  }
}
