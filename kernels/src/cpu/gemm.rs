//! Matrix multiplication `C (=|+=) A B^T`, with operands of any stride in F32, BF16 or E4M3, and C in F32 or BF16.
//!
//! ```text
//! for each task: a block of C                                     (parallel)
//!   for each slice of K                                           (in order: the sum's order does not depend on threads)
//!     pack A's block into panels of GEMM_ROWS rows,  [K][row]
//!     pack B's block into panels of 2 LANES columns, [K][column]  (stays in L2)
//!     for each panel of A (in L1), for each panel of B (from L2)
//!       register tile: GEMM_ROWS x 2 LANES accumulators, one fused multiply-add or product of pairs each per element of a panel
//! ```
//!
//! | operands | element of a panel | sum |
//! |---|---|---|
//! | F32, F32 with BF16 | a value in FP32 | ascending |
//! | BF16 | a pair of terms in BF16 | `Simd::dot_pairs`, ascending; a missing last term is 0 |
//! | E4M3 | a pair of terms in BF16, which holds every code | the same over 128 terms, then scaled and added: `Reference::quantized_product` |
//!
//! Where the instruction set has no product of pairs, panels hold the terms in FP32 and the tile adds the two of a pair in the order of
//! `Simd::dot_pairs`: the same bits, at the rate of FP32.
//!
//! The grid of blocks is chosen for the threads at hand; an element's sum is the same in every grid. Slices follow from K alone. Sums of
//! slices are FP32 also if C is BF16: a block of them is kept until it is rounded once.
//!
//! Deviations from the textbook (Goto and van de Geijn, 2008): both operands are packed per task, by the thread that uses them. That
//! repeats the packing of B for each row block (a share of one by the block's rows of the multiply-adds) and saves every barrier.

mod block;
mod codes;
mod grid;
mod operand;
mod pairs;
mod precision;
mod tile;
#[cfg(target_arch = "x86_64")]
pub mod tiles;
mod view;

use super::simd::{Isa, dispatch};
use crate::Write;
use block::Block;
use precision::{Codes, Pairs, Values};

use grid::Grain;
pub use grid::{Grid, Task};
pub use operand::{Expert, Operand};
pub use view::{Output, View};

/// Sizes of a product: C is `m x n`, the sum has `k` terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Rows of C.
    pub m: usize,
    /// Columns of C.
    pub n: usize,
    /// Terms per element.
    pub k: usize,
}

/// One product.
#[derive(Clone, Copy)]
pub struct Product<'a> {
    /// Sizes.
    pub size: Size,
    /// `m x k`.
    pub a: Operand<'a>,
    /// `n x k`.
    pub b: Operand<'a>,
    /// `m x n`.
    pub c: Output<'a>,
    /// Whether C is replaced or added to.
    pub write: Write,
}

impl Product<'_> {
    /// The blocks of the product, for so many threads. An element's sum does not depend on the block that it is in.
    pub fn grid(&self, isa: Isa, threads: usize) -> Grid {
        let grain = if self.on_tiles(isa) {
            Grain::tiles(self.size.k)
        } else {
            Grain::VECTORS
        };
        Grid::new(grain, self.size, threads)
    }

    /// Whether the instruction set has tiles for it: of two operands of BF16, or of E4M3.
    const fn on_tiles(&self, isa: Isa) -> bool {
        isa.has_tiles()
            && matches!(
                (self.a, self.b),
                (Operand::Bf16(_), Operand::Bf16(_)) | (Operand::E4m3(_), Operand::E4m3(_))
            )
    }
}

/// Computes one block of a product.
pub fn run(isa: Isa, product: &Product<'_>, task: Task) {
    let Size { m, n, k } = product.size;
    product.a.check(m, k);
    product.b.check(n, k);
    product.c.check(m, n);
    #[cfg(target_arch = "x86_64")]
    if product.on_tiles(isa) {
        // SAFETY: the instruction set is proof of the features; sizes are checked, and a grid has each block once.
        unsafe { tiles::run(product, task) };
        return;
    }
    match (product.a, product.b) {
        (Operand::E4m3(_), Operand::E4m3(_)) => dispatch(isa, Block::<Codes>::new(product, task)),
        (Operand::Bf16(_), Operand::Bf16(_)) => dispatch(isa, Block::<Pairs>::new(product, task)),
        _ => dispatch(isa, Block::<Values>::new(product, task)),
    }
}
