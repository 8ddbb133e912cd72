//! Matrix multiplication `C (=|+=) A B` in f32, with operands of any stride.
//!
//! ```text
//! for each task: a block of C of up to ROWS x COLUMNS             (parallel)
//!   for each slice of K of up to DEPTH                            (in order: the sum's order does not depend on threads)
//!     pack A's block into panels of GEMM_ROWS rows,  [K][row]     (stays in L2)
//!     pack B's block into panels of 2 LANES columns, [K][column]
//!     for each panel of A (in L1), for each panel of B (from L2)
//!       register tile: GEMM_ROWS x 2 LANES accumulators, one fused multiply-add each per k
//! ```
//!
//! The grid of blocks is chosen for the threads at hand; an element's sum is the same in every grid.
//!
//! Deviations from the textbook (Goto and van de Geijn, 2008): both operands are packed per task, by the thread that uses them. That
//! repeats the packing of B for each row block (a share of 1 / ROWS of the multiply-adds) and saves every barrier.

use super::pack::pack;
use super::simd::{Isa, Job, Simd, dispatch};
use super::tile::Tile;
use crate::Write;
use std::cell::RefCell;
use std::marker::PhantomData;

/// Largest block of C per task: its packed operands share the L2 cache.
const ROWS: usize = 264;
const COLUMNS: usize = 512;
/// Largest slice of K: an A panel of 12 x 512 values is 24 KiB, most of L1. Half of it is 5 % slower on 1024^3: C is updated twice as often.
const DEPTH: usize = 512;
/// Blocks start at multiples of every set's register tile: rows of 4, 6 and 12, columns of 16 and 32.
const STEP_ROWS: usize = 12;
const STEP_COLUMNS: usize = 32;
/// Terms per task below which a thread's wake-up costs more than it saves: some 10 microseconds.
const LEAST_TERMS: usize = 1 << 18;
/// Time to pack an element, in multiply-adds.
const PACKING: f64 = 8.0;
/// Elements of the largest register tile.
const EDGE: usize = 12 * 32;

/// A strided view of a matrix inside a slice: element `(i, j)` is `data[offset + i * row + j * column]`.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The elements.
    pub data: &'a [f32],
    /// Index of element (0, 0).
    pub offset: usize,
    /// Distance between rows.
    pub row: usize,
    /// Distance between columns.
    pub column: usize,
}

impl<'a> View<'a> {
    /// Row-major.
    pub const fn rows(data: &'a [f32], width: usize) -> Self {
        Self {
            data,
            offset: 0,
            row: width,
            column: 1,
        }
    }

    /// The transpose of a row-major matrix of `width` columns.
    pub const fn transposed(data: &'a [f32], width: usize) -> Self {
        Self {
            data,
            offset: 0,
            row: 1,
            column: width,
        }
    }

    /// The transpose.
    pub const fn transpose(self) -> Self {
        Self {
            row: self.column,
            column: self.row,
            ..self
        }
    }

    /// The same from row `i` on.
    pub const fn skip_rows(self, i: usize) -> Self {
        Self {
            offset: self.offset + i * self.row,
            ..self
        }
    }

    /// The same from column `j` on.
    pub const fn skip_columns(self, j: usize) -> Self {
        Self {
            offset: self.offset + j * self.column,
            ..self
        }
    }

    /// Panics unless all of `rows x columns` is inside the data.
    fn check(&self, rows: usize, columns: usize) {
        if rows > 0 && columns > 0 {
            let last = self.offset + (rows - 1) * self.row + (columns - 1) * self.column;
            assert!(
                last < self.data.len(),
                "a {rows} x {columns} view reaches element {last} of {}",
                self.data.len()
            );
        }
    }
}

/// A row-major output that several tasks write to, each its own block.
#[derive(Clone, Copy)]
pub struct Output<'a> {
    pointer: *mut f32,
    len: usize,
    /// Distance between rows.
    row: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: it stands for the exclusive borrow, and tasks write disjoint blocks: a `Task` is only made by `tasks`, each block once.
unsafe impl Send for Output<'_> {}
// SAFETY: as above.
unsafe impl Sync for Output<'_> {}

impl<'a> Output<'a> {
    /// All of `data`, in rows of `width`. Products that run at the same time must not share rows.
    pub fn new(data: &'a mut [f32], width: usize) -> Self {
        Self {
            pointer: data.as_mut_ptr(),
            len: data.len(),
            row: width,
            borrow: PhantomData,
        }
    }

