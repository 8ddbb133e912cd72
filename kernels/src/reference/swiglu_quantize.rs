//! SwiGLU and quantisation: the two steps.

use super::{Reference, swiglu};
use crate::dims::SwigluDims;
use crate::formats::{Bf16, QuantizeDims, Scaling, Source, Statistics};

/// Codes of `bf16(silu(gate) up)`.
pub fn forward(codes_RF: &mut [u8], scales: &mut [f32], gate_up_R2F: Source<'_>, dims: SwigluDims, scaling: Scaling) -> Statistics {
    let SwigluDims { rows, width } = dims;
    let (mut gate_up, mut a) = (vec![0.0_f32; rows * 2 * width], vec![0.0_f32; rows * width]);
    Reference::PAIRS.dequantize_source(&mut gate_up, gate_up_R2F, rows, 2 * width);
    swiglu::forward(&mut a, &gate_up, dims);
    let a: Vec<Bf16> = a.into_iter().map(Bf16::from_f32).collect();
    Reference::PAIRS.quantize_source(codes_RF, scales, Source::Bf16(&a), QuantizeDims::row_tiles(rows, width, scaling))
}
