//! The oracle's numbers: read as `f64`, computed in `f64`, rounded once when stored.

use crate::Write;

/// A stored number. `f32` is what backends are compared with; `f64` is for finite differences.
pub trait Real: Copy {
    /// The value.
    fn get(self) -> f64;
    /// The nearest representable value.
    fn of(value: f64) -> Self;
}

impl Real for f32 {
    fn get(self) -> f64 {
        f64::from(self)
    }
    fn of(value: f64) -> Self {
        value as Self
    }
}

impl Real for f64 {
    fn get(self) -> f64 {
        self
    }
    fn of(value: f64) -> Self {
        value
    }
}

/// Replaces or adds to one element.
pub fn store<F: Real>(target: &mut F, value: f64, write: Write) {
    *target = F::of(match write {
        Write::Overwrite => value,
        Write::Accumulate => target.get() + value,
    });
}

/// `sum_i a_i b_i`.
pub fn dot<F: Real>(a: &[F], b: &[F]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a.get() * b.get()).sum()
}

/// `1 / (1 + e^-x)`.
pub fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}
