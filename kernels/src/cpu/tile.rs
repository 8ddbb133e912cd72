//! The register tile of every matrix product, and small products on operands that are already in cache: no packing, one thread.
//!
//! `C[i][j] (=|+=) sum_k A[i][k] B[k][j]`. A is read one value at a time and broadcast, so it may have any strides; rows of B and C are
//! read and written as whole vectors, so they must be padded to a multiple of `LANES`.

use super::simd::Simd;

/// A matrix whose elements are read one at a time.
#[derive(Clone, Copy)]
pub enum Scalars<'a> {
    /// Any strides. Best if they are constants: the compiler keeps one pointer per row otherwise, more than there are registers.
    Strided {
        /// The elements.
        data: &'a [f32],
        /// Distance between rows of A.
        row: usize,
        /// Distance between terms of the sum.
        term: usize,
    },
    /// Panels of `GEMM_ROWS` rows, each `[k][rows]`, as [`super::pack::pack`] makes them.
    Panels {
        /// The panels.
        data: &'a [f32],
        /// Rows in all of them, the product's or more: the last panel is narrow.
        rows: usize,
    },
}

/// Rows that are read as vectors.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    /// The elements.
    pub data: &'a [f32],
    /// Distance between rows.
    pub row: usize,
}

/// `C (=|+=) A B` for `m` rows, `n` columns rounded up to a multiple of `LANES`, and `k` terms.
///
/// # Safety
/// Only inside [`super::simd::dispatch`] with this instruction set.
#[inline(always)]
pub unsafe fn multiply<S: Simd>(
    (c, c_row): (&mut [f32], usize),
    a: Scalars<'_>,
    b: Rows<'_>,
    (m, n, k): (usize, usize, usize),
    accumulate: bool,
) {
    let width = n.next_multiple_of(S::LANES);
    if m == 0 || n == 0 || k == 0 {
        if !accumulate {
            for row in c.chunks_mut(c_row.max(1)).take(m) {
                row[..n].fill(0.0);
            }
        }
        return;
    }
    assert!(
        (m - 1) * c_row + width <= c.len(),
        "C: {m} x {width} in rows of {c_row}, {} elements",
        c.len()
    );
    match a {
        Scalars::Strided { data, row, term } => {
            assert!(
                (m - 1) * row + (k - 1) * term < data.len(),
                "A: {m} x {k} by ({row}, {term}), {} elements",
                data.len()
            );
        }
        Scalars::Panels { data, rows } => {
            assert!(
                m <= rows && rows * k <= data.len(),
                "A: {m} of {rows} x {k}, {} elements",
                data.len()
            );
        }
    }
    assert!(
        (k - 1) * b.row + width <= b.data.len(),
        "B: {k} x {width} in rows of {}, {} elements",
        b.row,
        b.data.len()
    );
    let mut i = 0;
    while i < m {
        let height = S::GEMM_ROWS.min(m - i);
        let mut j = 0;
        while j < width {
            let pair = width - j >= 2 * S::LANES;
            // SAFETY: the block at (i, j) is inside C, A and B, as checked above; the caller guarantees the instruction set.
            unsafe {
                let (a, a_row, a_term) = match a {
                    Scalars::Strided { data, row, term } => (data.as_ptr().add(i * row), row, term),
                    Scalars::Panels { data, rows } => (data.as_ptr().add(i * k), 1, S::GEMM_ROWS.min(rows - i)),
                };
                let tile = Tile {
                    c: c.as_mut_ptr().add(i * c_row + j),
                    c_row,
                    a,
                    a_row,
                    a_term,
                    b: b.data.as_ptr().add(j),
                    b_row: b.row,
                    k,
                    accumulate,
                };
                if pair {
                    of_height::<S, 2, _>(tile, height);
                } else {
                    of_height::<S, 1, _>(tile, height);
                }
            }
            j += if pair { 2 * S::LANES } else { S::LANES };
        }
        i += height;
    }
}

/// A register tile's operands.
struct Tile {
    /// First element of C.
    c: *mut f32,
    /// Distance between rows of C.
    c_row: usize,
    /// First element of A.
    a: *const f32,
    /// Distance between rows of A.
    a_row: usize,
    /// Distance between terms of A.
    a_term: usize,
    /// First element of B.
    b: *const f32,
    /// Distance between rows of B.
    b_row: usize,
    /// Terms.
    k: usize,
    /// Whether C is added to.
    accumulate: bool,
}

