//! How a product is split into blocks of C.

use super::Size;

/// How products are split.
#[derive(Clone, Copy, Debug)]
pub struct Grain {
    /// Largest block of C per task.
    rows: usize,
    columns: usize,
    /// Blocks start at multiples of the register tile.
    step_rows: usize,
    step_columns: usize,
    /// Time to pack an element, in multiply-adds.
    packing: f64,
}

impl Grain {
    /// For vectors. B's panels, 512 KiB, are read once for each panel of A and stay in the L2 cache; A's are read once. With rows and columns
    /// the other way round large products are some 2 % slower. Register tiles of the sets have 4, 6 and 12 rows, 16 and 32 columns.
    pub const VECTORS: Self = Self {
        rows: 528,
        columns: 256,
        step_rows: 12,
        step_columns: 32,
        packing: 8.0,
    };
    /// For tiles, if the sum has `k` terms: both operands' panels, 256 KiB each, and the sums between slices of K stay in the L2 cache. Without these
    /// there is room for more rows, and B is packed less often.
    pub const fn tiles(k: usize) -> Self {
        Self {
            rows: if k > super::tiles::DEPTH { 512 } else { 1024 },
            columns: 512,
            step_rows: 32,
            step_columns: 32,
            packing: 64.0,
        }
    }
}

/// Terms per task below which a thread's wake-up costs more than it saves: some 10 microseconds.
const LEAST_TERMS: usize = 1 << 18;

/// A block of C.
#[derive(Clone, Copy, Debug)]
pub struct Task {
    /// First row and number of rows.
    pub rows: (usize, usize),
    /// First column and number of columns.
    pub columns: (usize, usize),
}

/// The blocks of a product.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    size: Size,
    grain: Grain,
    /// Blocks in a column and in a row of them.
    down: usize,
    across: usize,
}

impl Grid {
    /// For so many threads.
    pub fn new(grain: Grain, size: Size, threads: usize) -> Self {
        let (down, across) = grid(grain, size, threads);
        Self { size, grain, down, across }
    }

    /// Blocks.
    pub const fn len(&self) -> usize {
        self.down * self.across
    }

    /// Block `index`, row by row.
    pub fn task(&self, index: usize) -> Task {
        let Self { size, grain, down, across } = *self;
        Task {
            rows: part(size.m, down, grain.step_rows, index / across),
            columns: part(size.n, across, grain.step_columns, index % across),
        }
    }
}

/// Start and length of part `index` of `count`, as equal as multiples of `step` allow.
fn part(extent: usize, count: usize, step: usize, index: usize) -> (usize, usize) {
    let steps = extent.div_ceil(step);
    let start = |index: usize| extent.min(steps * index / count * step);
    (start(index), start(index + 1) - start(index))
}

/// Rows and columns of the grid of blocks: the one with the least time of the slowest thread, where a grid packs `m` rows once for each
/// of its columns and `n` columns once for each of its rows.
fn grid(grain: Grain, size: Size, threads: usize) -> (usize, usize) {
    let Size { m, n, k } = size;
    let Grain {
        rows,
        columns,
        step_rows,
        step_columns,
        packing,
    } = grain;
    if m == 0 || n == 0 {
        return (0, 0);
    }
    let threads = threads.min(m * n * k / LEAST_TERMS).max(1);
    let (least_down, least_across) = (m.div_ceil(rows), n.div_ceil(columns));
    let (most_down, most_across) = (m.div_ceil(step_rows), n.div_ceil(step_columns));
    let mut best = (f64::INFINITY, (least_down, least_across));
    for down in least_down..=most_down.min(least_down + 2 * threads) {
        for across in least_across..=most_across.min(least_across + 2 * threads) {
            let blocks = down * across;
            let idle = (blocks.div_ceil(threads) * threads) as f64 / blocks as f64;
            let time = idle * (1.0 + packing * (across as f64 / n as f64 + down as f64 / m as f64));
            if time < best.0 {
                best = (time, (down, across));
            }
        }
    }
    best.1
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
        let cases = sizes
            .into_iter()
            .flat_map(|(m, n, k)| [1, 2, 7].map(|threads| (Size { m, n, k }, threads)));
        for (grain, (size, threads)) in cases.flat_map(|case| [(Grain::VECTORS, case), (Grain::tiles(case.0.k), case)]) {
            let (mut area, mut largest) = (0, 0);
            let grid = Grid::new(grain, size, threads);
            for task in (0..grid.len()).map(|index| grid.task(index)) {
                let Task {
                    rows: (i, m),
                    columns: (j, n),
                } = task;
                assert!(
                    m > 0 && n > 0 && i + m <= size.m && j + n <= size.n && m <= grain.rows && n <= grain.columns,
                    "{size:?}: {task:?}"
                );
                assert!(i % grain.step_rows == 0 && j % grain.step_columns == 0);
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
