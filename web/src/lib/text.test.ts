import { expect, test } from "vitest";
import { divideColumns, shortenPaths } from "./text";

test("long paths keep their last part", () => {
  expect(shortenPaths("checkpoint of step 7 in /a/b/c/.checkpoints/step-0000000007")).toBe("checkpoint of step 7 in …/step-0000000007");
  expect(shortenPaths("in /a/b/c/ now")).toBe("in …/c now");
  expect(shortenPaths("3/4/5/6 of /tmp/x, see https://host/a/b/c")).toBe("3/4/5/6 of /tmp/x, see https://host/a/b/c");
});

test("columns are divided by dots", () => {
  expect(divideColumns("118 steps  validation loss 4.577   1k tokens/s")).toBe("118 steps · validation loss 4.577 · 1k tokens/s");
});
