//! Multi-head latent attention (paper, section 2.1.1): forward, then backward with each line quoting the forward line it differentiates.
//!
//! Shapes: T rows, d width, H heads, n/r/v head dimensions (no position, rotary, value), q/c ranks of the query and key-value latents.

use super::dims::OpDims;
use super::layout::{MlaIds, QueryIds};
use super::weights::Weights;
use fathom_kernels::dims::{Columns, RmsNormDims};
use fathom_kernels::{Kernels, Rotation, Write};

/// What the forward pass keeps for the backward pass.
pub struct MlaActivations<K: Kernels> {
    /// Query latent before its norm, `[T, q]`; empty without a query latent.
    cq0: K::Buffer<f32>,
    /// Query latent, `[T, q]`.
    cq: K::Buffer<f32>,
    cq_rstd: K::Buffer<f32>,
    /// Rotated queries, `[T, H (n + r)]`.
    q: K::Buffer<f32>,
    /// Key-value latent before its norm and rotated shared key, `[T, c + r]`.
    kv_a: K::Buffer<f32>,
    /// Key-value latent, `[T, c]`.
    ckv: K::Buffer<f32>,
    ckv_rstd: K::Buffer<f32>,
    /// Keys without position and values, `[T, H (n + v)]`.
    kv_up: K::Buffer<f32>,
    /// Attention output, `[T, H v]`.
    o: K::Buffer<f32>,
    /// Log of the softmax denominators, `[H, T]`.
    lse: K::Buffer<f32>,
}

impl<K: Kernels> MlaActivations<K> {
    /// Memory for one layer.
    pub fn new(k: &K, dims: &OpDims<'_>) -> Self {
        let (rows, m, attention) = (dims.batch.rows(), dims.model, dims.attention());
        Self {
            cq0: k.zeros(rows * m.q_rank),
            cq: k.zeros(rows * m.q_rank),
            cq_rstd: k.zeros(if m.q_rank == 0 { 0 } else { rows }),
            q: k.zeros(rows * attention.q_width()),
            kv_a: k.zeros(rows * attention.kv_a_width()),
            ckv: k.zeros(rows * m.kv_rank),
            ckv_rstd: k.zeros(rows),
            kv_up: k.zeros(rows * attention.kv_up_width()),
            o: k.zeros(rows * attention.o_width()),
            lse: k.zeros(m.heads * rows),
        }
    }
}

/// Gradients that live only inside one layer's backward pass; shared by all layers.
pub struct MlaScratch<K: Kernels> {
    d_o: K::Buffer<f32>,
    dq: K::Buffer<f32>,
    dcq: K::Buffer<f32>,
    dcq0: K::Buffer<f32>,
    dkv_up: K::Buffer<f32>,
    dckv: K::Buffer<f32>,
    dkv_a: K::Buffer<f32>,
}

impl<K: Kernels> MlaScratch<K> {
    /// Memory for the largest batch.
    pub fn new(k: &K, dims: &OpDims<'_>) -> Self {
        let (rows, m, attention) = (dims.batch.rows(), dims.model, dims.attention());
        Self {
            d_o: k.zeros(rows * attention.o_width()),
            dq: k.zeros(rows * attention.q_width()),
            dcq: k.zeros(rows * m.q_rank),
            dcq0: k.zeros(rows * m.q_rank),
            dkv_up: k.zeros(rows * attention.kv_up_width()),
            dckv: k.zeros(rows * m.kv_rank),
            dkv_a: k.zeros(rows * attention.kv_a_width()),
        }
    }
}

/// The norm of the latent inside `kv_a`, whose rows go on with the shared key.
const fn kv_norm_dims(dims: &OpDims<'_>) -> RmsNormDims {
    let m = dims.model;
    RmsNormDims {
        rows: dims.batch.rows(),
        width: m.kv_rank,
        x: Columns {
            stride: m.kv_rank + m.rope,
            offset: 0,
        },
        y: Columns::dense(m.kv_rank),
        epsilon: m.epsilon,
    }
}

/// `u_Td += MLA(x_Td)`.
pub fn forward<K: Kernels>(
    k: &K,
    u_Td: &mut K::Buffer<f32>,
    acts: &mut MlaActivations<K>,
    x_Td: &K::Buffer<f32>,
    w: &Weights<K>,
    ids: &MlaIds,
    rope: &K::Buffer<f32>,
    dims: &OpDims<'_>,
) {
    let (m, attention) = (dims.model, dims.attention());
    match ids.query {
        QueryIds::Direct { w_q } => {
            k.linear_forward(
                &mut acts.q,
                x_Td,
                &w[w_q],
                dims.linear(m.width, attention.q_width()),
                Write::Overwrite,
            );
        }
        QueryIds::Latent { w_qa, norm, w_qb } => {
            k.linear_forward(&mut acts.cq0, x_Td, &w[w_qa], dims.linear(m.width, m.q_rank), Write::Overwrite);
            k.rmsnorm_forward(&mut acts.cq, &mut acts.cq_rstd, &acts.cq0, &w[norm], dims.norm(m.q_rank));
            k.linear_forward(
                &mut acts.q,
                &acts.cq,
                &w[w_qb],
                dims.linear(m.q_rank, attention.q_width()),
                Write::Overwrite,
            );
        }
    }
    k.rope(&mut acts.q, rope, dims.rope_q(), Rotation::Forward);
    k.linear_forward(
        &mut acts.kv_a,
        x_Td,
        &w[ids.w_kva],
        dims.linear(m.width, attention.kv_a_width()),
        Write::Overwrite,
    );
    k.rmsnorm_forward(&mut acts.ckv, &mut acts.ckv_rstd, &acts.kv_a, &w[ids.kv_norm], kv_norm_dims(dims));
    k.rope(&mut acts.kv_a, rope, dims.rope_k(), Rotation::Forward);
    k.linear_forward(
        &mut acts.kv_up,
        &acts.ckv,
        &w[ids.w_kvb],
        dims.linear(m.kv_rank, attention.kv_up_width()),
        Write::Overwrite,
    );
    k.attention_forward(&mut acts.o, &mut acts.lse, &acts.q, &acts.kv_up, &acts.kv_a, attention);
    k.linear_forward(
        u_Td,
        &acts.o,
        &w[ids.w_o],
        dims.linear(attention.o_width(), m.width),
        Write::Accumulate,
    );
}