    /// The same from row `i` on.
    pub fn skip_rows(self, i: usize) -> Self {
        let skip = i * self.row;
        assert!(skip <= self.len, "row {i} of {} elements in rows of {}", self.len, self.row);
        Self {
            // SAFETY: inside the allocation, as just checked.
            pointer: unsafe { self.pointer.add(skip) },
            len: self.len - skip,
            ..self
        }
    }

    /// Panics unless `rows x columns` is inside.
    fn check(&self, rows: usize, columns: usize) {
        if rows > 0 && columns > 0 {
            let last = (rows - 1) * self.row + columns - 1;
            assert!(
                columns <= self.row && last < self.len,
                "a {rows} x {columns} block reaches element {last} of {}",
                self.len
            );
        }
    }
}

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
    pub a: View<'a>,
    /// `k x n`.
    pub b: View<'a>,
    /// `m x n`.
    pub c: Output<'a>,
    /// Whether C is replaced or added to.
    pub write: Write,
}

/// A block of C.
#[derive(Clone, Copy, Debug)]
pub struct Task {
    rows: (usize, usize),
    columns: (usize, usize),
}

/// The blocks of a product, for so many threads. An element's sum does not depend on the block that it is in.
pub fn tasks(size: Size, threads: usize) -> impl Iterator<Item = Task> {
    let (down, across) = grid(size, threads);
    (0..down).flat_map(move |i| {
        (0..across).map(move |j| Task {
            rows: part(size.m, down, STEP_ROWS, i),
            columns: part(size.n, across, STEP_COLUMNS, j),
        })
    })
}

/// Start and length of part `index` of `count`, as equal as multiples of `step` allow.
fn part(extent: usize, count: usize, step: usize, index: usize) -> (usize, usize) {
    let steps = extent.div_ceil(step);
    let start = |index: usize| extent.min(steps * index / count * step);
    (start(index), start(index + 1) - start(index))
}

/// Rows and columns of the grid of blocks: the one with the least time of the slowest thread, where a grid packs `m` rows once for each
/// of its columns and `n` columns once for each of its rows.
fn grid(size: Size, threads: usize) -> (usize, usize) {
    let Size { m, n, k } = size;
    if m == 0 || n == 0 {
        return (0, 0);
    }
    let threads = threads.min(m * n * k / LEAST_TERMS).max(1);
    let (least_down, least_across) = (m.div_ceil(ROWS), n.div_ceil(COLUMNS));
    let (most_down, most_across) = (m.div_ceil(STEP_ROWS), n.div_ceil(STEP_COLUMNS));
    let mut best = (f64::INFINITY, (least_down, least_across));
    for down in least_down..=most_down.min(least_down + 2 * threads) {
        for across in least_across..=most_across.min(least_across + 2 * threads) {
            let blocks = down * across;
            let idle = (blocks.div_ceil(threads) * threads) as f64 / blocks as f64;
            let time = idle * (1.0 + PACKING * (across as f64 / n as f64 + down as f64 / m as f64));
            if time < best.0 {
                best = (time, (down, across));
            }
        }
    }
    best.1
}

/// Computes one block of a product.
pub fn run(isa: Isa, product: &Product<'_>, task: Task) {
    let Size { m, n, k } = product.size;
    product.a.check(m, k);
    product.b.check(k, n);
    product.c.check(m, n);
    dispatch(isa, Block { product, task });
}

thread_local! {
    /// Packed panels of A and of B; they grow to the largest block and stay.
    static PANELS: RefCell<(Vec<f32>, Vec<f32>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

struct Block<'a> {
    product: &'a Product<'a>,
    task: Task,
}

impl Job for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        // Taken out, not borrowed: a closure would be compiled without the instruction set's features.
        let (mut a_panels, mut b_panels) = PANELS.take();
        block_product::<S>(self.product, self.task, &mut a_panels, &mut b_panels);
        PANELS.set((a_panels, b_panels));
    }
}

