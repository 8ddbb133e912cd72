//! One block of C: slices of K, panels, register tiles.

use super::Product;
use super::grid::Task;
use super::operand::Operand;
use super::precision::{Panels, Part, Precision};
use super::tile::PanelTile;
use super::view::Pointer;
use crate::Write;
use crate::cpu::simd::{Job, Simd};
use crate::formats::{Activation, Bf16, GROUP};
use std::cell::RefCell;
use std::marker::PhantomData;
use std::mem::MaybeUninit;

/// Elements of the largest register tile.
const EDGE: usize = 12 * 32;

/// Memory of one thread.
#[derive(Default)]
struct Workspace {
    a: Panels,
    b: Panels,
    /// Decoded codes on their way to a panel.
    strip: Vec<Bf16>,
    /// Sums of a block of C, where C cannot hold them.
    sums: Vec<f32>,
}

thread_local! {
    static WORKSPACE: RefCell<Workspace> = RefCell::default();
}

/// A block of a product.
pub struct Block<'a, P> {
    product: &'a Product<'a>,
    task: Task,
    precision: PhantomData<P>,
}

impl<'a, P> Block<'a, P> {
    /// The operands must be of the precision's type, and operands and output hold the product.
    pub const fn new(product: &'a Product<'a>, task: Task) -> Self {
        Self {
            product,
            task,
            precision: PhantomData,
        }
    }
}

impl<P: Precision> Job for Block<'_, P> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        // Taken out, not borrowed: a closure would be compiled without the instruction set's features.
        let mut workspace = WORKSPACE.take();
        // SAFETY: `Block::new`'s caller has checked that the block is inside C; no other task writes to it.
        unsafe { self.compute::<S>(&mut workspace) };
        WORKSPACE.set(workspace);
    }
}

/// Rows of C.
#[derive(Clone, Copy)]
pub struct Rows {
    pub pointer: Pointer,
    /// Distance between rows.
    pub row: usize,
}

impl Rows {
    /// The same from an element on, which need not exist.
    #[inline(always)]
    pub const fn at(self, i: usize, j: usize) -> Self {
        Self {
            pointer: self.pointer.skip(i * self.row + j),
            row: self.row,
        }
    }
}

/// Sums in rows of whole vectors.
#[derive(Clone, Copy)]
pub struct Sums {
    pub pointer: *mut f32,
    /// Distance between rows.
    pub row: usize,
}

impl Sums {
    /// The same from an element on, which need not exist.
    #[inline(always)]
    pub const fn at(self, i: usize, j: usize) -> Self {
        Self {
            pointer: self.pointer.wrapping_add(i * self.row + j),
            row: self.row,
        }
    }
}

impl<P: Precision> Block<'_, P> {
    /// # Safety
    /// The block is inside C, and nobody else reads or writes it; only inside `dispatch`.
    #[inline(always)]
    unsafe fn compute<S: Simd>(&self, workspace: &mut Workspace) {
        let Task {
            rows: (i0, m),
            columns: (j0, n),
        } = self.task;
        let Product { a, b, c, write, .. } = self.product;
        let k = self.product.size.k;
        let c = Rows {
            pointer: c.pointer,
            row: c.row,
        }
        .at(i0, j0);
        // Slices as equal as they come, from k alone.
        let slice = k.div_ceil(k.div_ceil(P::DEPTH).max(1)).next_multiple_of(P::STEP).max(1);
        // Between slices sums are FP32.
        let kept = matches!(c.pointer, Pointer::Bf16(_)) && k > slice;
        let sums = Sums {
            pointer: workspace.sums(if kept { m * n.next_multiple_of(S::LANES) } else { 0 }),
            row: n.next_multiple_of(S::LANES),
        };
        // SAFETY: C holds the block and the memory of the sums whole vectors of it.
        unsafe {
            if kept && *write == Write::Accumulate {
                load::<S>(sums, c, (m, n));
            }
            if k == 0 && *write == Write::Overwrite {
                clear(c, (m, n));
                return;
            }
        }
        let (height, width) = (S::GEMM_ROWS, 2 * S::LANES);
        for term in (0..k).step_by(slice) {
            let depth = slice.min(k - term);
            let Workspace {
                a: a_panels,
                b: b_panels,
                strip,
                ..
            } = workspace;
            let part = |(first, rows)| Part { first, rows, term, depth };
            let a_part = Pack::<P> {
                panels: a_panels,
                strip,
                operand: a,
                part: part((i0, m)),
                height,
                step: 1,
                precision: PhantomData,
            };
            // SAFETY: the caller runs inside `dispatch`.
            unsafe { S::call(a_part) };
            let b_part = Pack::<P> {
                panels: b_panels,
                strip,
                operand: b,
                part: part((j0, n)),
                height: width,
                step: S::LANES,
                precision: PhantomData,
            };
            // SAFETY: as above.
            unsafe { S::call(b_part) };
            let (elements, groups) = (P::elements::<S>(depth), depth.div_ceil(GROUP));
            let accumulate = term > 0 || *write == Write::Accumulate;
            for i in (0..m).step_by(height) {
                for j in (0..n).step_by(width) {
                    let tile = PanelTile {
                        c: std::ptr::null_mut(),
                        c_row: 0,
                        a: a_panels.values[i * elements..].as_ptr(),
                        b: b_panels.values[j * elements..].as_ptr(),
                        elements,
                        a_scales: a_panels.scales.as_ptr().wrapping_add(i * groups),
                        b_scales: b_panels.scales.as_ptr().wrapping_add(j * groups),
                        accumulate,
                    };
                    let kept = kept.then(|| sums.at(i, j));
                    // SAFETY: the panels hold the elements and scales of so many rows and columns; C holds the tile, and no other task
                    // writes to it.
                    unsafe { run::<S, P>(tile, c.at(i, j), kept, (height.min(m - i), width.min(n - j))) };
                }
            }
        }
        if kept {
            // SAFETY: as for loading.
            unsafe { store::<S>(c, sums, (m, n)) };
        }
    }
}

