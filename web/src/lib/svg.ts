import type { Axis } from "../api/types";
import { css, type ColourScale, NON_FINITE_COLOUR } from "./colour";
import { type Grid, labelIndexes } from "./matrix";
import { formatNumber } from "./number";
import { valueRange } from "./series";
import { type Trace, centre, extent, formatX } from "./trace";

const escapeXml = (text: string): string =>
  text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;");

const WIDTH = 960;
const HEIGHT = 420;
const MARGIN = { left: 70, right: 20, top: 46, bottom: 40 };

export interface ChartDrawing {
  title: string;
  traces: readonly Trace[];
  colours: readonly string[];
  axis: Axis;
  elapsed: boolean;
  logY: boolean;
}

/** The chart for a paper: same data and bands as on screen, on white. */
export function chartSvg({ title, traces, colours, axis, elapsed, logY }: ChartDrawing): string {
  const [x0, x1] = extent(traces) ?? [0, 1];
  const [low, high] = valueRange(traces.map(({ line }) => line), null, logY) ?? [0.1, 1];
  const scale = (value: number) => (logY ? Math.log(value) : value);
  const spread = scale(high) - scale(low) || 1;
  const px = (x: number) => (MARGIN.left + ((x - x0) / (x1 - x0 || 1)) * (WIDTH - MARGIN.left - MARGIN.right)).toFixed(1);
  const py = (value: number) =>
    (HEIGHT - MARGIN.bottom - ((scale(value) - scale(low)) / spread) * (HEIGHT - MARGIN.top - MARGIN.bottom)).toFixed(1);
  const shown = (value: number) => Number.isFinite(value) && !(logY && value <= 0);
  const parts: string[] = [];
  for (let tick = 0; tick <= 4; tick += 1) {
    const value = logY ? low * (high / low) ** (tick / 4) : low + ((high - low) * tick) / 4;
    const x = x0 + ((x1 - x0) * tick) / 4;
    parts.push(`<path d="M${MARGIN.left} ${py(value)}H${WIDTH - MARGIN.right}" stroke="#e3e6ea"/>`);
    parts.push(`<text x="${MARGIN.left - 8}" y="${py(value)}" text-anchor="end" dominant-baseline="middle">${formatNumber(value)}</text>`);
    parts.push(`<text x="${px(x)}" y="${HEIGHT - 16}" text-anchor="middle">${escapeXml(formatX(x, axis, elapsed))}</text>`);
  }
  traces.forEach(({ line, label, colour, dash }, index) => {
    const stroke = colours[colour] ?? "#000";
    const band = line.x.flatMap((x, at) => (shown(line.min[at] as number) && shown(line.max[at] as number) ? [{ x, at }] : []));
    if (line.bucketSteps > 1 && band.length > 1) {
      const upper = band.map(({ x, at }) => `${px(x)},${py(line.max[at] as number)}`);
      const lower = band.reverse().map(({ x, at }) => `${px(x)},${py(line.min[at] as number)}`);
      parts.push(`<polygon points="${[...upper, ...lower].join(" ")}" fill="${stroke}" opacity=".18"/>`);
    }
    let command = "M";
    const path = centre(line).map((value, at) => {
      if (!shown(value)) {
        command = "M";
        return "";
      }
      const point = `${command}${px(line.x[at] as number)} ${py(value)}`;
      command = "L";
      return point;
    });
    parts.push(`<path d="${path.join("")}" fill="none" stroke="${stroke}" stroke-width="1.5" stroke-dasharray="${dash.join(" ")}"/>`);
    parts.push(`<text x="${MARGIN.left + index * 180}" y="36" fill="${stroke}">${escapeXml(label)}</text>`);
  });
  return frame(WIDTH, HEIGHT, `<text x="${MARGIN.left}" y="18" font-weight="600">${escapeXml(title)}</text>${parts.join("")}`);
}

export interface GridDrawing {
  title: string;
  grid: Grid;
  scale: ColourScale;
  rowLabel: (row: number) => string;
  columnLabel: (column: number) => string;
  /** Cells that are NaN have nothing to show, and no fault. */
  blankNan: boolean;
}

const LABEL = { character: 6, height: 14, width: 40 };

/** A heatmap as one rectangle a cell. */
export function gridSvg({ title, grid, scale, rowLabel, columnLabel, blankNan }: GridDrawing): string {
  const size = Math.max(3, Math.min(16, Math.floor(1200 / grid.columns)));
  const labelled = labelIndexes(grid.rows, (grid.rows * size) / LABEL.height);
  const left = 16 + LABEL.character * Math.max(0, ...labelled.map((row) => rowLabel(row).length));
  const bottom = 30 + grid.rows * size;
  const cells: string[] = [];
  for (const row of labelled) cells.push(`<text x="${left - 6}" y="${30 + (row + 0.5) * size}" text-anchor="end" dominant-baseline="middle">${escapeXml(rowLabel(row))}</text>`);
  for (const column of labelIndexes(grid.columns, (grid.columns * size) / LABEL.width)) {
    cells.push(`<text x="${left + (column + 0.5) * size}" y="${bottom + 14}" text-anchor="middle">${escapeXml(columnLabel(column))}</text>`);
  }
  for (let row = 0; row < grid.rows; row += 1) {
    for (let column = 0; column < grid.columns; column += 1) {
      const value = grid.values[row * grid.columns + column] ?? Number.NaN;
      if (blankNan && Number.isNaN(value)) continue;
      const colour = css(Number.isFinite(value) ? scale.colour(value) : NON_FINITE_COLOUR);
      cells.push(`<rect x="${left + column * size}" y="${30 + row * size}" width="${size}" height="${size}" fill="${colour}"/>`);
    }
  }
  return frame(Math.max(left + grid.columns * size + 20, 20 + 7 * title.length), bottom + 24, `<text x="10" y="18" font-weight="600">${escapeXml(title)}</text>${cells.join("")}`);
}

const frame = (width: number, height: number, content: string): string =>
  `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" font-family="system-ui, sans-serif" font-size="11" fill="#333"><rect width="100%" height="100%" fill="#fff"/>${content}</svg>`;
