//! Causal attention core of multi-head latent attention.
//!
//! `P` and `dS` are operands of products, so they are rounded to BF16 if activations are: forward `e^(logit - m)`, where `m` is the row's
//! largest logit rounded up to a multiple of `ln 2` (any multiple gives the same bits but for the exponent, so a backend may choose it block by
//! block), backward the probability itself. The softmax denominator sums what is not rounded.

use super::real::Real;
use crate::dims::AttentionDims;
use std::f64::consts::LN_2;

/// Where one head's vectors of one row start.
struct Head<'a> {
    dims: &'a AttentionDims,
    sequence: usize,
    head: usize,
}

impl Head<'_> {
    fn row(&self, s: usize) -> usize {
        self.sequence * self.dims.length + s
    }
    fn q(&self, s: usize) -> usize {
        (self.row(s) * self.dims.heads + self.head) * (self.dims.nope + self.dims.rope)
    }
    fn k(&self, s: usize) -> usize {
        (self.row(s) * self.dims.heads + self.head) * (self.dims.nope + self.dims.value)
    }
    fn v(&self, s: usize) -> usize {
        self.k(s) + self.dims.nope
    }
    fn k_rope(&self, s: usize) -> usize {
        self.row(s) * self.dims.kv_a_width() + self.dims.kv_rank
    }
    fn o(&self, s: usize) -> usize {
        (self.row(s) * self.dims.heads + self.head) * self.dims.value
    }
    fn lse(&self, s: usize) -> usize {
        self.head * self.dims.rows() + self.row(s)
    }
    /// `scale q k^T` of row `s` with rows `..=s`.
    fn logits<A: Real>(&self, s: usize, q: &[A], kv_up: &[A], kv_a: &[A]) -> Vec<f64> {
        let AttentionDims { nope, rope, scale, .. } = *self.dims;
        let at = self.q(s);
        (0..=s)
            .map(|u| {
                let plain: f64 = (0..nope).map(|j| q[at + j].get() * kv_up[self.k(u) + j].get()).sum();
                let rotary: f64 = (0..rope).map(|j| q[at + nope + j].get() * kv_a[self.k_rope(u) + j].get()).sum();
                f64::from(scale) * (plain + rotary)
            })
            .collect()
    }
}

/// Every head of every sequence.
fn heads(dims: &AttentionDims) -> impl Iterator<Item = Head<'_>> {
    (0..dims.sequences).flat_map(move |sequence| (0..dims.heads).map(move |head| Head { dims, sequence, head }))
}

/// `o = softmax(scale q k^T) v` and the log of the softmax denominator.
pub fn forward<A: Real, F: Real>(o_THv: &mut [A], lse_HT: &mut [F], q: &[A], kv_up: &[A], kv_a: &[A], dims: AttentionDims) {
    for head in heads(&dims) {
        for s in 0..dims.length {
            let logits = head.logits(s, q, kv_up, kv_a);
            let largest = logits.iter().fold(f64::NEG_INFINITY, |largest, &logit| largest.max(logit));
            let largest = (largest / LN_2).ceil() * LN_2;
            let p: Vec<f64> = logits.iter().map(|logit| (logit - largest).exp()).collect();
            let sum: f64 = p.iter().sum();
            lse_HT[head.lse(s)] = F::of(sum.ln() + largest);
            for j in 0..dims.value {
                let o: f64 = p.iter().enumerate().map(|(u, &p)| A::operand(p) * kv_up[head.v(u) + j].get()).sum();
                o_THv[head.o(s) + j] = A::of(o / sum);
            }
        }
    }
}

