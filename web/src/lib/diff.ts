export interface DiffLine {
  kind: "same" | "added" | "removed";
  text: string;
  before: number | null;
  after: number | null;
}

/** Longest common subsequence by lines. Manifests have hundreds of lines, so the quadratic table is small. */
export function diffLines(before: string, after: string): DiffLine[] {
  const a = before.split("\n");
  const b = after.split("\n");
  const width = b.length + 1;
  const common = new Uint32Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i -= 1) {
    for (let j = b.length - 1; j >= 0; j -= 1) {
      common[i * width + j] =
        a[i] === b[j]
          ? (common[(i + 1) * width + j + 1] as number) + 1
          : Math.max(common[(i + 1) * width + j] as number, common[i * width + j + 1] as number);
    }
  }
  const lines: DiffLine[] = [];
  let [i, j] = [0, 0];
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) {
      lines.push({ kind: "same", text: a[i] as string, before: i + 1, after: j + 1 });
      [i, j] = [i + 1, j + 1];
    } else if (i < a.length && (j >= b.length || (common[(i + 1) * width + j] as number) >= (common[i * width + j + 1] as number))) {
      lines.push({ kind: "removed", text: a[i] as string, before: i + 1, after: null });
      i += 1;
    } else {
      lines.push({ kind: "added", text: b[j] as string, before: null, after: j + 1 });
      j += 1;
    }
  }
  return lines;
}
