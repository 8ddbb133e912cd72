//! Arithmetic for DeepSeek-V3 training.
//!
//! One trait, [`Kernels`], of coarse, fused operations over device buffers. [`Reference`] implements it with naive loops and is the
//! oracle; [`Cpu`] implements it with SIMD and threads. The model is written once against the trait and never names a device. [`compare`]
//! judges one against the other, [`mod@bench`] measures speed. [`formats`] defines FP8 and its relatives; both backends quantise to them, bit
//! for bit alike.
//!
//! Conventions of every operation:
//!
//! - Arguments are outputs, inputs, dimensions, in this order. Matrices are row-major.
//! - Linear weights are stored `[output, input]`: `y = x W^T`.
//! - Parameter gradients accumulate (`+=`); activations and their gradients are written according to a [`Write`] argument, or
//!   overwritten where there is none.
//! - The result depends on inputs and dimensions only: never on the number of threads, on time or on earlier calls.
//! - Sizes are checked on entry; a mismatch is a bug of the caller and panics with the sizes in the message.
//!
//! Shape legend: T tokens (rows), D model width, K input width, N output width, E experts, R routed rows (T x top-k),
//! F expert width, H heads, V vocabulary, B sequences, S tokens per sequence.

// Tensors carry their shape as a suffix (`x_TD`), because most bugs are shape bugs.
#![allow(non_snake_case)]

pub mod bench;
pub mod compare;
pub mod cpu;
pub mod dims;
pub mod formats;
pub mod reference;

pub use cpu::Cpu;
pub use reference::Reference;

use dims::{
    AdamW, AttentionDims, DispatchDims, EmbeddingDims, GroupedDims, HeadDims, LinearDims, PrefixDims, RmsNormDims, RopeDims, RouteDims,
    SwigluDims,
};

/// Element types of buffers.
pub trait Element: bytemuck::Pod + Default + Send + Sync {}
impl Element for f32 {}
impl Element for u8 {}
impl Element for formats::Bf16 {}
impl Element for u32 {}
impl Element for i32 {}

/// Whether an output replaces or adds to what the buffer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// `y = result`.
    Overwrite,
    /// `y += result`.
    Accumulate,
}

/// Direction of a rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// By the position's angle (forward).
    Forward,
    /// By the negative angle (backward, and the inverse).
    Inverse,
}

/// A target that takes no part in the loss.
pub const IGNORE: i32 = -1;

/// A compute backend.
pub trait Kernels: Send + Sync {
    /// Device memory holding elements of one type.
    type Buffer<T: Element>: Send + Sync;

    // --- Memory ---------------------------------------------------------------------------------------------------------------

    /// A buffer of `len` zeros.
    fn zeros<T: Element>(&self, len: usize) -> Self::Buffer<T>;
    /// Number of elements.
    fn len<T: Element>(&self, buffer: &Self::Buffer<T>) -> usize;
    /// Copies `source` to the buffer, from element `offset` on.
    fn upload<T: Element>(&self, buffer: &mut Self::Buffer<T>, offset: usize, source: &[T]);
    /// Copies elements from `offset` on to `target`, waiting for the operations that write them.
    fn download<T: Element>(&self, target: &mut [T], buffer: &Self::Buffer<T>, offset: usize);
    /// Sets every element.
    fn fill<T: Element>(&self, buffer: &mut Self::Buffer<T>, value: T);
    /// `y = x`, elementwise.
    fn copy<T: Element>(&self, y: &mut Self::Buffer<T>, x: &Self::Buffer<T>);
    /// `y += x`, elementwise.
    fn add(&self, y: &mut Self::Buffer<f32>, x: &Self::Buffer<f32>);

    // --- Embedding ------------------------------------------------------------------------------------------------------------

    /// `y_TD[t] = table_VD[tokens_T[t]]`.
    fn embedding_forward(
        &self,
        y_TD: &mut Self::Buffer<f32>,
        table_VD: &Self::Buffer<f32>,
        tokens_T: &Self::Buffer<u32>,
        dims: EmbeddingDims,
    );
    /// `dtable_VD[tokens_T[t]] += dy_TD[t]`, in ascending order of `t`.
    fn embedding_backward(
        &self,
        dtable_VD: &mut Self::Buffer<f32>,
        dy_TD: &Self::Buffer<f32>,
        tokens_T: &Self::Buffer<u32>,
        dims: EmbeddingDims,
    );

    // --- RMSNorm --------------------------------------------------------------------------------------------------------------

