//! A transformer block: `u = h + MLA(RMSNorm(h))`, `h' = u + FFN(RMSNorm(u))`.

use super::dims::OpDims;
use super::ffn::{self, FfnActivations, FfnScratch};
use super::layout::BlockIds;
use super::mla::{self, MlaActivations, MlaScratch};
use super::weights::Weights;
use fathom_kernels::{Kernels, Write};

/// What the forward pass keeps of one block.
pub struct BlockActivations<K: Kernels> {
    /// Normalised input of attention, `[T, d]`, and the norm's statistics.
    n1: K::Buffer<f32>,
    n1_rstd: K::Buffer<f32>,
    mla: MlaActivations<K>,
    /// Residual stream after attention, `[T, d]`.
    u: K::Buffer<f32>,
    /// Normalised input of the feed-forward network, `[T, d]`, and the norm's statistics.
    n2: K::Buffer<f32>,
    n2_rstd: K::Buffer<f32>,
    /// The feed-forward network.
    pub ffn: FfnActivations<K>,
    /// Residual stream after the block, `[T, d]`.
    pub out: K::Buffer<f32>,
}

impl<K: Kernels> BlockActivations<K> {
    /// Memory for one block.
    pub fn new(k: &K, ids: &BlockIds, dims: &OpDims<'_>) -> Self {
        let (rows, width) = (dims.batch.rows(), dims.model.width);
        Self {
            n1: k.zeros(rows * width),
            n1_rstd: k.zeros(rows),
            mla: MlaActivations::new(k, dims),
            u: k.zeros(rows * width),
            n2: k.zeros(rows * width),
            n2_rstd: k.zeros(rows),
            ffn: FfnActivations::new(k, &ids.ffn, dims),
            out: k.zeros(rows * width),
        }
    }
}

/// Values that live only inside one block's pass; shared by all blocks of one batch shape.
pub struct BlockScratch<K: Kernels> {
    mla: MlaScratch<K>,
    ffn: FfnScratch<K>,
    /// Gradient of a normalised input, `[T, d]`.
    dn: K::Buffer<f32>,
}

impl<K: Kernels> BlockScratch<K> {
    /// Memory for any of `blocks`.
    pub fn new<'a>(k: &K, blocks: impl Iterator<Item = &'a BlockIds>, dims: &OpDims<'_>) -> Self {
        let (mut dense, mut moe) = (false, false);
        for block in blocks {
            match block.ffn {
                super::layout::FfnIds::Dense(_) => dense = true,
                super::layout::FfnIds::Moe(_) => moe = true,
            }
        }
        Self {
            mla: MlaScratch::new(k, dims),
            ffn: FfnScratch::new(k, dims, dense, moe),
            dn: k.zeros(dims.batch.rows() * dims.model.width),
        }
    }
}

/// `acts.out = Block(h)`.
pub fn forward<K: Kernels>(
    k: &K,
    acts: &mut BlockActivations<K>,
    s: &mut BlockScratch<K>,
    h_Td: &K::Buffer<f32>,
    w: &Weights<K>,
    ids: &BlockIds,
    rope: &K::Buffer<f32>,
    dims: &OpDims<'_>,
) {
    let norm_dims = dims.norm(dims.model.width);
    k.rmsnorm_forward(&mut acts.n1, &mut acts.n1_rstd, h_Td, &w[ids.attention_norm], norm_dims);
    k.copy(&mut acts.u, h_Td);
    mla::forward(k, &mut acts.u, &mut acts.mla, &acts.n1, w, &ids.mla, rope, dims);
    k.rmsnorm_forward(&mut acts.n2, &mut acts.n2_rstd, &acts.u, &w[ids.ffn_norm], norm_dims);
    k.copy(&mut acts.out, &acts.u);
    ffn::forward(k, &mut acts.out, &mut acts.ffn, &mut s.ffn, &acts.n2, w, &ids.ffn, dims);
}

/// Turns `dh_Td` from the gradient of the block's output into that of its input.
pub fn backward<K: Kernels>(
    k: &K,
    dh_Td: &mut K::Buffer<f32>,
    g: &mut Weights<K>,
    acts: &mut BlockActivations<K>,
    s: &mut BlockScratch<K>,
    h_Td: &K::Buffer<f32>,
    w: &Weights<K>,
    ids: &BlockIds,
    rope: &K::Buffer<f32>,
    balance_scale: f32,
    dims: &OpDims<'_>,
) {
    let norm_dims = dims.norm(dims.model.width);
    // out = u + FFN(n2)
    ffn::backward(
        k,
        &mut s.dn,
        g,
        &mut acts.ffn,
        &mut s.ffn,
        dh_Td,
        &acts.n2,
        w,
        &ids.ffn,
        balance_scale,
        dims,
    );
    // n2 = RMSNorm(u)
    k.rmsnorm_backward(
        dh_Td,
        &mut g[ids.ffn_norm],
        &s.dn,
        &acts.u,
        &w[ids.ffn_norm],
        &acts.n2_rstd,
        norm_dims,
        Write::Accumulate,
    );
    // u = h + MLA(n1)
    mla::backward(k, &mut s.dn, g, &mut s.mla, dh_Td, &acts.mla, &acts.n1, w, &ids.mla, rope, dims);
    // n1 = RMSNorm(h)
    k.rmsnorm_backward(
        dh_Td,
        &mut g[ids.attention_norm],
        &s.dn,
        h_Td,
        &w[ids.attention_norm],
        &acts.n1_rstd,
        norm_dims,
        Write::Accumulate,
    );
}
