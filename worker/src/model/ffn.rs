//! The feed-forward half of a block: dense SwiGLU, or DeepSeekMoE with routed and shared experts (paper, section 2.1.2).
//!
//! Shapes: T rows, d width, f width of a network, E routed experts, R = T x top-k routed rows sorted by expert.

use super::dims::OpDims;
use super::layout::{FfnIds, MlpIds, MoeIds};
use super::weights::Weights;
use fathom_kernels::dims::{GroupedDims, LinearDims, SwigluDims};
use fathom_kernels::{Kernels, Write};

/// Kept by a SwiGLU network on T rows.
pub struct MlpActivations<K: Kernels> {
    /// Gate and up pre-activations, `[T, 2f]`.
    gate_up: K::Buffer<f32>,
    /// `silu(gate) * up`, `[T, f]`.
    a: K::Buffer<f32>,
}

impl<K: Kernels> MlpActivations<K> {
    fn new(k: &K, rows: usize, width: usize) -> Self {
        Self {
            gate_up: k.zeros(rows * 2 * width),
            a: k.zeros(rows * width),
        }
    }
}

/// Kept by a mixture-of-experts layer.
pub struct MoeActivations<K: Kernels> {
    /// Gate scores, `[T, E]`.
    scores: K::Buffer<f32>,
    /// Selected experts, `[T, top_k]`.
    indices: K::Buffer<u32>,
    /// Their weights, `[T, top_k]`.
    weights: K::Buffer<f32>,
    /// `f_i` of the balance loss, `[B, E]`.
    frequency: K::Buffer<f32>,
    /// Balance loss of each sequence, `[B]`.
    pub balance_loss: K::Buffer<f32>,
    /// Tokens sent to each expert since the counter was cleared, `[E]`.
    pub counts: K::Buffer<u32>,
    offsets: K::Buffer<u32>,
    slot_of_row: K::Buffer<u32>,
    row_of_slot: K::Buffer<u32>,
    /// Routed networks, R rows.
    routed: MlpActivations<K>,
    /// Shared experts.
    shared: Option<MlpActivations<K>>,
}

/// Kept by a feed-forward layer.
pub enum FfnActivations<K: Kernels> {
    /// One network.
    Dense(MlpActivations<K>),
    /// Routed and shared experts.
    Moe(Box<MoeActivations<K>>),
}

impl<K: Kernels> FfnActivations<K> {
    /// Memory for one layer.
    pub fn new(k: &K, ids: &FfnIds, dims: &OpDims<'_>) -> Self {
        let (rows, m) = (dims.batch.rows(), dims.model);
        match ids {
            FfnIds::Dense(_) => Self::Dense(MlpActivations::new(k, rows, m.ffn_width)),
            FfnIds::Moe(moe) => Self::Moe(Box::new(MoeActivations {
                scores: k.zeros(rows * m.experts),
                indices: k.zeros(rows * m.top_k),
                weights: k.zeros(rows * m.top_k),
                frequency: k.zeros(dims.batch.sequences * m.experts),
                balance_loss: k.zeros(dims.batch.sequences),
                counts: k.zeros(m.experts),
                offsets: k.zeros(m.experts + 1),
                slot_of_row: k.zeros(rows * m.top_k),
                row_of_slot: k.zeros(rows * m.top_k),
                routed: MlpActivations::new(k, rows * m.top_k, m.expert_width),
                shared: moe.shared.map(|_| MlpActivations::new(k, rows, m.shared_width)),
            })),
        }
    }

    /// The mixture-of-experts activations, if this is such a layer.
    pub fn moe(&self) -> Option<&MoeActivations<K>> {
        match self {
            Self::Dense(_) => None,
            Self::Moe(moe) => Some(moe),
        }
    }

    /// As [`FfnActivations::moe`], mutable.
    pub fn moe_mut(&mut self) -> Option<&mut MoeActivations<K>> {
        match self {
            Self::Dense(_) => None,
            Self::Moe(moe) => Some(moe),
        }
    }
}

