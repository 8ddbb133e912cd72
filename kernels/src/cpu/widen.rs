//! Activations as FP32: loops over elements are written once for every type of activations.
//!
//! Where the arithmetic is a few operations, vectors are loaded and stored ([`load`], [`store`]). Where it is written over `f32` and left to
//! the compiler, FP32 activations are read and written where they are; others are copied to a block on the stack, which stays in L1
//! ([`widen_mut`], [`narrow`]): the compiler's own loops over 16-bit values are several times slower.

use super::simd::Simd;
use crate::formats::{Activation, Bf16, DataType};
use bytemuck::{cast_slice, cast_slice_mut};

/// Elements that are widened at once.
pub const BLOCK: usize = 128;

/// Lanes of the widest vector.
const MOST_LANES: usize = 16;

/// Memory of a block that is not FP32.
pub type Copy = [f32; BLOCK];

/// Memory for a block's copy.
pub const EMPTY: Copy = [0.0; BLOCK];

/// Where a block's values are computed, before [`narrow`]; anything, unless it is the block itself.
#[inline(always)]
pub fn target<'a, A: Activation>(block: &'a mut [A], copy: &'a mut Copy) -> &'a mut [f32] {
    match A::DATA_TYPE {
        DataType::F32 => cast_slice_mut(block),
        DataType::Bf16 => &mut copy[..block.len()],
    }
}

/// As [`target`], with the block's values.
#[inline(always)]
pub fn widen_mut<'a, S: Simd, A: Activation>(block: &'a mut [A], copy: &'a mut Copy) -> &'a mut [f32] {
    if A::DATA_TYPE == DataType::Bf16 {
        widen_bf16::<S>(&mut copy[..block.len()], cast_slice(block));
    }
    target(block, copy)
}

/// Rounds a copy into its block.
#[inline(always)]
pub fn narrow<S: Simd, A: Activation>(block: &mut [A], copy: &Copy) {
    if A::DATA_TYPE == DataType::Bf16 {
        narrow_bf16::<S>(cast_slice_mut(block), copy);
    }
}

/// Runs a body for each vector of `len` elements: `at` is its first element, and the constant `WHOLE`, which [`load`] and [`store`] take, says
/// whether all of it is there. A macro, since a closure would be compiled without the instruction set's features.
macro_rules! each_vector {
    ($set:ident, $len:expr, |$at:ident, $whole:ident| $body:block) => {{
        let (len, lanes) = ($len, $set::LANES);
        {
            const $whole: bool = true;
            for $at in (0..len / lanes * lanes).step_by(lanes) $body
        }
        if len % lanes != 0 {
            const $whole: bool = false;
            let $at = len / lanes * lanes;
            $body
        }
    }};
}
pub(crate) use each_vector;

/// The vector at `at`; past the end of `source` it is zero.
///
/// # Safety
/// Only inside [`super::simd::dispatch`] with this instruction set; `source` has elements `at..at + LANES` if `WHOLE`.
#[inline(always)]
pub unsafe fn load<S: Simd, A: Activation, const WHOLE: bool>(source: &[A], at: usize) -> S::V {
    // SAFETY: the caller's promise, or a padded copy.
    unsafe {
        if WHOLE {
            debug_assert!(at + S::LANES <= source.len(), "a vector at {at} of {}", source.len());
            return S::load_as(source.as_ptr().add(at));
        }
        let mut padded = [A::default(); MOST_LANES];
        padded[..source.len() - at].copy_from_slice(&source[at..]);
        S::load_as(padded.as_ptr())
    }
}

/// Stores the vector at `at`, up to the end of `target`.
///
/// # Safety
/// As for [`load`].
#[inline(always)]
pub unsafe fn store<S: Simd, A: Activation, const WHOLE: bool>(target: &mut [A], at: usize, v: S::V) {
    // SAFETY: the caller's promise, or a padded copy.
    unsafe {
        if WHOLE {
            debug_assert!(at + S::LANES <= target.len(), "a vector at {at} of {}", target.len());
            return S::store_as(target.as_mut_ptr().add(at), v);
        }
        let mut padded = [A::default(); MOST_LANES];
        S::store_as(padded.as_mut_ptr(), v);
        let target = &mut target[at..];
        target.copy_from_slice(&padded[..target.len()]);
    }
}

#[inline(always)]
fn widen_bf16<S: Simd>(target: &mut [f32], source: &[Bf16]) {
    assert_eq!(target.len(), source.len(), "a block and its copy");
    each_vector!(S, source.len(), |at, WHOLE| {
        // SAFETY: only jobs call it, inside `dispatch`; the slices have one length.
        unsafe { store::<S, f32, WHOLE>(target, at, load::<S, Bf16, WHOLE>(source, at)) };
    });
}

#[inline(always)]
fn narrow_bf16<S: Simd>(target: &mut [Bf16], source: &Copy) {
    let source = &source[..target.len()];
    each_vector!(S, source.len(), |at, WHOLE| {
        // SAFETY: as in `widen_bf16`.
        unsafe { store::<S, Bf16, WHOLE>(target, at, load::<S, f32, WHOLE>(source, at)) };
    });
}
