//! Rotary position embedding of interleaved pairs.

use super::real::Real;
use crate::Rotation;
use crate::dims::RopeDims;

/// Rotates pairs `(2j, 2j + 1)` by the angle of the row's position.
pub fn rotate<A: Real, F: Real>(x: &mut [A], table: &[F], dims: RopeDims, rotation: Rotation) {
    let sign = match rotation {
        Rotation::Forward => 1.0,
        Rotation::Inverse => -1.0,
    };
    for t in 0..dims.rows {
        let position = t % dims.length;
        for head in 0..dims.heads {
            let start = t * dims.row_stride + dims.offset + head * dims.head_stride;
            for j in 0..dims.rotary / 2 {
                let angle = position * dims.rotary + 2 * j;
                let (cos, sin) = (table[angle].get(), sign * table[angle + 1].get());
                let (even, odd) = (x[start + 2 * j].get(), x[start + 2 * j + 1].get());
                x[start + 2 * j] = A::of(even * cos - odd * sin);
                x[start + 2 * j + 1] = A::of(even * sin + odd * cos);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::gradient::{Draw, check_gradient};

    #[test]
    fn inverse_is_the_gradient_and_undoes() {
        let dims = RopeDims {
            rows: 4,
            length: 2,
            heads: 2,
            row_stride: 11,
            head_stride: 5,
            offset: 1,
            rotary: 4,
        };
        let mut draw = Draw::new(5);
        let (x, dy, angles) = (draw.normal(44), draw.normal(44), draw.normal(4));
        let table: Vec<f64> = angles.iter().flat_map(|angle| [angle.cos(), angle.sin()]).collect();
        let turn = |x: &[f64], rotation| {
            let mut y = x.to_vec();
            rotate(&mut y, &table, dims, rotation);
            y
        };
        check_gradient("dx", &x, &turn(&dy, Rotation::Inverse), &dy, |x| turn(x, Rotation::Forward));
        let back = turn(&turn(&x, Rotation::Forward), Rotation::Inverse);
        assert!(
            back.iter().zip(&x).all(|(back, x)| (back - x).abs() < 1e-14),
            "a rotation and its inverse"
        );
    }
}