/// Values that live only inside one layer's pass; shared by all layers.
pub struct FfnScratch<K: Kernels> {
    /// Dense or shared network: gradients `[T, 2f]`, `[T, f]`.
    dense: MlpActivations<K>,
    shared: MlpActivations<K>,
    /// Routed networks: gradients `[R, 2f]`, `[R, f]`.
    routed: MlpActivations<K>,
    /// Rows on their way to the experts, `[R, d]`.
    sent: K::Buffer<f32>,
    /// Rows on their way back, `[R, d]`.
    received: K::Buffer<f32>,
    /// Gate logits or their gradient, `[T, E]`.
    logits: K::Buffer<f32>,
    /// `[T, top_k]`.
    dweights: K::Buffer<f32>,
}

impl<K: Kernels> FfnScratch<K> {
    /// Memory for the largest batch; `dense` and `moe` say which kinds of layers there are.
    pub fn new(k: &K, dims: &OpDims<'_>, dense: bool, moe: bool) -> Self {
        let (rows, m) = (dims.batch.rows(), dims.model);
        let if_moe = |len: usize| if moe { len } else { 0 };
        Self {
            dense: MlpActivations::new(k, if dense { rows } else { 0 }, m.ffn_width),
            shared: MlpActivations::new(k, if_moe(rows), m.shared_width),
            routed: MlpActivations::new(k, if_moe(rows * m.top_k), m.expert_width),
            sent: k.zeros(if_moe(rows * m.top_k * m.width)),
            received: k.zeros(if_moe(rows * m.top_k * m.width)),
            logits: k.zeros(if_moe(rows * m.experts)),
            dweights: k.zeros(if_moe(rows * m.top_k)),
        }
    }
}

/// `y_Td += FFN(x_Td)`.
pub fn forward<K: Kernels>(
    k: &K,
    y_Td: &mut K::Buffer<f32>,
    acts: &mut FfnActivations<K>,
    s: &mut FfnScratch<K>,
    x_Td: &K::Buffer<f32>,
    w: &Weights<K>,
    ids: &FfnIds,
    dims: &OpDims<'_>,
) {
    match (ids, acts) {
        (FfnIds::Dense(ids), FfnActivations::Dense(acts)) => mlp_forward(k, y_Td, acts, x_Td, w, ids, dims.model.ffn_width, dims),
        (FfnIds::Moe(ids), FfnActivations::Moe(acts)) => moe_forward(k, y_Td, acts, s, x_Td, w, ids, dims),
        _ => unreachable!("activations are made from the layer's ids"),
    }
}

/// `dx_Td = dFFN/dx (dy_Td)`; weight gradients accumulate in `g`. `balance_scale` is the factor of each sequence's balance loss in the
/// total loss.
pub fn backward<K: Kernels>(
    k: &K,
    dx_Td: &mut K::Buffer<f32>,
    g: &mut Weights<K>,
    acts: &mut FfnActivations<K>,
    s: &mut FfnScratch<K>,
    dy_Td: &K::Buffer<f32>,
    x_Td: &K::Buffer<f32>,
    w: &Weights<K>,
    ids: &FfnIds,
    balance_scale: f32,
    dims: &OpDims<'_>,
) {
    match (ids, acts) {
        (FfnIds::Dense(ids), FfnActivations::Dense(acts)) => {
            mlp_backward(
                k,
                dx_Td,
                g,
                &mut s.dense,
                dy_Td,
                acts,
                x_Td,
                w,
                ids,
                dims.model.ffn_width,
                Write::Overwrite,
                dims,
            );
        }
        (FfnIds::Moe(ids), FfnActivations::Moe(acts)) => moe_backward(k, dx_Td, g, acts, s, dy_Td, x_Td, w, ids, balance_scale, dims),
        _ => unreachable!("activations are made from the layer's ids"),
    }
}