/// `dx_Td = dMLA/dx (du_Td)`; weight gradients accumulate in `g`.
pub fn backward<K: Kernels>(
    k: &K,
    dx_Td: &mut K::Buffer<f32>,
    g: &mut Weights<K>,
    s: &mut MlaScratch<K>,
    du_Td: &K::Buffer<f32>,
    acts: &MlaActivations<K>,
    x_Td: &K::Buffer<f32>,
    w: &Weights<K>,
    ids: &MlaIds,
    rope: &K::Buffer<f32>,
    dims: &OpDims<'_>,
) {
    let (m, attention) = (dims.model, dims.attention());
    // u += W_o o
    let o_dims = dims.linear(attention.o_width(), m.width);
    k.linear_backward_weight(&mut g[ids.w_o], du_Td, &acts.o, o_dims);
    k.linear_backward_input(&mut s.d_o, du_Td, &w[ids.w_o], o_dims, Write::Overwrite);
    // o = attention(q, kv_up, kv_a)
    k.attention_backward(
        &mut s.dq,
        &mut s.dkv_up,
        &mut s.dkv_a,
        &s.d_o,
        &acts.o,
        &acts.lse,
        &acts.q,
        &acts.kv_up,
        &acts.kv_a,
        attention,
    );
    // q_r, k_r = RoPE(q_r, k_r)
    k.rope(&mut s.dq, rope, dims.rope_q(), Rotation::Inverse);
    k.rope(&mut s.dkv_a, rope, dims.rope_k(), Rotation::Inverse);
    // kv_up = W_kvb ckv
    let kvb_dims = dims.linear(m.kv_rank, attention.kv_up_width());
    k.linear_backward_weight(&mut g[ids.w_kvb], &s.dkv_up, &acts.ckv, kvb_dims);
    k.linear_backward_input(&mut s.dckv, &s.dkv_up, &w[ids.w_kvb], kvb_dims, Write::Overwrite);
    // ckv = RMSNorm(kv_a[..c])
    k.rmsnorm_backward(
        &mut s.dkv_a,
        &mut g[ids.kv_norm],
        &s.dckv,
        &acts.kv_a,
        &w[ids.kv_norm],
        &acts.ckv_rstd,
        kv_norm_dims(dims),
        Write::Overwrite,
    );
    // kv_a = W_kva x
    let kva_dims = dims.linear(m.width, attention.kv_a_width());
    k.linear_backward_weight(&mut g[ids.w_kva], &s.dkv_a, x_Td, kva_dims);
    k.linear_backward_input(dx_Td, &s.dkv_a, &w[ids.w_kva], kva_dims, Write::Overwrite);
    match ids.query {
        QueryIds::Direct { w_q } => {
            // q = W_q x
            let q_dims = dims.linear(m.width, attention.q_width());
            k.linear_backward_weight(&mut g[w_q], &s.dq, x_Td, q_dims);
            k.linear_backward_input(dx_Td, &s.dq, &w[w_q], q_dims, Write::Accumulate);
        }
        QueryIds::Latent { w_qa, norm, w_qb } => {
            // q = W_qb cq
            let qb_dims = dims.linear(m.q_rank, attention.q_width());
            k.linear_backward_weight(&mut g[w_qb], &s.dq, &acts.cq, qb_dims);
            k.linear_backward_input(&mut s.dcq, &s.dq, &w[w_qb], qb_dims, Write::Overwrite);
            // cq = RMSNorm(cq0)
            let norm_dims = dims.norm(m.q_rank);
            k.rmsnorm_backward(
                &mut s.dcq0,
                &mut g[norm],
                &s.dcq,
                &acts.cq0,
                &w[norm],
                &acts.cq_rstd,
                norm_dims,
                Write::Overwrite,
            );
            // cq0 = W_qa x
            let qa_dims = dims.linear(m.width, m.q_rank);
            k.linear_backward_weight(&mut g[w_qa], &s.dcq0, x_Td, qa_dims);
            k.linear_backward_input(dx_Td, &s.dcq0, &w[w_qa], qa_dims, Write::Accumulate);
        }
    }
}
