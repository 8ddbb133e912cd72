import { expect, test } from "vitest";
import { layoutLineage } from "./layout";

test("lineage runs left to right, even with a cycle", () => {
  const node = (id: string) => ({ id, kind: "artifact" as const, label: id, phase: null, key: null, step: null, bytes: null, cached: false });
  const layout = layoutLineage({ nodes: ["a", "b", "c"].map(node), edges: [{ from: "a", to: "b" }, { from: "b", to: "c" }, { from: "a", to: "ghost" }] });
  const x = Object.fromEntries(layout.nodes.map((placed) => [placed.node.id, placed.x]));
  expect([x.a! < x.b!, x.b! < x.c!, layout.edges.length]).toEqual([true, true, 2]);
  expect(layoutLineage({ nodes: ["a", "b"].map(node), edges: [{ from: "a", to: "b" }, { from: "b", to: "a" }] }).nodes).toHaveLength(2);
});