/// `y += W_down (silu(W_gate x) * (W_up x))`.
fn mlp_forward<K: Kernels>(
    k: &K,
    y_Td: &mut K::Buffer<f32>,
    acts: &mut MlpActivations<K>,
    x_Td: &K::Buffer<f32>,
    w: &Weights<K>,
    ids: &MlpIds,
    width: usize,
    dims: &OpDims<'_>,
) {
    let d = dims.model.width;
    k.linear_forward(
        &mut acts.gate_up,
        x_Td,
        &w[ids.w_gate_up],
        dims.linear(d, 2 * width),
        Write::Overwrite,
    );
    k.swiglu_forward(
        &mut acts.a,
        &acts.gate_up,
        SwigluDims {
            rows: dims.batch.rows(),
            width,
        },
    );
    k.linear_forward(y_Td, &acts.a, &w[ids.w_down], dims.linear(width, d), Write::Accumulate);
}

fn mlp_backward<K: Kernels>(
    k: &K,
    dx_Td: &mut K::Buffer<f32>,
    g: &mut Weights<K>,
    d: &mut MlpActivations<K>,
    dy_Td: &K::Buffer<f32>,
    acts: &MlpActivations<K>,
    x_Td: &K::Buffer<f32>,
    w: &Weights<K>,
    ids: &MlpIds,
    width: usize,
    write: Write,
    dims: &OpDims<'_>,
) {
    let up_dims: LinearDims = dims.linear(dims.model.width, 2 * width);
    let down_dims = dims.linear(width, dims.model.width);
    // y += W_down a
    k.linear_backward_weight(&mut g[ids.w_down], dy_Td, &acts.a, down_dims);
    k.linear_backward_input(&mut d.a, dy_Td, &w[ids.w_down], down_dims, Write::Overwrite);
    // a = silu(gate) * up
    k.swiglu_backward(
        &mut d.gate_up,
        &d.a,
        &acts.gate_up,
        SwigluDims {
            rows: dims.batch.rows(),
            width,
        },
    );
    // gate, up = W_gate_up x
    k.linear_backward_weight(&mut g[ids.w_gate_up], &d.gate_up, x_Td, up_dims);
    k.linear_backward_input(dx_Td, &d.gate_up, &w[ids.w_gate_up], up_dims, write);
}

/// Dimensions of the routed networks: up and down projections, SwiGLU.
fn routed_dims(dims: &OpDims<'_>) -> (GroupedDims, GroupedDims, SwigluDims) {
    let m = dims.model;
    let (rows, groups, width) = (dims.dispatch().rows(), m.experts, m.expert_width);
    (
        GroupedDims {
            rows,
            groups,
            input: m.width,
            output: 2 * width,
        },
        GroupedDims {
            rows,
            groups,
            input: width,
            output: m.width,
        },
        SwigluDims { rows, width },
    )
}

/// `y += sum over selected e of g_e FFN_e(x) + FFN_shared(x)`.
fn moe_forward<K: Kernels>(
    k: &K,
    y_Td: &mut K::Buffer<f32>,
    acts: &mut MoeActivations<K>,
    s: &mut FfnScratch<K>,
    x_Td: &K::Buffer<f32>,
    w: &Weights<K>,
    ids: &MoeIds,
    dims: &OpDims<'_>,
) {
    let m = dims.model;
    let (up_dims, down_dims, swiglu_dims) = routed_dims(dims);
    k.linear_forward(&mut s.logits, x_Td, &w[ids.gate], dims.linear(m.width, m.experts), Write::Overwrite);
    k.route_forward(
        &mut acts.scores,
        &mut acts.indices,
        &mut acts.weights,
        &mut acts.counts,
        &s.logits,
        &w[ids.bias],
        dims.route(),
    );
    k.balance_forward(
        &mut acts.balance_loss,
        &mut acts.frequency,
        &acts.scores,
        &acts.indices,
        dims.route(),
    );
    k.dispatch_plan(
        &mut acts.offsets,
        &mut acts.slot_of_row,
        &mut acts.row_of_slot,
        &acts.indices,
        dims.dispatch(),
    );
    k.dispatch(&mut s.sent, x_Td, &acts.slot_of_row, dims.dispatch());
    k.grouped_linear_forward(&mut acts.routed.gate_up, &s.sent, &w[ids.experts.w_gate_up], &acts.offsets, up_dims);
    k.swiglu_forward(&mut acts.routed.a, &acts.routed.gate_up, swiglu_dims);
    k.grouped_linear_forward(&mut s.received, &acts.routed.a, &w[ids.experts.w_down], &acts.offsets, down_dims);
    k.combine(y_Td, &s.received, &acts.weights, &acts.row_of_slot, dims.dispatch());
    if let (Some(ids), Some(acts)) = (&ids.shared, &mut acts.shared) {
        mlp_forward(k, y_Td, acts, x_Td, w, ids, m.shared_width, dims);
    }
}

