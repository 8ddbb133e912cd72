//! Quantisation to E4M3 of matrices, of stacks of them and of rows by expert, in tasks that each own a strip of the outputs.

use super::Cpu;
use super::codes::scatter;
use super::quantize_tile::{FillRows, SourceRows, Tile};
use super::simd::dispatch;
use crate::formats::{GROUP, Grouping, QuantizeDims, QuantizeGroupedDims, Source, Statistics, column_scale_row};
use rayon::prelude::*;

/// Rows of a task where groups do not say otherwise.
pub const STRIP: usize = 32;

impl Cpu {
    /// As [`crate::Reference::quantize_source`].
    pub fn quantize_source(&self, codes: &mut [u8], scales: &mut [f32], x: Source<'_>, dims: QuantizeDims) -> Statistics {
        self.quantize_stack_source(codes, scales, x, 1, dims)
    }

    /// As [`crate::Reference::quantize_stack_source`].
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
        if codes_len == 0 {
            return Statistics::default();
        }
        self.pool().install(|| {
            codes[..groups * codes_len]
                .par_chunks_mut(codes_len)
                .zip(scales.par_chunks_mut(scales_len))
                .enumerate()
                .map(|(group, (codes, scales))| self.quantize_part(codes, scales, x, group * dims.rows, dims))
                .reduce(Statistics::default, Statistics::merge)
        })
    }

    /// As [`crate::Reference::quantize_grouped_source`].
    pub fn quantize_grouped_source(
        &self,
        codes: &mut [u8],
        scales: &mut [f32],
        x: Source<'_>,
        offsets: &[u32],
        dims: QuantizeGroupedDims,
    ) -> Statistics {
        dims.check(codes.len(), scales.len(), &x, offsets.len());
        dims.check_offsets(offsets);
        if dims.columns == 0 {
            return Statistics::default();
        }
        self.pool()
            .install(|| self.quantize_experts(codes, scales, x, &offsets[..=dims.groups], 0, dims))
    }

    /// Experts from `first` on, in halves until there is one. Codes and scales start at the first one's.
    fn quantize_experts(
        &self,
        codes: &mut [u8],
        scales: &mut [f32],
        x: Source<'_>,
        offsets: &[u32],
        first: usize,
        dims: QuantizeGroupedDims,
    ) -> Statistics {
        let start = offsets[0] as usize;
        match offsets.len() {
            0 | 1 => Statistics::default(),
            2 => {
                let dims = dims.group(offsets[1] as usize - start);
                let (codes_len, scales_len) = dims.lengths();
                self.quantize_part(&mut codes[..codes_len], &mut scales[..scales_len], x, start, dims)
            }
            len => {
                let middle = len / 2;
                let middle_row = offsets[middle] as usize;
                let scale_rows = column_scale_row(middle_row, first + middle) - column_scale_row(start, first);
                let (codes, more_codes) = codes.split_at_mut((middle_row - start) * dims.columns);
                let (scales, more_scales) = scales.split_at_mut(scale_rows * dims.columns);
                let (left, right) = rayon::join(
                    || self.quantize_experts(codes, scales, x, &offsets[..=middle], first, dims),
                    || self.quantize_experts(more_codes, more_scales, x, &offsets[middle..], first + middle, dims),
                );
                left.merge(right)
            }
        }
    }

    /// Rows `first_row..first_row + dims.rows` of the source; outputs are of the lengths that they need. Runs on the pool's threads.
    fn quantize_part(&self, codes: &mut [u8], scales: &mut [f32], x: Source<'_>, first_row: usize, dims: QuantizeDims) -> Statistics {
        if codes.is_empty() {
            Statistics::default()
        } else if dims.transposed {
            self.quantize_transposed(codes, scales, x, first_row, dims)
        } else {
            self.quantize_straight(codes, scales, x, first_row, dims)
        }
    }

    /// As [`Cpu::quantize_straight`], of tiles of 1 x 128.
    fn quantize_rows(&self, codes: &mut [u8], scales: &mut [f32], x: Source<'_>, first_row: usize, dims: QuantizeDims) -> Statistics {
        let QuantizeDims { columns, scaling, .. } = dims;
        codes
            .par_chunks_mut(STRIP * columns)
            .zip(scales.par_chunks_mut(STRIP * columns.div_ceil(GROUP)))
            .enumerate()
            .map(|(index, (codes, scales))| {
                let fill = FillRows {
                    codes,
                    scales,
                    rows: SourceRows {
                        x,
                        row: first_row + index * STRIP,
                        columns,
                    },
                    columns,
                    scaling,
                };
                dispatch(self.isa(), fill)
            })
            .reduce(Statistics::default, Statistics::merge)
    }

    /// One task per strip of rows: its codes and its scales are contiguous.
    fn quantize_straight(&self, codes: &mut [u8], scales: &mut [f32], x: Source<'_>, first_row: usize, dims: QuantizeDims) -> Statistics {
        if dims.grouping == Grouping::Row {
            return self.quantize_rows(codes, scales, x, first_row, dims);
        }
        let (height, width) = dims.grouping.size();
        let scale_columns = dims.columns.div_ceil(width);
        let task = |(index, (codes, scales)): (usize, (&mut [u8], &mut [f32]))| {
            let mut tile = Tile::new();
            let rows = codes.len() / dims.columns;
            let mut statistics = Statistics::default();
            for column in (0..dims.columns).step_by(GROUP) {
                let columns = GROUP.min(dims.columns - column);
                let place = (first_row + index * GROUP, column, rows, columns);
                statistics = statistics.merge(tile.fill(self, x, place, dims));
                tile.store_codes(codes, column, dims.columns);
                if dims.grouping == Grouping::Column {
                    scales[column..column + columns].copy_from_slice(&tile.scales[..columns]);
                } else {
                    scales[column / GROUP] = tile.scales[0];
                }
            }
            statistics
        };
        codes
            .par_chunks_mut(GROUP * dims.columns)
            .zip(scales.par_chunks_mut(GROUP / height * scale_columns))
            .enumerate()
            .map(task)
            .reduce(Statistics::default, Statistics::merge)
    }

    /// One task per strip of columns, which are rows of the outputs.
    fn quantize_transposed(&self, codes: &mut [u8], scales: &mut [f32], x: Source<'_>, first_row: usize, dims: QuantizeDims) -> Statistics {
        let (height, width) = dims.grouping.size();
        let scale_rows = dims.rows.div_ceil(height);
        let task = |(index, (codes, scales)): (usize, (&mut [u8], &mut [f32]))| {
            let mut tile = Tile::new();
            let columns = codes.len() / dims.rows;
            let mut statistics = Statistics::default();
            for row in (0..dims.rows).step_by(GROUP) {
                let rows = GROUP.min(dims.rows - row);
                let place = (first_row + row, index * GROUP, rows, columns);
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
        codes
            .par_chunks_mut(GROUP * dims.rows)
            .zip(scales.par_chunks_mut(GROUP / width * scale_rows))
            .enumerate()
            .map(task)
            .reduce(Statistics::default, Statistics::merge)
    }
}
