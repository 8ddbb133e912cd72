import uPlot from "uplot";
import { type Line, xOfStep } from "../lib/series";
import type { Pin, Trace } from "../lib/trace";

export interface Palette {
  series: string[];
  text: string;
  muted: string;
  grid: string;
  surface: string;
  failing: string;
  watch: string;
  accent: string;
}

/** Canvas cannot read custom properties by itself. */
export function readPalette(element: Element): Palette {
  const style = getComputedStyle(element);
  const token = (name: string) => style.getPropertyValue(`--${name}`).trim();
  return {
    series: [0, 1, 2, 3, 4, 5].map((index) => token(`series-${index}`)),
    text: token("text"),
    muted: token("muted"),
    grid: token("grid"),
    surface: token("surface"),
    failing: token("failing"),
    watch: token("watch"),
    accent: token("accent"),
  };
}

/** `overhang`: pixels beyond the left and right edge, for marks that stand on it. */
function clipped(u: uPlot, draw: (context: CanvasRenderingContext2D) => void, overhang = 0): void {
  const { left, top, width, height } = u.bbox;
  u.ctx.save();
  u.ctx.beginPath();
  u.ctx.rect(left - overhang, top, width + 2 * overhang, height);
  u.ctx.clip();
  draw(u.ctx);
  u.ctx.restore();
}

/** Runs of consecutive buckets with finite ends; a band has no business across a gap. */
function finiteStretches({ min, max }: Line): [number, number][] {
  const stretches: [number, number][] = [];
  let start = -1;
  for (let index = 0; index <= min.length; index += 1) {
    const finite = index < min.length && Number.isFinite(min[index]) && Number.isFinite(max[index]);
    if (finite && start < 0) start = index;
    if (!finite && start >= 0) {
      stretches.push([start, index - 1]);
      start = -1;
    }
  }
  return stretches;
}

/** From lowest to highest value of each bucket: what keeps a spike of a single step in sight at every zoom. */
export function paintBands(u: uPlot, traces: readonly Trace[], palette: Palette): void {
  const { min: yLow } = u.scales.y ?? {};
  if (yLow === undefined || yLow === null) return;
  const y = (value: number) => u.valToPos(u.scales.y?.distr === 3 && value <= 0 ? yLow : value, "y", true);
  clipped(u, (context) => {
    for (const { line, colour } of traces) {
      if (line.bucketSteps === 1) continue;
      context.fillStyle = palette.series[colour] ?? palette.muted;
      context.strokeStyle = context.fillStyle;
      context.lineWidth = devicePixelRatio;
      for (const [first, last] of finiteStretches(line)) {
        const xs = line.x.slice(first, last + 1).map((x) => u.valToPos(x, "x", true));
        context.beginPath();
        xs.forEach((x, offset) => context.lineTo(x, y(line.max[first + offset] as number)));
        for (let offset = xs.length - 1; offset >= 0; offset -= 1) context.lineTo(xs[offset] as number, y(line.min[first + offset] as number));
        context.closePath();
        context.globalAlpha = 0.16;
        context.fill();
        context.globalAlpha = 0.28;
        context.stroke();
      }
    }
  });
}

/** A red tick on the axis with a cross: NaN and infinity have no place on the scale but must not vanish. */
export function paintNonFinite(u: uPlot, traces: readonly Trace[], palette: Palette): void {
  const ratio = devicePixelRatio;
  const bottom = u.bbox.top + u.bbox.height;
  clipped(u, (context) => {
    context.strokeStyle = palette.failing;
    context.lineWidth = 1.5 * ratio;
    let previous = Number.NEGATIVE_INFINITY;
    for (const { line } of traces) {
      for (let index = 0; index < line.x.length; index += 1) {
        if (!line.nonFinite[index]) continue;
        const x = u.valToPos(line.x[index] as number, "x", true);
        if (Math.abs(x - previous) < 2 * ratio) continue;
        previous = x;
        context.beginPath();
        context.moveTo(x, bottom);
        context.lineTo(x, bottom - 9 * ratio);
        context.moveTo(x - 3 * ratio, bottom - 16 * ratio);
        context.lineTo(x + 3 * ratio, bottom - 10 * ratio);
        context.moveTo(x + 3 * ratio, bottom - 16 * ratio);
        context.lineTo(x - 3 * ratio, bottom - 10 * ratio);
        context.stroke();
      }
    }
  });
}

