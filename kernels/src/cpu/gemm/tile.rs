//! Register tiles on packed panels.

use super::pairs::pairs;
use crate::cpu::simd::Simd;
use crate::cpu::tile::RegisterTile;
use crate::formats::GROUP;
use std::marker::PhantomData;

/// A panel of A and one of B, and their place in C.
#[derive(Clone, Copy)]
pub struct PanelTile {
    /// First element of C.
    pub c: *mut f32,
    /// Distance between rows of C.
    pub c_row: usize,
    /// `[elements][rows]`.
    pub a: *const f32,
    /// `[elements][columns]`.
    pub b: *const f32,
    /// Values, or pairs of them, of each row.
    pub elements: usize,
    /// `[groups][rows]`, if the product has scales.
    pub a_scales: *const f32,
    /// `[groups][columns]`.
    pub b_scales: *const f32,
    /// Whether C is added to.
    pub accumulate: bool,
}

/// What a product does with an element of A and one of B.
pub trait Terms {
    /// `sums + a b`.
    ///
    /// # Safety
    /// As for [`Simd`].
    unsafe fn add<S: Simd>(sums: S::V, a: S::V, b: S::V) -> S::V;
}

/// Elements are values.
pub struct Values;

impl Terms for Values {
    #[inline(always)]
    unsafe fn add<S: Simd>(sums: S::V, a: S::V, b: S::V) -> S::V {
        // SAFETY: passed on from the caller.
        unsafe { S::fma(a, b, sums) }
    }
}

/// Elements are pairs of BF16 values.
pub struct Pairs;

impl Terms for Pairs {
    #[inline(always)]
    unsafe fn add<S: Simd>(sums: S::V, a: S::V, b: S::V) -> S::V {
        // SAFETY: passed on from the caller.
        unsafe { S::dot_pairs(sums, a, b) }
    }
}

/// Sums of `elements` elements of panels at `a` and `b`.
///
/// # Safety
/// The panels hold so many; as for [`Simd`].
#[inline(always)]
unsafe fn sums<S: Simd, T: Terms, const ROWS: usize, const VECTORS: usize>(
    mut a: *const f32,
    mut b: *const f32,
    elements: usize,
) -> [[S::V; VECTORS]; ROWS] {
    // SAFETY: pointers stay inside the panels: `ROWS` rows, `VECTORS` vectors, `elements` elements.
    unsafe {
        let mut sums = [[S::splat(0.0); VECTORS]; ROWS];
        for _ in 0..elements {
            let mut columns = [S::splat(0.0); VECTORS];
            for (index, column) in columns.iter_mut().enumerate() {
                *column = S::load(b.add(index * S::LANES));
            }
            for (i, sum) in sums.iter_mut().enumerate() {
                let value = S::splat(*a.add(i));
                for (sum, &column) in sum.iter_mut().zip(&columns) {
                    *sum = T::add::<S>(*sum, value, column);
                }
            }
            a = a.wrapping_add(ROWS);
            b = b.wrapping_add(VECTORS * S::LANES);
        }
        sums
    }
}

/// One sum over all elements.
pub struct Plain<T>(PanelTile, PhantomData<T>);

impl<T> Plain<T> {
    pub const fn new(tile: PanelTile) -> Self {
        Self(tile, PhantomData)
    }
}

impl<T: Terms> RegisterTile for Plain<T> {
    #[inline(always)]
    unsafe fn run<S: Simd, const ROWS: usize, const VECTORS: usize>(self) {
        let tile = self.0;
        // SAFETY: passed on from the caller.
        unsafe {
            let sums = sums::<S, T, ROWS, VECTORS>(tile.a, tile.b, tile.elements);
            for (i, sum) in sums.iter().enumerate() {
                for (index, &value) in sum.iter().enumerate() {
                    let target = tile.c.add(i * tile.c_row + index * S::LANES);
                    S::store(target, if tile.accumulate { S::add(S::load(target), value) } else { value });
                }
            }
        }
    }
}

/// A sum over each group of terms, promoted: scaled, and added to C.
pub struct Promoted(pub PanelTile);

impl RegisterTile for Promoted {
    #[inline(always)]
    unsafe fn run<S: Simd, const ROWS: usize, const VECTORS: usize>(self) {
        const PAIRS: usize = pairs(GROUP);
        let tile = self.0;
        let width = VECTORS * S::LANES;
        // SAFETY: passed on from the caller; there are scales for every group of pairs.
        unsafe {
            for group in 0..tile.elements.div_ceil(PAIRS) {
                let first = group * PAIRS;
                let pairs = PAIRS.min(tile.elements - first);
                let sums = sums::<S, Pairs, ROWS, VECTORS>(tile.a.add(first * ROWS), tile.b.add(first * width), pairs);
                let mut b_scales = [S::splat(0.0); VECTORS];
                for (index, scales) in b_scales.iter_mut().enumerate() {
                    *scales = S::load(tile.b_scales.add(group * width + index * S::LANES));
                }
                let accumulate = group > 0 || tile.accumulate;
                for (i, sum) in sums.iter().enumerate() {
                    let a_scale = S::splat(*tile.a_scales.add(group * ROWS + i));
                    for (index, (&value, &b_scale)) in sum.iter().zip(&b_scales).enumerate() {
                        let scaled = S::mul(value, S::mul(a_scale, b_scale));
                        let target = tile.c.add(i * tile.c_row + index * S::LANES);
                        let before = if accumulate { S::load(target) } else { S::splat(0.0) };
                        S::store(target, S::add(before, scaled));
                    }
                }
            }
        }
    }
}
