//! Scale groups of a row-major matrix, and what a quantisation reports.

use super::{Activation, Bf16, DataType, e4m3, e5m6};
use crate::dims::{GroupedDims, at_least, size};
use std::fmt;

/// Rows or columns of a group.
pub const GROUP: usize = 128;

/// Least amax of a tile: below it, a tile of activations or gradients is noise that need not fill the range.
const FLOOR: f32 = 1e-4;

/// Scale rows of a matrix whose consecutive rows belong to `groups` experts and that is quantised in tiles of 128 rows x 1 column which
/// never cross from one expert to the next: `[column_scale_rows(rows, groups), columns]`. See [`column_scale_row`].
#[must_use]
pub const fn column_scale_rows(rows: usize, groups: usize) -> usize {
    rows / GROUP + groups
}

/// First scale row of expert `group`, whose first row is `offset`.
///
/// An expert of `n` rows has `ceil(n / 128)` scale rows. They end before those of the next, which start at
/// `floor((offset + n) / 128) + group + 1`, because `ceil(n / 128) <= floor(n / 128) + 1` and
/// `floor(offset / 128) + floor(n / 128) <= floor((offset + n) / 128)`. So ranges of experts are disjoint, and the last ends within
/// [`column_scale_rows`]. Where a range starts depends on the expert alone, not on how the rows before it are split; at most one row an
/// expert is left unused.
#[must_use]
pub const fn column_scale_row(offset: usize, group: usize) -> usize {
    offset / GROUP + group
}

/// The elements that share a scale. Groups at the lower and right edge have what is left; missing elements count as zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grouping {
    /// Tiles of 1 row x 128 columns: operands reduced along their columns.
    Row,
    /// Tiles of 128 rows x 1 column: operands reduced along their rows.
    Column,
    /// Blocks of 128 x 128: weights, which are reduced along both.
    Block,
}

impl Grouping {
    /// Rows and columns of a group.
    #[must_use]
    pub const fn size(self) -> (usize, usize) {
        match self {
            Self::Row => (1, GROUP),
            Self::Column => (GROUP, 1),
            Self::Block => (GROUP, GROUP),
        }
    }

    /// Rows and columns of the scales of a matrix of `rows` x `columns`.
    #[must_use]
    pub const fn scales(self, rows: usize, columns: usize) -> (usize, usize) {
        let (height, width) = self.size();
        (rows.div_ceil(height), columns.div_ceil(width))
    }

    /// The same groups, seen in the transposed matrix.
    #[must_use]
    pub const fn transposed(self) -> Self {
        match self {
            Self::Row => Self::Column,
            Self::Column => Self::Row,
            Self::Block => Self::Block,
        }
    }

    /// Least amax of a group: none for blocks, because small weights are not noise.
    const fn floor(self) -> f32 {
        match self {
            Self::Row | Self::Column => FLOOR,
            Self::Block => 0.0,
        }
    }
}

/// How the scale follows from the largest magnitude of a group, `amax`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scaling {
    /// `amax / largest`, rounded; codes are those of `x / scale`.
    Plain,
    /// The least power of two that is not below `amax / largest`, exactly: `2^ceil(log2(amax / largest))`.
    PowerOfTwo,
}

impl Scaling {
    /// The scale of a group for a format whose largest value is `largest`. An all-zero block has scale 1. A scale is at least 2^-126, so
    /// that it and its inverse are normal numbers.
    #[inline]
    #[must_use]
    pub fn scale(self, amax: f32, grouping: Grouping, largest: f32) -> f32 {
        let amax = amax.max(grouping.floor());
        if amax == 0.0 {
            return 1.0;
        }
        match self {
            Self::Plain => (amax / largest).max(f32::MIN_POSITIVE),
            Self::PowerOfTwo => {
                let mantissa = largest.to_bits() & 0x7f_ffff;
                // A larger mantissa than that of `largest` carries into the exponent.
                let exponent = ((amax.to_bits() + (0x7f_ffff - mantissa)) >> 23) + 127;
                let scale = exponent.saturating_sub(largest.to_bits() >> 23).max(1);
                f32::from_bits(scale << 23)
            }
        }
    }
}

