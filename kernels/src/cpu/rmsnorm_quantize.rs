//! RMSNorm straight to codes. Bound by memory: `x` and the codes once, `y` if it is wanted.

use super::Cpu;
use super::quantize_tile::{COMPUTED_ROWS, quantize_computed};
use super::rmsnorm::dot;
use super::simd::{Job, Simd, dispatch};
use crate::dims::RmsNormDims;
use crate::formats::{Activation, Bf16, GROUP, QuantizeDims, Scaling, Statistics, bf16};
use rayon::prelude::*;

/// A strip of rows. The second reading of `x` is from L2.
struct Forward<'a, X> {
    codes: &'a mut [u8],
    scales: &'a mut [f32],
    rstd: &'a mut [f32],
    y: Option<&'a mut [Bf16]>,
    x: &'a [X],
    gain: &'a [f32],
    dims: RmsNormDims,
    scaling: Scaling,
}

impl<X: Activation> Job for Forward<'_, X> {
    type Output = Statistics;

    #[inline(always)]
    fn run<S: Simd>(self) -> Statistics {
        let Self {
            codes,
            scales,
            rstd,
            mut y,
            x,
            gain,
            dims,
            scaling,
        } = self;
        let RmsNormDims {
            width,
            x: x_columns,
            y: y_columns,
            epsilon,
            rows: _,
        } = dims;
        for (t, rstd) in rstd.iter_mut().enumerate() {
            let x = &x[t * x_columns.stride + x_columns.offset..][..width];
            *rstd = 1.0 / (dot::<S, X>(x, x) / width as f32 + epsilon).sqrt();
        }
        quantize_computed::<S>(codes, scales, width, scaling, |values, t, column| {
            let x = &x[t * x_columns.stride + x_columns.offset + column..][..values.len()];
            for ((value, x), &gain) in values.iter_mut().zip(x).zip(&gain[column..]) {
                *value = bf16::round(gain * (x.to_f32() * rstd[t]));
            }
            if let Some(y) = &mut y {
                let y = &mut y[t * y_columns.stride + y_columns.offset + column..][..values.len()];
                for (y, &value) in y.iter_mut().zip(&*values) {
                    *y = Bf16::from_f32(value);
                }
            }
        })
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
        dispatch(
            cpu.isa(),
            Forward {
                codes,
                scales,
                rstd,
                y,
                x,
                gain,
                dims,
                scaling,
            },
        )
    };
    cpu.pool().install(|| {
        let strips = codes[..codes_len]
            .par_chunks_mut(COMPUTED_ROWS * width)
            .zip(scales[..scales_len].par_chunks_mut(COMPUTED_ROWS * width.div_ceil(GROUP)))
            .zip(rstd[..rows].par_chunks_mut(COMPUTED_ROWS))
            .zip(x.par_chunks(COMPUTED_ROWS * dims.x.stride));
        match y {
            Some(y) => strips
                .zip(y.par_chunks_mut(COMPUTED_ROWS * dims.y.stride).map(Some))
                .map(run)
                .reduce(Statistics::default, Statistics::merge),
            None => strips
                .map(|strip| run((strip, None)))
                .reduce(Statistics::default, Statistics::merge),
        }
    })
}
