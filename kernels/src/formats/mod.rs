//! Number formats narrower than 32 bits, and matrices quantised to them.
//!
//! | format | bits | largest | used for |
//! |---|---|---|---|
//! | [`e4m3`] | 1+4+3, no infinity | 448 | operands of matrix products, cached inputs of linear layers |
//! | [`e5m6`] | 1+5+6 | 65024 | cached attention output |
//! | [`bf16`] | 1+8+7 | as `f32` | moments of AdamW, outputs of matrix products |
//!
//! Every conversion rounds once, to the nearest value, to the one with an even code if two are equally near. E4M3 and E5M6 saturate:
//! what is finite never becomes infinite. NaN and infinity in an input are counted ([`Statistics::non_finite`]) and raised by
//! [`Statistics::finite`].
//!
//! The scale of a group is the factor by which codes are multiplied to dequantise. [`Scaling`] says how it follows from the group.

mod activation;
pub mod bf16;
pub mod e4m3;
pub mod e5m6;
mod operand;
mod quantize;

pub use activation::{Activation, DataType};
pub use bf16::Bf16;
pub use operand::{Along, Operand, SumOrder};
pub use quantize::{
    E5m6Dims, GROUP, Grouping, NonFinite, QuantizeDims, QuantizeGroupedDims, Scaling, Source, Statistics, column_scale_row,
    column_scale_rows,
};

/// Bits of the magnitude of an `f32`; those of NaN and infinity are at least [`INFINITY`].
pub(crate) const MAGNITUDE: u32 = 0x7fff_ffff;
/// Bits of `f32::INFINITY`.
pub(crate) const INFINITY: u32 = 0x7f80_0000;
