//! One block of C on AMX tiles: [`super::block`] with other panels and another register tile.
//!
//! ```text
//! for each slice of K:
//!   pack A's and B's block into tiles                            (L2)
//!   for each pair of B's panels (in L1), for each of A's (from L2)
//!     2 x 2 tiles of sums, a product of tiles for each 32 terms
//! ```
//!
//! BF16: the sums are C itself where it is FP32 and whole tiles of it, else a copy. E4M3: sums of 128 terms go through L1 to be scaled and added.

pub mod pack;

use super::block::{Rows, Sums, clear, load, store};
use super::codes::pack_scales;
use super::grid::Task;
use super::operand::{Operand, Quantized};
use super::view::{Pointer, View};
use super::{Product, Size};
use crate::Write;
use crate::cpu::simd::amx::{self, TileProduct};
use crate::cpu::simd::{Avx512Bf16, Simd};
use crate::formats::{Bf16, GROUP};
use pack::{Form, bytes, pack};
use std::arch::x86_64::*;
use std::cell::RefCell;

/// Rows and columns of C that are computed at once.
const EDGE: usize = 2 * amx::ROWS;
/// Largest slice of K: two panels of B are 16 KiB, so that A's pass through L1 beside them. In a block of 512 x 512, a
/// term takes a quarter longer with twice as much.
pub const DEPTH: usize = 256;

/// A cache line.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line {
    _bytes: [u8; 64],
}

/// Sums of `EDGE` rows and columns on their way to C.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Square([f32; EDGE * EDGE]);

impl Square {
    const ZERO: Self = Self([0.0; EDGE * EDGE]);
}

/// Memory of one thread; it grows to the largest block and stays.
struct Workspace {
    a: Vec<Line>,
    b: Vec<Line>,
    a_scales: Vec<f32>,
    b_scales: Vec<f32>,
    /// Sums of a block of C, where C cannot hold them: square by square.
    sums: Vec<Square>,
    /// Sums of a square of C, and of two groups of terms.
    squares: Box<[Square; 3]>,
}

impl Default for Workspace {
    fn default() -> Self {
        Self {
            a: Vec::new(),
            b: Vec::new(),
            a_scales: Vec::new(),
            b_scales: Vec::new(),
            sums: Vec::new(),
            squares: Box::new([Square::ZERO; 3]),
        }
    }
}

thread_local! {
    static WORKSPACE: RefCell<Workspace> = RefCell::default();
}

/// Computes a block; operands of both BF16 or both E4M3.
///
/// # Safety
/// The machine has the tiles and the features; operands and C hold the product, C holds the block, and no other task writes to it.
pub unsafe fn run(product: &Product<'_>, task: Task) {
    // SAFETY: passed on from the caller.
    WORKSPACE.with_borrow_mut(|workspace| unsafe {
        amx::configure();
        compute(product, task, workspace);
        amx::release();
    });
}

/// Where sums are kept.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Home {
    /// C, in FP32.
    Output,
    /// Memory of their own, from slice to slice.
    Block,
    /// A square that is added to C.
    Square,
}

