//! The feed-forward half of a block: dense SwiGLU, or DeepSeekMoE with routed and shared experts (paper, section 2.1.2).
//!
//! Shapes: T rows, d width, f width of a network, E routed experts, R = T x top-k routed rows sorted by expert.

use super::cached::{Cached, Format};
use super::dims::OpDims;
use super::layout::{FfnIds, MlpIds, MoeIds};
use super::linear::{self, Pass, Quantized, SCALING, routed_dims};
use super::numerics::{Numerics, TensorClass, slot};
use super::weights::{Storage, Weights};
use fathom_kernels::dims::{GroupedDims, SwigluDims};
use fathom_kernels::{Kernels, Matrix, Write};

/// Kept by a SwiGLU network.
pub struct MlpActivations<K: Kernels, A: Storage> {
    /// Gate and up pre-activations, `[rows, 2f]`.
    gate_up: Cached<K, A>,
    /// `silu(gate) * up`, `[rows, f]`, unless the backward pass recomputes it.
    a: Option<K::Buffer<A>>,
}

impl<K: Kernels, A: Storage> MlpActivations<K, A> {
    fn new(k: &K, dims: &OpDims<'_>, rows: usize, width: usize) -> Self {
        let format = if dims.fp8 { Format::E4m3 } else { Format::Plain };
        Self {
            gate_up: Cached::new(k, format, rows, 2 * width),
            a: (!dims.fp8 && !dims.recompute).then(|| k.zeros(rows * width)),
        }
    }
}

/// Kept by a mixture-of-experts layer.
pub struct MoeActivations<K: Kernels, A: Storage> {
    /// Gate scores, `[T, E]`.
    scores: K::Buffer<f32>,
    /// Selected experts of the last pass, `[T, top_k]`.
    pub indices: K::Buffer<u32>,
    /// Their weights, `[T, top_k]`.
    weights: K::Buffer<f32>,
    /// `f_i` of the balance loss, `[B, E]`, or `[1, E]` if it counts a micro-batch.
    frequency: K::Buffer<f32>,
    /// Balance loss of each sequence, or of the micro-batch, `[B]`.
    pub balance_loss: K::Buffer<f32>,
    /// Tokens sent to each expert since the counter was cleared, `[E]`.
    pub counts: K::Buffer<u32>,
    offsets: K::Buffer<u32>,
    slot_of_row: K::Buffer<u32>,
    row_of_slot: K::Buffer<u32>,
    /// Routed networks, R rows.
    routed: MlpActivations<K, A>,
    /// Shared experts.
    shared: Option<MlpActivations<K, A>>,
}

/// Kept by a feed-forward layer.
pub enum FfnActivations<K: Kernels, A: Storage> {
    /// One network.
    Dense(MlpActivations<K, A>),
    /// Routed and shared experts.
    Moe(Box<MoeActivations<K, A>>),
}

impl<K: Kernels, A: Storage> FfnActivations<K, A> {
    /// Memory for one layer.
    pub fn new(k: &K, ids: &FfnIds, dims: &OpDims<'_>) -> Self {
        let (rows, m) = (dims.batch.rows(), dims.model);
        match ids {
            FfnIds::Dense(_) => Self::Dense(MlpActivations::new(k, dims, rows, m.ffn_width)),
            FfnIds::Moe(moe) => Self::Moe(Box::new(MoeActivations {
                scores: k.zeros(rows * m.experts),
                indices: k.zeros(rows * m.top_k),
                weights: k.zeros(rows * m.top_k),
                frequency: k.zeros(dims.balance().sequences * m.experts),
                balance_loss: k.zeros(dims.balance().sequences),
                counts: k.zeros(m.experts),
                offsets: k.zeros(m.experts + 1),
                slot_of_row: k.zeros(rows * m.top_k),
                row_of_slot: k.zeros(rows * m.top_k),
                routed: MlpActivations::new(k, dims, rows * m.top_k, m.expert_width),
                shared: moe.shared.map(|_| MlpActivations::new(k, dims, rows, m.shared_width)),
            })),
        }
    }

