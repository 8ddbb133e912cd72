import { type ColourScale, NON_FINITE_COLOUR } from "../lib/colour";
import type { Grid } from "../lib/matrix";
import { formatNumber } from "../lib/number";
import type { Palette } from "./chartPaint";

export const MARGIN = { left: 40, bottom: 26, marginal: 34 };

export interface Box {
  left: number;
  top: number;
  width: number;
  height: number;
}

let buffer: OffscreenCanvas | null = null;

const SHADES = 512;
const tables = new WeakMap<ColourScale, Uint8Array>();

/** The scale's colours at evenly spaced positions, so that a redraw mixes none. */
function shades(scale: ColourScale): Uint8Array {
  const known = tables.get(scale);
  if (known) return known;
  const table = new Uint8Array(SHADES * 3);
  for (let shade = 0; shade < SHADES; shade += 1) table.set(scale.shade(shade / (SHADES - 1)), shade * 3);
  tables.set(scale, table);
  return table;
}

/** One pixel a cell off screen, then scaled up without smoothing: 15,000 cells cost one image, not 15,000 rectangles. */
export function paintGrid(context: CanvasRenderingContext2D, grid: Grid, scale: ColourScale, box: Box): void {
  buffer ??= new OffscreenCanvas(1, 1);
  buffer.width = Math.max(1, grid.columns);
  buffer.height = Math.max(1, grid.rows);
  const pixels = buffer.getContext("2d");
  if (!pixels || grid.values.length === 0) return;
  const image = pixels.createImageData(grid.columns, grid.rows);
  const table = shades(scale);
  const { data } = image;
  for (let index = 0; index < grid.values.length; index += 1) {
    const value = grid.values[index] as number;
    const finite = Number.isFinite(value);
    const shade = finite ? Math.round(scale.position(value) * (SHADES - 1)) * 3 : 0;
    for (let channel = 0; channel < 3; channel += 1) {
      data[index * 4 + channel] = (finite ? table[shade + channel] : NON_FINITE_COLOUR[channel]) as number;
    }
    data[index * 4 + 3] = 255;
  }
  pixels.putImageData(image, 0, 0);
  context.imageSmoothingEnabled = false;
  context.drawImage(buffer, box.left, box.top, box.width, box.height);
}

interface Marginal {
  name: string;
  values: Float32Array;
}

interface FrameParts {
  grid: Grid;
  box: Box;
  palette: Palette;
  rowMarginal: Marginal | null;
  columnMarginal: Marginal | null;
  rowLabel: (row: number) => string;
  columnLabel: (column: number) => string;
  rowName: string;
  columnName: string;
  bare: boolean;
  focus: { row: number; column: number } | null;
}

const BAR_SHARE = 26;

function highest(values: Float32Array): number {
  let high = 0;
  for (const value of values) if (Number.isFinite(value)) high = Math.max(high, value);
  return high || 1;
}

/** Indexes for labels, at steps that people count in. */
export function labelIndexes(count: number, room: number): number[] {
  const stride = [1, 2, 4, 5, 8, 10, 16, 20, 32, 50, 64, 100, 128, 200, 256, 500].find((step) => count / step <= room) ?? Math.ceil(count / Math.max(1, room));
  return Array.from({ length: Math.ceil(count / stride) }, (_, index) => index * stride);
}

export function paintFrame(context: CanvasRenderingContext2D, parts: FrameParts): void {
  const { grid, box, palette, rowMarginal, columnMarginal, bare, focus } = parts;
  const cellWidth = box.width / grid.columns;
  const cellHeight = box.height / grid.rows;
  context.font = "10px system-ui, sans-serif";
  context.fillStyle = palette.muted;
  if (!bare) {
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (const row of labelIndexes(grid.rows, box.height / 14)) context.fillText(parts.rowLabel(row), box.left - 5, box.top + (row + 0.5) * cellHeight);
    context.textAlign = "center";
    context.textBaseline = "top";
    for (const column of labelIndexes(grid.columns, box.width / 44)) context.fillText(parts.columnLabel(column), box.left + (column + 0.5) * cellWidth, box.top + box.height + 4);
    context.textAlign = "left";
    context.fillText(parts.columnName, 2, box.top + box.height + 4);
  }
  context.fillStyle = palette.series[5] ?? palette.muted;
  if (rowMarginal) {
    const high = highest(rowMarginal.values);
    rowMarginal.values.forEach((value, row) => {
      if (Number.isFinite(value)) context.fillRect(box.left + box.width + 4, box.top + row * cellHeight + 0.25, (value / high) * BAR_SHARE, Math.max(0.5, cellHeight - 0.5));
    });
    context.textAlign = "right";
    context.textBaseline = "top";
    context.fillStyle = palette.muted;
    if (!bare) context.fillText(`${rowMarginal.name} ≤ ${formatNumber(high, 2)}`, box.left + box.width + MARGIN.marginal + 8, box.top + box.height + 14);
  }
  context.fillStyle = palette.series[5] ?? palette.muted;
  if (columnMarginal) {
    const high = highest(columnMarginal.values);
    columnMarginal.values.forEach((value, column) => {
      const size = (value / high) * BAR_SHARE;
      if (Number.isFinite(value)) context.fillRect(box.left + column * cellWidth, box.top - 3 - size, Math.max(0.5, cellWidth - 0.25), size);
    });
  }
  if (focus) {
    const [x, y] = [box.left + focus.column * cellWidth, box.top + focus.row * cellHeight];
    const [w, h] = [Math.max(cellWidth, 5), Math.max(cellHeight, 5)];
    // Two rings, dark and light: one of them shows on any cell.
    context.lineWidth = 3;
    context.strokeStyle = "#fff";
    context.strokeRect(x - 1, y - 1, w + 2, h + 2);
    context.lineWidth = 1.5;
    context.strokeStyle = "#111";
    context.strokeRect(x - 1, y - 1, w + 2, h + 2);
  }
}

export function cellAt(grid: Grid, box: Box, x: number, y: number): { row: number; column: number } | null {
  const column = Math.floor(((x - box.left) / box.width) * grid.columns);
  const row = Math.floor(((y - box.top) / box.height) * grid.rows);
  return row >= 0 && row < grid.rows && column >= 0 && column < grid.columns ? { row, column } : null;
}
