//! Output head and cross-entropy.

use super::real::{Real, dot, store};
use crate::dims::HeadDims;
use crate::{IGNORE, Write};

/// Softmax of row `t` and its negative log-likelihood; nothing for an ignored target.
fn softmax<F: Real>(x_TD: &[F], head_VD: &[F], targets_T: &[i32], t: usize, dims: HeadDims) -> Option<(Vec<f64>, usize, f64)> {
    let HeadDims { width, vocabulary, .. } = dims;
    if targets_T[t] == IGNORE {
        return None;
    }
    let target = usize::try_from(targets_T[t]).ok().filter(|&target| target < vocabulary);
    let target = target.unwrap_or_else(|| panic!("target {} of a vocabulary of {vocabulary}", targets_T[t]));
    let mut p_V: Vec<f64> = (0..vocabulary)
        .map(|v| dot(&x_TD[t * width..][..width], &head_VD[v * width..][..width]))
        .collect();
    let largest = p_V.iter().fold(f64::NEG_INFINITY, |largest, &logit| largest.max(logit));
    let nll = p_V.iter().map(|logit| (logit - largest).exp()).sum::<f64>().ln() + largest - p_V[target];
    let lse = nll + p_V[target];
    p_V.iter_mut().for_each(|p| *p = (*p - lse).exp());
    Some((p_V, target, nll))
}

/// `nll[t] = -log softmax(x[t] head^T)[targets[t]]`.
pub fn forward<F: Real, A: Real>(nll_T: &mut [F], x_TD: &[A], head_VD: &[A], targets_T: &[i32], dims: HeadDims) {
    for (t, nll) in nll_T[..dims.rows].iter_mut().enumerate() {
        *nll = F::of(softmax(x_TD, head_VD, targets_T, t, dims).map_or(0.0, |(_, _, value)| value));
    }
}

/// `dlogits = scale (softmax - onehot)`, rounded to the activations' type, `dx = dlogits head`, `dhead += dlogits^T x`.
#[allow(clippy::too_many_arguments)]
pub fn backward<F: Real, A: Real>(
    nll_T: &mut [F],
    dx_TD: &mut [A],
    dhead_VD: &mut [F],
    x_TD: &[A],
    head_VD: &[A],
    targets_T: &[i32],
    scale: f32,
    dims: HeadDims,
) {
    let HeadDims { rows, width, vocabulary } = dims;
    let mut dhead_sum = vec![0.0; vocabulary * width];
    for t in 0..rows {
        let mut dx_D = vec![0.0; width];
        let mut loss = 0.0;
        if let Some((mut dlogits_V, target, nll)) = softmax(x_TD, head_VD, targets_T, t, dims) {
            loss = nll;
            dlogits_V[target] -= 1.0;
            for (v, dlogit) in dlogits_V.iter().enumerate() {
                let dlogit = A::of(f64::from(scale) * dlogit).get();
                for (j, dx) in dx_D.iter_mut().enumerate() {
                    *dx += dlogit * head_VD[v * width + j].get();
                    dhead_sum[v * width + j] += dlogit * x_TD[t * width + j].get();
                }
            }
        }
        nll_T[t] = F::of(loss);
        for (j, dx) in dx_D.iter().enumerate() {
            dx_TD[t * width + j] = A::of(*dx);
        }
    }
    for (target, sum) in dhead_VD.iter_mut().zip(dhead_sum) {
        store(target, sum, Write::Accumulate);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::gradient::{Draw, check_gradient};

    #[test]
    fn gradient_with_an_ignored_target() {
        let dims = HeadDims {
            rows: 4,
            width: 3,
            vocabulary: 5,
        };
        let (mut draw, targets) = (Draw::new(9), [4, IGNORE, 0, 4]);
        let (x, head) = (draw.normal(12), draw.normal(15));
        let loss = |x: &[f64], head: &[f64]| {
            let mut nll = vec![0.0; 4];
            forward(&mut nll, x, head, &targets, dims);
            nll
        };
        let (mut nll, mut dx, mut dhead) = (vec![0.0; 4], vec![0.0; 12], vec![0.0; 15]);
        backward(&mut nll, &mut dx, &mut dhead, &x, &head, &targets, 0.5, dims);
        assert_eq!(nll, loss(&x, &head));
        assert_eq!(nll[1], 0.0);
        check_gradient("dx", &x, &dx, &[0.5; 4], |x| loss(x, &head));
        check_gradient("dhead", &head, &dhead, &[0.5; 4], |head| loss(&x, head));
    }
}