/// A matrix to quantise or dequantise, row-major.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// Values.
    F32(&'a [f32]),
    /// BF16 values.
    Bf16(&'a [Bf16]),
    /// E4M3 codes with their scales: to re-tile.
    E4m3 {
        /// One per element.
        codes: &'a [u8],
        /// One per group.
        scales: &'a [f32],
        /// Which elements share a scale.
        grouping: Grouping,
    },
    /// E5M6 codes, packed row by row, with the scales of tiles of 1 x 128.
    E5m6 {
        /// `e5m6::packed_len(columns)` bytes a row.
        packed: &'a [u8],
        /// One per tile.
        scales: &'a [f32],
    },
}

impl<'a> Source<'a> {
    /// Activations or gradients.
    #[must_use]
    pub fn of<X: Activation>(x: &'a [X]) -> Self {
        match X::DATA_TYPE {
            DataType::F32 => Self::F32(bytemuck::cast_slice(x)),
            DataType::Bf16 => Self::Bf16(bytemuck::cast_slice(x)),
        }
    }

    /// E4M3 codes with the scales of tiles of 1 x 128.
    #[must_use]
    pub const fn tiles(codes: &'a [u8], scales: &'a [f32]) -> Self {
        Self::E4m3 {
            codes,
            scales,
            grouping: Grouping::Row,
        }
    }

    /// Panics unless this holds a matrix of `rows` x `columns`.
    #[track_caller]
    pub fn check(&self, rows: usize, columns: usize) {
        match self {
            Self::F32(x) => at_least("the source", x.len(), size(&[rows, columns])),
            Self::Bf16(x) => at_least("the source", x.len(), size(&[rows, columns])),
            Self::E4m3 { codes, scales, grouping } => {
                at_least("codes of the source", codes.len(), size(&[rows, columns]));
                check_scales("scales of the source", scales.len(), grouping.scales(rows, columns));
            }
            Self::E5m6 { packed, scales } => {
                at_least("packed codes of the source", packed.len(), size(&[rows, e5m6::packed_len(columns)]));
                check_scales("scales of the source", scales.len(), Grouping::Row.scales(rows, columns));
            }
        }
    }

    /// The value at `row`, `column` of a matrix of `columns` columns.
    #[must_use]
    pub fn value(&self, row: usize, column: usize, columns: usize) -> f32 {
        match *self {
            Self::F32(x) => x[row * columns + column],
            Self::Bf16(x) => x[row * columns + column].to_f32(),
            Self::E4m3 { codes, scales, grouping } => {
                let (height, width) = grouping.size();
                e4m3::decode(codes[row * columns + column]) * scales[row / height * columns.div_ceil(width) + column / width]
            }
            Self::E5m6 { packed, scales } => {
                let code = e5m6::unpack(&packed[row * e5m6::packed_len(columns)..], column);
                e5m6::decode(code) * scales[row * columns.div_ceil(GROUP) + column / GROUP]
            }
        }
    }
}

/// Sizes and rules of a quantisation to E4M3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuantizeDims {
    /// Rows of the source.
    pub rows: usize,
    /// Columns of the source.
    pub columns: usize,
    /// Which elements of the source share a scale.
    pub grouping: Grouping,
    /// How the scale follows from them.
    pub scaling: Scaling,
    /// Whether codes and scales are written as the transposed matrices, `[columns, rows]`.
    ///
    /// By product of `y = x w^T`: forward `x` `Row`, `w` `Block`; gradient of the input: `dy` `Row`, the same `w` transposed without
    /// requantising; gradient of the weight: `dy` and `x` `Column`, transposed where the product wants its terms side by side.
    pub transposed: bool,
}

impl QuantizeDims {
    /// Tiles of 1 x 128.
    #[must_use]
    pub const fn row_tiles(rows: usize, columns: usize, scaling: Scaling) -> Self {
        Self {
            rows,
            columns,
            grouping: Grouping::Row,
            scaling,
            transposed: false,
        }
    }

    /// Rows and columns of the scales, as written.
    #[must_use]
    pub const fn scales(&self) -> (usize, usize) {
        let (rows, columns) = self.grouping.scales(self.rows, self.columns);
        if self.transposed { (columns, rows) } else { (rows, columns) }
    }

    /// Codes and scales of a matrix, as counts.
    #[must_use]
    pub const fn lengths(&self) -> (usize, usize) {
        let (rows, columns) = self.scales();
        (self.rows * self.columns, rows * columns)
    }

    /// Panics on a buffer that is too short.
    #[track_caller]
    pub fn check(&self, codes: usize, scales: usize, source: &Source<'_>) {
        self.check_stack(codes, scales, source, 1);
    }

    /// As [`QuantizeDims::check`], of a stack of `groups` matrices.
    #[track_caller]
    pub fn check_stack(&self, codes: usize, scales: usize, source: &Source<'_>, groups: usize) {
        source.check(size(&[groups, self.rows]), self.columns);
        self.check_outputs(codes, scales, groups);
    }

    /// Panics on codes or scales, of a stack of `groups` matrices, that are too short.
    #[track_caller]
    pub fn check_outputs(&self, codes: usize, scales: usize, groups: usize) {
        at_least("codes", codes, size(&[groups, self.rows, self.columns]));
        let (rows, columns) = self.scales();
        check_scales("scales", scales, (size(&[groups, rows]), columns));
    }
}

/// Sizes and rules of a quantisation in tiles of 128 x 1 that never cross from one expert to the next: operands of the gradients of expert
/// weights, each of which sums over the rows of one expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuantizeGroupedDims {
    /// Rows of all experts together; their split is data (`offsets`).
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// Experts.
    pub groups: usize,
    /// How a scale follows from the elements that share it.
    pub scaling: Scaling,
}

impl QuantizeGroupedDims {
    /// Rows and columns of the scales; see [`column_scale_row`].
    #[must_use]
    pub const fn scales(&self) -> (usize, usize) {
        (column_scale_rows(self.rows, self.groups), self.columns)
    }

