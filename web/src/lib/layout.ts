import type { Lineage, LineageNode } from "../api/types";

export interface PlacedNode {
  node: LineageNode;
  x: number;
  y: number;
}

export interface Layout {
  nodes: PlacedNode[];
  edges: { from: PlacedNode; to: PlacedNode }[];
  width: number;
  height: number;
}

export const NODE = { width: 188, height: 44, gapX: 56, gapY: 12, pad: 8 };

/**
 * Columns by the longest path from an input, rows by the mean row of the parents: edges then run left to right and rarely cross.
 * A cycle, which lineage never has, would only leave its nodes in the columns reached so far.
 */
export function layoutLineage({ nodes, edges }: Lineage): Layout {
  const byId = new Map(nodes.map((node) => [node.id, node]));
  const known = edges.filter(({ from, to }) => byId.has(from) && byId.has(to));
  const depth = new Map(nodes.map(({ id }) => [id, 0]));
  for (let round = 0; round < nodes.length; round += 1) {
    let moved = false;
    for (const { from, to } of known) {
      const wanted = (depth.get(from) ?? 0) + 1;
      if ((depth.get(to) ?? 0) >= wanted || wanted >= nodes.length) continue;
      depth.set(to, wanted);
      moved = true;
    }
    if (!moved) break;
  }
  const columns: LineageNode[][] = [];
  for (const node of nodes) (columns[depth.get(node.id) ?? 0] ??= []).push(node);
  const row = new Map<string, number>();
  for (const column of columns) {
    const wanted = new Map(
      (column ?? []).map(({ id }, index) => {
        const parents = known.filter(({ to }) => to === id).map(({ from }) => row.get(from) ?? index);
        return [id, parents.length > 0 ? parents.reduce((sum, value) => sum + value, 0) / parents.length : index];
      }),
    );
    [...(column ?? [])].sort((a, b) => (wanted.get(a.id) ?? 0) - (wanted.get(b.id) ?? 0)).forEach(({ id }, index) => row.set(id, index));
  }
  const placed = new Map(
    nodes.map((node) => [
      node.id,
      {
        node,
        x: NODE.pad + (depth.get(node.id) ?? 0) * (NODE.width + NODE.gapX),
        y: NODE.pad + (row.get(node.id) ?? 0) * (NODE.height + NODE.gapY),
      },
    ]),
  );
  const tallest = Math.max(1, ...columns.map((column) => column?.length ?? 0));
  return {
    nodes: [...placed.values()],
    edges: known.map(({ from, to }) => ({ from: placed.get(from) as PlacedNode, to: placed.get(to) as PlacedNode })),
    width: 2 * NODE.pad + columns.length * (NODE.width + NODE.gapX) - NODE.gapX,
    height: 2 * NODE.pad + tallest * (NODE.height + NODE.gapY) - NODE.gapY,
  };
}