    /// The mixture-of-experts activations, if this is such a layer.
    pub fn moe(&self) -> Option<&MoeActivations<K, A>> {
        match self {
            Self::Dense(_) => None,
            Self::Moe(moe) => Some(moe),
        }
    }

    /// As [`FfnActivations::moe`], mutable.
    pub fn moe_mut(&mut self) -> Option<&mut MoeActivations<K, A>> {
        match self {
            Self::Dense(_) => None,
            Self::Moe(moe) => Some(moe),
        }
    }
}

/// Values of a SwiGLU network that live only inside one layer's pass.
struct MlpScratch<K: Kernels, A: Storage> {
    /// What is not kept as it is.
    gate_up: K::Buffer<A>,
    a: K::Buffer<A>,
    d_gate_up: K::Buffer<A>,
    d_a: K::Buffer<A>,
    q_a: Quantized<K>,
    q_gate_up: Quantized<K>,
}

impl<K: Kernels, A: Storage> MlpScratch<K, A> {
    fn new(k: &K, dims: &OpDims<'_>, rows: usize, width: usize, groups: usize) -> Self {
        let quantized = |width| Quantized::new(k, dims, (rows, width), groups);
        Self {
            gate_up: k.zeros(if dims.fp8 { rows * 2 * width } else { 0 }),
            a: k.zeros(if dims.fp8 || dims.recompute { rows * width } else { 0 }),
            d_gate_up: k.zeros(rows * 2 * width),
            d_a: k.zeros(rows * width),
            q_a: quantized(width),
            q_gate_up: quantized(2 * width),
        }
    }
}

/// Values that live only inside one layer's pass; shared by all layers.
pub struct FfnScratch<K: Kernels, A: Storage> {
    dense: MlpScratch<K, A>,
    shared: MlpScratch<K, A>,
    routed: MlpScratch<K, A>,
    /// Rows on their way to the experts, `[R, d]`: as they are, or in tiles of 1 x 128 and then of 128 x 1.
    sent: K::Buffer<A>,
    q_sent: Quantized<K>,
    q_retiled: Quantized<K>,
    /// Rows on their way back, `[R, d]`.
    received: K::Buffer<A>,
    /// Gate logits or their gradient, `[T, E]`.
    logits: K::Buffer<f32>,
    /// `[T, top_k]`.
    dweights: K::Buffer<f32>,
    /// Input of the layer, `[T, d]`.
    q_x: Quantized<K>,
    /// Gradient of its output, `[T, d]`.
    q_dy: Quantized<K>,
}

impl<K: Kernels, A: Storage> FfnScratch<K, A> {
    /// Memory for one batch shape; `dense` and `moe` say which kinds of layers there are.
    pub fn new(k: &K, dims: &OpDims<'_>, dense: bool, moe: bool) -> Self {
        let (rows, m) = (dims.batch.rows(), dims.model);
        let if_moe = |len: usize| if moe { len } else { 0 };
        let routed = if_moe(rows * m.top_k);
        Self {
            dense: MlpScratch::new(k, dims, if dense { rows } else { 0 }, m.ffn_width, 1),
            shared: MlpScratch::new(k, dims, if_moe(rows), m.shared_width, 1),
            routed: MlpScratch::new(k, dims, routed, m.expert_width, m.experts),
            sent: k.zeros(if dims.fp8 { 0 } else { routed * m.width }),
            q_sent: Quantized::new(k, dims, (routed, m.width), 0),
            q_retiled: Quantized::new(k, dims, (routed, m.width), m.experts),
            received: k.zeros(routed * m.width),
            logits: k.zeros(if_moe(rows * m.experts)),
            dweights: k.zeros(if_moe(rows * m.top_k)),
            q_x: Quantized::new(k, dims, (rows, m.width), 1),
            q_dy: Quantized::new(k, dims, (rows, m.width), 1),
        }
    }
}

