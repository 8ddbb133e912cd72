import { expect, test } from "vitest";
import { factsOf, formatStatistic, mixtureOf, sourcesOf } from "./statistics";

test("statistics", () => {
  const statistics = { packing_efficiency: 0.97, text_bytes: 2048, fast_encoder: true, sources: { web: { train_tokens: 30 }, code: { train_tokens: 10, path: "x" } } };
  expect(factsOf(statistics).map(({ label, text }) => `${label}: ${text}`)).toEqual(["Packing efficiency: 97.0%", "Text bytes: 2 KiB", "Fast encoder: yes"]);
  expect(mixtureOf(sourcesOf(statistics))).toEqual({ by: "train_tokens", shares: [0.75, 0.25] });
  expect(formatStatistic("bytes_per_token", 4.117)).toBe("4.117");
});