/// A computation on the accumulators of a register tile.
pub trait RegisterTile {
    /// Runs on `ROWS` rows of `VECTORS` vectors.
    ///
    /// # Safety
    /// All operands are valid for so many rows and vectors; the instruction set exists.
    unsafe fn run<S: Simd, const ROWS: usize, const VECTORS: usize>(self);
}

/// Picks the copy with the number of rows as a constant.
///
/// # Safety
/// As for [`RegisterTile::run`], with `1 <= height <= GEMM_ROWS`.
#[inline(always)]
pub unsafe fn of_height<S: Simd, const VECTORS: usize, T: RegisterTile>(tile: T, height: usize) {
    // SAFETY: passed on from the caller.
    unsafe {
        match height {
            1 => tile.run::<S, 1, VECTORS>(),
            2 => tile.run::<S, 2, VECTORS>(),
            3 => tile.run::<S, 3, VECTORS>(),
            4 => tile.run::<S, 4, VECTORS>(),
            5 if S::GEMM_ROWS > 4 => tile.run::<S, 5, VECTORS>(),
            6 if S::GEMM_ROWS > 4 => tile.run::<S, 6, VECTORS>(),
            7 if S::GEMM_ROWS > 6 => tile.run::<S, 7, VECTORS>(),
            8 if S::GEMM_ROWS > 6 => tile.run::<S, 8, VECTORS>(),
            9 if S::GEMM_ROWS > 6 => tile.run::<S, 9, VECTORS>(),
            10 if S::GEMM_ROWS > 6 => tile.run::<S, 10, VECTORS>(),
            11 if S::GEMM_ROWS > 6 => tile.run::<S, 11, VECTORS>(),
            12 if S::GEMM_ROWS > 6 => tile.run::<S, 12, VECTORS>(),
            _ => unreachable!("a tile has at most {} rows", S::GEMM_ROWS),
        }
    }
}

impl RegisterTile for Tile {
    #[inline(always)]
    unsafe fn run<S: Simd, const ROWS: usize, const VECTORS: usize>(self) {
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
                    let value = S::splat(*a.add(i * self.a_row));
                    for (sum, &column) in sum.iter_mut().zip(&columns) {
                        *sum = S::fma(value, column, *sum);
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

    struct Multiply<'a> {
        c: &'a mut [f32],
        a: Scalars<'a>,
        b: Rows<'a>,
        size: (usize, usize, usize),
        accumulate: bool,
    }

    impl Job for Multiply<'_> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self) {
            // SAFETY: a job runs inside `dispatch`.
            unsafe { multiply::<S>((self.c, 64), self.a, self.b, self.size, self.accumulate) };
        }
    }

    /// Small integers: every order of summation is exact.
    #[test]
    fn exact_on_integers_for_every_height_and_width() {
        let value = |i: usize| ((i * 37) % 11) as f32 - 5.0;
        let (a, b): (Vec<f32>, Vec<f32>) = ((0..64 * 64).map(value).collect(), (0..64 * 64).map(|i| value(i + 3)).collect());
        for isa in Isa::available() {
            for (m, n, k) in (0..28).flat_map(|m| [(m, 48, 5), (m, 7, 1), (m, 33, 0), (m, 1, 9)]) {
                for (row, term) in [(64, 1), (1, 64)] {
                    let mut c = vec![1.0; 64 * 64];
                    for accumulate in [false, true] {
                        let operands = (Scalars::Strided { data: &a, row, term }, Rows { data: &b, row: 64 });
                        dispatch(
                            isa,
                            Multiply {
                                c: &mut c,
                                a: operands.0,
                                b: operands.1,
                                size: (m, n, k),
                                accumulate,
                            },
                        );
                    }
                    for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
                        let exact: f32 = (0..k).map(|t| a[i * row + t * term] * b[t * 64 + j]).sum();
                        assert_eq!(c[i * 64 + j], 2.0 * exact, "{} {m}x{n}x{k} ({i}, {j})", isa.name());
                    }
                }
            }
        }
    }
}
