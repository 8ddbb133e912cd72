//! Comparison of a backend with the reference: one scale-free error, and a bound that follows from the arithmetic.

/// Largest difference, relative to the element and the root mean square of `expected`; infinite when one side has a NaN or infinity that
/// the other lacks.
#[must_use]
pub fn scaled_error(actual: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(actual.len(), expected.len(), "lengths of the compared buffers");
    let finite = expected.iter().filter(|x| x.is_finite()).map(|&x| f64::from(x));
    let (count, squares) = finite.fold((0_usize, 0.0), |(count, squares), x| (count + 1, squares + x * x));
    let scale = if squares > 0.0 { (squares / count as f64).sqrt() } else { 1.0 };
    let error = |(&a, &b): (&f32, &f32)| {
        if a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()) {
            return 0.0;
        }
        let error = (f64::from(a) - f64::from(b)).abs() / (scale + f64::from(b).abs());
        if error.is_nan() { f64::INFINITY } else { error }
    };
    actual.iter().zip(expected).map(error).fold(0.0, f64::max)
}

/// Bound on [`scaled_error`] of a chain of `f32` operations whose longest sum has `length` terms.
///
/// A sum of n rounded terms errs by about sqrt(n) roundings of a partial sum's size when signs vary, at most n. The largest of many
/// elements sits several standard deviations out, and operations around the sum (exp, division, scaling) add a few roundings: 16 of them
/// cover both.
#[must_use]
pub fn bound(length: usize) -> f64 {
    16.0 * f64::from(f32::EPSILON) * (length.max(1) as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_is_free_of_scale_and_sees_what_is_not_finite() {
        let (a, b) = ([1.0, -2.0, 3.0], [1.0, -2.0, 3.5]);
        let scaled = |x: [f32; 3]| x.map(|x| x * 1024.0);
        assert_eq!(scaled_error(&a, &b), scaled_error(&scaled(a), &scaled(b)));
        assert_eq!(scaled_error(&[f32::NAN, 1.0], &[f32::NAN, 1.0]), 0.0);
        assert_eq!(scaled_error(&[f32::NAN, 1.0], &[0.0, 1.0]), f64::INFINITY);
        assert_eq!(scaled_error(&[1.0], &[f32::INFINITY]), f64::INFINITY);
        assert_eq!(scaled_error(&[], &[]), 0.0);
    }

    #[test]
    fn bound_grows_with_the_root_of_the_length() {
        assert_eq!(bound(400), 20.0 * bound(1));
        assert_eq!(bound(0), bound(1));
    }
}