    /// `y[t] = gain * x[t] * rstd[t]`, `rstd[t] = (mean(x[t]^2) + eps)^(-1/2)`, over `dims.width` columns of strided rows.
    fn rmsnorm_forward(
        &self,
        y: &mut Self::Buffer<f32>,
        rstd_T: &mut Self::Buffer<f32>,
        x: &Self::Buffer<f32>,
        gain_D: &Self::Buffer<f32>,
        dims: RmsNormDims,
    );
    /// `dgain_j += sum_t x_j rstd dy_j`; `dx = rstd (gain dy) - x rstd^3 / width * sum_j(x_j gain_j dy_j)`.
    /// `dx` has the layout of `x`, `dy` that of `y`.
    #[allow(clippy::too_many_arguments)]
    fn rmsnorm_backward(
        &self,
        dx: &mut Self::Buffer<f32>,
        dgain_D: &mut Self::Buffer<f32>,
        dy: &Self::Buffer<f32>,
        x: &Self::Buffer<f32>,
        gain_D: &Self::Buffer<f32>,
        rstd_T: &Self::Buffer<f32>,
        dims: RmsNormDims,
        write: Write,
    );

    // --- Linear ---------------------------------------------------------------------------------------------------------------

    /// `y_TN (=|+=) x_TK w_NK^T`.
    fn linear_forward(
        &self,
        y_TN: &mut Self::Buffer<f32>,
        x_TK: &Self::Buffer<f32>,
        w_NK: &Self::Buffer<f32>,
        dims: LinearDims,
        write: Write,
    );
    /// `dx_TK (=|+=) dy_TN w_NK`.
    fn linear_backward_input(
        &self,
        dx_TK: &mut Self::Buffer<f32>,
        dy_TN: &Self::Buffer<f32>,
        w_NK: &Self::Buffer<f32>,
        dims: LinearDims,
        write: Write,
    );
    /// `dw_NK += dy_TN^T x_TK`.
    fn linear_backward_weight(&self, dw_NK: &mut Self::Buffer<f32>, dy_TN: &Self::Buffer<f32>, x_TK: &Self::Buffer<f32>, dims: LinearDims);

    // --- Grouped linear: rows offsets_E1[e]..offsets_E1[e + 1] belong to expert e --------------------------------------------------

    /// `y_RN[r] = x_RK[r] w_ENK[e(r)]^T`.
    fn grouped_linear_forward(
        &self,
        y_RN: &mut Self::Buffer<f32>,
        x_RK: &Self::Buffer<f32>,
        w_ENK: &Self::Buffer<f32>,
        offsets_E1: &Self::Buffer<u32>,
        dims: GroupedDims,
    );
    /// `dx_RK[r] = dy_RN[r] w_ENK[e(r)]`.
    fn grouped_linear_backward_input(
        &self,
        dx_RK: &mut Self::Buffer<f32>,
        dy_RN: &Self::Buffer<f32>,
        w_ENK: &Self::Buffer<f32>,
        offsets_E1: &Self::Buffer<u32>,
        dims: GroupedDims,
    );
    /// `dw_ENK[e] += sum over the rows of e of dy_RN[r]^T x_RK[r]`.
    fn grouped_linear_backward_weight(
        &self,
        dw_ENK: &mut Self::Buffer<f32>,
        dy_RN: &Self::Buffer<f32>,
        x_RK: &Self::Buffer<f32>,
        offsets_E1: &Self::Buffer<u32>,
        dims: GroupedDims,
    );

    // --- Rotary embedding -----------------------------------------------------------------------------------------------------

    /// Rotates, in place, pairs `(2j, 2j + 1)` of `dims.rotary` columns by the angle in `table` (`[positions, rotary / 2, (cos, sin)]`) at
    /// position `row % dims.length`. The interleaved layout is the checkpoint's (never half-split).
    fn rope(&self, x: &mut Self::Buffer<f32>, table: &Self::Buffer<f32>, dims: RopeDims, rotation: Rotation);

    // --- Attention core of MLA ------------------------------------------------------------------------------------------------

    /// Causal attention inside each sequence. Per head `i`: query `q_TH(n+r)[t, i]`, key `[kv_up_TH(n+v)[t, i, ..n] ; kv_a[t, c..c+r]]` (the
    /// rotary part is shared by all heads), value `kv_up_TH(n+v)[t, i, n..]`, both rotary parts already rotated.
    /// `o_THv[t, i] = softmax(scale q k^T) v`; `lse_HT[i, t]` is the log of the softmax denominator, kept for the backward pass.
    fn attention_forward(
        &self,
        o_THv: &mut Self::Buffer<f32>,
        lse_HT: &mut Self::Buffer<f32>,
        q: &Self::Buffer<f32>,
        kv_up: &Self::Buffer<f32>,
        kv_a: &Self::Buffer<f32>,
        dims: AttentionDims,
    );
    /// Gradient of [`Kernels::attention_forward`]: overwrites `dq`, `dkv_up` and, in `dkv_a`, columns `c..c+r` only (the sum over heads).
    /// `dv = P^T dO`; `dP = dO v^T`; `dS = P (dP - rowsum(dO o))`; `dq = scale dS k`; `dk = scale dS^T q`.
    #[allow(clippy::too_many_arguments)]
    fn attention_backward(
        &self,
        dq: &mut Self::Buffer<f32>,
        dkv_up: &mut Self::Buffer<f32>,
        dkv_a: &mut Self::Buffer<f32>,
        do_THv: &Self::Buffer<f32>,
        o_THv: &Self::Buffer<f32>,
        lse_HT: &Self::Buffer<f32>,
        q: &Self::Buffer<f32>,
        kv_up: &Self::Buffer<f32>,
        kv_a: &Self::Buffer<f32>,
        dims: AttentionDims,
    );

