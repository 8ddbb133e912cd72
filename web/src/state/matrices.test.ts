import { afterEach, describe, expect, it, vi } from "vitest";
import { MatrixCache, MatrixHistory } from "./matrices.svelte";

/** A server that answers when it is told to. */
function fakeServer() {
  const asked: number[] = [];
  const answers: (() => void)[] = [];
  vi.stubGlobal("fetch", (address: string) => {
    const step = Number(new URL(address, "http://test").searchParams.get("step"));
    asked.push(step);
    const body = { step, firstStep: step, lastStep: step, exact: true, rows: 1, columns: 1, values: btoa("\0\0\0\0") };
    return new Promise<Response>((done) => answers.push(() => done(new Response(JSON.stringify(body)))));
  });
  const settle = async () => {
    for (const answer of answers.splice(0)) answer();
    await new Promise((done) => setTimeout(done));
  };
  return { asked, settle };
}

afterEach(() => vi.unstubAllGlobals());

describe("maps that are read ahead", () => {
  it("are read a few at a time, each once", async () => {
    const { asked, settle } = fakeServer();
    const cache = new MatrixCache("run", "moe.load");
    cache.prefetch([1, 2, 3, 2, 4]);
    expect(asked).toEqual([1, 2]);
    await settle();
    await settle();
    expect(asked).toEqual([1, 2, 3, 4]);
    cache.prefetch([3, 5]);
    expect(asked).toEqual([1, 2, 3, 4, 5]);
  });

  it("do not keep a step waiting that is wanted now", async () => {
    const { asked, settle } = fakeServer();
    const cache = new MatrixCache("run", "moe.load");
    cache.prefetch([1, 2, 3, 4, 5, 6]);
    const wanted = cache.read(90);
    expect(asked).toEqual([1, 2, 90]);
    await settle();
    expect((await wanted).step).toBe(90);
    expect(asked, "neighbours of a step that was left are not read").toEqual([1, 2, 90]);
    expect(cache.peek(1)?.step).toBe(1);
  });
});

describe("the history of a cell", () => {
  it("is there while the rest of it comes, and reads a step once", async () => {
    const { asked, settle } = fakeServer();
    const [cache, history] = [new MatrixCache("run", "numerics.headroom"), new MatrixHistory()];
    const steps = () => history.matrices.map(({ step }) => step);
    void history.show(cache, [1, 2, 3]);
    await settle();
    expect([asked, steps()]).toEqual([[1, 2, 3], [1, 2]]);
    await settle();
    expect(steps()).toEqual([1, 2, 3]);
    void history.show(cache, [1, 2, 3, 4]);
    await settle();
    await settle();
    expect([asked, steps()]).toEqual([[1, 2, 3, 4], [1, 2, 3, 4]]);
  });

  it("is of the matrix that was asked for last", async () => {
    const { settle } = fakeServer();
    const history = new MatrixHistory();
    void history.show(new MatrixCache("run", "numerics.headroom"), [1, 2, 3]);
    void history.show(new MatrixCache("run", "numerics.saturated"), [7]);
    await settle();
    await settle();
    expect(history.matrices.map(({ step }) => step)).toEqual([7]);
  });
});
