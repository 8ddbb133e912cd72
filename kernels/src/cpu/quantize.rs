//! Quantisation in tiles of at most 128 x 128, as plain Rust over 128 values at a time, which the compiler vectorises: every instruction
//! set yields the same bits. The source is read twice, the second time from cache.

use super::Cpu;
use super::codes::{
    Codes, Values, count_e4m3_row, count_e5m6_row, encode_e4m3_broken_row, encode_e4m3_row, encode_e5m6_broken_row, encode_e5m6_row,
    finite_maximum, load, maximum, pack_e5m6, scatter, zero_values,
};
use super::simd::{Job, Simd, dispatch};
use crate::formats::{Bf16, E5m6Dims, GROUP, Grouping, INFINITY, MAGNITUDE, QuantizeDims, Scaling, Source, Statistics, e4m3, e5m6};
use rayon::prelude::*;

/// Rows of a task where groups do not say otherwise.
const STRIP: usize = 32;

impl Cpu {
    /// As [`crate::Reference::quantize`].
    pub fn quantize(&self, codes: &mut [u8], scales: &mut [f32], x: Source<'_>, dims: QuantizeDims) -> Statistics {
        dims.check(codes.len(), scales.len(), &x);
        if codes.is_empty() {
            return Statistics::default();
        }
        if dims.transposed {
            self.quantize_transposed(codes, scales, x, dims)
        } else {
            self.quantize_straight(codes, scales, x, dims)
        }
    }

    /// One task per strip of rows: its codes and its scales are contiguous.
    fn quantize_straight(&self, codes: &mut [u8], scales: &mut [f32], x: Source<'_>, dims: QuantizeDims) -> Statistics {
        let strip = if dims.grouping == Grouping::Row { STRIP } else { GROUP };
        let (height, width) = dims.grouping.size();
        let scale_columns = dims.columns.div_ceil(width);
        let task = |(index, (codes, scales)): (usize, (&mut [u8], &mut [f32]))| {
            let mut tile = Tile::new();
            let rows = codes.len() / dims.columns;
            let mut statistics = Statistics::default();
            for column in (0..dims.columns).step_by(GROUP) {
                let columns = GROUP.min(dims.columns - column);
                let place = (index * strip, column, rows, columns);
                statistics = statistics.merge(tile.fill(self, x, place, dims));
                for (to, from) in codes.chunks_exact_mut(dims.columns).zip(&tile.codes) {
                    to[column..column + columns].copy_from_slice(&from[..columns]);
                }
                match dims.grouping {
                    Grouping::Row => {
                        for (row, &scale) in tile.scales[..rows].iter().enumerate() {
                            scales[row * scale_columns + column / GROUP] = scale;
                        }
                    }
                    Grouping::Column => scales[column..column + columns].copy_from_slice(&tile.scales[..columns]),
                    Grouping::Block => scales[column / GROUP] = tile.scales[0],
                }
            }
            statistics
        };
        self.pool().install(|| {
            codes
                .par_chunks_mut(strip * dims.columns)
                .zip(scales.par_chunks_mut(strip / height * scale_columns))
                .enumerate()
                .map(task)
                .reduce(Statistics::default, Statistics::merge)
        })
    }

    /// One task per strip of columns, which are rows of the outputs.
    fn quantize_transposed(&self, codes: &mut [u8], scales: &mut [f32], x: Source<'_>, dims: QuantizeDims) -> Statistics {
        let (height, width) = dims.grouping.size();
        let scale_rows = dims.rows.div_ceil(height);
        let task = |(index, (codes, scales)): (usize, (&mut [u8], &mut [f32]))| {
            let mut tile = Tile::new();
            let columns = codes.len() / dims.rows;
            let mut statistics = Statistics::default();
            for row in (0..dims.rows).step_by(GROUP) {
                let rows = GROUP.min(dims.rows - row);
                let place = (row, index * GROUP, rows, columns);
                statistics = statistics.merge(tile.fill(self, x, place, dims));
                scatter(&mut codes[row..], dims.rows, &tile.codes, (rows, columns));
                match dims.grouping {
                    Grouping::Row => scales[row..row + rows].copy_from_slice(&tile.scales[..rows]),
                    Grouping::Column => {
                        for (column, &scale) in tile.scales[..columns].iter().enumerate() {
                            scales[column * scale_rows + row / GROUP] = scale;
                        }
                    }
                    Grouping::Block => scales[row / GROUP] = tile.scales[0],
                }
            }
            statistics
        };
        self.pool().install(|| {
            codes
                .par_chunks_mut(GROUP * dims.rows)
                .zip(scales.par_chunks_mut(GROUP / width * scale_rows))
                .enumerate()
                .map(task)
                .reduce(Statistics::default, Statistics::merge)
        })
    }

