import { describe, expect, it } from "vitest";
import { pinMarks } from "./chartPaint";

const pin = (x: number, severity: "info" | "warning" | "error" = "info") => ({ x, severity });

describe("marks of events", () => {
  it("stand where there is room", () => {
    expect(pinMarks([pin(30), pin(10), pin(20)], 7)).toEqual([pin(10), pin(20), pin(30)]);
  });

  it("merge into the most severe where there is none", () => {
    expect(pinMarks([pin(10), pin(12, "error"), pin(16, "warning"), pin(17)], 7)).toEqual([pin(10, "error"), pin(17)]);
  });

  it("are bounded however many events there are", () => {
    const many = Array.from({ length: 10_000 }, (_, index) => pin(index / 25));
    expect(pinMarks(many, 7).length).toBeLessThanOrEqual(400 / 7 + 1);
  });
});
