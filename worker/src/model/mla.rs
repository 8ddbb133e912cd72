//! Multi-head latent attention (paper, section 2.1.1): forward, then backward with each line quoting the forward line it differentiates.
//!
//! Shapes: T rows, d width, H heads, n/r/v head dimensions (no position, rotary, value), q/c ranks of the query and key-value latents.

use super::cached::{Cached, Format};
use super::dims::OpDims;
use super::layout::{MlaIds, QueryIds};
use super::linear::{self, Pass, Quantized};
use super::numerics::{Numerics, TensorClass};
use super::weights::{Storage, Weights};
use fathom_kernels::dims::{Columns, RmsNormDims};
use fathom_kernels::{Kernels, Rotation, Write};

/// What the forward pass keeps for the backward pass.
pub struct MlaActivations<K: Kernels, A: Storage> {
    /// Query latent before its norm, `[T, q]`; empty without a query latent.
    cq0: K::Buffer<A>,
    /// Key-value latent before its norm and rotated shared key, `[T, c + r]`.
    kv_a: K::Buffer<A>,
    /// Attention output, `[T, H v]`.
    o: Cached<K, A>,
    /// Log of the softmax denominators, `[H, T]`.
    lse: K::Buffer<f32>,
}

impl<K: Kernels, A: Storage> MlaActivations<K, A> {
    /// Memory for one layer.
    pub fn new(k: &K, dims: &OpDims<'_>) -> Self {
        let (rows, m, attention) = (dims.batch.rows(), dims.model, dims.attention());
        let format = if dims.fp8 { Format::E5m6 } else { Format::Plain };
        Self {
            cq0: k.zeros(rows * m.q_rank),
            kv_a: k.zeros(rows * attention.kv_a_width()),
            o: Cached::new(k, format, rows, attention.o_width()),
            lse: k.zeros(m.heads * rows),
        }
    }
}

/// Operands of the attention core that follow from the latents: kept, or recomputed by the backward pass.
pub struct UpProjections<K: Kernels, A: Storage> {
    /// Query latent, `[T, q]`.
    cq: K::Buffer<A>,
    cq_rstd: K::Buffer<f32>,
    /// Rotated queries, `[T, H (n + r)]`.
    q: K::Buffer<A>,
    /// Key-value latent, `[T, c]`.
    ckv: K::Buffer<A>,
    ckv_rstd: K::Buffer<f32>,
    /// Keys without position and values, `[T, H (n + v)]`.
    kv_up: K::Buffer<A>,
}

impl<K: Kernels, A: Storage> UpProjections<K, A> {
    /// Memory for one layer.
    pub fn new(k: &K, dims: &OpDims<'_>) -> Self {
        let (rows, m, attention) = (dims.batch.rows(), dims.model, dims.attention());
        Self {
            cq: k.zeros(rows * m.q_rank),
            cq_rstd: k.zeros(if m.q_rank == 0 { 0 } else { rows }),
            q: k.zeros(rows * attention.q_width()),
            ckv: k.zeros(rows * m.kv_rank),
            ckv_rstd: k.zeros(rows),
            kv_up: k.zeros(rows * attention.kv_up_width()),
        }
    }
}

/// Values that live only inside one layer's pass; shared by all layers.
pub struct MlaScratch<K: Kernels, A: Storage> {
    o: K::Buffer<A>,
    d_o: K::Buffer<A>,
    dq: K::Buffer<A>,
    dcq: K::Buffer<A>,
    dcq0: K::Buffer<A>,
    dkv_up: K::Buffer<A>,
    dckv: K::Buffer<A>,
    dkv_a: K::Buffer<A>,
    quantized: MlaQuantized<K>,
}

/// Quantised operands, by the shape of the tensor: `x` of the forward pass, or a gradient.
struct MlaQuantized<K: Kernels> {
    x: Quantized<K>,
    cq: Quantized<K>,
    ckv: Quantized<K>,
    o: Quantized<K>,
    du: Quantized<K>,
    dq: Quantized<K>,
    dkv_up: Quantized<K>,
    dkv_a: Quantized<K>,
    dcq0: Quantized<K>,
}