/// `y_Td += FFN(x_Td)`.
pub fn forward<K: Kernels, A: Storage>(
    p: &Pass<'_, K>,
    n: &mut Numerics<K>,
    y_Td: &mut K::Buffer<A>,
    acts: &mut FfnActivations<K, A>,
    s: &mut FfnScratch<K, A>,
    x_Td: &K::Buffer<A>,
    ids: &FfnIds,
) {
    let FfnScratch { q_x, dense, .. } = s;
    match (ids, acts) {
        (FfnIds::Dense(ids), FfnActivations::Dense(acts)) => {
            let x = q_x.rows(p, n, TensorClass::FfnInput, x_Td, p.dims.batch.rows());
            mlp_forward(p, n, y_Td, acts, dense, x, ids, p.dims.model.ffn_width);
        }
        (FfnIds::Moe(ids), FfnActivations::Moe(acts)) => moe_forward(p, n, y_Td, acts, s, x_Td, ids),
        _ => unreachable!("activations are made from the layer's ids"),
    }
}

/// `dx_Td = dFFN/dx (dy_Td)`; weight gradients accumulate in `g`. `balance_scale` is the factor of each sequence's balance loss in the
/// total loss.
pub fn backward<K: Kernels, A: Storage>(
    p: &Pass<'_, K>,
    n: &mut Numerics<K>,
    dx_Td: &mut K::Buffer<A>,
    g: &mut Weights<K>,
    acts: &mut FfnActivations<K, A>,
    s: &mut FfnScratch<K, A>,
    dy_Td: &K::Buffer<A>,
    x_Td: &K::Buffer<A>,
    ids: &FfnIds,
    balance_scale: f32,
) {
    match (ids, acts) {
        (FfnIds::Dense(ids), FfnActivations::Dense(acts)) => {
            let FfnScratch { dense, q_x, q_dy, .. } = s;
            let x = q_x.columns(p, n, TensorClass::FfnInput, x_Td, p.dims.batch.rows());
            let dx = (dx_Td, Write::Overwrite);
            mlp_backward(p, n, dx, g, dense, (dy_Td, q_dy), acts, x, ids, p.dims.model.ffn_width);
        }
        (FfnIds::Moe(ids), FfnActivations::Moe(acts)) => moe_backward(p, n, dx_Td, g, acts, s, dy_Td, x_Td, ids, balance_scale),
        _ => unreachable!("activations are made from the layer's ids"),
    }
}

/// `y += W_down (silu(W_gate x) * (W_up x))`.
fn mlp_forward<K: Kernels, A: Storage>(
    p: &Pass<'_, K>,
    n: &mut Numerics<K>,
    y_Td: &mut K::Buffer<A>,
    acts: &mut MlpActivations<K, A>,
    s: &mut MlpScratch<K, A>,
    x_Td: Matrix<'_, K>,
    ids: &MlpIds,
    width: usize,
) {
    let (k, w, dims) = (p.k, p.w, &p.dims);
    let (d, rows) = (dims.model.width, dims.batch.rows());
    let gate_up = acts.gate_up.target(&mut s.gate_up);
    k.linear_forward(gate_up, x_Td, w.operand(ids.w_gate_up), dims.linear(d, 2 * width), Write::Overwrite);
    let a = swiglu_operand(p, n, &mut acts.a, (&mut s.a, &mut s.q_a), gate_up, SwigluDims { rows, width });
    k.linear_forward(y_Td, a, w.operand(ids.w_down), dims.linear(width, d), Write::Accumulate);
    acts.gate_up.keep(p, n, TensorClass::CachedPreActivation, &s.gate_up);
}