    /// As [`crate::Reference::quantize_e5m6`].
    pub fn quantize_e5m6(&self, packed: &mut [u8], scales: &mut [f32], x: Source<'_>, dims: E5m6Dims) -> Statistics {
        dims.check(packed.len(), scales.len(), &x);
        if packed.is_empty() {
            return Statistics::default();
        }
        let E5m6Dims { rows: _, columns } = dims;
        self.pool().install(|| {
            packed
                .par_chunks_mut(STRIP * e5m6::packed_len(columns))
                .zip(scales.par_chunks_mut(STRIP * columns.div_ceil(GROUP)))
                .enumerate()
                .map(|(index, (packed, scales))| {
                    let row = index * STRIP;
                    dispatch(
                        self.isa(),
                        PackE5m6 {
                            packed,
                            scales,
                            x,
                            row,
                            columns,
                        },
                    )
                })
                .reduce(Statistics::default, Statistics::merge)
        })
    }

    /// As [`crate::Reference::dequantize`].
    pub fn dequantize(&self, y: &mut [f32], x: Source<'_>, rows: usize, columns: usize) {
        x.check(rows, columns);
        assert_eq!(y.len(), rows * columns, "elements of a matrix of {rows} x {columns}");
        if y.is_empty() {
            return;
        }
        self.pool().install(|| {
            y.par_chunks_mut(STRIP * columns).enumerate().for_each(|(index, y)| {
                let row = index * STRIP;
                dispatch(self.isa(), Load { y, x, row, columns });
            });
        });
    }

    /// `y = x^T`, for the codes of a matrix of `rows` x `columns`.
    pub fn transpose_codes(&self, y: &mut [u8], x: &[u8], rows: usize, columns: usize) {
        assert_eq!((y.len(), x.len()), (rows * columns, rows * columns), "codes of {rows} x {columns}");
        if y.is_empty() {
            return;
        }
        self.pool().install(|| {
            y.par_chunks_mut(GROUP * rows).enumerate().for_each(|(index, y)| {
                let columns_here = y.len() / rows;
                let mut tile = [[0; GROUP]; GROUP];
                for row in (0..rows).step_by(GROUP) {
                    let rows_here = GROUP.min(rows - row);
                    for (i, to) in tile[..rows_here].iter_mut().enumerate() {
                        let start = (row + i) * columns + index * GROUP;
                        to[..columns_here].copy_from_slice(&x[start..start + columns_here]);
                    }
                    scatter(&mut y[row..], rows, &tile, (rows_here, columns_here));
                }
            });
        });
    }

    /// Rounds to BF16; returns how many results are NaN or infinite.
    pub fn encode_bf16(&self, y: &mut [Bf16], x: &[f32]) -> u64 {
        assert_eq!(y.len(), x.len(), "conversion between buffers of one length");
        const CHUNK: usize = super::elementwise::CHUNK;
        self.pool().install(|| {
            y.par_chunks_mut(CHUNK)
                .zip(x.par_chunks(CHUNK))
                .map(|(y, x)| dispatch(self.isa(), EncodeBf16 { y, x }))
                .sum()
        })
    }
}

/// Codes and scales of up to 128 x 128 elements.
struct Tile {
    codes: [Codes; GROUP],
    /// Per row, per column, or one.
    scales: Values,
}

