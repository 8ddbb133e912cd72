//! Quantisation of at most 128 x 128 elements, as plain Rust over 128 values at a time, which the compiler vectorises: every instruction
//! set yields the same bits. The source is read twice, the second time from cache.

use super::Cpu;
use super::codes::{Codes, Values, encode_e4m3_broken_row, encode_e4m3_row, finite_maximum, load, maximum, zero_values};
use super::simd::{Job, Simd, dispatch};
use crate::formats::{GROUP, Grouping, INFINITY, MAGNITUDE, QuantizeDims, Scaling, Source, Statistics, e4m3};

/// Codes and scales of up to 128 x 128 elements.
pub struct Tile {
    pub codes: [Codes; GROUP],
    /// Per row, per column, or one.
    pub scales: Values,
}

impl Tile {
    pub const fn new() -> Self {
        Self {
            codes: [[0; GROUP]; GROUP],
            scales: [0.0; GROUP],
        }
    }

    /// Copies codes to rows of a matrix of `columns` columns, from `column` on.
    #[inline(always)]
    pub fn store_codes(&self, codes: &mut [u8], column: usize, columns: usize) {
        for (to, from) in codes.chunks_exact_mut(columns).zip(&self.codes) {
            match to[column..].first_chunk_mut() {
                Some(to) => *to = *from,
                None => to[column..].copy_from_slice(&from[..columns - column]),
            }
        }
    }

    /// Quantises `rows` x `columns` elements from `row`, `column` on.
    pub fn fill(&mut self, cpu: &Cpu, x: Source<'_>, place: (usize, usize, usize, usize), dims: QuantizeDims) -> Statistics {
        let fill = Fill {
            tile: self,
            x,
            place,
            dims,
        };
        dispatch(cpu.isa(), fill)
    }
}

/// What computes rows of values, in tiles of 1 x 128.
pub trait Rows {
    /// `count` values of row `row` from `column` on, then zeros: where they are, or else in `values`. Called once for each tile, in order.
    /// Implementations are `#[inline(always)]`: a closure would be compiled without the instruction set's features.
    fn tile<'a, S: Simd>(&'a mut self, values: &'a mut Values, row: usize, column: usize, count: usize) -> &'a Values;
}

/// Rows of a matrix as they are.
pub struct SourceRows<'a> {
    pub x: Source<'a>,
    /// The first row in the source.
    pub row: usize,
    pub columns: usize,
}

impl Rows for SourceRows<'_> {
    #[inline(always)]
    fn tile<'a, S: Simd>(&'a mut self, values: &'a mut Values, row: usize, column: usize, count: usize) -> &'a Values {
        load::<S>(values, &self.x, (self.row + row, column, count), self.columns)
    }
}

/// Rows in tiles of 1 x 128, each of which is computed once and goes through registers and L1 to its codes.
pub struct FillRows<'a, R> {
    /// Whole rows, as many as are quantised.
    pub codes: &'a mut [u8],
    /// A scale for each tile of these rows.
    pub scales: &'a mut [f32],
    pub rows: R,
    pub columns: usize,
    pub scaling: Scaling,
}

impl<R: Rows> FillRows<'_, R> {
    #[inline(always)]
    fn quantize<S: Simd, const EXACT: bool>(mut self) -> Statistics {
        let (columns, tiles) = (self.columns, self.columns.div_ceil(GROUP));
        let (mut values, mut ragged) = ([0.0; GROUP], [0; GROUP]);
        let mut statistics = Statistics::default();
        statistics.elements = self.codes.len() as u64;
        let rows = self.codes.chunks_exact_mut(columns).zip(self.scales.chunks_exact_mut(tiles));
        for (i, (codes, scales)) in rows.enumerate() {
            for (tile, (codes, scale)) in codes.chunks_mut(GROUP).zip(scales).enumerate() {
                let count = codes.len();
                let values = self.rows.tile::<S>(&mut values, i, tile * GROUP, count);
                match codes.first_chunk_mut() {
                    Some(codes) => *scale = quantize_row::<S, EXACT>(codes, values, self.scaling, &mut statistics),
                    None => {
                        *scale = quantize_row::<S, EXACT>(&mut ragged, values, self.scaling, &mut statistics);
                        codes.copy_from_slice(&ragged[..count]);
                    }
                }
            }
        }
        statistics
    }
}

impl<R: Rows> Job for FillRows<'_, R> {
    type Output = Statistics;

    #[inline(always)]
    fn run<S: Simd>(self) -> Statistics {
        match self.scaling {
            Scaling::Plain => self.quantize::<S, false>(),
            Scaling::PowerOfTwo => self.quantize::<S, true>(),
        }
    }
}