fn mlp_backward<K: Kernels, A: Storage>(
    p: &Pass<'_, K>,
    n: &mut Numerics<K>,
    dx: (&mut K::Buffer<A>, Write),
    g: &mut Weights<K>,
    s: &mut MlpScratch<K, A>,
    (dy_Td, q_dy): (&K::Buffer<A>, &mut Quantized<K>),
    acts: &mut MlpActivations<K, A>,
    x_Td: Matrix<'_, K>,
    ids: &MlpIds,
    width: usize,
) {
    let (w, dims) = (p.w, &p.dims);
    let (d, rows) = (dims.model.width, dims.batch.rows());
    let swiglu_dims = SwigluDims { rows, width };
    let gate_up = acts.gate_up.load(p.k, &mut s.gate_up);
    let a = swiglu_output(p.k, &mut acts.a, &mut s.a, gate_up, swiglu_dims);
    // y += W_down a
    let a = s.q_a.columns(p, n, TensorClass::SwigluOutput, a, rows);
    linear::backward(
        p,
        n,
        (&mut s.d_a, Write::Overwrite),
        &mut g[ids.w_down],
        (dy_Td, q_dy, TensorClass::FfnOutputGradient),
        a,
        w.operand(ids.w_down),
        dims.linear(width, d),
    );
    // a = silu(gate) * up
    p.k.swiglu_backward(&mut s.d_gate_up, &s.d_a, gate_up, swiglu_dims);
    // gate, up = W_gate_up x
    linear::backward(
        p,
        n,
        dx,
        &mut g[ids.w_gate_up],
        (&s.d_gate_up, &mut s.q_gate_up, TensorClass::PreActivationGradient),
        x_Td,
        w.operand(ids.w_gate_up),
        dims.linear(d, 2 * width),
    );
}

/// The output of SwiGLU as the operand of the down projection. In `fp8`, what is not kept goes straight to codes.
fn swiglu_operand<'a, K: Kernels, A: Storage>(
    p: &Pass<'_, K>,
    n: &mut Numerics<K>,
    kept: &'a mut Option<K::Buffer<A>>,
    (scratch, q_a): (&'a mut K::Buffer<A>, &'a mut Quantized<K>),
    gate_up: &K::Buffer<A>,
    dims: SwigluDims,
) -> Matrix<'a, K> {
    let class = TensorClass::SwigluOutput;
    if p.dims.fp8 && kept.is_none() {
        let Quantized { codes, row_scales, .. } = &mut *q_a;
        p.k.swiglu_quantize(codes, row_scales, n.buffer(), slot(p.layer, class), gate_up, dims, SCALING);
        return q_a.row_matrix();
    }
    let a = kept.as_mut().unwrap_or(scratch);
    p.k.swiglu_forward(a, gate_up, dims);
    q_a.rows(p, n, class, a, dims.rows)
}

/// The kept output of SwiGLU, or the same recomputed.
fn swiglu_output<'a, K: Kernels, A: Storage>(
    k: &K,
    kept: &'a mut Option<K::Buffer<A>>,
    scratch: &'a mut K::Buffer<A>,
    gate_up: &K::Buffer<A>,
    dims: SwigluDims,
) -> &'a mut K::Buffer<A> {
    kept.as_mut().unwrap_or_else(|| {
        k.swiglu_forward(scratch, gate_up, dims);
        scratch
    })
}

/// Dimensions of the routed networks: up and down projections, SwiGLU.
fn expert_dims(dims: &OpDims<'_>) -> (GroupedDims, GroupedDims, SwigluDims) {
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

/// Sends a row of `x_Td` to each of its experts: the operand of a sum over its columns. In `fp8` what is sent are codes (paper, section 3.3.3).
fn dispatch<'a, K: Kernels, A: Storage>(
    p: &Pass<'_, K>,
    n: &mut Numerics<K>,
    (sent, q_sent): (&'a mut K::Buffer<A>, &'a mut Quantized<K>),
    (x_Td, q_x, class): (&K::Buffer<A>, &mut Quantized<K>, TensorClass),
    slot_of_row: &K::Buffer<u32>,
) -> Matrix<'a, K> {
    match q_x.rows(p, n, class, x_Td, p.dims.batch.rows()) {
        Matrix::E4m3 { codes, scales } => {
            let Quantized {
                codes: sent, row_scales, ..
            } = &mut *q_sent;
            p.k.dispatch_quantized(sent, row_scales, codes, scales, slot_of_row, p.dims.dispatch());
            q_sent.row_matrix()
        }
        Matrix::F32(_) | Matrix::Bf16(_) => {
            p.k.dispatch(sent, x_Td, slot_of_row, p.dims.dispatch());
            Matrix::of(sent)
        }
    }
}

