//! A buffer per tensor of the layout (gradients, moments, averages), and the parameters with the copies that products read.

use super::layout::{Arithmetic, Layout, Role, Tensor, TensorId};
use super::numerics::Numerics;
use fathom_kernels::formats::{Activation, Bf16, Grouping, QuantizeDims, Scaling};
use fathom_kernels::{Element, Kernels, Matrix};
use fathom_spec::manifest::Precision;
use std::ops::{Index, IndexMut};

/// Scales of weights are those of the released checkpoints: the largest magnitude of a block over 448.
const WEIGHT_SCALING: Scaling = Scaling::Plain;

/// One buffer per row of the [`Layout`].
pub struct Weights<K: Kernels, T: Element = f32>(Vec<K::Buffer<T>>);

impl<K: Kernels, T: Element> Weights<K, T> {
    /// Zeros for every tensor.
    pub fn zeros(k: &K, layout: &Layout) -> Self {
        Self(layout.tensors.iter().map(|tensor| k.zeros(tensor.len)).collect())
    }

    /// No buffers at all.
    pub const fn empty() -> Self {
        Self(Vec::new())
    }

    /// Zeros for every tensor with a gradient; the routing biases have none and get empty buffers.
    pub fn zeros_like_trainable(k: &K, layout: &Layout) -> Self {
        let len = |tensor: &Tensor| if tensor.role == Role::RoutingBias { 0 } else { tensor.len };
        Self(layout.tensors.iter().map(|tensor| k.zeros(len(tensor))).collect())
    }

    /// All buffers, in the order of the layout.
    pub fn buffers_mut(&mut self) -> Vec<&mut K::Buffer<T>> {
        self.0.iter_mut().collect()
    }
}

impl<K: Kernels, T: Element> Index<TensorId> for Weights<K, T> {
    type Output = K::Buffer<T>;

    fn index(&self, id: TensorId) -> &Self::Output {
        &self.0[id.index()]
    }
}

impl<K: Kernels, T: Element> IndexMut<TensorId> for Weights<K, T> {
    fn index_mut(&mut self, id: TensorId) -> &mut Self::Output {
        &mut self.0[id.index()]
    }
}

/// What products read of a tensor.
enum Operand<K: Kernels> {
    /// The master itself.
    Master,
    /// Rounded.
    Bf16(K::Buffer<Bf16>),
    /// Quantised in blocks of 128 x 128 of each matrix.
    E4m3 { codes: K::Buffer<u8>, scales: K::Buffer<f32> },
}

impl<K: Kernels> Operand<K> {
    fn new(k: &K, tensor: &Tensor, precision: Precision) -> Self {
        match (precision, tensor.arithmetic) {
            (Precision::F32, _) | (_, Arithmetic::F32) => Self::Master,
            (Precision::Bf16, _) | (Precision::Fp8, Arithmetic::Bf16) => Self::Bf16(k.zeros(tensor.len)),
            (Precision::Fp8, Arithmetic::Linear { count, rows, columns }) => {
                let (down, across) = Grouping::Block.scales(rows, columns);
                Self::E4m3 {
                    codes: k.zeros(tensor.len),
                    scales: k.zeros(count * down * across),
                }
            }
        }
    }
}

/// The model's parameters and routing biases: FP32 masters, which the optimizer updates, and what products read of them. Indexing gives the
/// masters.
pub struct Parameters<K: Kernels> {
    masters: Weights<K>,
    operands: Vec<Operand<K>>,
    fresh: Fresh,
}

/// Which operands are those of the masters.
#[derive(Clone, Copy)]
struct Fresh {
    rounded: bool,
    quantized: bool,
}

impl Fresh {
    const fn of_all(fresh: bool) -> Self {
        Self {
            rounded: fresh,
            quantized: fresh,
        }
    }
}

impl<K: Kernels> Parameters<K> {
    /// Zeros.
    pub fn zeros(k: &K, layout: &Layout, precision: Precision) -> Self {
        Self {
            masters: Weights::zeros(k, layout),
            operands: layout.tensors.iter().map(|tensor| Operand::new(k, tensor, precision)).collect(),
            fresh: Fresh::of_all(precision == Precision::F32),
        }
    }

    /// The masters.
    pub const fn masters(&self) -> &Weights<K> {
        &self.masters
    }

    /// The masters, to be changed: [`Parameters::refresh`] before the next pass.
    pub fn masters_mut(&mut self) -> &mut Weights<K> {
        self.fresh = Fresh::of_all(self.operands.iter().all(|operand| matches!(operand, Operand::Master)));
        &mut self.masters
    }

