import type { MatrixView } from "../api/types";

/** A matrix of measurements, row-major. */
export interface Grid {
  rows: number;
  columns: number;
  values: Float32Array;
}

/** Little-endian f32 values behind base64. */
export function decodeFloats(base64: string): Float32Array {
  const binary = atob(base64);
  const bytes = new Uint8Array(binary.length);
  for (let index = 0; index < binary.length; index += 1) bytes[index] = binary.charCodeAt(index);
  const view = new DataView(bytes.buffer);
  const values = new Float32Array(bytes.length >> 2);
  for (let index = 0; index < values.length; index += 1) values[index] = view.getFloat32(index * 4, true);
  return values;
}

export const decodeMatrix = (matrix: MatrixView): Grid => ({
  rows: matrix.rows,
  columns: matrix.columns,
  values: decodeFloats(matrix.values),
});

/** count x experts / sum of the layer: 1 is the fair share. A layer without a token has no share, not a fair one. */
export function relativeLoad(counts: Grid): Grid {
  const values = new Float32Array(counts.values.length);
  for (let row = 0; row < counts.rows; row += 1) {
    const start = row * counts.columns;
    let sum = 0;
    for (let column = 0; column < counts.columns; column += 1) sum += counts.values[start + column] ?? 0;
    const scale = counts.columns / sum;
    for (let column = 0; column < counts.columns; column += 1) {
      values[start + column] = (counts.values[start + column] ?? Number.NaN) * scale;
    }
  }
  return { ...counts, values };
}

/** MaxVio of each layer, (max - mean) / mean, from relative loads, whose mean is 1. */
export function maxViolations(relative: Grid): Float32Array {
  return rowReduce(relative, (largest, value) => Math.max(largest, value), Number.NEGATIVE_INFINITY).map((largest) => largest - 1);
}

export function columnMeans(grid: Grid): Float32Array {
  const means = new Float32Array(grid.columns);
  const counted = new Float32Array(grid.columns);
  for (let index = 0; index < grid.values.length; index += 1) {
    const value = grid.values[index] ?? Number.NaN;
    if (!Number.isFinite(value)) continue;
    const column = index % grid.columns;
    means[column] = (means[column] ?? 0) + value;
    counted[column] = (counted[column] ?? 0) + 1;
  }
  return means.map((sum, column) => (counted[column] ? sum / (counted[column] as number) : Number.NaN));
}

export function rowReduce(grid: Grid, fold: (accumulated: number, value: number) => number, initial: number): Float32Array {
  const reduced = new Float32Array(grid.rows);
  for (let row = 0; row < grid.rows; row += 1) {
    let accumulated = initial;
    for (let column = 0; column < grid.columns; column += 1) {
      accumulated = fold(accumulated, grid.values[row * grid.columns + column] ?? Number.NaN);
    }
    reduced[row] = accumulated;
  }
  return reduced;
}

/** Largest finite magnitude. */
export function reach(values: Float32Array): number {
  let largest = 0;
  for (const value of values) if (Number.isFinite(value)) largest = Math.max(largest, Math.abs(value));
  return largest;
}

export function transpose(grid: Grid): Grid {
  const values = new Float32Array(grid.values.length);
  for (let row = 0; row < grid.rows; row += 1) {
    for (let column = 0; column < grid.columns; column += 1) {
      values[column * grid.rows + row] = grid.values[row * grid.columns + column] ?? Number.NaN;
    }
  }
  return { rows: grid.columns, columns: grid.rows, values };
}

/** One row of each of several matrices, one beneath the other; NaN where a matrix lacks it. */
export function stackRow(grids: readonly Grid[], row: number): Grid {
  const columns = Math.max(0, ...grids.map((grid) => grid.columns));
  const values = new Float32Array(grids.length * columns).fill(Number.NaN);
  grids.forEach((grid, index) => {
    if (row >= 0 && row < grid.rows) values.set(grid.values.subarray(row * grid.columns, (row + 1) * grid.columns), index * columns);
  });
  return { rows: grids.length, columns, values };
}

/** Indexes for labels, at steps that people count in. */
export function labelIndexes(count: number, room: number): number[] {
  const stride = [1, 2, 4, 5, 8, 10, 16, 20, 32, 50, 64, 100, 128, 200, 256, 500].find((step) => count / step <= room) ?? Math.ceil(count / Math.max(1, room));
  return Array.from({ length: Math.ceil(count / stride) }, (_, index) => index * stride);
}

export interface Cell {
  row: number;
  column: number;
  value: number;
}

/** The `count` largest and smallest cells, worst first. */
export function extremes(grid: Grid, count: number): { top: Cell[]; bottom: Cell[] } {
  const { values } = grid;
  const top = leading(values, count, (a, b) => a > b);
  const bottom = leading(values, count, (a, b) => a < b);
  const cell = (index: number): Cell => ({
    row: Math.floor(index / grid.columns),
    column: index % grid.columns,
    value: grid.values[index] as number,
  });
  return { top: top.map(cell), bottom: bottom.map(cell) };
}

/** Indexes of the first `count` finite values in the order of `before`; far cheaper than sorting all, which scrubbing would repeat. */
function leading(values: Float32Array, count: number, before: (a: number, b: number) => boolean): number[] {
  const found: number[] = [];
  for (let index = 0; index < values.length; index += 1) {
    const value = values[index] as number;
    if (!Number.isFinite(value) || (found.length === count && !before(value, values[found[count - 1] as number] as number))) continue;
    let place = found.length;
    while (place > 0 && before(value, values[found[place - 1] as number] as number)) place -= 1;
    found.splice(place, 0, index);
    if (found.length > count) found.pop();
  }
  return found;
}