fn moe_backward<K: Kernels>(
    k: &K,
    dx_Td: &mut K::Buffer<f32>,
    g: &mut Weights<K>,
    acts: &mut MoeActivations<K>,
    s: &mut FfnScratch<K>,
    dy_Td: &K::Buffer<f32>,
    x_Td: &K::Buffer<f32>,
    w: &Weights<K>,
    ids: &MoeIds,
    balance_scale: f32,
    dims: &OpDims<'_>,
) {
    let m = dims.model;
    let (up_dims, down_dims, swiglu_dims) = routed_dims(dims);
    // y += combine(received, weights): the weight is applied inside the SwiGLU backward, so that `received` need not be kept.
    k.dispatch(&mut s.sent, dy_Td, &acts.slot_of_row, dims.dispatch());
    // received = W_down a
    k.grouped_linear_backward_input(&mut s.routed.a, &s.sent, &w[ids.experts.w_down], &acts.offsets, down_dims);
    // a = silu(gate) * up
    k.swiglu_backward_routed(
        &mut s.routed.gate_up,
        &mut acts.routed.a,
        &mut s.dweights,
        &s.routed.a,
        &acts.routed.gate_up,
        &acts.weights,
        &acts.slot_of_row,
        swiglu_dims,
    );
    k.grouped_linear_backward_weight(&mut g[ids.experts.w_down], &s.sent, &acts.routed.a, &acts.offsets, down_dims);
    // gate, up = W_gate_up dispatch(x)
    k.dispatch(&mut s.sent, x_Td, &acts.slot_of_row, dims.dispatch());
    k.grouped_linear_backward_weight(&mut g[ids.experts.w_gate_up], &s.routed.gate_up, &s.sent, &acts.offsets, up_dims);
    k.grouped_linear_backward_input(
        &mut s.received,
        &s.routed.gate_up,
        &w[ids.experts.w_gate_up],
        &acts.offsets,
        up_dims,
    );
    // scores, weights = route(W_g x)
    k.route_backward(
        &mut s.logits,
        &s.dweights,
        &acts.scores,
        &acts.indices,
        &acts.frequency,
        balance_scale,
        dims.route(),
    );
    let gate_dims = dims.linear(m.width, m.experts);
    k.linear_backward_weight(&mut g[ids.gate], &s.logits, x_Td, gate_dims);
    k.linear_backward_input(dx_Td, &s.logits, &w[ids.gate], gate_dims, Write::Overwrite);
    k.dispatch_backward(dx_Td, &s.received, &acts.row_of_slot, dims.dispatch());
    // y += FFN_shared(x)
    if let (Some(ids), Some(acts)) = (&ids.shared, &acts.shared) {
        mlp_backward(
            k,
            dx_Td,
            g,
            &mut s.shared,
            dy_Td,
            acts,
            x_Td,
            w,
            ids,
            m.shared_width,
            Write::Accumulate,
            dims,
        );
    }
}
