//! Finite differences: every backward pass is compared with central differences of its forward pass, in double precision.

/// Draws of a small generator (splitmix64): tests must repeat.
pub struct Draw(u64);

impl Draw {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// Uniform on `[0, 1)`.
    pub fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
    /// Standard normal values, near enough: the sum of twelve uniform ones.
    pub fn normal(&mut self, len: usize) -> Vec<f64> {
        (0..len).map(|_| (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0).collect()
    }
}

/// Step of the differences: balances truncation (step^2) against rounding (epsilon / step).
const STEP: f64 = 6.055_454e-6; // cbrt(f64::EPSILON)

/// Compares `analytic` with `d/dx sum_i weights_i forward(x)_i`.
///
/// A central difference is off by `step^2 / 6` times the third derivative plus `epsilon / step` times the loss, both `STEP^2` times a
/// magnitude of the problem: the bound is 100 of that, relative to the largest gradient and to the loss.
pub fn check_gradient(name: &str, x: &[f64], analytic: &[f64], weights: &[f64], forward: impl Fn(&[f64]) -> Vec<f64>) {
    let loss = |x: &[f64]| {
        let y = forward(x);
        assert_eq!(y.len(), weights.len(), "{name}: one weight per output");
        y.iter().zip(weights).map(|(y, w)| y * w).sum::<f64>()
    };
    assert_eq!(x.len(), analytic.len(), "{name}: one derivative per input");
    let largest = analytic.iter().fold(0.0_f64, |largest, d| largest.max(d.abs()));
    assert!(largest > 0.0, "{name}: a gradient of zeros proves nothing");
    let bound = 100.0 * STEP * STEP * (largest + loss(x).abs());
    let mut moved = x.to_vec();
    for i in 0..x.len() {
        let step = STEP * x[i].abs().max(1.0);
        moved[i] = x[i] + step;
        let above = loss(&moved);
        moved[i] = x[i] - step;
        let below = loss(&moved);
        moved[i] = x[i];
        let numeric = (above - below) / (2.0 * step);
        assert!(
            (numeric - analytic[i]).abs() <= bound,
            "{name}[{i}]: differences give {numeric}, backward {}, bound {bound:e}",
            analytic[i]
        );
    }
}
