//! Small products of BF16 operands that are already in cache, one thread: the sibling of [`super::tile`].
//!
//! `C[i][j] (=|+=) sum_k A[i][k] . B[k][j]`. A term is a pair of BF16 values in the 32 bits of an `f32`, and its product that of
//! [`Simd::dot_pairs`]: twice the multiply-adds of an FP32 term. Operands are otherwise read as FP32 ones are: A one pair at a time, so it may
//! have any strides; rows of B and C as whole vectors, so they must be padded to a multiple of `LANES`.

use super::simd::Simd;
use super::tile::Rows;
use std::ops::Range;

/// A matrix whose pairs are read one at a time.
#[derive(Clone, Copy)]
pub enum Pairs<'a> {
    /// Any strides.
    Strided {
        /// The pairs.
        data: &'a [f32],
        /// Distance between rows of A.
        row: usize,
        /// Distance between terms of the sum.
        term: usize,
    },
    /// Panels of [`height`] rows, each `[k][rows]`, as [`super::pack::pack_into`] makes them.
    Panels {
        /// The panels.
        data: &'a [f32],
        /// Rows in all of them, the product's or more: the last panel is narrow.
        rows: usize,
    },
}

/// What must be computed of some rows of C: the rest is known to be zero, or not needed.
pub struct Part {
    /// Columns, from the first of a vector on.
    pub columns: Range<usize>,
    /// Terms of the sum.
    pub terms: Range<usize>,
}

/// Rows of the register tile. Triangles are cut along its edges, so it is lower than that of FP32, and three vectors wide where there are 32
/// registers.
pub const fn height<S: Simd>() -> usize {
    if S::LANES == 16 { 8 } else { 4 }
}

/// `C (=|+=) A B` for `m` rows, `n` columns rounded up to a multiple of `LANES`, and `k` pairs; of each range of rows only the `part`.
///
/// # Safety
/// Only inside [`super::simd::dispatch`] with this instruction set.
#[inline(always)]
pub unsafe fn multiply<S: Simd>(
    (c, c_row): (&mut [f32], usize),
    a: Pairs<'_>,
    b: Rows<'_>,
    (m, n, k): (usize, usize, usize),
    accumulate: bool,
    part: impl Fn(Range<usize>) -> Part,
) {
    let width = n.next_multiple_of(S::LANES);
    if m == 0 || n == 0 {
        return;
    }
    assert!(
        (m - 1) * c_row + width <= c.len(),
        "C: {m} x {width} in rows of {c_row}, {} elements",
        c.len()
    );
    let a_holds = match a {
        Pairs::Strided { data, row, term } => k == 0 || (m - 1) * row + (k - 1) * term < data.len(),
        Pairs::Panels { data, rows } => m <= rows && rows * k <= data.len(),
    };
    assert!(a_holds, "A: {m} x {k} pairs");
    assert!(
        k == 0 || (k - 1) * b.row + width <= b.data.len(),
        "B: {k} x {width} in rows of {}, {} pairs",
        b.row,
        b.data.len()
    );
    let mut i = 0;
    while i < m {
        let panel = height::<S>().min(m - i);
        // Powers of two, so that few sizes are compiled.
        let rows = 1 << panel.ilog2();
        let Part { columns, terms } = part(i..i + rows);
        let (columns, terms) = (columns.start..columns.end.min(width), terms.start.min(k)..terms.end.min(k));
        let mut j = columns.start / S::LANES * S::LANES;
        while j < columns.end {
            let vectors = tile_vectors::<S>((columns.end - j).div_ceil(S::LANES));
            // SAFETY: rows `i..i + rows`, columns from `j` on and the terms are inside C, A and B, as checked above and clamped; the caller
            // guarantees the instruction set.
            unsafe {
                let (a, a_row, a_term) = match a {
                    Pairs::Strided { data, row, term } => (data.as_ptr().wrapping_add(i * row + terms.start * term), row, term),
                    Pairs::Panels { data, rows } => {
                        let (first, inside) = (i / height::<S>() * height::<S>(), i % height::<S>());
                        let width = height::<S>().min(rows - first);
                        (data.as_ptr().wrapping_add(first * k + inside + terms.start * width), 1, width)
                    }
                };
                let tile = Tile {
                    c: c.as_mut_ptr().add(i * c_row + j),
                    c_row,
                    a,
                    a_row,
                    a_term,
                    b: b.data.as_ptr().wrapping_add(terms.start * b.row + j),
                    b_row: b.row,
                    k: terms.len(),
                    accumulate,
                };
                match vectors {
                    3 => tile.rows::<S, 3>(rows),
                    2 => tile.rows::<S, 2>(rows),
                    _ => tile.rows::<S, 1>(rows),
                }
            }
            j += vectors * S::LANES;
        }
        i += rows;
    }
}

/// Vectors of the next register tile, of `left`.
#[inline(always)]
fn tile_vectors<S: Simd>(left: usize) -> usize {
    match left {
        // Two and two keep more accumulators busy than three and one.
        4 => 2,
        _ if S::LANES == 16 => left.min(3),
        _ => left.min(2),
    }
}

/// A register tile's operands.
struct Tile {
    c: *mut f32,
    c_row: usize,
    a: *const f32,
    a_row: usize,
    a_term: usize,
    b: *const f32,
    b_row: usize,
    k: usize,
    accumulate: bool,
}

