import { expect, test } from "vitest";
import { markParts, mergeLines } from "./logs";

test("logs merge once and mark hits", () => {
  const log = (id: number) => ({ id, run: "r", attempt: 1, rank: 0, time: "", level: "info" as const, text: "" });
  expect(mergeLines([log(1), log(2)], [log(2), log(3)], 2).map(({ id }) => id)).toEqual([2, 3]);
  expect(markParts("a NaN b", "nan")).toEqual([{ text: "a ", hit: false }, { text: "NaN", hit: true }, { text: " b", hit: false }]);
});
