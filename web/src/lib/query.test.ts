import { describe, expect, test } from "vitest";
import { changeQuery, readChoice, readFraction, readInteger } from "./query";

describe("URL state", () => {
  const query = new URLSearchParams("step=12&x=tokens&smooth=0.9&metric=a&metric=b");
  test("readers are total", () => {
    expect([readInteger(query, "step"), readInteger(new URLSearchParams("step=-1"), "step"), readInteger(query, "none")]).toEqual([12, null, null]);
    expect([readChoice(query, "x", ["step", "tokens"], "step"), readChoice(query, "metric", ["z"], "z")]).toEqual(["tokens", "z"]);
    expect([readFraction(query, "smooth", 0), readFraction(new URLSearchParams("smooth=7"), "smooth", 0)]).toEqual([0.9, 0]);
  });
  test("a change keeps the rest and drops what is empty", () => {
    expect(changeQuery(query, { step: null, log: true, metric: ["c"] }).toString()).toBe("x=tokens&smooth=0.9&log=1&metric=c");
  });
});
