//! Copies and elementwise sums.

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

/// `y += x`.
pub fn add(y: &mut [f32], x: &[f32]) {
    assert_eq!(y.len(), x.len(), "lengths of y and x");
    for (y, x) in y.iter_mut().zip(x) {
        *y += x;
    }
}