/// The rows that [`dispatch`] sent last, as the operand of sums over the rows of each expert.
fn sent_columns<'a, K: Kernels, A: Storage>(
    p: &Pass<'_, K>,
    n: &mut Numerics<K>,
    (sent, q_sent): (&'a K::Buffer<A>, &Quantized<K>),
    q_retiled: &'a mut Quantized<K>,
    class: TensorClass,
    offsets: &K::Buffer<u32>,
) -> Matrix<'a, K> {
    if !p.dims.fp8 {
        return Matrix::of(sent);
    }
    let Quantized { codes, column_scales, .. } = &mut *q_retiled;
    p.k.retile_grouped(
        codes,
        column_scales,
        n.buffer(),
        slot(p.layer, class),
        &q_sent.codes,
        &q_sent.row_scales,
        offsets,
        routed_dims(p, p.dims.model.width),
    );
    q_retiled.column_matrix()
}

/// `y += sum over selected e of g_e FFN_e(x) + FFN_shared(x)`.
fn moe_forward<K: Kernels, A: Storage>(
    p: &Pass<'_, K>,
    n: &mut Numerics<K>,
    y_Td: &mut K::Buffer<A>,
    acts: &mut MoeActivations<K, A>,
    s: &mut FfnScratch<K, A>,
    x_Td: &K::Buffer<A>,
    ids: &MoeIds,
) {
    let (k, w, dims) = (p.k, p.w, &p.dims);
    let m = dims.model;
    let (up_dims, down_dims, swiglu_dims) = expert_dims(dims);
    let gate_dims = dims.linear(m.width, m.experts);
    k.linear_forward(&mut s.logits, Matrix::of(x_Td), w.operand(ids.gate), gate_dims, Write::Overwrite);
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
        dims.balance(),
    );
    k.dispatch_plan(
        &mut acts.offsets,
        &mut acts.slot_of_row,
        &mut acts.row_of_slot,
        &acts.indices,
        dims.dispatch(),
    );
    let x = (x_Td, &mut s.q_x, TensorClass::FfnInput);
    let sent = dispatch(p, n, (&mut s.sent, &mut s.q_sent), x, &acts.slot_of_row);
    let (routed, scratch) = (&mut acts.routed, &mut s.routed);
    let gate_up = routed.gate_up.target(&mut scratch.gate_up);
    k.grouped_linear_forward(gate_up, sent, w.operand(ids.experts.w_gate_up), &acts.offsets, up_dims);
    let a = swiglu_operand(p, n, &mut routed.a, (&mut scratch.a, &mut scratch.q_a), gate_up, swiglu_dims);
    k.grouped_linear_forward(&mut s.received, a, w.operand(ids.experts.w_down), &acts.offsets, down_dims);
    routed.gate_up.keep(p, n, TensorClass::CachedPreActivation, &scratch.gate_up);
    k.combine(y_Td, &s.received, &acts.weights, &acts.row_of_slot, dims.dispatch());
    if let (Some(ids), Some(acts)) = (&ids.shared, &mut acts.shared) {
        let x = if dims.fp8 { s.q_x.row_matrix() } else { Matrix::of(x_Td) };
        mlp_forward(p, n, y_Td, acts, &mut s.shared, x, ids, m.shared_width);
    }
}

