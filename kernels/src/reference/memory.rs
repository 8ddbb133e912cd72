//! Copies, conversions and elementwise sums.

use super::real::Real;
use crate::formats::Activation;

/// Copies `source` into `buffer` from element `offset` on.
pub fn upload<T: Copy>(buffer: &mut [T], offset: usize, source: &[T]) {
    buffer[offset..][..source.len()].copy_from_slice(source);
}

/// Copies elements from `offset` on to `target`.
pub fn download<T: Copy>(target: &mut [T], buffer: &[T], offset: usize) {
    target.copy_from_slice(&buffer[offset..][..target.len()]);
}

/// `y = x`.
pub fn copy<T: Copy>(y: &mut [T], x: &[T]) {
    assert_eq!(y.len(), x.len(), "lengths of y and x");
    y.copy_from_slice(x);
}

/// `y = x`, rounded.
pub fn cast<X: Activation, Y: Activation>(y: &mut [Y], x: &[X]) {
    assert_eq!(y.len(), x.len(), "lengths of y and x");
    for (y, x) in y.iter_mut().zip(x) {
        *y = Y::from_f32(x.to_f32());
    }
}

/// `average = decay average + (1 - decay) parameter`.
pub fn average(average: &mut [f32], parameter: &[f32], decay: f32) {
    assert_eq!(average.len(), parameter.len(), "lengths of average and parameter");
    let decay = decay.get();
    for (average, parameter) in average.iter_mut().zip(parameter) {
        *average = f32::of(decay * average.get() + (1.0 - decay) * parameter.get());
    }
}

/// `y += x`.
pub fn add<A: Real>(y: &mut [A], x: &[A]) {
    assert_eq!(y.len(), x.len(), "lengths of y and x");
    for (y, x) in y.iter_mut().zip(x) {
        *y = A::of(y.get() + x.get());
    }
}