impl<K: Kernels, A: Storage> MlaScratch<K, A> {
    /// Memory for one batch shape.
    pub fn new(k: &K, dims: &OpDims<'_>) -> Self {
        let (rows, m, attention) = (dims.batch.rows(), dims.model, dims.attention());
        let quantized = |width| Quantized::new(k, dims, (rows, width), 1);
        Self {
            o: k.zeros(if dims.fp8 { rows * attention.o_width() } else { 0 }),
            d_o: k.zeros(rows * attention.o_width()),
            dq: k.zeros(rows * attention.q_width()),
            dcq: k.zeros(rows * m.q_rank),
            dcq0: k.zeros(rows * m.q_rank),
            dkv_up: k.zeros(rows * attention.kv_up_width()),
            dckv: k.zeros(rows * m.kv_rank),
            dkv_a: k.zeros(rows * attention.kv_a_width()),
            quantized: MlaQuantized {
                x: quantized(m.width),
                cq: quantized(m.q_rank),
                ckv: quantized(m.kv_rank),
                o: quantized(attention.o_width()),
                du: quantized(m.width),
                dq: quantized(attention.q_width()),
                dkv_up: quantized(attention.kv_up_width()),
                dkv_a: quantized(attention.kv_a_width()),
                dcq0: quantized(m.q_rank),
            },
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
pub fn forward<K: Kernels, A: Storage>(
    p: &Pass<'_, K>,
    n: &mut Numerics<K>,
    u_Td: &mut K::Buffer<A>,
    acts: &mut MlaActivations<K, A>,
    up: &mut UpProjections<K, A>,
    s: &mut MlaScratch<K, A>,
    x_Td: &K::Buffer<A>,
    ids: &MlaIds,
) {
    let (k, w, dims) = (p.k, p.w, &p.dims);
    let (m, attention, rows) = (dims.model, dims.attention(), dims.batch.rows());
    let x = s.quantized.x.rows(p, n, TensorClass::AttentionInput, x_Td, rows);
    if let QueryIds::Latent { w_qa, .. } = ids.query {
        let qa_dims = dims.linear(m.width, m.q_rank);
        k.linear_forward(&mut acts.cq0, x, w.operand(w_qa), qa_dims, Write::Overwrite);
    }
    let kva_dims = dims.linear(m.width, attention.kv_a_width());
    k.linear_forward(&mut acts.kv_a, x, w.operand(ids.w_kva), kva_dims, Write::Overwrite);
    k.rope(&mut acts.kv_a, p.rope, dims.rope_k(), Rotation::Forward);
    up_projections(p, n, up, acts, s, x_Td, ids);
    let o = acts.o.target(&mut s.o);
    k.attention_forward(o, &mut acts.lse, &up.q, &up.kv_up, &acts.kv_a, attention);
    let o = s.quantized.o.rows(p, n, TensorClass::AttentionOutput, o, rows);
    let o_dims = dims.linear(attention.o_width(), m.width);
    k.linear_forward(u_Td, o, w.operand(ids.w_o), o_dims, Write::Accumulate);
    acts.o.keep(p, n, TensorClass::CachedAttentionOutput, &s.o);
}

/// What follows from the latents, and from `x` if queries have none.
pub fn up_projections<K: Kernels, A: Storage>(
    p: &Pass<'_, K>,
    n: &mut Numerics<K>,
    up: &mut UpProjections<K, A>,
    acts: &MlaActivations<K, A>,
    s: &mut MlaScratch<K, A>,
    x_Td: &K::Buffer<A>,
    ids: &MlaIds,
) {
    let (k, w, dims) = (p.k, p.w, &p.dims);
    let (m, attention, rows) = (dims.model, dims.attention(), dims.batch.rows());
    match ids.query {
        QueryIds::Direct { w_q } => {
            let x = s.quantized.x.rows(p, n, TensorClass::AttentionInput, x_Td, rows);
            let q_dims = dims.linear(m.width, attention.q_width());
            k.linear_forward(&mut up.q, x, w.operand(w_q), q_dims, Write::Overwrite);
        }
        QueryIds::Latent { norm, w_qb, .. } => {
            k.rmsnorm_forward(&mut up.cq, &mut up.cq_rstd, &acts.cq0, &w[norm], dims.norm(m.q_rank));
            let cq = s.quantized.cq.rows(p, n, TensorClass::Latent, &up.cq, rows);
            let qb_dims = dims.linear(m.q_rank, attention.q_width());
            k.linear_forward(&mut up.q, cq, w.operand(w_qb), qb_dims, Write::Overwrite);
        }
    }
    k.rope(&mut up.q, p.rope, dims.rope_q(), Rotation::Forward);
    k.rmsnorm_forward(&mut up.ckv, &mut up.ckv_rstd, &acts.kv_a, &w[ids.kv_norm], kv_norm_dims(dims));
    let ckv = s.quantized.ckv.rows(p, n, TensorClass::Latent, &up.ckv, rows);
    let kvb_dims = dims.linear(m.kv_rank, attention.kv_up_width());
    k.linear_forward(&mut up.kv_up, ckv, w.operand(ids.w_kvb), kvb_dims, Write::Overwrite);
}

/// `dx_Td = dMLA/dx (du_Td)`; weight gradients accumulate in `g`.
pub fn backward<K: Kernels, A: Storage>(
    p: &Pass<'_, K>,
    n: &mut Numerics<K>,
    dx_Td: &mut K::Buffer<A>,
    g: &mut Weights<K>,
    s: &mut MlaScratch<K, A>,
    du_Td: &K::Buffer<A>,
    acts: &MlaActivations<K, A>,
    up: &UpProjections<K, A>,
    x_Td: &K::Buffer<A>,
    ids: &MlaIds,
) {
    let (k, w, dims) = (p.k, p.w, &p.dims);
    let (m, attention, rows) = (dims.model, dims.attention(), dims.batch.rows());
    let quantized = &mut s.quantized;
    // u += W_o o
    let o_kept = acts.o.load(k, &mut s.o);
    let o = quantized.o.columns(p, n, TensorClass::AttentionOutput, o_kept, rows);
    linear::backward(
        p,
        n,
        (&mut s.d_o, Write::Overwrite),
        &mut g[ids.w_o],
        (du_Td, &mut quantized.du, TensorClass::AttentionOutputGradient),
        o,
        w.operand(ids.w_o),
        dims.linear(attention.o_width(), m.width),
    );
    // o = attention(q, kv_up, kv_a)
    k.attention_backward(
        &mut s.dq,
        &mut s.dkv_up,
        &mut s.dkv_a,
        &s.d_o,
        o_kept,
        &acts.lse,
        &up.q,
        &up.kv_up,
        &acts.kv_a,
        attention,
    );
    // q_r, k_r = RoPE(q_r, k_r)
    k.rope(&mut s.dq, p.rope, dims.rope_q(), Rotation::Inverse);
    k.rope(&mut s.dkv_a, p.rope, dims.rope_k(), Rotation::Inverse);
    // kv_up = W_kvb ckv
    let ckv = quantized.ckv.columns(p, n, TensorClass::Latent, &up.ckv, rows);
    linear::backward(
        p,
        n,
        (&mut s.dckv, Write::Overwrite),
        &mut g[ids.w_kvb],
        (&s.dkv_up, &mut quantized.dkv_up, TensorClass::AttentionGradient),
        ckv,
        w.operand(ids.w_kvb),
        dims.linear(m.kv_rank, attention.kv_up_width()),
    );
    // ckv = RMSNorm(kv_a[..c])
    k.rmsnorm_backward(
        &mut s.dkv_a,
        &mut g[ids.kv_norm],
        &s.dckv,
        &acts.kv_a,
        &w[ids.kv_norm],
        &up.ckv_rstd,
        kv_norm_dims(dims),
        Write::Overwrite,
    );
    // kv_a = W_kva x
    let x = quantized.x.columns(p, n, TensorClass::AttentionInput, x_Td, rows);
    linear::backward(
        p,
        n,
        (&mut *dx_Td, Write::Overwrite),
        &mut g[ids.w_kva],
        (&s.dkv_a, &mut quantized.dkv_a, TensorClass::LatentGradient),
        x,
        w.operand(ids.w_kva),
        dims.linear(m.width, attention.kv_a_width()),
    );
    match ids.query {
        QueryIds::Direct { w_q } => {
            // q = W_q x
            linear::backward(
                p,
                n,
                (dx_Td, Write::Accumulate),
                &mut g[w_q],
                (&s.dq, &mut quantized.dq, TensorClass::AttentionGradient),
                x,
                w.operand(w_q),
                dims.linear(m.width, attention.q_width()),
            );
        }
        QueryIds::Latent { w_qa, norm, w_qb } => {
            // q = W_qb cq
            let cq = quantized.cq.columns(p, n, TensorClass::Latent, &up.cq, rows);
            linear::backward(
                p,
                n,
                (&mut s.dcq, Write::Overwrite),
                &mut g[w_qb],
                (&s.dq, &mut quantized.dq, TensorClass::AttentionGradient),
                cq,
                w.operand(w_qb),
                dims.linear(m.q_rank, attention.q_width()),
            );
            // cq = RMSNorm(cq0)
            k.rmsnorm_backward(
                &mut s.dcq0,
                &mut g[norm],
                &s.dcq,
                &acts.cq0,
                &w[norm],
                &up.cq_rstd,
                dims.norm(m.q_rank),
                Write::Overwrite,
            );
            // cq0 = W_qa x
            linear::backward(
                p,
                n,
                (dx_Td, Write::Accumulate),
                &mut g[w_qa],
                (&s.dcq0, &mut quantized.dcq0, TensorClass::LatentGradient),
                x,
                w.operand(w_qa),
                dims.linear(m.width, m.q_rank),
            );
        }
    }
}
