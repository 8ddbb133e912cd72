//! RMSNorm straight to codes. Bound by memory: `x` and the codes once, `y` if it is wanted.

use super::Cpu;
use super::codes::Values;
use super::quantize::STRIP;
use super::quantize_tile::{FillRows, Rows};
use super::rmsnorm::dot;
use super::simd::{Simd, dispatch};
use crate::dims::RmsNormDims;
use crate::formats::{Activation, Bf16, GROUP, QuantizeDims, Scaling, Statistics, bf16};
use rayon::prelude::*;

/// Normalised rows, rounded to BF16. The second reading of `x` is from L1 or L2.
struct Normalised<'a, X> {
    rstd: &'a mut [f32],
    y: Option<&'a mut [Bf16]>,
    x: &'a [X],
    gain: &'a [f32],
    dims: RmsNormDims,
}

impl<X: Activation> Rows for Normalised<'_, X> {
    #[inline(always)]
    fn tile<'a, S: Simd>(&'a mut self, values: &'a mut Values, row: usize, column: usize, count: usize) -> &'a Values {
        let RmsNormDims {
            width,
            x: x_columns,
            y: y_columns,
            epsilon,
            rows: _,
        } = self.dims;
        let x = &self.x[row * x_columns.stride + x_columns.offset..][..width];
        if column == 0 {
            self.rstd[row] = 1.0 / (dot::<S, X>(x, x) / width as f32 + epsilon).sqrt();
        }
        let rstd = self.rstd[row];
        let tile = x[column..][..count].iter().zip(&self.gain[column..]);
        for (value, (x, &gain)) in values.iter_mut().zip(tile) {
            *value = bf16::round(gain * (x.to_f32() * rstd));
        }
        values[count..].fill(0.0);
        if let Some(y) = &mut self.y {
            let y = &mut y[row * y_columns.stride + y_columns.offset + column..][..count];
            for (y, &value) in y.iter_mut().zip(&*values) {
                *y = Bf16::from_f32(value);
            }
        }
        values
    }
}

pub fn forward<X: Activation>(
    cpu: &Cpu,
    codes: &mut [u8],
    scales: &mut [f32],
    rstd: &mut [f32],
    y: Option<&mut [Bf16]>,
    x: &[X],
    gain: &[f32],
    dims: RmsNormDims,
    scaling: Scaling,
) -> Statistics {
    let RmsNormDims { rows, width, .. } = dims;
    dims.check(x.len(), y.as_ref().map_or(usize::MAX, |y| y.len()), gain.len(), rstd.len());
    let tiles = QuantizeDims::row_tiles(rows, width, scaling);
    tiles.check_outputs(codes.len(), scales.len(), 1);
    let (codes_len, scales_len) = tiles.lengths();
    if codes_len == 0 {
        return Statistics::default();
    }
    let run = |((((codes, scales), rstd), x), y)| {
        let rows = Normalised { rstd, y, x, gain, dims };
        let fill = FillRows {
            codes,
            scales,
            rows,
            columns: width,
            scaling,
        };
        dispatch(cpu.isa(), fill)
    };
    cpu.pool().install(|| {
        let strips = codes[..codes_len]
            .par_chunks_mut(STRIP * width)
            .zip(scales[..scales_len].par_chunks_mut(STRIP * width.div_ceil(GROUP)))
            .zip(rstd[..rows].par_chunks_mut(STRIP))
            .zip(x.par_chunks(STRIP * dims.x.stride));
        match y {
            Some(y) => strips
                .zip(y.par_chunks_mut(STRIP * dims.y.stride).map(Some))
                .map(run)
                .reduce(Statistics::default, Statistics::merge),
            None => strips
                .map(|strip| run((strip, None)))
                .reduce(Statistics::default, Statistics::merge),
        }
    })
}
