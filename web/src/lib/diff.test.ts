import { expect, test } from "vitest";
import { diffLines } from "./diff";

test("diff", () => {
  expect(diffLines("a\nb\nc", "a\nB\nc").map(({ kind, text }) => `${kind} ${text}`)).toEqual(["same a", "removed b", "added B", "same c"]);
});
