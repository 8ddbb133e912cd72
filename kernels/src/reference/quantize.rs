//! Quantisation group by group, element by element.

use super::Reference;
use crate::formats::{E5m6Dims, GROUP, Grouping, QuantizeDims, Scaling, Source, Statistics, e4m3, e5m6};
use std::ops::Range;

impl Reference {
    /// Codes and scales of `x`, as `dims` say. An element that is not finite is coded without the scale: infinity as the largest value, NaN
    /// as NaN.
    pub fn quantize(&self, codes: &mut [u8], scales: &mut [f32], x: Source<'_>, dims: QuantizeDims) -> Statistics {
        dims.check(codes.len(), scales.len(), &x);
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
            let scale = scale(group().map(|(i, j)| x.value(i, j, columns)), &mut statistics, |amax| {
                (scaling.scale(amax, grouping, e4m3::LARGEST), e4m3::LARGEST)
            });
            let at = |row, column, rows, columns| if transposed { column * rows + row } else { row * columns + column };
            scales[at(group_row, group_column, group_rows, group_columns)] = scale;
            for (i, j) in group() {
                let value = x.value(i, j, columns);
                let code = e4m3::encode(if value.is_finite() { value / scale } else { value });
                codes[at(i, j, rows, columns)] = code;
                let magnitude = u16::from(code & e4m3::NAN_CODE);
                count(&mut statistics, value, magnitude, u16::from(e4m3::LARGEST_CODE));
            }
        }
        statistics
    }

    /// Packed codes and scales of `x`: tiles of 1 x 128, scales that are powers of two. Infinity and NaN stay what they are.
    pub fn quantize_e5m6(&self, packed: &mut [u8], scales: &mut [f32], x: Source<'_>, dims: E5m6Dims) -> Statistics {
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

    /// `y = x`: each code times its scale, rounded once.
    pub fn dequantize(&self, y: &mut [f32], x: Source<'_>, rows: usize, columns: usize) {
        x.check(rows, columns);
        assert_eq!(y.len(), rows * columns, "elements of a matrix of {rows} x {columns}");
        for (i, j) in cells(0..rows, 0..columns) {
            y[i * columns + j] = x.value(i, j, columns);
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