impl Tile {
    const fn new() -> Self {
        Self {
            codes: [[0; GROUP]; GROUP],
            scales: [0.0; GROUP],
        }
    }

    /// Quantises `rows` x `columns` elements from `row`, `column` on.
    fn fill(&mut self, cpu: &Cpu, x: Source<'_>, place: (usize, usize, usize, usize), dims: QuantizeDims) -> Statistics {
        let tile = self;
        match dims.scaling {
            Scaling::Plain => dispatch(cpu.isa(), Fill::<'_, false> { tile, x, place, dims }),
            Scaling::PowerOfTwo => dispatch(cpu.isa(), Fill::<'_, true> { tile, x, place, dims }),
        }
    }
}

/// [`Tile::fill`]; with `EXACT` inverses of the scales are exact, so that they are multiplied by.
struct Fill<'a, const EXACT: bool> {
    tile: &'a mut Tile,
    x: Source<'a>,
    place: (usize, usize, usize, usize),
    dims: QuantizeDims,
}

impl<const EXACT: bool> Fill<'_, EXACT> {
    /// Row `i` of the tile.
    #[inline(always)]
    fn load(&self, values: &mut Values, i: usize) {
        let (row, column, _, columns) = self.place;
        load(values, &self.x, (row + i, column, columns), self.dims.columns);
    }

    /// The maximum of each group of the tile, by a function for one row and one for one value.
    #[inline(always)]
    fn maxima(&self, of_row: impl Fn(&Values) -> u32, of_value: impl Fn(f32) -> u32) -> [u32; GROUP] {
        let (mut maxima, mut values) = ([0; GROUP], [0.0; GROUP]);
        for i in 0..self.place.2 {
            self.load(&mut values, i);
            match self.dims.grouping {
                Grouping::Row => maxima[i] = of_row(&values),
                Grouping::Column => {
                    for (maximum, &value) in maxima.iter_mut().zip(&values) {
                        *maximum = of_value(value).max(*maximum);
                    }
                }
                Grouping::Block => maxima[0] = of_row(&values).max(maxima[0]),
            }
        }
        maxima
    }
}

/// A value by the scale that `factor` stands for.
#[inline(always)]
fn scaled<const EXACT: bool>(value: f32, factor: f32) -> f32 {
    if EXACT { value * factor } else { value / factor }
}

impl<const EXACT: bool> Job for Fill<'_, EXACT> {
    type Output = Statistics;

    /// Passes over all rows, each without a chain from row to row: maxima, codes, counts.
    #[inline(always)]
    fn run<S: Simd>(self) -> Statistics {
        let (_, _, rows, columns) = self.place;
        let QuantizeDims { grouping, scaling, .. } = self.dims;
        let mut maxima = self.maxima(maximum, |value| value.to_bits() & MAGNITUDE);
        let finite = maxima.iter().all(|&maximum| maximum < INFINITY);
        if !finite {
            maxima = self.maxima(
                finite_maximum,
                |value| if value.is_finite() { value.to_bits() & MAGNITUDE } else { 0 },
            );
        }
        let mut statistics = Statistics::default();
        statistics.elements = (rows * columns) as u64;
        let groups = match grouping {
            Grouping::Row => rows,
            Grouping::Column => columns,
            Grouping::Block => 1,
        };
        let mut factors = [1.0; GROUP];
        for (group, factor) in factors[..groups].iter_mut().enumerate() {
            let amax = f32::from_bits(maxima[group]);
            let scale = scaling.scale(amax, grouping, e4m3::LARGEST);
            statistics.add_group(amax, scale, e4m3::LARGEST);
            self.tile.scales[group] = scale;
            *factor = if EXACT { 1.0 / scale } else { scale };
        }
        let mut values = [0.0; GROUP];
        for i in 0..rows {
            self.load(&mut values, i);
            let codes = &mut self.tile.codes[i];
            if !finite {
                let factor = |j: usize| factors[if grouping == Grouping::Column { j } else { i % groups }];
                encode_e4m3_broken_row(codes, &values, |j, value| scaled::<EXACT>(value, factor(j))).add_to(&mut statistics);
            } else if grouping == Grouping::Column {
                encode_e4m3_row(codes, &values, |j, value| scaled::<EXACT>(value, factors[j]));
            } else {
                let factor = factors[i % groups];
                encode_e4m3_row(codes, &values, |_, value| scaled::<EXACT>(value, factor));
            }
        }
        for i in (0..rows).filter(|_| finite) {
            let (largest, zeros) = count_e4m3_row(&self.tile.codes[i]);
            statistics.saturated += u64::from(largest);
            // Few rows have a zero code: the values are looked at again only then.
            if zeros > 0 {
                self.load(&mut values, i);
                statistics.underflowed += u64::from(zeros - zero_values(&values));
            }
        }
        statistics
    }
}

