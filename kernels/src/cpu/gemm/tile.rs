//! Register tiles on packed panels.

use super::pairs::elements;
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
    /// Whether of two neighbours the second one is added first, as [`Simd::dot_pairs`] has it.
    const SWAPPED: bool;
    /// `sums + a b`.
    ///
    /// # Safety
    /// As for [`Simd`].
    unsafe fn add<S: Simd>(sums: S::V, a: S::V, b: S::V) -> S::V;
}

/// Elements are values.
pub struct Values;

impl Terms for Values {
    const SWAPPED: bool = false;
    #[inline(always)]
    unsafe fn add<S: Simd>(sums: S::V, a: S::V, b: S::V) -> S::V {
        // SAFETY: passed on from the caller.
        unsafe { S::fma(a, b, sums) }
    }
}

/// Elements are the values of pairs: the sums are those of [`Pairs`].
pub struct WidePairs;

impl Terms for WidePairs {
    const SWAPPED: bool = true;

    #[inline(always)]
    unsafe fn add<S: Simd>(sums: S::V, a: S::V, b: S::V) -> S::V {
        // SAFETY: passed on from the caller.
        unsafe { S::fma(a, b, sums) }
    }
}

/// Elements are pairs of BF16 values.
pub struct Pairs;

impl Terms for Pairs {
    const SWAPPED: bool = false;

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
        let width = VECTORS * S::LANES;
        if T::SWAPPED {
            for _ in 0..elements / 2 {
                add_line::<S, T, ROWS, VECTORS>(&mut sums, a.add(ROWS), b.add(width));
                add_line::<S, T, ROWS, VECTORS>(&mut sums, a, b);
                a = a.wrapping_add(2 * ROWS);
                b = b.wrapping_add(2 * width);
            }
        }
        for _ in 0..if T::SWAPPED { elements % 2 } else { elements } {
            add_line::<S, T, ROWS, VECTORS>(&mut sums, a, b);
            a = a.wrapping_add(ROWS);
            b = b.wrapping_add(width);
        }
        sums
    }
}

/// Adds the products of one element of each row and column.
///
/// # Safety
/// As for [`sums`], with one element.
#[inline(always)]
unsafe fn add_line<S: Simd, T: Terms, const ROWS: usize, const VECTORS: usize>(
    sums: &mut [[S::V; VECTORS]; ROWS],
    a: *const f32,
    b: *const f32,
) {
    // SAFETY: passed on from the caller.
    unsafe {
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
pub struct Promoted<T>(PanelTile, PhantomData<T>);

impl<T> Promoted<T> {
    pub const fn new(tile: PanelTile) -> Self {
        Self(tile, PhantomData)
    }
}

impl<T: Terms> RegisterTile for Promoted<T> {
    #[inline(always)]
    unsafe fn run<S: Simd, const ROWS: usize, const VECTORS: usize>(self) {
        let of_group = elements::<S>(GROUP);
        let tile = self.0;
        let width = VECTORS * S::LANES;
        // SAFETY: passed on from the caller; there are scales for every group of elements.
        unsafe {
            for group in 0..tile.elements.div_ceil(of_group) {
                let first = group * of_group;
                let elements = of_group.min(tile.elements - first);
                let sums = sums::<S, T, ROWS, VECTORS>(tile.a.add(first * ROWS), tile.b.add(first * width), elements);
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