impl Workspace {
    /// Memory for `len` sums.
    fn sums(&mut self, len: usize) -> *mut f32 {
        if self.sums.len() < len {
            self.sums.resize(len, 0.0);
        }
        self.sums.as_mut_ptr()
    }
}

/// A part of an operand, to be packed.
struct Pack<'a, P> {
    panels: &'a mut Panels,
    strip: &'a mut Vec<Bf16>,
    operand: &'a Operand<'a>,
    part: Part,
    height: usize,
    step: usize,
    precision: PhantomData<P>,
}

impl<P: Precision> Job for Pack<'_, P> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        P::pack::<S>(self.panels, self.strip, self.operand, self.part, self.height, self.step);
    }
}

/// Runs a tile: on sums that are kept; else on C, or on a copy if C is BF16, the tile no whole vectors or touched more than once.
///
/// # Safety
/// As for [`Precision::tile`], but C needs to hold only `height x width`.
#[inline(always)]
unsafe fn run<S: Simd, P: Precision>(tile: PanelTile, c: Rows, kept: Option<Sums>, (height, width): (usize, usize)) {
    // Not set to zero, which takes as long as a tenth of a small tile.
    let mut copy = [MaybeUninit::<f32>::uninit(); EDGE];
    let in_place = match c.pointer {
        Pointer::F32(pointer) if width.is_multiple_of(S::LANES) && P::once::<S>(tile.elements) => Some(Sums { pointer, row: c.row }),
        _ => kept,
    };
    let sums = in_place.unwrap_or(Sums {
        pointer: copy.as_mut_ptr().cast(),
        row: 2 * S::LANES,
    });
    // SAFETY: passed on from the caller; the copy holds whole vectors.
    unsafe {
        if in_place.is_none() && tile.accumulate {
            load::<S>(sums, c, (height, width));
        }
        let tile = PanelTile {
            c: sums.pointer,
            c_row: sums.row,
            ..tile
        };
        if width > S::LANES {
            P::tile::<S, 2>(tile, height);
        } else {
            P::tile::<S, 1>(tile, height);
        }
        if in_place.is_none() {
            store::<S>(c, sums, (height, width));
        }
    }
}

/// Sums begin with what C holds.
///
/// # Safety
/// Both hold `height x width`; as for [`Simd`].
#[inline(always)]
pub unsafe fn load<S: Simd>(sums: Sums, c: Rows, size: (usize, usize)) {
    // SAFETY: passed on from the caller.
    unsafe {
        match c.pointer {
            Pointer::F32(pointer) => load_as::<S, f32>(sums, (pointer, c.row), size),
            Pointer::Bf16(pointer) => load_as::<S, Bf16>(sums, (pointer, c.row), size),
        }
    }
}

/// # Safety
/// As for [`load`].
#[inline(always)]
unsafe fn load_as<S: Simd, Y: Activation>(sums: Sums, (c, c_row): (*const Y, usize), (height, width): (usize, usize)) {
    let vectors = width / S::LANES * S::LANES;
    for i in 0..height {
        let (c, sums) = (c.wrapping_add(i * c_row), sums.at(i, 0).pointer);
        // SAFETY: inside both, as the caller guarantees.
        unsafe {
            for j in (0..vectors).step_by(S::LANES) {
                S::store(sums.add(j), S::load_as(c.add(j)));
            }
            for j in vectors..width {
                *sums.add(j) = (*c.add(j)).to_f32();
            }
        }
    }
}

/// C becomes the rounded sums.
///
/// # Safety
/// As for [`load`].
#[inline(always)]
pub unsafe fn store<S: Simd>(c: Rows, sums: Sums, size: (usize, usize)) {
    // SAFETY: passed on from the caller.
    unsafe {
        match c.pointer {
            Pointer::F32(pointer) => store_as::<S, f32>((pointer, c.row), sums, size),
            Pointer::Bf16(pointer) => store_as::<S, Bf16>((pointer, c.row), sums, size),
        }
    }
}

/// # Safety
/// As for [`load`].
#[inline(always)]
unsafe fn store_as<S: Simd, Y: Activation>((c, c_row): (*mut Y, usize), sums: Sums, (height, width): (usize, usize)) {
    let vectors = width / S::LANES * S::LANES;
    for i in 0..height {
        let (c, sums) = (c.wrapping_add(i * c_row), sums.at(i, 0).pointer);
        // SAFETY: inside both, as the caller guarantees.
        unsafe {
            for j in (0..vectors).step_by(S::LANES) {
                S::store_as(c.add(j), S::load(sums.add(j)));
            }
            for j in vectors..width {
                *c.add(j) = Y::from_f32(*sums.add(j));
            }
        }
    }
}

/// An empty sum is zero.
///
/// # Safety
/// C holds `height x width`.
pub unsafe fn clear(c: Rows, (height, width): (usize, usize)) {
    for i in 0..height {
        // SAFETY: inside C, as the caller guarantees.
        unsafe {
            match c.at(i, 0).pointer {
                Pointer::F32(pointer) => std::slice::from_raw_parts_mut(pointer, width).fill(0.0),
                Pointer::Bf16(pointer) => std::slice::from_raw_parts_mut(pointer, width).fill(Bf16::default()),
            }
        }
    }
}
