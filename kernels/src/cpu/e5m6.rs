//! Quantisation to packed E5M6.

use super::Cpu;
use super::codes::{count_e5m6_row, encode_e5m6_broken_row, encode_e5m6_row, finite_maximum, load, maximum, pack_e5m6, zero_values};
use super::quantize::STRIP;
use super::simd::{Job, Simd, dispatch};
use crate::formats::{E5m6Dims, GROUP, Grouping, INFINITY, Scaling, Source, Statistics, e5m6};
use rayon::prelude::*;

impl Cpu {
    /// As [`crate::Reference::quantize_e5m6_source`].
    pub fn quantize_e5m6_source(&self, packed: &mut [u8], scales: &mut [f32], x: Source<'_>, dims: E5m6Dims) -> Statistics {
        dims.check(packed.len(), scales.len(), &x);
        let (packed_len, scales_len) = dims.lengths();
        if packed_len == 0 {
            return Statistics::default();
        }
        let E5m6Dims { rows: _, columns } = dims;
        self.pool().install(|| {
            packed[..packed_len]
                .par_chunks_mut(STRIP * e5m6::packed_len(columns))
                .zip(scales[..scales_len].par_chunks_mut(STRIP * columns.div_ceil(GROUP)))
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
                let values = load::<S>(&mut values, &x, (row + i, tile * GROUP, count), columns);
                let maximum = maximum(values);
                let finite = maximum < INFINITY;
                let amax = f32::from_bits(if finite { maximum } else { finite_maximum(values) });
                *scale = Scaling::PowerOfTwo.scale(amax, Grouping::Row, e5m6::LARGEST);
                statistics.elements += count as u64;
                statistics.add_group(amax, *scale, e5m6::LARGEST);
                let inverse = 1.0 / *scale;
                if finite {
                    encode_e5m6_row(&mut codes, values, inverse);
                    let (largest, zeros) = count_e5m6_row(&codes);
                    statistics.saturated += u64::from(largest);
                    if zeros > 0 {
                        statistics.underflowed += u64::from(zeros - zero_values(values));
                    }
                } else {
                    encode_e5m6_broken_row(&mut codes, values, inverse).add_to(&mut statistics);
                }
                pack_e5m6(packed, &codes);
            }
        }
        statistics
    }
}
