//! A buffer per tensor of the layout: parameters, gradients or moments.

use super::layout::{Layout, Role, TensorId};
use fathom_kernels::Kernels;
use std::ops::{Index, IndexMut};

/// One buffer per row of the [`Layout`].
pub struct Weights<K: Kernels>(Vec<K::Buffer<f32>>);

impl<K: Kernels> Weights<K> {
    /// Zeros for every tensor.
    pub fn zeros(k: &K, layout: &Layout) -> Self {
        Self(layout.tensors.iter().map(|tensor| k.zeros(tensor.len)).collect())
    }

    /// Zeros for every tensor with a gradient; the routing biases have none and get empty buffers.
    pub fn zeros_like_trainable(k: &K, layout: &Layout) -> Self {
        Self(
            layout
                .tensors
                .iter()
                .map(|tensor| k.zeros(if tensor.role == Role::RoutingBias { 0 } else { tensor.len }))
                .collect(),
        )
    }
}

impl<K: Kernels> Index<TensorId> for Weights<K> {
    type Output = K::Buffer<f32>;

    fn index(&self, id: TensorId) -> &Self::Output {
        &self.0[id.index()]
    }
}

impl<K: Kernels> IndexMut<TensorId> for Weights<K> {
    fn index_mut(&mut self, id: TensorId) -> &mut Self::Output {
        &mut self.0[id.index()]
    }
}