    /// The quantisation of one expert's rows.
    #[must_use]
    pub const fn group(&self, rows: usize) -> QuantizeDims {
        QuantizeDims {
            rows,
            columns: self.columns,
            grouping: Grouping::Column,
            scaling: self.scaling,
            transposed: false,
        }
    }

    /// Panics on a buffer that is too short.
    #[track_caller]
    pub fn check(&self, codes: usize, scales: usize, source: &Source<'_>, offsets: usize) {
        source.check(self.rows, self.columns);
        at_least("codes", codes, size(&[self.rows, self.columns]));
        check_scales("scales", scales, self.scales());
        at_least("offsets_E1", offsets, self.groups + 1);
    }

    /// Panics unless the experts split the rows in order; for backends that can read the offsets.
    #[track_caller]
    pub fn check_offsets(&self, offsets_E1: &[u32]) {
        let Self { rows, columns, groups, .. } = *self;
        let dims = GroupedDims {
            rows,
            groups,
            input: columns,
            output: columns,
        };
        dims.check_offsets(offsets_E1);
    }
}

/// Sizes of a quantisation to E5M6: tiles of 1 x 128, scales that are powers of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct E5m6Dims {
    /// Rows of the source.
    pub rows: usize,
    /// Columns of the source.
    pub columns: usize,
}

impl E5m6Dims {
    /// Packed bytes and scales, as counts.
    #[must_use]
    pub const fn lengths(&self) -> (usize, usize) {
        (self.rows * e5m6::packed_len(self.columns), self.rows * self.columns.div_ceil(GROUP))
    }

    /// Panics on a buffer that is too short.
    #[track_caller]
    pub fn check(&self, packed: usize, scales: usize, source: &Source<'_>) {
        source.check(self.rows, self.columns);
        at_least("packed codes", packed, size(&[self.rows, e5m6::packed_len(self.columns)]));
        check_scales("scales", scales, Grouping::Row.scales(self.rows, self.columns));
    }
}

#[track_caller]
fn check_scales(name: &str, scales: usize, (rows, columns): (usize, usize)) {
    at_least(name, scales, size(&[rows, columns]));
}

/// What a quantisation saw. Counts and maxima only, so that the order of merging does not matter.
///
/// An element of buffers: the quantisations of a step add up on the device and are read once.
#[must_use = "NaN and infinity in the input are known from here alone; see `finite`"]
#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Statistics {
    /// Elements.
    pub elements: u64,
    /// Groups with an element that is finite and not zero.
    pub groups: u64,
    /// Largest finite magnitude: an `f32`, widened so that the struct has no padding.
    pub amax: f64,
    /// Finite elements coded as the largest value of the format. Nothing lies far beyond it: scales follow from the elements themselves.
    pub saturated: u64,
    /// Elements other than zero that were coded as zero.
    pub underflowed: u64,
    /// NaN and infinite elements. They have no part in the scale; E4M3 codes infinity as its largest value.
    pub non_finite: u64,
    /// Sum over `groups` of `amax / (largest scale)`, in units of 2^-24.
    fill: u64,
}

impl Statistics {
    /// Adds those of another part of the matrix, or of another matrix.
    #[inline]
    pub fn merge(self, other: Self) -> Self {
        let Self {
            elements,
            groups,
            amax,
            saturated,
            underflowed,
            non_finite,
            fill,
        } = other;
        Self {
            elements: self.elements + elements,
            groups: self.groups + groups,
            amax: self.amax.max(amax),
            saturated: self.saturated + saturated,
            underflowed: self.underflowed + underflowed,
            non_finite: self.non_finite + non_finite,
            fill: self.fill + fill,
        }
    }

    /// Adds a group. One of zeros fills nothing, and says nothing about the headroom.
    #[inline]
    pub(crate) fn add_group(&mut self, amax: f32, scale: f32, largest: f32) {
        if amax > 0.0 {
            self.groups += 1;
            // `largest * scale` may overflow; the cast rounds down, which 2^24 steps hide.
            self.fill += u64::from((amax / scale * ((1 << 24) as f32 / largest)) as u32);
            self.amax = self.amax.max(f64::from(amax));
        }
    }

    /// Factor, averaged over the groups, by which elements could grow before they exceed the format: the inverse of the mean share of the
    /// range in use. 1 means that the range is full; also 1 if all elements are zero.
    #[must_use]
    pub fn headroom(&self) -> f64 {
        if self.groups == 0 {
            return 1.0;
        }
        self.groups as f64 * f64::from(1 << 24) / self.fill.max(1) as f64
    }

    /// The statistics, if all elements were finite.
    ///
    /// # Errors
    /// If some were NaN or infinite.
    pub fn finite(self) -> Result<Self, NonFinite> {
        match self.non_finite {
            0 => Ok(self),
            count => Err(NonFinite {
                count,
                elements: self.elements,
            }),
        }
    }
}

/// A matrix to quantise held NaN or infinity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NonFinite {
    /// How many of its elements.
    pub count: u64,
    /// Elements of the matrix.
    pub elements: u64,
}

impl fmt::Display for NonFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} elements to quantise are NaN or infinite", self.count, self.elements)
    }
}

impl std::error::Error for NonFinite {}
