//! RMSNorm and quantisation: the two steps.

use super::{Reference, rmsnorm};
use crate::dims::{Columns, RmsNormDims};
use crate::formats::{Activation, Bf16, QuantizeDims, Scaling, Source, Statistics};

/// `y = bf16(gain x rstd)`, where there is a `y`, and its codes.
#[allow(clippy::too_many_arguments)]
pub fn forward<X: Activation>(
    codes_TD: &mut [u8],
    scales: &mut [f32],
    rstd_T: &mut [f32],
    y: Option<&mut [Bf16]>,
    x: &[X],
    gain_D: &[f32],
    dims: RmsNormDims,
    scaling: Scaling,
) -> Statistics {
    let RmsNormDims { rows, width, .. } = dims;
    let x: Vec<f32> = x.iter().map(|x| x.to_f32()).collect();
    let mut wide = vec![0.0; rows * width];
    let dense = RmsNormDims {
        y: Columns::dense(width),
        ..dims
    };
    rmsnorm::forward(&mut wide, rstd_T, &x, gain_D, dense);
    let rounded: Vec<Bf16> = wide.into_iter().map(Bf16::from_f32).collect();
    if let Some(y) = y {
        for t in 0..rows {
            y[t * dims.y.stride + dims.y.offset..][..width].copy_from_slice(&rounded[t * width..][..width]);
        }
    }
    Reference::PAIRS.quantize_source(
        codes_TD,
        scales,
        Source::Bf16(&rounded),
        QuantizeDims::row_tiles(rows, width, scaling),
    )
}
