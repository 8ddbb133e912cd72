//! Multi-token prediction (paper, section 2.2): `h' = W_eh [RMSNorm(Emb(t_{i+k})) ; RMSNorm(h^{k-1}_i)]`, `h^k = RMSNorm(Block(h'))`.
//!
//! Order `[embedding ; hidden]` and the post-norm state as input of the next depth follow the released weights' consumers, not the
//! paper's print. Module `k` runs on the first `S - k` positions of each sequence: the others have no target.

use super::block::{self, BlockActivations, BlockScratch};
use super::dims::{ModelDims, OpDims};
use super::layout::{MtpIds, TensorId};
use super::linear::Pass;
use super::numerics::Numerics;
use super::weights::{Storage, Weights};
use fathom_kernels::dims::{Columns, EmbeddingDims, PrefixDims, RmsNormDims};
use fathom_kernels::{Kernels, Matrix, Write};

/// Everything one module keeps, and its scratch.
pub struct MtpActivations<K: Kernels, A: Storage> {
    /// `Emb(t_{i+k})`, `[T_k, d]`.
    embedding: K::Buffer<A>,
    embedding_rstd: K::Buffer<f32>,
    /// `h^{k-1}` without the last position of each sequence, `[T_k, d]`.
    hidden: K::Buffer<A>,
    hidden_rstd: K::Buffer<f32>,
    /// `[T_k, 2d]`.
    concat: K::Buffer<A>,
    /// Input of the block, `[T_k, d]`.
    h: K::Buffer<A>,
    /// The block.
    pub block: BlockActivations<K, A>,
    /// `h^k`, `[T_k, d]`: input of the head and of the next module.
    pub out: K::Buffer<A>,
    out_rstd: K::Buffer<f32>,
    /// Negative log-likelihood of `t_{i+k+1}`, `[T_k]`.
    pub nll: K::Buffer<f32>,
    /// Gradient of `out`, `[T_k, d]`.
    pub d_out: K::Buffer<A>,
    dh: K::Buffer<A>,
    dconcat: K::Buffer<A>,
    scratch: BlockScratch<K, A>,
}

impl<K: Kernels, A: Storage> MtpActivations<K, A> {
    /// Memory for one module on its own batch shape.
    pub fn new(k: &K, ids: &MtpIds, dims: &OpDims<'_>) -> Self {
        let (rows, width) = (dims.batch.rows(), dims.model.width);
        Self {
            embedding: k.zeros(rows * width),
            embedding_rstd: k.zeros(rows),
            hidden: k.zeros(rows * width),
            hidden_rstd: k.zeros(rows),
            concat: k.zeros(rows * 2 * width),
            h: k.zeros(rows * width),
            block: BlockActivations::new(k, &ids.block, dims),
            out: k.zeros(rows * width),
            out_rstd: k.zeros(rows),
            nll: k.zeros(rows),
            d_out: k.zeros(rows * width),
            dh: k.zeros(rows * width),
            dconcat: k.zeros(rows * 2 * width),
            scratch: BlockScratch::new(k, std::iter::once(&ids.block), dims),
        }
    }
}

/// Norm from dense rows into half `index` of the concatenation.
const fn half(dims: &OpDims<'_>, index: usize) -> RmsNormDims {
    let width = dims.model.width;
    RmsNormDims {
        rows: dims.batch.rows(),
        width,
        x: Columns::dense(width),
        y: Columns {
            stride: 2 * width,
            offset: index * width,
        },
        epsilon: dims.model.epsilon,
    }
}

const fn prefix(dims: &OpDims<'_>) -> PrefixDims {
    PrefixDims {
        sequences: dims.batch.sequences,
        length: dims.batch.length + 1,
        prefix: dims.batch.length,
        width: dims.model.width,
    }
}

const fn embedding_dims(dims: &OpDims<'_>) -> EmbeddingDims {
    let ModelDims { width, vocabulary, .. } = *dims.model;
    EmbeddingDims {
        rows: dims.batch.rows(),
        width,
        vocabulary,
    }
}

