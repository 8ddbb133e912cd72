//! What quantisation saw, per layer and class of tensor: how much of E4M3's range is in use, and what was lost at its ends.

use super::layout::{Layout, TensorId};
use fathom_kernels::Kernels;
use fathom_kernels::formats::Statistics;

/// Kinds of quantised tensors of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorClass {
    /// Normalised input of attention.
    AttentionInput,
    /// Latents of queries, keys and values.
    Latent,
    /// Attention output, as input of its projection.
    AttentionOutput,
    /// Attention output, as kept in E5M6 for the backward pass.
    CachedAttentionOutput,
    /// Normalised input of the feed-forward network.
    FfnInput,
    /// Gate and up pre-activations, as kept for the backward pass.
    CachedPreActivation,
    /// SwiGLU output.
    SwigluOutput,
    /// Weights of attention.
    AttentionWeight,
    /// Weights of the feed-forward network and the experts.
    FfnWeight,
    /// Gradient of the residual stream after attention.
    AttentionOutputGradient,
    /// Gradients of queries, keys and values.
    AttentionGradient,
    /// Gradients of the latents before their norms.
    LatentGradient,
    /// Gradient of the feed-forward network's output.
    FfnOutputGradient,
    /// Gradient of gate and up pre-activations.
    PreActivationGradient,
}

impl TensorClass {
    /// All, in the order of the columns of the reported matrices.
    pub const ALL: [Self; 14] = [
        Self::AttentionInput,
        Self::Latent,
        Self::AttentionOutput,
        Self::CachedAttentionOutput,
        Self::FfnInput,
        Self::CachedPreActivation,
        Self::SwigluOutput,
        Self::AttentionWeight,
        Self::FfnWeight,
        Self::AttentionOutputGradient,
        Self::AttentionGradient,
        Self::LatentGradient,
        Self::FfnOutputGradient,
        Self::PreActivationGradient,
    ];
}

/// Statistics on the device: a row per layer (those of MTP modules last), a column per class.
pub struct Numerics<K: Kernels> {
    statistics: K::Buffer<Statistics>,
    layers: usize,
    /// Per tensor.
    weight_slots: Vec<usize>,
}

impl<K: Kernels> Numerics<K> {
    /// Nothing seen yet.
    pub fn new(k: &K, layout: &Layout) -> Self {
        let mut weight_slots = vec![0; layout.tensors.len()];
        let mut layers = 0;
        for (layer, block) in layout.all_blocks().enumerate() {
            for (ids, class) in [
                (block.mla.linears(), TensorClass::AttentionWeight),
                (block.ffn.linears(), TensorClass::FfnWeight),
            ] {
                for id in ids {
                    weight_slots[id.index()] = slot(layer, class);
                }
            }
            layers = layer + 1;
        }
        Self {
            statistics: k.zeros(layers * TensorClass::ALL.len()),
            layers,
            weight_slots,
        }
    }

    /// Where operations merge what they see.
    pub const fn buffer(&mut self) -> &mut K::Buffer<Statistics> {
        &mut self.statistics
    }

    /// The element of the buffer that stands for a weight.
    pub fn weight_slot(&self, id: TensorId) -> usize {
        self.weight_slots[id.index()]
    }

    /// Everything seen since the last call, per layer and class.
    pub fn take(&mut self, k: &K) -> Vec<Vec<Statistics>> {
        let mut all = vec![Statistics::default(); self.layers * TensorClass::ALL.len()];
        k.download(&mut all, &self.statistics, 0);
        k.fill(&mut self.statistics, Statistics::default());
        all.chunks_exact(TensorClass::ALL.len()).map(<[_]>::to_vec).collect()
    }
}

/// The element of the buffer that stands for a class in a layer.
pub const fn slot(layer: usize, class: TensorClass) -> usize {
    layer * TensorClass::ALL.len() + class as usize
}

#[cfg(test)]
mod tests {
    use super::TensorClass;

    #[test]
    fn classes_are_in_the_order_of_their_slots() {
        for (index, class) in TensorClass::ALL.into_iter().enumerate() {
            assert_eq!(class as usize, index);
        }
    }
}
