//! Number formats and quantisation: against values of torch, against slow definitions, and every instruction set against the reference.

#![allow(clippy::unwrap_used)]

#[path = "../conformance/draw.rs"]
#[allow(dead_code)] // the conformance tests use all of it
mod draw;
mod golden;
mod product;
mod quantize;
mod scalar;

use fathom_kernels::cpu::simd::Isa;
use fathom_kernels::formats::{Bf16, E5m6Dims, QuantizeDims, Source, Statistics, e5m6};
use fathom_kernels::{Cpu, Reference};

/// Codes (or packed codes), scales as bits, and statistics.
type Quantised = (Vec<u8>, Vec<u32>, Statistics);

/// A backend that quantises.
enum Backend {
    Reference,
    Cpu(Cpu),
}

impl Backend {
    /// All of this machine: the reference first, then every instruction set on one and on three threads.
    fn all() -> Vec<Self> {
        let cpus = Isa::available()
            .into_iter()
            .flat_map(|isa| [1, 3].map(|threads| Self::Cpu(Cpu::with_isa(threads, isa))));
        std::iter::once(Self::Reference).chain(cpus).collect()
    }

    fn name(&self) -> String {
        match self {
            Self::Reference => String::from("reference"),
            Self::Cpu(cpu) => format!("{} on {} threads", cpu.isa().name(), cpu.threads()),
        }
    }

    fn quantize(&self, x: Source<'_>, dims: QuantizeDims) -> Quantised {
        let (rows, columns) = dims.scales();
        // Not zero, so that what is not written shows.
        let (mut codes, mut scales) = (vec![0xaa; dims.rows * dims.columns], vec![-1.0; rows * columns]);
        let statistics = match self {
            Self::Reference => Reference::PAIRS.quantize_source(&mut codes, &mut scales, x, dims),
            Self::Cpu(cpu) => cpu.quantize_source(&mut codes, &mut scales, x, dims),
        };
        (codes, scales.into_iter().map(f32::to_bits).collect(), statistics)
    }

    fn quantize_e5m6(&self, x: Source<'_>, dims: E5m6Dims) -> Quantised {
        let mut packed = vec![0xaa; dims.rows * e5m6::packed_len(dims.columns)];
        let mut scales = vec![-1.0; dims.rows * dims.columns.div_ceil(128)];
        let statistics = match self {
            Self::Reference => Reference::PAIRS.quantize_e5m6_source(&mut packed, &mut scales, x, dims),
            Self::Cpu(cpu) => cpu.quantize_e5m6_source(&mut packed, &mut scales, x, dims),
        };
        (packed, scales.into_iter().map(f32::to_bits).collect(), statistics)
    }

    fn dequantize(&self, x: Source<'_>, rows: usize, columns: usize) -> Vec<f32> {
        let mut y = vec![-1.0; rows * columns];
        match self {
            Self::Reference => Reference::PAIRS.dequantize_source(&mut y, x, rows, columns),
            Self::Cpu(cpu) => cpu.dequantize_source(&mut y, x, rows, columns),
        }
        y
    }

    fn transpose(&self, x: &[u8], rows: usize, columns: usize) -> Vec<u8> {
        let mut y = vec![0xaa; x.len()];
        match self {
            Self::Reference => Reference::PAIRS.transpose(&mut y, x, rows, columns),
            Self::Cpu(cpu) => cpu.transpose_codes(&mut y, x, rows, columns),
        }
        y
    }
}

fn floats(bits: &[u32]) -> Vec<f32> {
    bits.iter().map(|&bits| f32::from_bits(bits)).collect()
}

fn bf16(values: &[f32]) -> Vec<Bf16> {
    values.iter().map(|&value| Bf16::from_f32(value)).collect()
}