/// # Safety
/// As for [`run`], inside [`amx::configure`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16,avx2,fma")]
unsafe fn compute(product: &Product<'_>, task: Task, workspace: &mut Workspace) {
    let Task {
        rows: (i0, m),
        columns: (j0, n),
    } = task;
    let Product {
        size: Size { k, .. },
        a,
        b,
        c,
        write,
    } = product;
    let c = Rows {
        pointer: c.pointer,
        row: c.row,
    }
    .at(i0, j0);
    if k == &0 {
        if *write == Write::Overwrite {
            // SAFETY: C holds the block.
            unsafe { clear(c, (m, n)) };
        }
        return;
    }
    let slice = k.div_ceil(k.div_ceil(DEPTH)).next_multiple_of(GROUP);
    let scaled = matches!(a, Operand::E4m3(_));
    // Between slices sums are FP32, and those of E4M3 are added apart.
    let kept = (scaled || matches!(c.pointer, Pointer::Bf16(_))) && *k > slice;
    let Workspace {
        a: a_tiles,
        b: b_tiles,
        a_scales,
        b_scales,
        sums,
        squares,
    } = workspace;
    let across = n.div_ceil(EDGE);
    grow(sums, if kept { m.div_ceil(EDGE) * across } else { 0 }, Square::ZERO);
    let [square, groups @ ..] = squares.each_mut().map(|square| square.0.as_mut_ptr());
    let size = |i, j| (EDGE.min(m - i), EDGE.min(n - j));
    // Squares in rows, as C lies in memory, and in columns, so that B's panels stay in L1.
    let by_rows = || (0..m).step_by(EDGE).flat_map(move |i| (0..n).step_by(EDGE).map(move |j| (i, j)));
    let sums = sums.as_mut_ptr();
    let kept_sums = |i: usize, j: usize| Sums {
        pointer: sums.wrapping_add(i / EDGE * across + j / EDGE).cast(),
        row: EDGE,
    };
    // SAFETY: passed on from the caller: all parts are inside operands, C and the memory made for them.
    unsafe {
        if kept && *write == Write::Accumulate {
            for (i, j) in by_rows() {
                load::<Avx512Bf16>(kept_sums(i, j), c.at(i, j), size(i, j));
            }
        }
        for term in (0..*k).step_by(slice) {
            let depth = slice.min(k - term);
            let in_place = match a {
                Operand::Bf16(view) => Left::in_place(view.skip_rows(i0).skip_columns(term), depth),
                _ => None,
            };
            // Rows in whole squares are read where they are, if they can be.
            let direct = if in_place.is_some() { m / EDGE * EDGE } else { 0 };
            let packed_next = pack_operand(a_tiles, a_scales, a, (i0 + direct, m - direct), (term, depth), Form::Left);
            // After packing, which may have moved the memory.
            let packed = Left::packed(a_tiles.as_ptr().cast(), packed_next);
            let b_panel = pack_operand(b_tiles, b_scales, b, (j0, n), (term, depth), Form::Right);
            let accumulate = term > 0 || *write == Write::Accumulate;
            for (i, j) in by_rows() {
                let size = size(i, j);
                let whole = size.0.is_multiple_of(amx::ROWS) && size.1.is_multiple_of(amx::ROWS);
                let (home, sums) = match c.pointer {
                    _ if kept => (Home::Block, kept_sums(i, j)),
                    Pointer::F32(pointer) if whole && !scaled => {
                        let sums = Sums { pointer, row: c.row };
                        (Home::Output, sums.at(i, j))
                    }
                    _ => {
                        let sums = Sums {
                            pointer: square,
                            row: EDGE,
                        };
                        (Home::Square, sums)
                    }
                };
                if home == Home::Square && accumulate {
                    load::<Avx512Bf16>(sums, c.at(i, j), size);
                }
                let (left, row) = match in_place {
                    Some(left) if i < direct => (left, i),
                    _ => (packed, i - direct),
                };
                let tiles = TileProduct {
                    a: left.pointer.wrapping_add(row / amx::ROWS * left.next),
                    a_row: left.row,
                    a_step: left.step,
                    a_next: left.next,
                    b: b_tiles.as_ptr().cast::<u8>().add(j / amx::ROWS * b_panel),
                    b_next: b_panel,
                    steps: depth.div_ceil(amx::TERMS),
                    sums: sums.pointer,
                    sums_row: sums.row * size_of::<f32>(),
                    accumulate,
                };
                if scaled {
                    let scales = Scales {
                        a: a_scales.as_ptr().add(i),
                        a_row: m.next_multiple_of(EDGE),
                        b: b_scales.as_ptr().add(j),
                        b_row: n.next_multiple_of(EDGE),
                    };
                    promote(tiles, scales, size, groups);
                } else {
                    tiles.run(size.0 > amx::ROWS, size.1 > amx::ROWS);
                }
                if home == Home::Square {
                    store_square(c.at(i, j), sums, size);
                }
            }
        }
        if kept {
            for (i, j) in by_rows() {
                store_square(c.at(i, j), kept_sums(i, j), size(i, j));
            }
        }
    }
}

/// Where the first operand's rows are read.
#[derive(Clone, Copy)]
struct Left {
    pointer: *const u8,
    /// Bytes between rows, between each 32 terms, and between each 16 rows.
    row: usize,
    step: usize,
    next: usize,
}

impl Left {
    /// Tiles, in panels of `next` bytes.
    const fn packed(pointer: *const u8, next: usize) -> Self {
        Self {
            pointer,
            row: amx::BYTES / amx::ROWS,
            step: amx::BYTES,
            next,
        }
    }

    /// The matrix itself, for terms that are whole tiles, in rows close enough for the L1 cache to hold those of a tile.
    fn in_place(view: View<'_, Bf16>, depth: usize) -> Option<Self> {
        /// Bytes between rows: those of two tiles then lie in 64 KiB.
        const FURTHEST: usize = 2048;
        let row = view.row * size_of::<Bf16>();
        let whole = view.column == 1 && depth.is_multiple_of(amx::TERMS);
        (whole && row <= FURTHEST).then(|| Self {
            pointer: view.data[view.offset..].as_ptr().cast(),
            row,
            step: amx::TERMS * size_of::<Bf16>(),
            next: amx::ROWS * row,
        })
    }
}