    // --- SwiGLU ---------------------------------------------------------------------------------------------------------------

    /// `a_RF = silu(gate) * up`, where `gate_up` is `[rows, 2F]`: gate in the first F columns, up in the last.
    fn swiglu_forward(&self, a_RF: &mut Self::Buffer<f32>, gate_up_R2F: &Self::Buffer<f32>, dims: SwigluDims);
    /// `dup = da silu(g)`; `dgate = da up sigma(g) (1 + g (1 - sigma(g)))`.
    fn swiglu_backward(
        &self,
        dgate_up_R2F: &mut Self::Buffer<f32>,
        da_RF: &Self::Buffer<f32>,
        gate_up_R2F: &Self::Buffer<f32>,
        dims: SwigluDims,
    );
    /// SwiGLU backward of a routed row whose output is weighted in the combine. `da_RF` is the gradient of `a` *without* the weight
    /// `g = weights_TK[slot_of_row_R[r]]`. Writes `dweights_TK[slot] = <da, a>`, `dgate_up` = the SwiGLU backward of `g da`, and replaces `a`
    /// by `g a`, so that `dW_down += dy^T (g a)`.
    #[allow(clippy::too_many_arguments)]
    fn swiglu_backward_routed(
        &self,
        dgate_up_R2F: &mut Self::Buffer<f32>,
        a_RF: &mut Self::Buffer<f32>,
        dweights_TK: &mut Self::Buffer<f32>,
        da_RF: &Self::Buffer<f32>,
        gate_up_R2F: &Self::Buffer<f32>,
        weights_TK: &Self::Buffer<f32>,
        slot_of_row_R: &Self::Buffer<u32>,
        dims: SwigluDims,
    );

    // --- Routing --------------------------------------------------------------------------------------------------------------

    /// The gate: `s = sigmoid(logits)`; selection by `z = s + bias`: groups are scored by the sum of their two largest `z`, the
    /// `kept_groups` best are kept, the others masked to -inf; the `top_k` largest of what remains are selected, in descending order of
    /// `z`, the lowest index first among equals. `weights = scaling * s_i / (sum of the selected s + 1e-20)`, from the *unbiased* scores
    /// (without the division if not `dims.normalise`). `counts_E[e] +=` tokens sent to `e`.
    #[allow(clippy::too_many_arguments)]
    fn route_forward(
        &self,
        scores_TE: &mut Self::Buffer<f32>,
        indices_TK: &mut Self::Buffer<u32>,
        weights_TK: &mut Self::Buffer<f32>,
        counts_E: &mut Self::Buffer<u32>,
        logits_TE: &Self::Buffer<f32>,
        bias_E: &Self::Buffer<f32>,
        dims: RouteDims,
    );
    /// Sequence-wise balance loss, per sequence and without its factor: `loss_B[b] = sum_i f_i P_i`, `f_i = E / (K S) * count_i`,
    /// `P_i = 1/S sum_t s_it / sum_j s_jt`. `count_i` counts the plain top-K of the raw scores (`dims.balance_unbiased`) or `indices`.
    /// `frequency_BE` receives `f`.
    fn balance_forward(
        &self,
        loss_B: &mut Self::Buffer<f32>,
        frequency_BE: &mut Self::Buffer<f32>,
        scores_TE: &Self::Buffer<f32>,
        indices_TK: &Self::Buffer<u32>,
        dims: RouteDims,
    );
    /// Gradient of the gate (bias and selection are constants) plus `balance_scale` times the gradient of the sum over sequences of the
    /// balance loss (`f` is constant). With `p_i = scaling dweights_i`, selected: `ds_i = (p_i - sum_j w_j p_j) / sum_j s_j`, `w` normalised;
    /// balance: `ds_i += balance_scale / (S S_t) (f_i - sum_j f_j s_j / S_t)`, `S_t = sum_j s_j`; `dlogits = ds s (1 - s)`.
    #[allow(clippy::too_many_arguments)]
    fn route_backward(
        &self,
        dlogits_TE: &mut Self::Buffer<f32>,
        dweights_TK: &Self::Buffer<f32>,
        scores_TE: &Self::Buffer<f32>,
        indices_TK: &Self::Buffer<u32>,
        frequency_BE: &Self::Buffer<f32>,
        balance_scale: f32,
        dims: RouteDims,
    );
    /// Auxiliary-loss-free bias update: `bias_e += gamma sign(mean(counts) - counts_e)`, `sign(0) = 0`; if `centered`, the mean of the
    /// update is subtracted from it first.
    fn update_bias(&self, bias_E: &mut Self::Buffer<f32>, counts_E: &Self::Buffer<u32>, gamma: f32, centered: bool);