/// `acts.out` from the previous depth's state (one position longer per sequence) and the tokens `t_{i+k}`.
pub fn forward<K: Kernels, A: Storage>(
    p: &Pass<'_, K>,
    n: &mut Numerics<K>,
    acts: &mut MtpActivations<K, A>,
    previous_Td: &K::Buffer<A>,
    tokens_T: &K::Buffer<u32>,
    ids: &MtpIds,
    embedding: TensorId,
) {
    let (k, w, dims) = (p.k, p.w, &p.dims);
    let d = dims.model.width;
    k.embedding_forward(&mut acts.embedding, w.table(embedding), tokens_T, embedding_dims(dims));
    k.rmsnorm_forward(
        &mut acts.concat,
        &mut acts.embedding_rstd,
        &acts.embedding,
        &w[ids.embedding_norm],
        half(dims, 0),
    );
    k.prefix_forward(&mut acts.hidden, previous_Td, prefix(dims));
    k.rmsnorm_forward(
        &mut acts.concat,
        &mut acts.hidden_rstd,
        &acts.hidden,
        &w[ids.hidden_norm],
        half(dims, 1),
    );
    let concat = Matrix::of(&acts.concat);
    k.linear_forward(&mut acts.h, concat, w.operand(ids.w_eh), dims.linear(2 * d, d), Write::Overwrite);
    block::forward(p, n, &mut acts.block, &mut acts.scratch, &acts.h, &ids.block);
    k.rmsnorm_forward(&mut acts.out, &mut acts.out_rstd, &acts.block.out, &w[ids.head_norm], dims.norm(d));
}

/// From `acts.d_out` (complete: the head's part and the next depth's) to the gradient of the previous state, which it adds to
/// `d_previous_Td`.
pub fn backward<K: Kernels, A: Storage>(
    p: &Pass<'_, K>,
    n: &mut Numerics<K>,
    d_previous_Td: &mut K::Buffer<A>,
    g: &mut Weights<K>,
    acts: &mut MtpActivations<K, A>,
    tokens_T: &K::Buffer<u32>,
    ids: &MtpIds,
    embedding: TensorId,
    balance_scale: f32,
) {
    let (k, w, dims) = (p.k, p.w, &p.dims);
    let d = dims.model.width;
    // out = RMSNorm(block.out)
    k.rmsnorm_backward(
        &mut acts.dh,
        &mut g[ids.head_norm],
        &acts.d_out,
        &acts.block.out,
        &w[ids.head_norm],
        &acts.out_rstd,
        dims.norm(d),
        Write::Overwrite,
    );
    // block.out = Block(h)
    let (block_acts, scratch) = (&mut acts.block, &mut acts.scratch);
    block::backward(p, n, &mut acts.dh, g, block_acts, scratch, &acts.h, &ids.block, balance_scale);
    // h = W_eh concat
    let eh_dims = dims.linear(2 * d, d);
    let dh = Matrix::of(&acts.dh);
    k.linear_backward_weight(&mut g[ids.w_eh], dh, Matrix::of(&acts.concat), eh_dims);
    k.linear_backward_input(&mut acts.dconcat, dh, w.operand(ids.w_eh), eh_dims, Write::Overwrite);
    // concat = [RMSNorm(embedding) ; RMSNorm(hidden)]; `dh` is free again and takes each branch's gradient in turn.
    k.rmsnorm_backward(
        &mut acts.dh,
        &mut g[ids.hidden_norm],
        &acts.dconcat,
        &acts.hidden,
        &w[ids.hidden_norm],
        &acts.hidden_rstd,
        half(dims, 1),
        Write::Overwrite,
    );
    // hidden = prefix(previous)
    k.prefix_backward(d_previous_Td, &acts.dh, prefix(dims));
    k.rmsnorm_backward(
        &mut acts.dh,
        &mut g[ids.embedding_norm],
        &acts.dconcat,
        &acts.embedding,
        &w[ids.embedding_norm],
        &acts.embedding_rstd,
        half(dims, 0),
        Write::Overwrite,
    );
    // embedding = Emb[tokens]
    k.embedding_backward(&mut g[embedding], &acts.dh, tokens_T, embedding_dims(dims));
}
