import { describe, expect, test } from "vitest";
import { PANELS, type Panel, loadSources, metricTitle, panelMetrics, sourceLoad } from "./metric";

describe("metrics of sources", () => {
  test("their titles", () => {
    expect(["validation.loss", "validation.ema.loss", "validation.loss.code", "validation.max_violation.ema", "validation.other.code", "loss.mtp.2"].map(metricTitle)).toEqual([
      "Validation loss",
      "Validation loss, EMA",
      "Validation loss, code",
      "MaxVio, ema",
      "validation.other.code",
      "MTP loss 2",
    ]);
  });
  test("sources with a load", () => {
    expect(loadSources(["moe.load", sourceLoad("code"), "validation.loss.web", sourceLoad("a_b-2")])).toEqual(["code", "a_b-2"]);
  });
  test("a panel has them beside the whole, and no more than it can show", () => {
    const panel = PANELS.find(({ id }) => id === "validation") as Panel;
    const names = ["loss.main", "validation.loss", ...Array.from({ length: 40 }, (_, index) => `validation.loss.s${index}`)];
    const shown = panelMetrics(panel, names);
    expect([shown.length, shown[0], shown[1]]).toEqual([12, "validation.loss", "validation.loss.s0"]);
  });
});
