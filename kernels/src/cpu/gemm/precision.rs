//! What differs between products of different types: how operands are packed, and the register tile.

use super::codes::{pack_codes, pack_scales};
use super::operand::{Operand, Quantized};
use super::pairs::{elements, pack_pairs, pairs};
use super::tile::{self, PanelTile, Plain, Promoted};
use crate::cpu::pack::pack;
use crate::cpu::simd::Simd;
use crate::cpu::tile::of_height;
use crate::formats::{Bf16, GROUP};

/// A type of products.
pub trait Precision {
    /// Largest slice of K: an A panel of 12 rows is 24 KiB, most of L1.
    const DEPTH: usize;
    /// Slices begin at multiples of it.
    const STEP: usize;
    /// Elements of a panel's row for so many terms.
    fn elements<S: Simd>(depth: usize) -> usize;
    /// Whether a tile touches C but once, so that it may lie in rows far apart, which compete for the same lines of L1.
    fn once<S: Simd>(elements: usize) -> bool;
    /// Packs a part of an operand into panels of `height` rows, the last one rounded up to `step`.
    fn pack<S: Simd>(panels: &mut Panels, strip: &mut Vec<Bf16>, operand: &Operand<'_>, part: Part, height: usize, step: usize);
    /// Runs the register tile.
    ///
    /// # Safety
    /// As for [`crate::cpu::tile::of_height`].
    unsafe fn tile<S: Simd, const VECTORS: usize>(tile: PanelTile, height: usize);
}

/// `rows` vectors from `first` on, `depth` terms from `term` on.
#[derive(Clone, Copy)]
pub struct Part {
    pub first: usize,
    pub rows: usize,
    pub term: usize,
    pub depth: usize,
}

/// A packed operand; the memory grows to the largest block and stays.
#[derive(Default)]
pub struct Panels {
    /// Values, or pairs of them.
    pub values: Vec<f32>,
    /// A scale of each row for every `GROUP` terms.
    pub scales: Vec<f32>,
}

impl Panels {
    /// The first `len` values.
    #[inline(always)]
    fn values(&mut self, len: usize) -> &mut [f32] {
        if self.values.len() < len {
            self.values.resize(len, 0.0);
        }
        &mut self.values[..len]
    }
}

/// FP32, with BF16 widened.
pub struct Values;

impl Precision for Values {
    /// Half of it is 5 % slower on 1024^3: C is updated twice as often.
    const DEPTH: usize = 512;
    const STEP: usize = 1;

    #[inline(always)]
    fn elements<S: Simd>(depth: usize) -> usize {
        depth
    }

    #[inline(always)]
    fn once<S: Simd>(_: usize) -> bool {
        true
    }

    #[inline(always)]
    fn pack<S: Simd>(panels: &mut Panels, _: &mut Vec<Bf16>, operand: &Operand<'_>, part: Part, height: usize, step: usize) {
        let Part { first, rows, term, depth } = part;
        match operand {
            Operand::F32(view) => pack(
                &mut panels.values,
                view.skip_rows(first).skip_columns(term),
                (rows, depth),
                height,
                step,
            ),
            Operand::Bf16(view) => pack(
                &mut panels.values,
                view.skip_rows(first).skip_columns(term),
                (rows, depth),
                height,
                step,
            ),
            Operand::E4m3(_) => unreachable!("both operands of a product are E4M3 or neither, as checked"),
        }
    }

    #[inline(always)]
    unsafe fn tile<S: Simd, const VECTORS: usize>(tile: PanelTile, height: usize) {
        // SAFETY: passed on from the caller.
        unsafe { of_height::<S, VECTORS, _>(Plain::<tile::Values>::new(tile), height) };
    }
}

/// BF16.
pub struct Pairs;

impl Precision for Pairs {
    const DEPTH: usize = 1024;
    const STEP: usize = 2;

    #[inline(always)]
    fn elements<S: Simd>(depth: usize) -> usize {
        elements::<S>(depth)
    }

    #[inline(always)]
    fn once<S: Simd>(_: usize) -> bool {
        true
    }

    #[inline(always)]
    fn pack<S: Simd>(panels: &mut Panels, _: &mut Vec<Bf16>, operand: &Operand<'_>, part: Part, height: usize, step: usize) {
        let Part { first, rows, term, depth } = part;
        let Operand::Bf16(view) = operand else {
            unreachable!("both operands are BF16")
        };
        let view = view.skip_rows(first).skip_columns(term);
        if S::DOT_PAIRS {
            let values = panels.values(rows.next_multiple_of(step) * pairs(depth));
            pack_pairs(values, view, (rows, depth), height, step);
        } else {
            pack(&mut panels.values, view, (rows, depth), height, step);
        }
    }

    #[inline(always)]
    unsafe fn tile<S: Simd, const VECTORS: usize>(tile: PanelTile, height: usize) {
        // SAFETY: passed on from the caller.
        unsafe {
            if S::DOT_PAIRS {
                of_height::<S, VECTORS, _>(Plain::<tile::Pairs>::new(tile), height);
            } else {
                of_height::<S, VECTORS, _>(Plain::<tile::WidePairs>::new(tile), height);
            }
        }
    }
}

/// E4M3 with scales.
pub struct Codes;

impl Precision for Codes {
    const DEPTH: usize = 1024;
    const STEP: usize = GROUP;

    #[inline(always)]
    fn elements<S: Simd>(depth: usize) -> usize {
        elements::<S>(depth)
    }

    #[inline(always)]
    fn once<S: Simd>(of_tile: usize) -> bool {
        elements::<S>(GROUP) >= of_tile
    }

    #[inline(always)]
    fn pack<S: Simd>(panels: &mut Panels, strip: &mut Vec<Bf16>, operand: &Operand<'_>, part: Part, height: usize, step: usize) {
        let Part { first, rows, term, depth } = part;
        let Operand::E4m3(operand) = operand else {
            unreachable!("both operands are E4M3")
        };
        let Quantized { codes, .. } = operand;
        pack_scales(&mut panels.scales, operand, (first, term), (rows, depth), height, step);
        let values = panels.values(rows.next_multiple_of(step) * elements::<S>(depth));
        pack_codes::<S>(
            values,
            strip,
            codes.skip_rows(first).skip_columns(term),
            (rows, depth),
            height,
            step,
        );
    }

    #[inline(always)]
    unsafe fn tile<S: Simd, const VECTORS: usize>(tile: PanelTile, height: usize) {
        // SAFETY: passed on from the caller.
        unsafe {
            if S::DOT_PAIRS {
                of_height::<S, VECTORS, _>(Promoted::<tile::Pairs>::new(tile), height);
            } else {
                of_height::<S, VECTORS, _>(Promoted::<tile::WidePairs>::new(tile), height);
            }
        }
    }
}
