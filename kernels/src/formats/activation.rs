//! Types that activations and their gradients are stored in. What is computed is FP32 in both.

use super::Bf16;
use crate::{Element, Kernels, Matrix};

/// A type of elements, at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataType {
    /// `f32`.
    F32,
    /// [`Bf16`].
    Bf16,
}

/// A type that activations are stored in.
pub trait Activation: Element + sealed::Sealed {
    /// This type; kernels rely on it when they read memory as vectors.
    const DATA_TYPE: DataType;
    /// The nearest value.
    fn from_f32(value: f32) -> Self;
    /// The value, exactly.
    fn to_f32(self) -> f32;
    /// A buffer as an operand of products.
    fn matrix<K: Kernels + ?Sized>(buffer: &K::Buffer<Self>) -> Matrix<'_, K>;
}

mod sealed {
    /// Keeps `DATA_TYPE` true.
    pub trait Sealed: crate::cpu::instances::Instances {}
    impl Sealed for f32 {}
    impl Sealed for super::Bf16 {}
}

impl Activation for f32 {
    const DATA_TYPE: DataType = DataType::F32;

    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        value
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }

    fn matrix<K: Kernels + ?Sized>(buffer: &K::Buffer<Self>) -> Matrix<'_, K> {
        Matrix::F32(buffer)
    }
}

impl Activation for Bf16 {
    const DATA_TYPE: DataType = DataType::Bf16;

    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        Self::from_f32(value)
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        self.to_f32()
    }

    fn matrix<K: Kernels + ?Sized>(buffer: &K::Buffer<Self>) -> Matrix<'_, K> {
        Matrix::Bf16(buffer)
    }
}
