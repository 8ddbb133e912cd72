//! Matrix products of a linear layer.

use super::real::{Real, dot, store};
use crate::Write;
use crate::dims::LinearDims;

/// `y (=|+=) x w^T`.
pub fn forward<Y: Real, F: Real>(y_TN: &mut [Y], x_TK: &[F], w_NK: &[F], dims: LinearDims, write: Write) {
    let LinearDims { rows, input, output } = dims;
    for t in 0..rows {
        for n in 0..output {
            store(
                &mut y_TN[t * output + n],
                dot(&x_TK[t * input..][..input], &w_NK[n * input..][..input]),
                write,
            );
        }
    }
}

/// `dx (=|+=) dy w`, from `y = x w^T`.
pub fn backward_input<Y: Real, F: Real>(dx_TK: &mut [Y], dy_TN: &[F], w_NK: &[F], dims: LinearDims, write: Write) {
    let LinearDims { rows, input, output } = dims;
    for t in 0..rows {
        for k in 0..input {
            let sum = (0..output).map(|n| dy_TN[t * output + n].get() * w_NK[n * input + k].get()).sum();
            store(&mut dx_TK[t * input + k], sum, write);
        }
    }
}

/// `dw += dy^T x`, from `y = x w^T`.
pub fn backward_weight<F: Real>(dw_NK: &mut [F], dy_TN: &[F], x_TK: &[F], dims: LinearDims) {
    let LinearDims { rows, input, output } = dims;
    for n in 0..output {
        for k in 0..input {
            let sum = (0..rows).map(|t| dy_TN[t * output + n].get() * x_TK[t * input + k].get()).sum();
            store(&mut dw_NK[n * input + k], sum, Write::Accumulate);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::gradient::{Draw, check_gradient};

    #[test]
    fn gradient() {
        let dims = LinearDims {
            rows: 3,
            input: 4,
            output: 5,
        };
        let mut draw = Draw::new(3);
        let (x, w, dy) = (draw.normal(12), draw.normal(20), draw.normal(15));
        let linear = |x: &[f64], w: &[f64]| {
            let mut y = vec![0.0; 15];
            forward(&mut y, x, w, dims, Write::Overwrite);
            y
        };
        let (mut dx, mut dw) = (vec![0.0; 12], vec![0.0; 20]);
        backward_input(&mut dx, &dy, &w, dims, Write::Overwrite);
        backward_weight(&mut dw, &dy, &x, dims);
        check_gradient("dx", &x, &dx, &dy, |x| linear(x, &w));
        check_gradient("dw", &w, &dw, &dy, |w| linear(&x, w));
    }
}
