// Deterministic noise: the value at a step depends on the step alone, so any window can be computed without the ones before it.

/** Uniform in [0, 1) from two integers. */
export function uniform(seed, index) {
  let h = Math.imul(seed ^ 0x9e3779b9, 0x85ebca6b) ^ Math.imul(index | 0, 0xc2b2ae35);
  h = Math.imul(h ^ (h >>> 15), 0x2c1b3c6d);
  h = Math.imul(h ^ (h >>> 12), 0x297a2d39);
  return ((h ^ (h >>> 15)) >>> 0) / 4294967296;
}

/** Roughly normal: the sum of four uniforms, centred and scaled to unit variance. */
export function normal(seed, index) {
  let sum = 0;
  for (let part = 0; part < 4; part += 1) sum += uniform(seed + part * 7919, index);
  return (sum - 2) * 1.732;
}
