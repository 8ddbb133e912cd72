//! Operands of the measured products.

use crate::formats::{Bf16, Grouping, QuantizeDims, Scaling, Source, column_scale_row};
use crate::{Cpu, Matrix};
use std::fmt;

/// Types of a product's operands and outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// All in FP32.
    F32,
    /// Operands and outputs in BF16, gradients of weights in FP32.
    Bf16,
    /// Operands in E4M3, outputs as for [`Precision::Bf16`].
    Fp8,
}

impl Precision {
    /// From the least to the greatest reduction.
    pub const ALL: [Self; 3] = [Self::F32, Self::Bf16, Self::Fp8];

    /// Bytes of an operand's element.
    pub(super) const fn operand_bytes(self) -> f64 {
        match self {
            Self::F32 => 4.0,
            Self::Bf16 => 2.0,
            Self::Fp8 => 1.0,
        }
    }

    /// Bytes of an activation.
    pub(super) const fn activation_bytes(self) -> f64 {
        match self {
            Self::F32 => 4.0,
            Self::Bf16 | Self::Fp8 => 2.0,
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Fp8 => "fp8",
        })
    }
}

/// A matrix of a precision.
pub enum Held {
    F32(Vec<f32>),
    Bf16(Vec<Bf16>),
    Fp8 { codes: Vec<u8>, scales: Vec<f32> },
}

impl Held {
    /// `x` of `rows` x `columns`, with scales of `grouping`.
    pub fn new(cpu: &Cpu, x: &[f32], (rows, columns): (usize, usize), grouping: Grouping, precision: Precision) -> Self {
        let (scale_rows, _) = grouping.scales(rows, columns);
        Self::of_parts(cpu, x, columns, grouping, precision, &[(0, 0), (rows, scale_rows)])
    }

    /// Tiles of 128 x 1 of a matrix of `columns` columns, whose rows belong to groups.
    pub fn columns_of_groups(cpu: &Cpu, x: &[f32], columns: usize, offsets: &[u32], precision: Precision) -> Self {
        let place = |(group, &offset): (usize, &u32)| (offset as usize, column_scale_row(offset as usize, group));
        let parts: Vec<_> = offsets.iter().enumerate().map(place).collect();
        Self::of_parts(cpu, x, columns, Grouping::Column, precision, &parts)
    }

    /// Blocks of 128 x 128 of matrices of `rows` x `columns`.
    pub fn blocks_of_groups(cpu: &Cpu, x: &[f32], (rows, columns): (usize, usize), precision: Precision) -> Self {
        let (scale_rows, _) = Grouping::Block.scales(rows, columns);
        let groups = x.len() / (rows * columns);
        let parts: Vec<_> = (0..=groups).map(|group| (group * rows, group * scale_rows)).collect();
        Self::of_parts(cpu, x, columns, Grouping::Block, precision, &parts)
    }

    /// Rows that are quantised by themselves lie between two of `parts`: first row, and first row of the scales.
    fn of_parts(cpu: &Cpu, x: &[f32], columns: usize, grouping: Grouping, precision: Precision, parts: &[(usize, usize)]) -> Self {
        match precision {
            Precision::F32 => Self::F32(x.to_vec()),
            Precision::Bf16 => Self::Bf16(x.iter().map(|&x| Bf16::from_f32(x)).collect()),
            Precision::Fp8 => {
                let (_, width) = grouping.scales(1, columns);
                let mut codes = vec![0; x.len()];
                let mut scales = vec![0.0; parts.last().map_or(0, |part| part.1) * width];
                for ends in parts.windows(2) {
                    let rows = ends[0].0..ends[1].0;
                    let dims = QuantizeDims {
                        rows: rows.len(),
                        columns,
                        grouping,
                        scaling: Scaling::PowerOfTwo,
                        transposed: false,
                    };
                    let elements = rows.start * columns..rows.end * columns;
                    let scales = &mut scales[ends[0].1 * width..][..dims.scales().0 * width];
                    let _ = cpu.quantize_source(&mut codes[elements.clone()], scales, Source::F32(&x[elements]), dims);
                }
                Self::Fp8 { codes, scales }
            }
        }
    }

    /// As an operand.
    pub fn matrix(&self) -> Matrix<'_, Cpu> {
        match self {
            Self::F32(values) => values.into(),
            Self::Bf16(values) => Matrix::of(values),
            Self::Fp8 { codes, scales } => Matrix::E4m3 { codes, scales },
        }
    }
}