impl Tile {
    /// Picks the copy with the number of rows as a constant.
    ///
    /// # Safety
    /// All operands are valid for `rows` rows of `VECTORS` vectors; `rows` is a power of two up to [`height`]; the instruction set exists.
    #[inline(always)]
    unsafe fn rows<S: Simd, const VECTORS: usize>(self, rows: usize) {
        // SAFETY: passed on from the caller.
        unsafe {
            match rows {
                8 if S::LANES == 16 => self.product::<S, 8, VECTORS>(),
                4 => self.product::<S, 4, VECTORS>(),
                2 => self.product::<S, 2, VECTORS>(),
                1 => self.product::<S, 1, VECTORS>(),
                _ => unreachable!("a tile has a power of two rows, at most {}", height::<S>()),
            }
        }
    }

    /// # Safety
    /// As for [`Tile::rows`], with `ROWS` rows.
    #[inline(always)]
    unsafe fn product<S: Simd, const ROWS: usize, const VECTORS: usize>(self) {
        // SAFETY: pointers stay inside the operands: `ROWS` rows, `k` terms, `VECTORS` vectors.
        unsafe {
            let mut sums = [[S::splat(0.0); VECTORS]; ROWS];
            let (mut a, mut b) = (self.a, self.b);
            for _ in 0..self.k {
                let mut columns = [S::splat(0.0); VECTORS];
                for (index, column) in columns.iter_mut().enumerate() {
                    *column = S::load(b.add(index * S::LANES));
                }
                for (i, sum) in sums.iter_mut().enumerate() {
                    let pair = S::splat(*a.add(i * self.a_row));
                    for (sum, &column) in sum.iter_mut().zip(&columns) {
                        *sum = S::dot_pairs(*sum, pair, column);
                    }
                }
                a = a.wrapping_add(self.a_term);
                b = b.wrapping_add(self.b_row);
            }
            for (i, sum) in sums.iter().enumerate() {
                for (index, &value) in sum.iter().enumerate() {
                    let target = self.c.add(i * self.c_row + index * S::LANES);
                    S::store(target, if self.accumulate { S::add(S::load(target), value) } else { value });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::{Isa, Job, dispatch};
    use crate::formats::Bf16;

    struct Multiply<'a> {
        c: &'a mut [f32],
        /// Strided by (row, term), or copied into panels.
        a: (&'a [f32], Option<(usize, usize)>),
        b: &'a [f32],
        size: (usize, usize, usize),
        accumulate: bool,
        lower: bool,
    }

    impl Job for Multiply<'_> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self) {
            let (m, n, k) = self.size;
            let panels = panels(self.a.0, m, k, height::<S>());
            let a = match self.a.1 {
                Some((row, term)) => Pairs::Strided { data: self.a.0, row, term },
                None => Pairs::Panels { data: &panels, rows: m },
            };
            let part = |rows: Range<usize>| Part {
                columns: 0..n,
                terms: if self.lower { 0..rows.end } else { 0..k },
            };
            let b = Rows { data: self.b, row: 64 };
            // SAFETY: a job runs inside `dispatch`.
            unsafe { multiply::<S>((self.c, 64), a, b, self.size, self.accumulate, part) };
        }
    }

    fn panels(data: &[f32], m: usize, k: usize, height: usize) -> Vec<f32> {
        let tile = |first: usize| (0..k).flat_map(move |t| (first..m.min(first + height)).map(move |i| data[i * 64 + t]));
        (0..m).step_by(height).flat_map(tile).collect()
    }

    /// Small integers: every order of summation is exact.
    #[test]
    fn exact_on_integers_for_every_height_and_width() {
        let value = |i: usize| ((i * 37) % 11) as f32 - 5.0;
        let pair = |i: usize| (value(2 * i), value(2 * i + 1));
        let bits = |(even, odd): (f32, f32)| f32::from_bits(u32::from(Bf16::from_f32(even).0) | u32::from(Bf16::from_f32(odd).0) << 16);
        let (a, b): (Vec<f32>, Vec<f32>) = (0..64 * 64).map(|i| (bits(pair(i)), bits(pair(i + 3)))).unzip();
        for isa in Isa::available() {
            for (m, n, k) in (0..20).flat_map(|m| [(m, 64, 5), (m, 48, 9), (m, 7, 1), (m, 33, 0), (m, 1, 9)]) {
                for (strides, lower) in [Some((64, 1)), Some((1, 64)), None]
                    .into_iter()
                    .flat_map(|s| [(s, false), (s, true)])
                {
                    let mut c = vec![1.0; 64 * 64];
                    for accumulate in [false, true] {
                        dispatch(
                            isa,
                            Multiply {
                                c: &mut c,
                                a: (&a, strides),
                                b: &b,
                                size: (m, n, k),
                                accumulate,
                                lower,
                            },
                        );
                    }
                    let (row, term) = strides.unwrap_or((64, 1));
                    for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
                        let product = |t: usize| {
                            let ((a_even, a_odd), (b_even, b_odd)) = (pair(i * row + t * term), pair(t * 64 + j + 3));
                            a_even * b_even + a_odd * b_odd
                        };
                        // At least the terms up to the row itself; those past its tile's are left out.
                        let sum = |terms: usize| 2.0 * (0..terms.min(k)).map(product).sum::<f32>();
                        let allowed = if lower { i + 1..i + 9 } else { k..k + 1 };
                        assert!(
                            allowed.clone().any(|terms| c[i * 64 + j] == sum(terms)),
                            "{} {m}x{n}x{k} ({i}, {j})",
                            isa.name()
                        );
                    }
                }
            }
        }
    }
}
