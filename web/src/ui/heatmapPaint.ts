import { type ColourScale, NON_FINITE_COLOUR } from "../lib/colour";
import { type Grid, labelIndexes } from "../lib/matrix";
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

/**
 * One pixel a cell off screen, then scaled up without smoothing: 15,000 cells cost one image, not 15,000 rectangles. With `blankNan` a
 * cell that is no number stays empty.
 */
export function paintGrid(context: CanvasRenderingContext2D, grid: Grid, scale: ColourScale, box: Box, blankNan: boolean): void {
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
    data[index * 4 + 3] = blankNan && Number.isNaN(value) ? 0 : 255;
  }
  pixels.putImageData(image, 0, 0);
  context.imageSmoothingEnabled = false;
  context.drawImage(buffer, box.left, box.top, box.width, box.height);
}

/** A cell in which nothing can be measured is crossed out: it is neither zero nor a fault. */
export function paintBlanks(context: CanvasRenderingContext2D, grid: Grid, box: Box, palette: Palette): void {
  const [width, height] = [box.width / grid.columns, box.height / grid.rows];
  context.strokeStyle = palette.muted;
  context.lineWidth = 0.7;
  context.beginPath();
  grid.values.forEach((value, index) => {
    if (!Number.isNaN(value)) return;
    const [x, y] = [box.left + (index % grid.columns) * width, box.top + Math.floor(index / grid.columns) * height];
    context.moveTo(x + 2, y + height - 2);
    context.lineTo(x + width - 2, y + 2);
  });
  context.stroke();
}

const MARK = { least: 4, most: 9 };

/** A triangle, as states have it, in each cell that is marked. */
export function paintMarks(context: CanvasRenderingContext2D, grid: Grid, box: Box, isMarked: (value: number) => boolean): void {
  const [width, height] = [box.width / grid.columns, box.height / grid.rows];
  const half = Math.min(MARK.most, Math.max(MARK.least, Math.min(width, height) - 4)) / 2;
  context.fillStyle = "#fff";
  context.strokeStyle = "#111";
  context.lineWidth = 1;
  grid.values.forEach((value, index) => {
    if (!isMarked(value)) return;
    const [x, y] = [box.left + ((index % grid.columns) + 0.5) * width, box.top + (Math.floor(index / grid.columns) + 0.5) * height];
    context.beginPath();
    context.moveTo(x, y - half);
    context.lineTo(x + half, y + half);
    context.lineTo(x - half, y + half);
    context.closePath();
    context.stroke();
    context.fill();
  });
}

const FONT = "10px system-ui, sans-serif";

/** Room for the widest of the rows' labels. */
export function labelRoom(context: CanvasRenderingContext2D, labels: readonly string[]): number {
  context.font = FONT;
  const widest = labels.reduce((room, label) => Math.max(room, context.measureText(label).width), 0);
  return Math.max(MARGIN.left, Math.ceil(widest) + 10);
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

export function paintFrame(context: CanvasRenderingContext2D, parts: FrameParts): void {
  const { grid, box, palette, rowMarginal, columnMarginal, bare, focus } = parts;
  const cellWidth = box.width / grid.columns;
  const cellHeight = box.height / grid.rows;
  context.font = FONT;
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