    // --- Dispatch and combine. A slot is `t * top_k + k`; a row is a slot's place after sorting by expert (stably) ------------------

    /// From `indices_TK`: `offsets_E1` (first row of each expert, and the number of rows), `slot_of_row_R` and its inverse `row_of_slot_R`.
    fn dispatch_plan(
        &self,
        offsets_E1: &mut Self::Buffer<u32>,
        slot_of_row_R: &mut Self::Buffer<u32>,
        row_of_slot_R: &mut Self::Buffer<u32>,
        indices_TK: &Self::Buffer<u32>,
        dims: DispatchDims,
    );
    /// `x_RD[r] = x_TD[slot_of_row_R[r] / top_k]`. Also the gradient of an unweighted combine.
    fn dispatch(&self, x_RD: &mut Self::Buffer<f32>, x_TD: &Self::Buffer<f32>, slot_of_row_R: &Self::Buffer<u32>, dims: DispatchDims);
    /// `y_TD[t] += sum_k weights_TK[t, k] y_RD[row_of_slot_R[t, k]]`, `k` ascending.
    fn combine(
        &self,
        y_TD: &mut Self::Buffer<f32>,
        y_RD: &Self::Buffer<f32>,
        weights_TK: &Self::Buffer<f32>,
        row_of_slot_R: &Self::Buffer<u32>,
        dims: DispatchDims,
    );
    /// The gradient of [`Kernels::dispatch`]: `dx_TD[t] += sum_k dx_RD[row_of_slot_R[t, k]]`, `k` ascending.
    fn dispatch_backward(
        &self,
        dx_TD: &mut Self::Buffer<f32>,
        dx_RD: &Self::Buffer<f32>,
        row_of_slot_R: &Self::Buffer<u32>,
        dims: DispatchDims,
    );

    // --- Sequence prefixes (MTP drops the last positions of each sequence) -----------------------------------------------------------

    /// `y[b, s] = x[b, s]` for `s < dims.prefix` (`x` has `dims.length` rows a sequence, `y` has `dims.prefix`).
    fn prefix_forward(&self, y: &mut Self::Buffer<f32>, x: &Self::Buffer<f32>, dims: PrefixDims);
    /// `dx[b, s] += dy[b, s]` for `s < dims.prefix`.
    fn prefix_backward(&self, dx: &mut Self::Buffer<f32>, dy: &Self::Buffer<f32>, dims: PrefixDims);

    // --- Output head and loss -------------------------------------------------------------------------------------------------

    /// `nll_T[t] = -log softmax(x_TD[t] head_VD^T)[targets_T[t]]`, 0 where the target is [`IGNORE`].
    fn head_loss_forward(
        &self,
        nll_T: &mut Self::Buffer<f32>,
        x_TD: &Self::Buffer<f32>,
        head_VD: &Self::Buffer<f32>,
        targets_T: &Self::Buffer<i32>,
        dims: HeadDims,
    );
    /// Loss and, in the same pass, its gradient (the logits of a chunk of rows are never kept): `dlogits = scale (softmax - onehot)`,
    /// `dx_TD = dlogits head`, `dhead_VD += dlogits^T x`.
    #[allow(clippy::too_many_arguments)]
    fn head_loss_backward(
        &self,
        nll_T: &mut Self::Buffer<f32>,
        dx_TD: &mut Self::Buffer<f32>,
        dhead_VD: &mut Self::Buffer<f32>,
        x_TD: &Self::Buffer<f32>,
        head_VD: &Self::Buffer<f32>,
        targets_T: &Self::Buffer<i32>,
        scale: f32,
        dims: HeadDims,
    );

    // --- Optimizer ------------------------------------------------------------------------------------------------------------

    /// Sum of squares in double precision, summed in an order that depends on the length only.
    fn sum_squares(&self, x: &Self::Buffer<f32>) -> f64;
    /// One AdamW step: `g = gradient_scale * gradient`; `m = b1 m + (1 - b1) g`; `v = b2 v + (1 - b2) g^2`;
    /// `p -= lr (m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + weight_decay p)`.
    fn adamw(
        &self,
        parameter: &mut Self::Buffer<f32>,
        first_moment: &mut Self::Buffer<f32>,
        second_moment: &mut Self::Buffer<f32>,
        gradient: &Self::Buffer<f32>,
        step: AdamW,
    );
}