/// `dv = P^T dO`; `dP = dO v^T`; `dS = P (dP - rowsum(dO o))`; `dq = scale dS k`; `dk = scale dS^T q`; the rotary key's is the sum over heads.
#[allow(clippy::too_many_arguments)]
pub fn backward<A: Real, F: Real>(
    dq: &mut [A],
    dkv_up: &mut [A],
    dkv_a: &mut [A],
    do_THv: &[A],
    o_THv: &[A],
    lse_HT: &[F],
    q: &[A],
    kv_up: &[A],
    kv_a: &[A],
    dims: AttentionDims,
) {
    let AttentionDims {
        nope,
        rope,
        value,
        kv_rank,
        ..
    } = dims;
    let scale = f64::from(dims.scale);
    let mut dk_rope_Tr = vec![0.0; dims.rows() * rope];
    for head in heads(&dims) {
        let mut dkv_Snv = vec![0.0; dims.length * (nope + value)];
        for s in 0..dims.length {
            let mut dq_nr = vec![0.0; nope + rope];
            let delta: f64 = (0..value).map(|j| do_THv[head.o(s) + j].get() * o_THv[head.o(s) + j].get()).sum();
            for (u, logit) in head.logits(s, q, kv_up, kv_a).into_iter().enumerate() {
                let p = (logit - lse_HT[head.lse(s)].get()).exp();
                let dp: f64 = (0..value).map(|j| do_THv[head.o(s) + j].get() * kv_up[head.v(u) + j].get()).sum();
                let (p, ds) = (A::operand(p), A::operand(p * (dp - delta)));
                let dkv_nv = &mut dkv_Snv[u * (nope + value)..][..nope + value];
                for j in 0..nope {
                    dq_nr[j] += ds * kv_up[head.k(u) + j].get();
                    dkv_nv[j] += ds * q[head.q(s) + j].get();
                }
                for j in 0..rope {
                    dq_nr[nope + j] += ds * kv_a[head.k_rope(u) + j].get();
                    dk_rope_Tr[head.row(u) * rope + j] += ds * q[head.q(s) + nope + j].get();
                }
                for j in 0..value {
                    dkv_nv[nope + j] += p * do_THv[head.o(s) + j].get();
                }
            }
            for (target, value) in dq[head.q(s)..].iter_mut().zip(dq_nr) {
                *target = A::of(scale * value);
            }
        }
        for s in 0..dims.length {
            for (j, sum) in dkv_Snv[s * (nope + value)..][..nope + value].iter().enumerate() {
                dkv_up[head.k(s) + j] = A::of(if j < nope { scale * sum } else { *sum });
            }
        }
    }
    for t in 0..dims.rows() {
        for j in 0..rope {
            dkv_a[t * (kv_rank + rope) + kv_rank + j] = A::of(scale * dk_rope_Tr[t * rope + j]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::gradient::{Draw, check_gradient};

    const DIMS: AttentionDims = AttentionDims {
        sequences: 2,
        length: 4,
        heads: 3,
        nope: 2,
        rope: 2,
        value: 3,
        kv_rank: 1,
        scale: 0.5,
    };

    fn attention(q: &[f64], kv_up: &[f64], kv_a: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let (mut o, mut lse) = (vec![0.0; DIMS.rows() * DIMS.o_width()], vec![0.0; DIMS.rows() * DIMS.heads]);
        forward(&mut o, &mut lse, q, kv_up, kv_a, DIMS);
        (o, lse)
    }

    #[test]
    fn gradient_of_queries_keys_values_and_the_shared_rotary_key() {
        let (mut draw, rows) = (Draw::new(10), DIMS.rows());
        let (q, kv_up) = (draw.normal(rows * DIMS.q_width()), draw.normal(rows * DIMS.kv_up_width()));
        let (kv_a, d_o) = (draw.normal(rows * DIMS.kv_a_width()), draw.normal(rows * DIMS.o_width()));
        let (o, lse) = attention(&q, &kv_up, &kv_a);
        let (mut dq, mut dkv_up, mut dkv_a) = (vec![f64::NAN; q.len()], vec![f64::NAN; kv_up.len()], vec![0.0; kv_a.len()]);
        backward(&mut dq, &mut dkv_up, &mut dkv_a, &d_o, &o, &lse, &q, &kv_up, &kv_a, DIMS);
        check_gradient("dq", &q, &dq, &d_o, |q| attention(q, &kv_up, &kv_a).0);
        check_gradient("dkv_up", &kv_up, &dkv_up, &d_o, |kv_up| attention(&q, kv_up, &kv_a).0);
        check_gradient("dkv_a", &kv_a, &dkv_a, &d_o, |kv_a| attention(&q, &kv_up, kv_a).0);
    }

    #[test]
    fn later_rows_and_other_sequences_are_not_seen() {
        let (mut draw, rows) = (Draw::new(11), DIMS.rows());
        let (q, mut kv_up) = (draw.normal(rows * DIMS.q_width()), draw.normal(rows * DIMS.kv_up_width()));
        let kv_a = draw.normal(rows * DIMS.kv_a_width());
        let before = attention(&q, &kv_up, &kv_a).0;
        kv_up[2 * DIMS.kv_up_width()..][..DIMS.kv_up_width()].fill(9.0); // row 2 of sequence 0
        let after = attention(&q, &kv_up, &kv_a).0;
        let width = DIMS.o_width();
        let changed: Vec<usize> = (0..rows)
            .filter(|t| before[t * width..][..width] != after[t * width..][..width])
            .collect();
        assert_eq!(changed, [2, 3]);
    }
}
