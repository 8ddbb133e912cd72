import { expect, test } from "vitest";
import { JOB_PAGES, matchRoute, paths } from "./routes";

test("every path is matched by its own route", () => {
  expect(matchRoute(paths.jobs())).toEqual({ page: "jobs" });
  expect(matchRoute(paths.compare())).toEqual({ page: "compare" });
  for (const { view } of JOB_PAGES) expect(matchRoute(paths.job("a b/c", view))).toEqual({ page: "job", job: "a b/c", view });
});

test("what is no page is not found", () => {
  for (const path of ["/nothing", "/jobs/a/nothing", "/jobs/a/curves/b"]) expect(matchRoute(path)).toEqual({ page: "notFound", path });
  expect(matchRoute("/jobs/%E0%A4%A")).toMatchObject({ page: "job", job: "%E0%A4%A" });
});

test("paths", () => {
  expect([paths.job("x"), paths.job("x", "experts", { step: 3, run: null }), paths.compare(["a", "b"], { x: "tokens" })]).toEqual(["/jobs/x", "/jobs/x/experts?step=3", "/compare?run=a&run=b&x=tokens"]);
});