#[inline(always)]
fn block_product<S: Simd>(product: &Product<'_>, task: Task, a_panels: &mut Vec<f32>, b_panels: &mut Vec<f32>) {
    let Task {
        rows: (i0, m),
        columns: (j0, n),
    } = task;
    let k = product.size.k;
    if k == 0 && product.write == Write::Overwrite {
        // An empty sum is zero.
        for i in 0..m {
            // SAFETY: `run` has checked that the product's block is inside C, and no other task writes these elements.
            unsafe { std::slice::from_raw_parts_mut(product.c.pointer.add((i0 + i) * product.c.row + j0), n).fill(0.0) };
        }
    }
    let (height, width) = (S::GEMM_ROWS, 2 * S::LANES);
    // Slices as equal as they come, from k alone.
    let slice = k.div_ceil(k.div_ceil(DEPTH).max(1)).max(1);
    for k0 in (0..k).step_by(slice) {
        let depth = slice.min(k - k0);
        pack(a_panels, product.a.skip_rows(i0).skip_columns(k0), (m, depth), height, 1);
        // B's panels hold columns: its transpose is packed.
        pack(
            b_panels,
            product.b.skip_rows(k0).skip_columns(j0).transpose(),
            (n, depth),
            width,
            S::LANES,
        );
        let accumulate = k0 > 0 || product.write == Write::Accumulate;
        for i in (0..m).step_by(height) {
            for j in (0..n).step_by(width) {
                let tile = Tile {
                    // Inside C, as `run` has checked.
                    c: product.c.pointer.wrapping_add((i0 + i) * product.c.row + j0 + j),
                    c_row: product.c.row,
                    a: a_panels[i * depth..].as_ptr(),
                    a_row: 0,
                    a_term: 0,
                    b: b_panels[j * depth..].as_ptr(),
                    b_row: 0,
                    k: depth,
                    accumulate,
                };
                // SAFETY: the panels hold `depth` terms of so many rows and columns; C holds the tile, and no other task writes to it; a job
                // runs inside `dispatch`.
                unsafe { full_or_edge::<S>(tile, height.min(m - i), width.min(n - j)) };
            }
        }
    }
}

/// Runs a tile of `height x width`; one whose width is no multiple of `LANES` goes through a copy.
///
/// # Safety
/// As for [`Tile::rows`], with packed panels padded to whole vectors; C needs to hold only `height x width`.
#[inline(always)]
unsafe fn full_or_edge<S: Simd>(tile: Tile, height: usize, width: usize) {
    // SAFETY: passed on from the caller; the copy holds whole vectors.
    unsafe {
        if width == 2 * S::LANES {
            tile.rows::<S, 2, true>(height);
        } else if width == S::LANES {
            tile.rows::<S, 1, true>(height);
        } else {
            let (c, c_row, accumulate) = (tile.c, tile.c_row, tile.accumulate);
            let mut copy = [0.0_f32; EDGE];
            let padded = Tile {
                c: copy.as_mut_ptr(),
                c_row: 2 * S::LANES,
                accumulate: false,
                ..tile
            };
            if width > S::LANES {
                padded.rows::<S, 2, true>(height);
            } else {
                padded.rows::<S, 1, true>(height);
            }
            for (i, line) in copy.chunks_exact(2 * S::LANES).take(height).enumerate() {
                for (j, &value) in line[..width].iter().enumerate() {
                    let target = c.add(i * c_row + j);
                    *target = if accumulate { *target + value } else { value };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_cover_the_product_once_and_evenly() {
        let sizes = [
            (1, 1, 1),
            (2048, 96, 256),
            (96, 256, 2048),
            (2048, 4096, 256),
            (13, 100_003, 5),
            (0, 5, 5),
            (5, 0, 5),
            (5, 5, 0),
        ];
        for (size, threads) in sizes
            .into_iter()
            .flat_map(|(m, n, k)| [1, 2, 7].map(|threads| (Size { m, n, k }, threads)))
        {
            let (mut area, mut largest) = (0, 0);
            for task in tasks(size, threads) {
                let Task {
                    rows: (i, m),
                    columns: (j, n),
                } = task;
                assert!(
                    m > 0 && n > 0 && i + m <= size.m && j + n <= size.n && m <= ROWS && n <= COLUMNS,
                    "{size:?}: {task:?}"
                );
                assert!(i % STEP_ROWS == 0 && j % STEP_COLUMNS == 0);
                (area, largest) = (area + m * n, largest.max(m * n));
            }
            assert_eq!(area, size.m * size.n, "{size:?}");
            if size.m * size.n * size.k > 64 * LEAST_TERMS {
                assert!(
                    threads * largest <= 2 * area,
                    "{size:?} on {threads} threads: a block of {largest} of {area}"
                );
            }
        }
    }
}
