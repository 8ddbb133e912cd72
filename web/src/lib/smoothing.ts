/**
 * Exponential moving average, debiased as Adam's moments are, so that the first values are not pulled towards zero.
 * Non-finite values are passed over: they are drawn as marks, and one NaN must not erase the rest of the line.
 */
export function movingAverage(values: readonly number[], weight: number): number[] {
  if (weight <= 0) return [...values];
  const smoothed = new Array<number>(values.length);
  let average = 0;
  let bias = 1;
  for (let index = 0; index < values.length; index += 1) {
    const value = values[index] ?? Number.NaN;
    if (!Number.isFinite(value)) {
      smoothed[index] = Number.NaN;
      continue;
    }
    average = weight * average + (1 - weight) * value;
    bias *= weight;
    smoothed[index] = average / (1 - bias);
  }
  return smoothed;
}
