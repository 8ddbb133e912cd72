//! Activations that wait for the backward pass, in the narrow formats of the `fp8` recipe (paper, section 3.3.3).

use super::linear::{Pass, SCALING};
use super::numerics::{Numerics, TensorClass, slot};
use super::weights::Storage;
use fathom_kernels::Kernels;
use fathom_kernels::formats::{E5m6Dims, GROUP, Grouping, QuantizeDims, e5m6};

/// How an activation is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// As it is.
    Plain,
    /// E4M3 in 1 x 128 tiles.
    E4m3,
    /// E5M6 in 1 x 128 tiles.
    E5m6,
}

/// A matrix that the forward pass leaves to the backward pass.
pub struct Cached<K: Kernels, A: Storage> {
    memory: Memory<K, A>,
    rows: usize,
    columns: usize,
}

enum Memory<K: Kernels, A: Storage> {
    Plain(K::Buffer<A>),
    E4m3 { codes: K::Buffer<u8>, scales: K::Buffer<f32> },
    E5m6 { packed: K::Buffer<u8>, scales: K::Buffer<f32> },
}

impl<K: Kernels, A: Storage> Cached<K, A> {
    /// Memory for `rows` x `columns`.
    pub fn new(k: &K, format: Format, rows: usize, columns: usize) -> Self {
        let scales = || k.zeros(rows * columns.div_ceil(GROUP));
        let memory = match format {
            Format::Plain => Memory::Plain(k.zeros(rows * columns)),
            Format::E4m3 => Memory::E4m3 {
                codes: k.zeros(rows * columns),
                scales: scales(),
            },
            Format::E5m6 => Memory::E5m6 {
                packed: k.zeros(rows * e5m6::packed_len(columns)),
                scales: scales(),
            },
        };
        Self { memory, rows, columns }
    }

    /// Where the forward pass writes the matrix: `scratch`, if it will be kept in another format.
    pub const fn target<'a>(&'a mut self, scratch: &'a mut K::Buffer<A>) -> &'a mut K::Buffer<A> {
        match &mut self.memory {
            Memory::Plain(buffer) => buffer,
            Memory::E4m3 { .. } | Memory::E5m6 { .. } => scratch,
        }
    }

    /// Keeps what [`Cached::target`] was filled with.
    pub fn keep(&mut self, p: &Pass<'_, K>, n: &mut Numerics<K>, class: TensorClass, scratch: &K::Buffer<A>) {
        let Self {
            ref mut memory,
            rows,
            columns,
        } = *self;
        let slot = slot(p.layer, class);
        match memory {
            Memory::Plain(_) => {}
            Memory::E4m3 { codes, scales } => {
                let dims = QuantizeDims {
                    rows,
                    columns,
                    grouping: Grouping::Row,
                    scaling: SCALING,
                    transposed: false,
                };
                p.k.quantize(codes, scales, n.buffer(), slot, scratch, dims);
            }
            Memory::E5m6 { packed, scales } => {
                p.k.quantize_e5m6(packed, scales, n.buffer(), slot, scratch, E5m6Dims { rows, columns });
            }
        }
    }

    /// The matrix, as kept; in `scratch`, if that is another format.
    pub fn load<'a>(&'a self, k: &K, scratch: &'a mut K::Buffer<A>) -> &'a K::Buffer<A> {
        let Self { ref memory, rows, columns } = *self;
        match memory {
            Memory::Plain(buffer) => return buffer,
            Memory::E4m3 { codes, scales } => k.dequantize(scratch, codes, scales, rows, columns),
            Memory::E5m6 { packed, scales } => k.dequantize_e5m6(scratch, packed, scales, E5m6Dims { rows, columns }),
        }
        scratch
    }
}
