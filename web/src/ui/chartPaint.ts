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

export function pinColour(pin: Pin, palette: Palette): string {
  return { info: palette.muted, warning: palette.watch, error: palette.failing }[pin.severity];
}

/** Events as dashed lines with a mark on top, whose shape tells the severity. */
export function paintPins(u: uPlot, pins: readonly Pin[], reference: Line | undefined, palette: Palette): void {
  if (!reference) return;
  const ratio = devicePixelRatio;
  const { top, height } = u.bbox;
  clipped(u, (context) => {
    for (const pin of pins) {
      const at = xOfStep(reference, pin.step);
      if (at === null) continue;
      const x = u.valToPos(at, "x", true);
      context.strokeStyle = pinColour(pin, palette);
      context.fillStyle = context.strokeStyle;
      context.lineWidth = ratio;
      context.globalAlpha = pin.severity === "info" ? 0.35 : 0.6;
      context.setLineDash([3 * ratio, 3 * ratio]);
      context.beginPath();
      context.moveTo(x, top + 8 * ratio);
      context.lineTo(x, top + height);
      context.stroke();
      context.setLineDash([]);
      context.globalAlpha = 1;
      context.beginPath();
      PIN_SHAPES[pin.severity](context, x, top + 5 * ratio, 4 * ratio);
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
