import { expect, test } from "vitest";
import { fuzzyRank, fuzzyScore } from "./fuzzy";

test("fuzzy search", () => {
  expect(fuzzyScore("zz", "loss")).toBeNull();
  expect(fuzzyRank("gn", ["learning_rate", "gradient_norm", "tokens"], (text) => text, 5)[0]).toBe("gradient_norm");
});
