//! RMSNorm over a block of columns.

use super::real::{Real, store};
use crate::Write;
use crate::dims::RmsNormDims;

/// `y = gain x rstd`, `rstd = (mean(x^2) + eps)^(-1/2)`.
pub fn forward<A: Real, F: Real>(y: &mut [A], rstd_T: &mut [F], x: &[A], gain_D: &[F], dims: RmsNormDims) {
    let width = dims.width;
    for t in 0..dims.rows {
        let x_D = &x[t * dims.x.stride + dims.x.offset..][..width];
        let y_D = &mut y[t * dims.y.stride + dims.y.offset..][..width];
        let mean_square = x_D.iter().map(|x| x.get() * x.get()).sum::<f64>() / width as f64;
        let rstd = (mean_square + f64::from(dims.epsilon)).sqrt().recip();
        rstd_T[t] = F::of(rstd);
        for j in 0..width {
            y_D[j] = A::of(gain_D[j].get() * x_D[j].get() * rstd);
        }
    }
}

/// `dgain += x rstd dy`, `dx = rstd gain dy - x rstd^3 mean(x gain dy)`.
#[allow(clippy::too_many_arguments)]
pub fn backward<A: Real, F: Real>(
    dx: &mut [A],
    dgain_D: &mut [F],
    dy: &[A],
    x: &[A],
    gain_D: &[F],
    rstd_T: &[F],
    dims: RmsNormDims,
    write: Write,
) {
    let width = dims.width;
    let mut dgain_sum = vec![0.0; width];
    for t in 0..dims.rows {
        let x_D = &x[t * dims.x.stride + dims.x.offset..][..width];
        let dx_D = &mut dx[t * dims.x.stride + dims.x.offset..][..width];
        let dy_D = &dy[t * dims.y.stride + dims.y.offset..][..width];
        let rstd = rstd_T[t].get();
        let mean = (0..width).map(|j| x_D[j].get() * gain_D[j].get() * dy_D[j].get()).sum::<f64>() / width as f64;
        for j in 0..width {
            // y = gain x rstd
            dgain_sum[j] += x_D[j].get() * rstd * dy_D[j].get();
            let value = rstd * gain_D[j].get() * dy_D[j].get() - x_D[j].get() * rstd.powi(3) * mean;
            store(&mut dx_D[j], value, write);
        }
    }
    for (target, sum) in dgain_D.iter_mut().zip(dgain_sum) {
        store(target, sum, Write::Accumulate);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dims::Columns;
    use crate::reference::gradient::{Draw, check_gradient};

    #[test]
    fn gradient_of_strided_columns() {
        let dims = RmsNormDims {
            rows: 3,
            width: 4,
            x: Columns { stride: 7, offset: 2 },
            y: Columns { stride: 5, offset: 1 },
            epsilon: 1e-3,
        };
        let mut draw = Draw::new(2);
        let (x, gain, dy) = (draw.normal(21), draw.normal(4), draw.normal(15));
        let norm = |x: &[f64], gain: &[f64]| {
            let (mut y, mut rstd) = (vec![0.0; 15], vec![0.0; 3]);
            forward(&mut y, &mut rstd, x, gain, dims);
            (y, rstd)
        };
        let rstd = norm(&x, &gain).1;
        let (mut dx, mut dgain) = (vec![0.0; 21], vec![0.0; 4]);
        backward(&mut dx, &mut dgain, &dy, &x, &gain, &rstd, dims, Write::Overwrite);
        check_gradient("dx", &x, &dx, &dy, |x| norm(x, &gain).0);
        check_gradient("dgain", &gain, &dgain, &dy, |gain| norm(&x, gain).0);
        let (twice, once) = (&mut dx.clone(), dx);
        backward(twice, &mut dgain, &dy, &x, &gain, &rstd, dims, Write::Accumulate);
        assert!(twice.iter().zip(&once).all(|(twice, once)| *twice == 2.0 * once), "accumulation");
    }
}
