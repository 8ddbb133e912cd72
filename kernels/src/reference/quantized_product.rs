//! Products of E4M3 matrices with promotion: the definition that fast kernels reproduce to the bit.
//!
//! `y[m][n] (=|+=) sum_b s_a[m][b] s_b[n][b] p[m][n][b]`, where `b` runs over blocks of 128 terms and `p` is the sum of the products of
//! decoded codes in that block. All arithmetic is in FP32, rounded to nearest even, in this order:
//!
//! 1. `p` starts at 0, and terms are added in one of the orders of [`SumOrder`]. A product of two codes is exact in FP32, so fused and
//!    separate multiplication agree. Missing terms are 0.
//! 2. The scale is the rounded product `s_a s_b`; `p` times it is rounded; the result is added to `y`. Two roundings, not a fused one, so
//!    that every instruction set can do it.
//! 3. Blocks are ascending. `y` starts at 0, or at what it holds when accumulating.

use super::Reference;
use crate::Write;
use crate::formats::{GROUP, Operand, SumOrder};

impl Reference {
    /// `y_MN (=|+=) a b^T`, where M and N count the vectors of `a` and `b`, whose terms lie as each operand says. With `y = x w^T`:
    ///
    /// | product | `a` | `b` |
    /// |---|---|---|
    /// | forward | `x`, along columns, `Row` | `w`, along columns, `Block` |
    /// | gradient of the input | `dy`, along columns, `Row` | `w`, along rows, `Block` |
    /// | gradient of the weight | `dy`, along rows, `Column` | `x`, along rows, `Column` |
    ///
    /// A NaN code makes what depends on it NaN.
    pub fn quantized_product(&self, y_MN: &mut [f32], a: Operand<'_>, b: Operand<'_>, write: Write) {
        a.check();
        b.check();
        assert_eq!(a.terms(), b.terms(), "terms of the two operands");
        assert_eq!(y_MN.len(), a.vectors() * b.vectors(), "elements of the product");
        for m in 0..a.vectors() {
            for n in 0..b.vectors() {
                let y = &mut y_MN[m * b.vectors() + n];
                let start = match write {
                    Write::Overwrite => 0.0,
                    Write::Accumulate => *y,
                };
                *y = (0..a.terms().div_ceil(GROUP)).fold(start, |y, block| {
                    let scale = a.scale(m, block) * b.scale(n, block);
                    y + self.partial(&a, &b, m, n, block) * scale
                });
            }
        }
    }

    /// The sum of one block, without scales.
    fn partial(self, a: &Operand<'_>, b: &Operand<'_>, m: usize, n: usize, block: usize) -> f32 {
        /// Terms of a run of tiles.
        const RUN: usize = 32;
        let end = ((block + 1) * GROUP).min(a.terms());
        let product = |term| {
            if term < end {
                a.code_value(m, term) * b.code_value(n, term)
            } else {
                0.0
            }
        };
        let pairs = |first, end| (first..end).step_by(2);
        match self.sum_order {
            SumOrder::Pairs => pairs(block * GROUP, end).fold(0.0, |sum, even| (sum + product(even + 1)) + product(even)),
            SumOrder::Tiles => (block * GROUP..end).step_by(RUN).fold(0.0, |sum, first| {
                let (even, odd) =
                    pairs(first, first + RUN).fold((0.0, 0.0), |(even, odd), term| (even + product(term), odd + product(term + 1)));
                sum + (even + odd)
            }),
        }
    }
}
