//! Quantisation group by group, element by element.

use super::Reference;
use crate::dims::{at_least, size};
use crate::formats::{
    Activation, E5m6Dims, GROUP, Grouping, QuantizeDims, QuantizeGroupedDims, Scaling, Source, Statistics, column_scale_row, e4m3, e5m6,
};
use std::ops::Range;

impl Reference {
    /// [`crate::Kernels::quantize`], from any source.
    pub fn quantize_source(&self, codes: &mut [u8], scales: &mut [f32], x: Source<'_>, dims: QuantizeDims) -> Statistics {
        dims.check(codes.len(), scales.len(), &x);
        part(codes, scales, x, 0, dims)
    }

    /// [`crate::Kernels::quantize_stack`], from any source.
    pub fn quantize_stack_source(
        &self,
        codes: &mut [u8],
        scales: &mut [f32],
        x: Source<'_>,
        groups: usize,
        dims: QuantizeDims,
    ) -> Statistics {
        dims.check_stack(codes.len(), scales.len(), &x, groups);
        let (codes_len, scales_len) = dims.lengths();
        (0..groups).fold(Statistics::default(), |statistics, group| {
            let (codes, scales) = (&mut codes[group * codes_len..], &mut scales[group * scales_len..]);
            statistics.merge(part(codes, scales, x, group * dims.rows, dims))
        })
    }

    /// [`crate::Kernels::quantize_grouped`], from any source.
    pub fn quantize_grouped_source(
        &self,
        codes: &mut [u8],
        scales: &mut [f32],
        x: Source<'_>,
        offsets_E1: &[u32],
        dims: QuantizeGroupedDims,
    ) -> Statistics {
        dims.check(codes.len(), scales.len(), &x, offsets_E1.len());
        dims.check_offsets(offsets_E1);
        (0..dims.groups).fold(Statistics::default(), |statistics, e| {
            let (start, end) = (offsets_E1[e] as usize, offsets_E1[e + 1] as usize);
            let codes = &mut codes[start * dims.columns..];
            let scales = &mut scales[column_scale_row(start, e) * dims.columns..];
            statistics.merge(part(codes, scales, x, start, dims.group(end - start)))
        })
    }

    /// [`crate::Kernels::quantize_e5m6`], from any source.
    pub fn quantize_e5m6_source(&self, packed: &mut [u8], scales: &mut [f32], x: Source<'_>, dims: E5m6Dims) -> Statistics {
        dims.check(packed.len(), scales.len(), &x);
        let mut statistics = Statistics::default();
        for row in 0..dims.rows {
            let mut codes = vec![0; dims.columns];
            for (tile, codes) in codes.chunks_mut(GROUP).enumerate() {
                let values: Vec<f32> = (0..codes.len()).map(|j| x.value(row, tile * GROUP + j, dims.columns)).collect();
                let scale = scale(values.iter().copied(), &mut statistics, |amax| {
                    (Scaling::PowerOfTwo.scale(amax, Grouping::Row, e5m6::LARGEST), e5m6::LARGEST)
                });
                scales[row * dims.columns.div_ceil(GROUP) + tile] = scale;
                for (code, value) in codes.iter_mut().zip(values) {
                    *code = e5m6::encode(if value.is_finite() { value / scale } else { value });
                    count(&mut statistics, value, *code & e5m6::MAGNITUDE, e5m6::LARGEST_CODE);
                }
            }
            let len = e5m6::packed_len(dims.columns);
            e5m6::pack(&mut packed[row * len..][..len], &codes);
        }
        statistics
    }

    /// [`crate::Kernels::dequantize`], from any source.
    pub fn dequantize_source<Y: Activation>(&self, y: &mut [Y], x: Source<'_>, rows: usize, columns: usize) {
        x.check(rows, columns);
        at_least("y", y.len(), size(&[rows, columns]));
        for (i, j) in cells(0..rows, 0..columns) {
            y[i * columns + j] = Y::from_f32(x.value(i, j, columns));
        }
    }

    /// `y = x^T`, for codes or scales of a matrix of `rows` x `columns`.
    pub fn transpose<T: Copy>(&self, y: &mut [T], x: &[T], rows: usize, columns: usize) {
        assert_eq!(
            (y.len(), x.len()),
            (rows * columns, rows * columns),
            "elements of {rows} x {columns}"
        );
        for (i, j) in cells(0..rows, 0..columns) {
            y[j * rows + i] = x[i * columns + j];
        }
    }
}

/// Codes and scales of rows `first_row..first_row + dims.rows` of `x`.
fn part(codes: &mut [u8], scales: &mut [f32], x: Source<'_>, first_row: usize, dims: QuantizeDims) -> Statistics {
    let QuantizeDims {
        rows,
        columns,
        grouping,
        scaling,
        transposed,
    } = dims;
    let mut statistics = Statistics::default();
    let (group_rows, group_columns) = grouping.scales(rows, columns);
    for (group_row, group_column) in cells(0..group_rows, 0..group_columns) {
        let (height, width) = grouping.size();
        let range = |group: usize, size: usize, end: usize| group * size..((group + 1) * size).min(end);
        let group = || cells(range(group_row, height, rows), range(group_column, width, columns));
        let value = |i, j| x.value(first_row + i, j, columns);
        let scale = scale(group().map(|(i, j)| value(i, j)), &mut statistics, |amax| {
            (scaling.scale(amax, grouping, e4m3::LARGEST), e4m3::LARGEST)
        });
        let at = |row, column, rows, columns| if transposed { column * rows + row } else { row * columns + column };
        scales[at(group_row, group_column, group_rows, group_columns)] = scale;
        for (i, j) in group() {
            let value = value(i, j);
            let code = e4m3::encode(if value.is_finite() { value / scale } else { value });
            codes[at(i, j, rows, columns)] = code;
            let magnitude = u16::from(code & e4m3::NAN_CODE);
            count(&mut statistics, value, magnitude, u16::from(e4m3::LARGEST_CODE));
        }
    }
    statistics
}

/// All pairs, row by row.
fn cells(rows: Range<usize>, columns: Range<usize>) -> impl Iterator<Item = (usize, usize)> {
    rows.flat_map(move |row| columns.clone().map(move |column| (row, column)))
}

/// The scale of a group, from its largest finite magnitude.
fn scale(values: impl Iterator<Item = f32>, statistics: &mut Statistics, of_amax: impl Fn(f32) -> (f32, f32)) -> f32 {
    let amax = values
        .filter(|value| value.is_finite())
        .fold(0.0, |amax: f32, value| amax.max(value.abs()));
    let (scale, largest) = of_amax(amax);
    statistics.add_group(amax, scale, largest);
    scale
}

/// Counts one element and the magnitude of its code.
fn count(statistics: &mut Statistics, value: f32, code: u16, largest: u16) {
    statistics.elements += 1;
    if !value.is_finite() {
        statistics.non_finite += 1;
    } else if code == largest {
        statistics.saturated += 1;
    } else if code == 0 && value != 0.0 {
        statistics.underflowed += 1;
    }
}
