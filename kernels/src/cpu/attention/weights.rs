//! From scores to weights: softmax of a block of queries and keys, and its gradient, rounded to pairs of BF16 values.

use super::MOST_LANES;
use crate::cpu::simd::Simd;

/// Where the weights of a block lie: those of the first vector of lanes in rows of pairs, and those of the second.
#[derive(Clone, Copy)]
pub struct Layout {
    /// Elements from a pair to the next.
    pub row: usize,
    /// Elements from the first vector to the second.
    pub half: usize,
}

impl Layout {
    /// Both vectors side by side.
    #[inline(always)]
    pub const fn rows<S: Simd>() -> Self {
        Self {
            row: 2 * S::LANES,
            half: S::LANES,
        }
    }
}

/// Softmax over the keys of a panel of queries, block by block.
pub struct Softmax {
    /// Logits in units of `ln 2` per score.
    scale: f32,
    /// Largest logit of each query so far, rounded up to an integer in the same unit.
    pub exponents: [f32; MOST_LANES],
    /// Sums of `2^(scale s - exponent)`.
    pub sums: [f32; MOST_LANES],
}

impl Softmax {
    #[inline(always)]
    pub fn new(scale: f32) -> Self {
        Self {
            scale,
            exponents: [f32::NEG_INFINITY; MOST_LANES],
            sums: [0.0; MOST_LANES],
        }
    }

    /// Weights of `2 pairs` keys from their scores, `[key][query]`, in pairs of keys, in a layout. Returns the factors for what has been
    /// summed with earlier weights.
    ///
    /// # Safety
    /// Only inside [`super::dispatch`] with this instruction set.
    #[inline(always)]
    pub unsafe fn block<S: Simd>(&mut self, p: &mut [f32], s: &[f32], pairs: usize, layout: Layout) -> [f32; MOST_LANES] {
        let lanes = 2 * S::LANES;
        let s = &s[..2 * pairs * lanes];
        let (mut largest, mut factors) = ([0.0; MOST_LANES], [0.0; MOST_LANES]);
        // SAFETY: the caller guarantees the instruction set; vectors at `lane` are inside rows of `lanes` values.
        unsafe {
            let scale = S::splat(self.scale);
            for lane in [0, S::LANES] {
                let mut top = S::splat(f32::NEG_INFINITY);
                for row in s.chunks_exact(lanes) {
                    top = S::max(top, S::mul(S::load(row.as_ptr().add(lane)), scale));
                }
                S::store(largest.as_mut_ptr().add(lane), top);
            }
            for ((exponent, factor), largest) in self.exponents.iter_mut().zip(&mut factors).zip(&largest).take(lanes) {
                let risen = exponent.max(largest.ceil());
                *factor = *exponent - risen;
                *exponent = risen;
            }
            for lane in [0, S::LANES] {
                let factor = S::exp2(S::load(factors.as_ptr().add(lane)));
                S::store(factors.as_mut_ptr().add(lane), factor);
                let mut sum = S::mul(factor, S::load(self.sums.as_ptr().add(lane)));
                let shift = S::mul(S::splat(-1.0), S::load(self.exponents.as_ptr().add(lane)));
                let p = p[lane / S::LANES * layout.half..].chunks_mut(layout.row);
                for (s, p) in s.chunks_exact(2 * lanes).zip(p) {
                    let p = &mut p[..S::LANES];
                    let even = S::exp2(S::fma(S::load(s.as_ptr().add(lane)), scale, shift));
                    let odd = S::exp2(S::fma(S::load(s.as_ptr().add(lanes + lane)), scale, shift));
                    sum = S::add(sum, S::add(even, odd));
                    S::store(p.as_mut_ptr(), S::round_pairs(even, odd));
                }
                S::store(self.sums.as_mut_ptr().add(lane), sum);
            }
        }
        factors
    }
}

/// A block of scores of queries, `[query][key]`, and what turns them into weights.
pub struct Scores<'a> {
    pub s: &'a [f32],
    pub dp: &'a [f32],
    /// Logarithms of the softmax denominators, in units of `ln 2`.
    pub exponents: &'a [f32],
    pub deltas: &'a [f32],
    /// Logits in units of `ln 2` per score.
    pub scale: f32,
}

impl Scores<'_> {
    /// `P` and `dS` of `2 pairs` queries in pairs of queries, in a layout, and `dS` in pairs of keys `LANES` apart, `[query][pair]`.
    ///
    /// # Safety
    /// Only inside [`super::dispatch`] with this instruction set.
    #[inline(always)]
    pub unsafe fn weights<S: Simd>(&self, p: &mut [f32], ds: &mut [f32], ds_rows: &mut [f32], pairs: usize, layout: Layout) {
        let lanes = 2 * S::LANES;
        let scores = self.s[..2 * pairs * lanes].chunks_exact(2 * lanes);
        let products = self.dp[..2 * pairs * lanes].chunks_exact(2 * lanes);
        let starts = (0..).step_by(layout.row);
        let targets = starts.zip(ds_rows.chunks_exact_mut(lanes));
        let statistics = self.exponents.chunks_exact(2).zip(self.deltas.chunks_exact(2));
        for (((s, dp), (exponents, deltas)), (start, ds_rows)) in scores.zip(products).zip(statistics).zip(targets) {
            // SAFETY: the caller guarantees the instruction set; vectors are inside two rows of `lanes` values, or one of pairs.
            unsafe {
                let (low, high) = (0, S::LANES);
                let [even, odd] = [0, 1].map(|query| Query {
                    s: s[query * lanes..].as_ptr(),
                    dp: dp[query * lanes..].as_ptr(),
                    scale: self.scale,
                    exponent: exponents[query],
                    delta: deltas[query],
                });
                let ((p00, ds00), (p01, ds01)) = (even.weights::<S>(low), even.weights::<S>(high));
                let ((p10, ds10), (p11, ds11)) = (odd.weights::<S>(low), odd.weights::<S>(high));
                let second = start + layout.half;
                S::store(p[start..][..S::LANES].as_mut_ptr(), S::round_pairs(p00, p10));
                S::store(p[second..][..S::LANES].as_mut_ptr(), S::round_pairs(p01, p11));
                S::store(ds[start..][..S::LANES].as_mut_ptr(), S::round_pairs(ds00, ds10));
                S::store(ds[second..][..S::LANES].as_mut_ptr(), S::round_pairs(ds01, ds11));
                S::store(ds_rows.as_mut_ptr(), S::round_pairs(ds00, ds01));
                S::store(ds_rows.as_mut_ptr().add(S::LANES), S::round_pairs(ds10, ds11));
            }
        }
    }
}

/// A row of [`Scores`].
struct Query {
    s: *const f32,
    dp: *const f32,
    scale: f32,
    exponent: f32,
    delta: f32,
}

impl Query {
    /// `P` and `dS` of the keys from `lane` on, one vector.
    ///
    /// # Safety
    /// Only inside [`super::dispatch`] with this instruction set; both rows hold a vector at `lane`.
    #[inline(always)]
    unsafe fn weights<S: Simd>(&self, lane: usize) -> (S::V, S::V) {
        // SAFETY: passed on from the caller.
        unsafe {
            let s = S::load(self.s.add(lane));
            let p = S::exp2(S::fma(s, S::splat(self.scale), S::splat(-self.exponent)));
            let difference = S::add(S::load(self.dp.add(lane)), S::splat(-self.delta));
            (p, S::mul(p, difference))
        }
    }
}
