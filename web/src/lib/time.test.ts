import { expect, test } from "vitest";
import { formatAge, formatDuration, unixSeconds } from "./time";

test.each([
  [0.25, "250ms"],
  [4.25, "4.3s"],
  [59.4, "59s"],
  [60, "1m"],
  [200, "3m 20s"],
  [7200, "2h"],
  [93_600, "1d 2h"],
  [null, "–"],
] as const)("%s seconds", (seconds, text) => expect(formatDuration(seconds)).toBe(text));

test("age", () => {
  const now = Date.parse("2026-01-02T00:00:00Z");
  expect(formatAge("2026-01-01T23:59:58Z", now)).toBe("just now");
  expect(formatAge("2026-01-01T23:59:20Z", now)).toBe("40s ago");
  expect(formatAge("2026-01-01T23:50:10Z", now)).toBe("9m ago");
  expect(formatAge("2026-01-01T21:30:00Z", now)).toBe("2h 30m ago");
  expect(formatAge("not a time", now)).toBe("–");
});

test("points carry RFC 3339 or Unix seconds", () => {
  expect(unixSeconds("1970-01-01T00:01:00Z")).toBe(60);
  expect(unixSeconds(60)).toBe(60);
});
