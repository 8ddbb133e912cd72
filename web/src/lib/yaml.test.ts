import { expect, test } from "vitest";
import { yamlTokens } from "./yaml";

test("YAML colours lose no text", () => {
  for (const text of ["  - name: \"a # b\"  # why", "peak: 4.5e-4", "# all", "", "  [1, 2]"]) expect(yamlTokens(text).map((token) => token.text).join("")).toBe(text);
  expect(yamlTokens("peak: 4.5e-4").map(({ kind }) => kind)).toEqual(["key", "plain", "number"]);
});