/// Rows of the source from `row` on, as values.
struct Load<'a> {
    y: &'a mut [f32],
    x: Source<'a>,
    row: usize,
    columns: usize,
}

impl Job for Load<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let mut values = [0.0; GROUP];
        for (i, y) in self.y.chunks_exact_mut(self.columns).enumerate() {
            for (index, y) in y.chunks_mut(GROUP).enumerate() {
                load(&mut values, &self.x, (self.row + i, index * GROUP, y.len()), self.columns);
                y.copy_from_slice(&values[..y.len()]);
            }
        }
    }
}

/// Rows of the source from `row` on, as packed codes.
struct PackE5m6<'a> {
    packed: &'a mut [u8],
    scales: &'a mut [f32],
    x: Source<'a>,
    row: usize,
    columns: usize,
}

impl Job for PackE5m6<'_> {
    type Output = Statistics;

    #[inline(always)]
    fn run<S: Simd>(self) -> Statistics {
        let Self {
            packed,
            scales,
            x,
            row,
            columns,
        } = self;
        let mut statistics = Statistics::default();
        let (mut values, mut codes) = ([0.0; GROUP], [0; GROUP]);
        let rows = packed.chunks_exact_mut(e5m6::packed_len(columns));
        for (i, (packed, scales)) in rows.zip(scales.chunks_exact_mut(columns.div_ceil(GROUP))).enumerate() {
            for (tile, (packed, scale)) in packed.chunks_mut(e5m6::packed_len(GROUP)).zip(scales).enumerate() {
                let count = GROUP.min(columns - tile * GROUP);
                load(&mut values, &x, (row + i, tile * GROUP, count), columns);
                let maximum = maximum(&values);
                let finite = maximum < INFINITY;
                let amax = f32::from_bits(if finite { maximum } else { finite_maximum(&values) });
                *scale = Scaling::PowerOfTwo.scale(amax, Grouping::Row, e5m6::LARGEST);
                statistics.elements += count as u64;
                statistics.add_group(amax, *scale, e5m6::LARGEST);
                let inverse = 1.0 / *scale;
                if finite {
                    encode_e5m6_row(&mut codes, &values, inverse);
                    let (largest, zeros) = count_e5m6_row(&codes);
                    statistics.saturated += u64::from(largest);
                    if zeros > 0 {
                        statistics.underflowed += u64::from(zeros - zero_values(&values));
                    }
                } else {
                    encode_e5m6_broken_row(&mut codes, &values, inverse).add_to(&mut statistics);
                }
                pack_e5m6(packed, &codes);
            }
        }
        statistics
    }
}

struct EncodeBf16<'a> {
    y: &'a mut [Bf16],
    x: &'a [f32],
}

impl Job for EncodeBf16<'_> {
    type Output = u64;

    #[inline(always)]
    fn run<S: Simd>(self) -> u64 {
        let mut non_finite = 0_u32; // a chunk is far shorter than 2^32
        for (y, &x) in self.y.iter_mut().zip(self.x) {
            *y = Bf16::from_f32(x);
            non_finite = non_finite.wrapping_add(u32::from(!y.is_finite()));
        }
        u64::from(non_finite)
    }
}
