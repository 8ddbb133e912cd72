//! Sums over a buffer.

/// `sum_i x_i^2`.
pub fn sum_squares(x: &[f32]) -> f64 {
    x.iter().map(|&x| f64::from(x) * f64::from(x)).sum()
}
