export interface StepRange {
  first: number;
  last: number;
}

const POSITIONS = 240;

/**
 * The steps on which a scrubber stops: all of them in a short range, evenly spaced ones in a long range, always with both ends. The
 * same few steps are then asked for again and again, and a cache of them makes scrubbing free.
 */
export function scrubSteps({ first, last }: StepRange): number[] {
  const count = last - first + 1;
  if (count <= 0) return [];
  if (count <= POSITIONS) return Array.from({ length: count }, (_, index) => first + index);
  return Array.from({ length: POSITIONS }, (_, index) => Math.round(first + ((last - first) * index) / (POSITIONS - 1)));
}

/**
 * At most about `most` steps spread evenly over a range that grows, with both ends: those between are multiples of a power of two, so
 * that a run that goes on adds to them and moves none.
 */
export function sampleSteps({ first, last }: StepRange, most: number): number[] {
  if (last < first) return [];
  let stride = 1;
  while ((last - first + 1) / stride > most) stride *= 2;
  const steps = [first];
  for (let step = (Math.floor(first / stride) + 1) * stride; step < last; step += stride) steps.push(step);
  return last > first ? [...steps, last] : steps;
}

export function nearestPosition(steps: readonly number[], step: number): number {
  let best = 0;
  steps.forEach((candidate, index) => {
    if (Math.abs(candidate - step) < Math.abs((steps[best] ?? 0) - step)) best = index;
  });
  return best;
}

/** Neighbours to read ahead, nearest first. */
export function neighbours(steps: readonly number[], position: number, distance: number): number[] {
  const found: number[] = [];
  for (let offset = 1; offset <= distance; offset += 1) {
    for (const index of [position + offset, position - offset]) {
      const step = steps[index];
      if (step !== undefined) found.push(step);
    }
  }
  return found;
}