/// Codes of one tile, and its scale. Zeros past the end of a ragged one count nowhere.
#[inline(always)]
fn quantize_row<S: Simd, const EXACT: bool>(codes: &mut Codes, values: &Values, scaling: Scaling, statistics: &mut Statistics) -> f32 {
    let largest = maximum(values);
    let finite = largest < INFINITY;
    let amax = f32::from_bits(if finite { largest } else { finite_maximum(values) });
    let scale = scaling.scale(amax, Grouping::Row, e4m3::LARGEST);
    statistics.add_group(amax, scale, e4m3::LARGEST);
    let factor = if EXACT { 1.0 / scale } else { scale };
    if finite {
        let counts = encode_e4m3_row::<S>(codes, values, |_, value| scaled::<EXACT>(value, factor));
        count_finite(counts, values, statistics);
    } else {
        encode_e4m3_broken_row(codes, values, |_, value| scaled::<EXACT>(value, factor)).add_to(statistics);
    }
    scale
}

/// Counts what became of finite values, from their codes of the largest magnitude and of zero. Few rows have a zero code: the values are looked
/// at again only then.
#[inline(always)]
fn count_finite((largest, zeros): (u32, u32), values: &Values, statistics: &mut Statistics) {
    statistics.saturated += u64::from(largest);
    if zeros > 0 {
        statistics.underflowed += u64::from(zeros - zero_values(values));
    }
}

/// [`Tile::fill`].
struct Fill<'a> {
    tile: &'a mut Tile,
    x: Source<'a>,
    place: (usize, usize, usize, usize),
    dims: QuantizeDims,
}

impl Fill<'_> {
    /// Row `i` of the tile; `values` is where it may be put.
    #[inline(always)]
    fn load<'b, S: Simd>(&'b self, values: &'b mut Values, i: usize) -> &'b Values {
        let (row, column, _, columns) = self.place;
        load::<S>(values, &self.x, (row + i, column, columns), self.dims.columns)
    }

    /// The maximum of each group of the tile, by a function for one row and one for one value.
    #[inline(always)]
    fn maxima<S: Simd>(&self, of_row: impl Fn(&Values) -> u32, of_value: impl Fn(f32) -> u32) -> [u32; GROUP] {
        let (mut maxima, mut values) = ([0; GROUP], [0.0; GROUP]);
        for i in 0..self.place.2 {
            let values = self.load::<S>(&mut values, i);
            match self.dims.grouping {
                Grouping::Row => maxima[i] = of_row(values),
                Grouping::Column => {
                    for (maximum, &value) in maxima.iter_mut().zip(values) {
                        *maximum = of_value(value).max(*maximum);
                    }
                }
                Grouping::Block => maxima[0] = of_row(values).max(maxima[0]),
            }
        }
        maxima
    }

    /// Passes over all rows, each without a chain from row to row: maxima, codes. With `EXACT` inverses of the scales are exact, so
    /// that they are multiplied by.
    #[inline(always)]
    fn quantize<S: Simd, const EXACT: bool>(self) -> Statistics {
        let (row, column, rows, columns) = self.place;
        let QuantizeDims { grouping, scaling, .. } = self.dims;
        let mut maxima = self.maxima::<S>(maximum, |value| value.to_bits() & MAGNITUDE);
        let finite = maxima.iter().all(|&maximum| maximum < INFINITY);
        if !finite {
            maxima = self.maxima::<S>(
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
            let values = load::<S>(&mut values, &self.x, (row + i, column, columns), self.dims.columns);
            let codes = &mut self.tile.codes[i];
            if !finite {
                let factor = |j: usize| factors[if grouping == Grouping::Column { j } else { i % groups }];
                encode_e4m3_broken_row(codes, values, |j, value| scaled::<EXACT>(value, factor(j))).add_to(&mut statistics);
            } else if grouping == Grouping::Column {
                let counts = encode_e4m3_row::<S>(codes, values, |j, value| scaled::<EXACT>(value, factors[j]));
                count_finite(counts, values, &mut statistics);
            } else {
                let factor = factors[i % groups];
                let counts = encode_e4m3_row::<S>(codes, values, |_, value| scaled::<EXACT>(value, factor));
                count_finite(counts, values, &mut statistics);
            }
        }
        statistics
    }
}

impl Job for Fill<'_> {
    type Output = Statistics;

    #[inline(always)]
    fn run<S: Simd>(self) -> Statistics {
        match self.dims.scaling {
            Scaling::Plain => self.quantize::<S, false>(),
            Scaling::PowerOfTwo => self.quantize::<S, true>(),
        }
    }
}

/// A value by the scale that `factor` stands for.
#[inline(always)]
fn scaled<const EXACT: bool>(value: f32, factor: f32) -> f32 {
    if EXACT { value * factor } else { value / factor }
}