    /// A master to be updated, and its rounded copy if products read that: who writes one writes the other. [`Parameters::refresh`] before the
    /// next pass.
    pub fn update(&mut self, id: TensorId) -> (&mut K::Buffer<f32>, Option<&mut K::Buffer<Bf16>>) {
        let copy = match &mut self.operands[id.index()] {
            Operand::Master => None,
            Operand::Bf16(copy) => Some(copy),
            Operand::E4m3 { .. } => {
                self.fresh.quantized = false;
                None
            }
        };
        (&mut self.masters[id], copy)
    }

    /// Exchanges the masters of all trainable parameters with `others`; the routing biases stay. [`Parameters::refresh`] before the next pass.
    pub fn exchange(&mut self, layout: &Layout, others: &mut Weights<K>) {
        let masters = self.masters_mut();
        for id in layout.trainable() {
            std::mem::swap(&mut masters[id], &mut others[id]);
        }
    }

    /// Makes the operands of the masters, where these have changed. Statistics of quantised weights go to `numerics`.
    pub fn refresh(&mut self, k: &K, layout: &Layout, numerics: &mut Numerics<K>) {
        let Fresh { rounded, quantized } = self.fresh;
        if rounded && quantized {
            return;
        }
        for id in layout.ids() {
            let (tensor, master) = (layout.tensor(id), &self.masters[id]);
            match &mut self.operands[id.index()] {
                Operand::Bf16(copy) if !rounded => k.cast(copy, master),
                Operand::E4m3 { codes, scales } if !quantized => {
                    let Arithmetic::Linear { count, rows, columns } = tensor.arithmetic else {
                        unreachable!("only weights of linear layers are quantised");
                    };
                    let dims = QuantizeDims {
                        rows,
                        columns,
                        grouping: Grouping::Block,
                        scaling: WEIGHT_SCALING,
                        transposed: false,
                    };
                    let slot = numerics.weight_slot(id);
                    k.quantize_stack(codes, scales, numerics.buffer(), slot, master, count, dims);
                }
                _ => {}
            }
        }
        self.fresh = Fresh::of_all(true);
    }

    /// What a product with the tensor reads.
    ///
    /// # Panics
    /// If the masters have changed since the last [`Parameters::refresh`].
    pub fn operand(&self, id: TensorId) -> Matrix<'_, K> {
        let Fresh { rounded, quantized } = self.fresh;
        assert!(rounded && quantized, "parameters were changed and not refreshed");
        match &self.operands[id.index()] {
            Operand::Master => Matrix::F32(&self.masters[id]),
            Operand::Bf16(copy) => Matrix::Bf16(copy),
            Operand::E4m3 { codes, scales } => Matrix::E4m3 { codes, scales },
        }
    }

    /// The tensor as a table of the activations' type: embedding and head.
    ///
    /// # Panics
    /// As [`Parameters::operand`]; if the tensor is not kept in this type.
    pub fn table<A: Storage>(&self, id: TensorId) -> &K::Buffer<A> {
        A::table(self.operand(id))
    }
}

impl<K: Kernels> Index<TensorId> for Parameters<K> {
    type Output = K::Buffer<f32>;

    fn index(&self, id: TensorId) -> &Self::Output {
        &self.masters[id]
    }
}

impl<K: Kernels> IndexMut<TensorId> for Parameters<K> {
    fn index_mut(&mut self, id: TensorId) -> &mut Self::Output {
        &mut self.masters_mut()[id]
    }
}

/// Activation types that a model can have.
pub trait Storage: Activation {
    /// The buffer of a matrix of this type.
    ///
    /// # Panics
    /// If the matrix is of another type.
    fn table<K: Kernels>(matrix: Matrix<'_, K>) -> &K::Buffer<Self>;
}

impl Storage for f32 {
    fn table<K: Kernels>(matrix: Matrix<'_, K>) -> &K::Buffer<Self> {
        match matrix {
            Matrix::F32(buffer) => buffer,
            Matrix::Bf16(_) | Matrix::E4m3 { .. } => panic!("activations in FP32 need tables in FP32"),
        }
    }
}

impl Storage for Bf16 {
    fn table<K: Kernels>(matrix: Matrix<'_, K>) -> &K::Buffer<Self> {
        match matrix {
            Matrix::Bf16(buffer) => buffer,
            Matrix::F32(_) | Matrix::E4m3 { .. } => panic!("activations in BF16 need tables in BF16"),
        }
    }
}
