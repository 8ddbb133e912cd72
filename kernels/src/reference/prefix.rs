//! The first rows of each sequence.

use super::real::Real;
use crate::dims::PrefixDims;

/// `y[b, s] = x[b, s]`, `s < prefix`.
pub fn forward<A: Real>(y: &mut [A], x: &[A], dims: PrefixDims) {
    let (from, to) = (dims.length * dims.width, dims.prefix * dims.width);
    for b in 0..dims.sequences {
        y[b * to..][..to].copy_from_slice(&x[b * from..][..to]);
    }
}

/// `dx[b, s] += dy[b, s]`, `s < prefix`.
pub fn backward<A: Real>(dx: &mut [A], dy: &[A], dims: PrefixDims) {
    let (from, to) = (dims.length * dims.width, dims.prefix * dims.width);
    for b in 0..dims.sequences {
        for i in 0..to {
            dx[b * from + i] = A::of(dx[b * from + i].get() + dy[b * to + i].get());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::gradient::{Draw, check_gradient};

    #[test]
    fn gradient_leaves_the_dropped_rows_alone() {
        let dims = PrefixDims {
            sequences: 2,
            length: 3,
            prefix: 2,
            width: 2,
        };
        let mut draw = Draw::new(8);
        let (x, dy) = (draw.normal(12), draw.normal(8));
        let mut dx = vec![0.0; 12];
        backward(&mut dx, &dy, dims);
        check_gradient("dx", &x, &dx, &dy, |x| {
            let mut y = vec![0.0; 8];
            forward(&mut y, x, dims);
            y
        });
        assert_eq!((&dx[4..6], &dx[10..12]), (&[0.0; 2][..], &[0.0; 2][..]));
    }
}
