//! The oracle's numbers: read as `f64`, computed in `f64`, rounded once when stored.

use crate::Write;
use crate::formats::{Activation, DataType};

/// A stored number. Backends are compared with activation types and `f32`; `f64` is for finite differences.
pub trait Real: Copy {
    /// The value.
    fn get(self) -> f64;
    /// The nearest representable value; BF16's is that of the nearest `f32`.
    fn of(value: f64) -> Self;
    /// An intermediate result as a matrix product of stored numbers of this type reads it: rounded to BF16 there, exact in the others.
    fn operand(value: f64) -> f64;
}

/// What is narrower than `f32` is rounded from the `f32` value, as backends do.
impl<A: Activation> Real for A {
    fn get(self) -> f64 {
        f64::from(self.to_f32())
    }
    fn of(value: f64) -> Self {
        Self::from_f32(value as f32)
    }
    fn operand(value: f64) -> f64 {
        match A::DATA_TYPE {
            DataType::F32 => value,
            DataType::Bf16 => Self::of(value).get(),
        }
    }
}

impl Real for f64 {
    fn get(self) -> f64 {
        self
    }
    fn of(value: f64) -> Self {
        value
    }
    fn operand(value: f64) -> f64 {
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