fn moe_backward<K: Kernels, A: Storage>(
    p: &Pass<'_, K>,
    n: &mut Numerics<K>,
    dx_Td: &mut K::Buffer<A>,
    g: &mut Weights<K>,
    acts: &mut MoeActivations<K, A>,
    s: &mut FfnScratch<K, A>,
    dy_Td: &K::Buffer<A>,
    x_Td: &K::Buffer<A>,
    ids: &MoeIds,
    balance_scale: f32,
) {
    let (k, w, dims) = (p.k, p.w, &p.dims);
    let m = dims.model;
    let (up_dims, down_dims, swiglu_dims) = expert_dims(dims);
    let scratch = &mut s.routed;
    // y += combine(received, weights): the weight is applied inside the SwiGLU backward, so that `received` need not be kept.
    let dy = (dy_Td, &mut s.q_dy, TensorClass::FfnOutputGradient);
    let sent = dispatch(p, n, (&mut s.sent, &mut s.q_sent), dy, &acts.slot_of_row);
    // received = W_down a
    k.grouped_linear_backward_input(&mut scratch.d_a, sent, w.operand(ids.experts.w_down), &acts.offsets, down_dims);
    // a = silu(gate) * up
    let gate_up = acts.routed.gate_up.load(k, &mut scratch.gate_up);
    let a = swiglu_output(k, &mut acts.routed.a, &mut scratch.a, gate_up, swiglu_dims);
    k.swiglu_backward_routed(
        &mut scratch.d_gate_up,
        a,
        &mut s.dweights,
        &scratch.d_a,
        gate_up,
        &acts.weights,
        &acts.slot_of_row,
        swiglu_dims,
    );
    let class = TensorClass::FfnOutputGradient;
    let sent = sent_columns(p, n, (&s.sent, &s.q_sent), &mut s.q_retiled, class, &acts.offsets);
    let a = scratch.q_a.grouped_columns(p, n, TensorClass::SwigluOutput, a, &acts.offsets);
    k.grouped_linear_backward_weight(&mut g[ids.experts.w_down], sent, a, &acts.offsets, down_dims);
    // gate, up = W_gate_up dispatch(x)
    let x = (x_Td, &mut s.q_x, TensorClass::FfnInput);
    dispatch(p, n, (&mut s.sent, &mut s.q_sent), x, &acts.slot_of_row);
    let class = TensorClass::FfnInput;
    let sent = sent_columns(p, n, (&s.sent, &s.q_sent), &mut s.q_retiled, class, &acts.offsets);
    let (q_gate_up, class) = (&mut scratch.q_gate_up, TensorClass::PreActivationGradient);
    let d_gate_up = q_gate_up.grouped_columns(p, n, class, &scratch.d_gate_up, &acts.offsets);
    k.grouped_linear_backward_weight(&mut g[ids.experts.w_gate_up], d_gate_up, sent, &acts.offsets, up_dims);
    let d_gate_up = q_gate_up.rows(p, n, class, &scratch.d_gate_up, up_dims.rows);
    let w_gate_up = w.operand(ids.experts.w_gate_up);
    k.grouped_linear_backward_input(&mut s.received, d_gate_up, w_gate_up, &acts.offsets, up_dims);
    // scores, weights = route(W_g x)
    k.route_backward(
        &mut s.logits,
        &s.dweights,
        &acts.scores,
        &acts.indices,
        &acts.frequency,
        balance_scale,
        dims.balance(),
    );
    let gate_dims = dims.linear(m.width, m.experts);
    let dlogits = Matrix::F32(&s.logits);
    k.linear_backward_weight(&mut g[ids.gate], dlogits, Matrix::of(x_Td), gate_dims);
    k.linear_backward_input(dx_Td, dlogits, w.operand(ids.gate), gate_dims, Write::Overwrite);
    k.dispatch_backward(dx_Td, &s.received, &acts.row_of_slot, dims.dispatch());
    // y += FFN_shared(x)
    if let (Some(ids), Some(acts)) = (&ids.shared, &mut acts.shared) {
        let x = s.q_x.columns(p, n, TensorClass::FfnInput, x_Td, dims.batch.rows());
        let dx = (dx_Td, Write::Accumulate);
        mlp_backward(p, n, dx, g, &mut s.shared, (dy_Td, &mut s.q_dy), acts, x, ids, m.shared_width);
    }
}