const PIN_SHAPES: Record<Pin["severity"], (context: CanvasRenderingContext2D, x: number, y: number, r: number) => void> = {
  info: (context, x, y, r) => context.arc(x, y, r * 0.8, 0, 2 * Math.PI),
  warning: (context, x, y, r) => {
    context.moveTo(x, y - r);
    context.lineTo(x + r, y + r * 0.8);
    context.lineTo(x - r, y + r * 0.8);
    context.closePath();
  },
  error: (context, x, y, r) => context.rect(x - r * 0.8, y - r * 0.8, 1.6 * r, 1.6 * r),
};

function pinColour(severity: Pin["severity"], palette: Palette): string {
  return { info: palette.muted, warning: palette.watch, error: palette.failing }[severity];
}

/** Pins closer together than this many pixels share a mark, that of the most severe. */
const PIN_ROOM = 7;
/** With more marks than this, lines would hide the curve. */
const MOST_PIN_LINES = 24;
const SEVERITIES: readonly Pin["severity"][] = ["info", "warning", "error"];

/** Where marks stand: pins from left to right, those without room merged. */
export function pinMarks(pins: readonly { x: number; severity: Pin["severity"] }[], room: number): { x: number; severity: Pin["severity"] }[] {
  const marks: { x: number; severity: Pin["severity"] }[] = [];
  for (const { x, severity } of [...pins].sort((a, b) => a.x - b.x)) {
    const last = marks.at(-1);
    if (!last || x - last.x >= room) marks.push({ x, severity });
    else if (SEVERITIES.indexOf(severity) > SEVERITIES.indexOf(last.severity)) last.severity = severity;
  }
  return marks;
}

/** Events as dashed lines with a mark on top, whose shape tells the severity. */
export function paintPins(u: uPlot, pins: readonly Pin[], reference: Line | undefined, palette: Palette): void {
  if (!reference) return;
  const ratio = devicePixelRatio;
  const { top, left, width, height } = u.bbox;
  const placed = pins.flatMap(({ step, severity }) => {
    const at = xOfStep(reference, step);
    const x = at === null ? null : u.valToPos(at, "x", true);
    return x === null || x < left - 1 || x > left + width + 1 ? [] : [{ x, severity }];
  });
  const marks = pinMarks(placed, PIN_ROOM * ratio);
  clipped(u, (context) => {
    for (const { x, severity } of marks) {
      context.strokeStyle = pinColour(severity, palette);
      context.fillStyle = context.strokeStyle;
      if (marks.length <= MOST_PIN_LINES) {
        context.lineWidth = ratio;
        context.globalAlpha = severity === "info" ? 0.35 : 0.6;
        context.setLineDash([3 * ratio, 3 * ratio]);
        context.beginPath();
        context.moveTo(x, top + 8 * ratio);
        context.lineTo(x, top + height);
        context.stroke();
        context.setLineDash([]);
        context.globalAlpha = 1;
      }
      context.beginPath();
      const size = marks.length <= MOST_PIN_LINES ? 4 : 3;
      PIN_SHAPES[severity](context, x, top + (size + 1) * ratio, size * ratio);
      context.fill();
    }
  }, 5 * ratio);
}

/** Pins within a few pixels of the cursor. */
export function pinsNear(u: uPlot, pins: readonly Pin[], reference: Line | undefined, left: number): Pin[] {
  if (!reference) return [];
  return pins.filter((pin) => {
    const at = xOfStep(reference, pin.step);
    return at !== null && Math.abs(u.valToPos(at, "x") - left) < 5;
  });
}