/// As [`store`], a row of 32 BF16 values at once.
///
/// # Safety
/// As for [`store`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16,avx2,fma")]
unsafe fn store_square(c: Rows, sums: Sums, (height, width): (usize, usize)) {
    const SUBNORMAL: i32 = 0x20;
    let (Pointer::Bf16(pointer), EDGE) = (c.pointer, width) else {
        // SAFETY: passed on from the caller.
        unsafe { store::<Avx512Bf16>(c, sums, (height, width)) };
        return;
    };
    for i in 0..height {
        // SAFETY: rows of both are inside, as the caller guarantees.
        unsafe {
            let source = sums.at(i, 0).pointer;
            let (low, high) = (_mm512_loadu_ps(source), _mm512_loadu_ps(source.add(EDGE / 2)));
            // The instruction takes subnormal values for zero.
            if _mm512_fpclass_ps_mask::<SUBNORMAL>(low) | _mm512_fpclass_ps_mask::<SUBNORMAL>(high) == 0 {
                let row = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
                _mm512_storeu_si512(pointer.add(i * c.row).cast(), row);
            } else {
                store::<Avx512Bf16>(c.at(i, 0), sums.at(i, 0), (1, EDGE));
            }
        }
    }
}

/// At least `len` elements.
fn grow<T: Copy>(memory: &mut Vec<T>, len: usize, value: T) {
    if memory.len() < len {
        memory.resize(len, value);
    }
}

/// Packs vectors `first..first + count` and terms `term..term + depth`; returns the bytes of a panel.
///
/// # Safety
/// The operand holds them.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16,avx2,fma")]
unsafe fn pack_operand(
    tiles: &mut Vec<Line>,
    scales: &mut Vec<f32>,
    operand: &Operand<'_>,
    (first, count): (usize, usize),
    (term, depth): (usize, usize),
    form: Form,
) -> usize {
    grow(tiles, bytes(count, depth) / size_of::<Line>(), Line { _bytes: [0; 64] });
    let tiles = tiles.as_mut_ptr().cast();
    // SAFETY: passed on from the caller; the memory is long enough.
    unsafe {
        match operand {
            Operand::Bf16(view) => pack(tiles, view.skip_rows(first).skip_columns(term), (count, depth), form),
            Operand::E4m3(operand) => {
                let Quantized { codes, .. } = operand;
                pack(tiles, codes.skip_rows(first).skip_columns(term), (count, depth), form);
                // One panel of all vectors.
                let height = count.next_multiple_of(EDGE);
                pack_scales(scales, operand, (first, term), (count, depth), height, height);
            }
            Operand::F32(_) => unreachable!("tiles are of BF16"),
        }
    }
    bytes(amx::ROWS, depth)
}

/// Scales of a square's rows and columns: those of the next group are a row further.
#[derive(Clone, Copy)]
struct Scales {
    a: *const f32,
    a_row: usize,
    b: *const f32,
    b_row: usize,
}

/// Sums of each group of terms, scaled and added: `Reference::quantized_product`. The tiles of a group are on their way while the sums of the one before are
/// scaled.
///
/// # Safety
/// As for [`TileProduct::run`]; there are scales for every group, and `squares` are valid.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16,avx2,fma")]
unsafe fn promote(tiles: TileProduct, scales: Scales, (height, width): (usize, usize), squares: [*mut f32; 2]) {
    type S = Avx512Bf16;
    const STEPS: usize = GROUP / amx::TERMS;
    let TileProduct { sums, sums_row, .. } = tiles;
    let groups = tiles.steps.div_ceil(STEPS);
    let multiply = |group: usize| {
        let first = group * STEPS;
        let offset = first * amx::BYTES;
        let part = TileProduct {
            a: tiles.a.wrapping_add(offset),
            b: tiles.b.wrapping_add(offset),
            steps: STEPS.min(tiles.steps - first),
            sums: squares[group % 2],
            sums_row: EDGE * size_of::<f32>(),
            accumulate: false,
            ..tiles
        };
        // SAFETY: passed on from the caller.
        unsafe { part.run(height > amx::ROWS, width > amx::ROWS) };
    };
    multiply(0);
    for group in 0..groups {
        if group + 1 < groups {
            multiply(group + 1);
        }
        let add = group > 0 || tiles.accumulate;
        let square = squares[group % 2];
        // SAFETY: passed on from the caller; rows below `height` are not needed.
        unsafe {
            let b = scales.b.add(group * scales.b_row);
            let b = [S::load(b), S::load(b.wrapping_add(S::LANES))];
            for i in 0..height {
                let a = S::splat(*scales.a.add(group * scales.a_row + i));
                for (index, &b) in b.iter().enumerate().take(width.div_ceil(S::LANES)) {
                    let scaled = S::mul(S::load(square.add(i * EDGE + index * S::LANES)), S::mul(a, b));
                    let sum = sums.wrapping_byte_add(i * sums_row).add(index * S::LANES);
                    let before = if add { S::load(sum) } else { S::splat(0.0) };
                    S::store(sum, S::add(before, scaled));
                }
            }
        }
    }
}
