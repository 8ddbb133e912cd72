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
//! - Activations and their gradients are stored as `A`: `f32` or [`formats::Bf16`]. Arithmetic and sums are FP32; a BF16 result is rounded
//!   once, when it is written.
//! - Sizes are checked on entry; a mismatch is a bug of the caller and panics with the sizes in the message.
//!
//! Shape legend: T tokens (rows), D model width, K input width, N output width, E experts, R routed rows (T x top-k),
//! F expert width, H heads, V vocabulary, B sequences, S tokens per sequence.

// Tensors carry their shape as a suffix (`x_TD`), because most bugs are shape bugs.
#![allow(non_snake_case)]

pub mod bench;
mod comm;
pub mod compare;
pub mod cpu;
pub mod dims;
pub mod formats;
mod matrix;
pub mod reference;

pub use comm::{Alone, Comm};
pub use cpu::Cpu;
pub use matrix::Matrix;
pub use reference::Reference;

use dims::{
    AdamW, AttentionDims, DispatchDims, EmbeddingDims, GroupedDims, HeadDims, LinearDims, PrefixDims, RmsNormDims, RopeDims, RouteDims,
    SwigluDims,
};
use formats::{Activation, Bf16, E5m6Dims, QuantizeDims, QuantizeGroupedDims, Scaling, Statistics};

/// Element types of buffers.
pub trait Element: bytemuck::Pod + Default + Send + Sync {}
impl Element for f32 {}
impl Element for u8 {}
impl Element for Bf16 {}
impl Element for Statistics {}
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

    /// Runs `work`, which calls many operations, where calling them costs least; results do not depend on it.
    fn scope<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        work()
    }

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
    fn add<A: Activation>(&self, y: &mut Self::Buffer<A>, x: &Self::Buffer<A>);

    // --- Embedding ------------------------------------------------------------------------------------------------------------

    /// `y_TD[t] = table_VD[tokens_T[t]]`.
    fn embedding_forward<A: Activation>(
        &self,
        y_TD: &mut Self::Buffer<A>,
        table_VD: &Self::Buffer<A>,
        tokens_T: &Self::Buffer<u32>,
        dims: EmbeddingDims,
    );
    /// `dtable_VD[tokens_T[t]] += dy_TD[t]`, in ascending order of `t`.
    fn embedding_backward<A: Activation>(
        &self,
        dtable_VD: &mut Self::Buffer<f32>,
        dy_TD: &Self::Buffer<A>,
        tokens_T: &Self::Buffer<u32>,
        dims: EmbeddingDims,
    );

    // --- RMSNorm --------------------------------------------------------------------------------------------------------------

    /// `y[t] = gain * x[t] * rstd[t]`, `rstd[t] = (mean(x[t]^2) + eps)^(-1/2)`, over `dims.width` columns of strided rows.
    fn rmsnorm_forward<A: Activation>(
        &self,
        y: &mut Self::Buffer<A>,
        rstd_T: &mut Self::Buffer<f32>,
        x: &Self::Buffer<A>,
        gain_D: &Self::Buffer<f32>,
        dims: RmsNormDims,
    );
    /// `dgain_j += sum_t x_j rstd dy_j`; `dx = rstd (gain dy) - x rstd^3 / width * sum_j(x_j gain_j dy_j)`.
    /// `dx` has the layout of `x`, `dy` that of `y`.
    #[allow(clippy::too_many_arguments)]
    fn rmsnorm_backward<A: Activation>(
        &self,
        dx: &mut Self::Buffer<A>,
        dgain_D: &mut Self::Buffer<f32>,
        dy: &Self::Buffer<A>,
        x: &Self::Buffer<A>,
        gain_D: &Self::Buffer<f32>,
        rstd_T: &Self::Buffer<f32>,
        dims: RmsNormDims,
        write: Write,
    );

    // --- Linear ---------------------------------------------------------------------------------------------------------------
    //
    // Products of F32 sum in FP32. Products of BF16 take terms in pairs `(2i, 2i + 1)`, ascending, in FP32, of a pair the odd term first.
    // Products of E4M3 are those of `Reference::quantized_product`, to the bit, with tiles of 1 x 128 of `x` and `dy` and blocks of 128 x 128
    // of `w`, but for the gradient of the weight: tiles of 128 x 1 of both. Matrices are never transposed in memory. A BF16 output is
    // rounded once, from the FP32 sum with what it held.

    /// `y_TN (=|+=) x_TK w_NK^T`.
    fn linear_forward<Y: Activation>(
        &self,
        y_TN: &mut Self::Buffer<Y>,
        x_TK: Matrix<'_, Self>,
        w_NK: Matrix<'_, Self>,
        dims: LinearDims,
        write: Write,
    );
    /// `dx_TK (=|+=) dy_TN w_NK`.
    fn linear_backward_input<Y: Activation>(
        &self,
        dx_TK: &mut Self::Buffer<Y>,
        dy_TN: Matrix<'_, Self>,
        w_NK: Matrix<'_, Self>,
        dims: LinearDims,
        write: Write,
    );
    /// `dw_NK += dy_TN^T x_TK`.
    fn linear_backward_weight(&self, dw_NK: &mut Self::Buffer<f32>, dy_TN: Matrix<'_, Self>, x_TK: Matrix<'_, Self>, dims: LinearDims);

    // --- Grouped linear: rows offsets_E1[e]..offsets_E1[e + 1] belong to expert e --------------------------------------------------
    //
    // Blocks of E4M3 weights are those of each expert's matrix. Tiles of 128 x 1 start anew at each expert, with scales from row
    // `formats::column_scale_row` on.

    /// `y_RN[r] = x_RK[r] w_ENK[e(r)]^T`.
    fn grouped_linear_forward<Y: Activation>(
        &self,
        y_RN: &mut Self::Buffer<Y>,
        x_RK: Matrix<'_, Self>,
        w_ENK: Matrix<'_, Self>,
        offsets_E1: &Self::Buffer<u32>,
        dims: GroupedDims,
    );
    /// `dx_RK[r] = dy_RN[r] w_ENK[e(r)]`.
    fn grouped_linear_backward_input<Y: Activation>(
        &self,
        dx_RK: &mut Self::Buffer<Y>,
        dy_RN: Matrix<'_, Self>,
        w_ENK: Matrix<'_, Self>,
        offsets_E1: &Self::Buffer<u32>,
        dims: GroupedDims,
    );
    /// `dw_ENK[e] += sum over the rows of e of dy_RN[r]^T x_RK[r]`.
    fn grouped_linear_backward_weight(
        &self,
        dw_ENK: &mut Self::Buffer<f32>,
        dy_RN: Matrix<'_, Self>,
        x_RK: Matrix<'_, Self>,
        offsets_E1: &Self::Buffer<u32>,
        dims: GroupedDims,
    );

    // --- Rotary embedding -----------------------------------------------------------------------------------------------------

    /// Rotates, in place, pairs `(2j, 2j + 1)` of `dims.rotary` columns by the angle in `table` (`[positions, rotary / 2, (cos, sin)]`) at
    /// position `row % dims.length`. The interleaved layout is the checkpoint's (never half-split).
    fn rope<A: Activation>(&self, x: &mut Self::Buffer<A>, table: &Self::Buffer<f32>, dims: RopeDims, rotation: Rotation);

    // --- Attention core of MLA ------------------------------------------------------------------------------------------------

    /// Causal attention inside each sequence. Per head `i`: query `q_TH(n+r)[t, i]`, key `[kv_up_TH(n+v)[t, i, ..n] ; kv_a[t, c..c+r]]` (the
    /// rotary part is shared by all heads), value `kv_up_TH(n+v)[t, i, n..]`, both rotary parts already rotated.
    /// `o_THv[t, i] = softmax(scale q k^T) v`; `lse_HT[i, t]` is the log of the softmax denominator, kept for the backward pass. The softmax is
    /// FP32; its numerators are rounded to `A` before they are multiplied by the values.
    fn attention_forward<A: Activation>(
        &self,
        o_THv: &mut Self::Buffer<A>,
        lse_HT: &mut Self::Buffer<f32>,
        q: &Self::Buffer<A>,
        kv_up: &Self::Buffer<A>,
        kv_a: &Self::Buffer<A>,
        dims: AttentionDims,
    );
    /// Gradient of [`Kernels::attention_forward`]: overwrites `dq`, `dkv_up` and, in `dkv_a`, columns `c..c+r` only (the sum over heads).
    /// `dv = P^T dO`; `dP = dO v^T`; `dS = P (dP - rowsum(dO o))`; `dq = scale dS k`; `dk = scale dS^T q`. `P` and `dS` are rounded to `A`
    /// before they are multiplied.
    #[allow(clippy::too_many_arguments)]
    fn attention_backward<A: Activation>(
        &self,
        dq: &mut Self::Buffer<A>,
        dkv_up: &mut Self::Buffer<A>,
        dkv_a: &mut Self::Buffer<A>,
        do_THv: &Self::Buffer<A>,
        o_THv: &Self::Buffer<A>,
        lse_HT: &Self::Buffer<f32>,
        q: &Self::Buffer<A>,
        kv_up: &Self::Buffer<A>,
        kv_a: &Self::Buffer<A>,
        dims: AttentionDims,
    );

    // --- SwiGLU ---------------------------------------------------------------------------------------------------------------

    /// `a_RF = silu(gate) * up`, where `gate_up` is `[rows, 2F]`: gate in the first F columns, up in the last.
    fn swiglu_forward<A: Activation>(&self, a_RF: &mut Self::Buffer<A>, gate_up_R2F: &Self::Buffer<A>, dims: SwigluDims);
    /// `dup = da silu(g)`; `dgate = da up sigma(g) (1 + g (1 - sigma(g)))`.
    fn swiglu_backward<A: Activation>(
        &self,
        dgate_up_R2F: &mut Self::Buffer<A>,
        da_RF: &Self::Buffer<A>,
        gate_up_R2F: &Self::Buffer<A>,
        dims: SwigluDims,
    );
    /// SwiGLU backward of a routed row whose output is weighted in the combine. `da_RF` is the gradient of `a` *without* the weight
    /// `g = weights_TK[slot_of_row_R[r]]`. Writes `dweights_TK[slot] = <da, a>`, `dgate_up` = the SwiGLU backward of `g da`, and replaces `a`
    /// by `g a`, so that `dW_down += dy^T (g a)`.
    #[allow(clippy::too_many_arguments)]
    fn swiglu_backward_routed<A: Activation>(
        &self,
        dgate_up_R2F: &mut Self::Buffer<A>,
        a_RF: &mut Self::Buffer<A>,
        dweights_TK: &mut Self::Buffer<f32>,
        da_RF: &Self::Buffer<A>,
        gate_up_R2F: &Self::Buffer<A>,
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
    fn dispatch<A: Activation>(
        &self,
        x_RD: &mut Self::Buffer<A>,
        x_TD: &Self::Buffer<A>,
        slot_of_row_R: &Self::Buffer<u32>,
        dims: DispatchDims,
    );
    /// `y_TD[t] += sum_k weights_TK[t, k] y_RD[row_of_slot_R[t, k]]`, `k` ascending; rounded to `A` once.
    fn combine<A: Activation>(
        &self,
        y_TD: &mut Self::Buffer<A>,
        y_RD: &Self::Buffer<A>,
        weights_TK: &Self::Buffer<f32>,
        row_of_slot_R: &Self::Buffer<u32>,
        dims: DispatchDims,
    );
    /// The gradient of [`Kernels::dispatch`]: `dx_TD[t] += sum_k dx_RD[row_of_slot_R[t, k]]`, `k` ascending; rounded to `A`
    /// once.
    fn dispatch_backward<A: Activation>(
        &self,
        dx_TD: &mut Self::Buffer<A>,
        dx_RD: &Self::Buffer<A>,
        row_of_slot_R: &Self::Buffer<u32>,
        dims: DispatchDims,
    );

    // --- Sequence prefixes (MTP drops the last positions of each sequence) -----------------------------------------------------------

    /// `y[b, s] = x[b, s]` for `s < dims.prefix` (`x` has `dims.length` rows a sequence, `y` has `dims.prefix`).
    fn prefix_forward<A: Activation>(&self, y: &mut Self::Buffer<A>, x: &Self::Buffer<A>, dims: PrefixDims);
    /// `dx[b, s] += dy[b, s]` for `s < dims.prefix`.
    fn prefix_backward<A: Activation>(&self, dx: &mut Self::Buffer<A>, dy: &Self::Buffer<A>, dims: PrefixDims);

    // --- Output head and loss -------------------------------------------------------------------------------------------------

    /// `nll_T[t] = -log softmax(x_TD[t] head_VD^T)[targets_T[t]]`, 0 where the target is [`IGNORE`].
    fn head_loss_forward<A: Activation>(
        &self,
        nll_T: &mut Self::Buffer<f32>,
        x_TD: &Self::Buffer<A>,
        head_VD: &Self::Buffer<A>,
        targets_T: &Self::Buffer<i32>,
        dims: HeadDims,
    );
    /// Loss and, in the same pass, its gradient (the logits of a chunk of rows are never kept): `dlogits = scale (softmax - onehot)`,
    /// `dx_TD = dlogits head`, `dhead_VD += dlogits^T x`. Logits and softmax are FP32; `dlogits` are rounded to the activations' type.
    #[allow(clippy::too_many_arguments)]
    fn head_loss_backward<A: Activation>(
        &self,
        nll_T: &mut Self::Buffer<f32>,
        dx_TD: &mut Self::Buffer<A>,
        dhead_VD: &mut Self::Buffer<f32>,
        x_TD: &Self::Buffer<A>,
        head_VD: &Self::Buffer<A>,
        targets_T: &Self::Buffer<i32>,
        scale: f32,
        dims: HeadDims,
    );

    // --- Formats: statistics[slot] receives, merged with what it holds, what a quantisation saw; nothing panics at what is not finite -----

    /// `y = x`, each element rounded to the nearest.
    fn cast<X: Activation, Y: Activation>(&self, y: &mut Self::Buffer<Y>, x: &Self::Buffer<X>);
    /// E4M3 codes and scales of `x`, as `dims` say. An element that is not finite is coded without the scale: infinity as the largest
    /// value, NaN as NaN.
    fn quantize<X: Activation>(
        &self,
        codes: &mut Self::Buffer<u8>,
        scales: &mut Self::Buffer<f32>,
        statistics: &mut Self::Buffer<Statistics>,
        slot: usize,
        x: &Self::Buffer<X>,
        dims: QuantizeDims,
    );
    /// [`Kernels::quantize`] of each matrix of a stack `[groups, rows, columns]`: no scale is shared between two of them. Codes and scales
    /// are stacks too.
    #[allow(clippy::too_many_arguments)]
    fn quantize_stack<X: Activation>(
        &self,
        codes: &mut Self::Buffer<u8>,
        scales: &mut Self::Buffer<f32>,
        statistics: &mut Self::Buffer<Statistics>,
        slot: usize,
        x: &Self::Buffer<X>,
        groups: usize,
        dims: QuantizeDims,
    );
    /// E4M3 codes `[rows, columns]` and scales of tiles of 128 x 1 that never cross an expert: rows `offsets_E1[e]..offsets_E1[e + 1]`
    /// belong to expert `e`; its scale rows start at [`formats::column_scale_row`]. Scale rows of no expert are left alone.
    #[allow(clippy::too_many_arguments)]
    fn quantize_grouped<X: Activation>(
        &self,
        codes: &mut Self::Buffer<u8>,
        scales: &mut Self::Buffer<f32>,
        statistics: &mut Self::Buffer<Statistics>,
        slot: usize,
        x: &Self::Buffer<X>,
        offsets_E1: &Self::Buffer<u32>,
        dims: QuantizeGroupedDims,
    );
    /// As [`Kernels::quantize_grouped`], from E4M3 codes with tiles of 1 x 128. If all scales are powers of two, what is a normal number
    /// under its new scale keeps its value.
    #[allow(clippy::too_many_arguments)]
    fn retile_grouped(
        &self,
        codes: &mut Self::Buffer<u8>,
        scales: &mut Self::Buffer<f32>,
        statistics: &mut Self::Buffer<Statistics>,
        slot: usize,
        from_codes: &Self::Buffer<u8>,
        from_scales: &Self::Buffer<f32>,
        offsets_E1: &Self::Buffer<u32>,
        dims: QuantizeGroupedDims,
    );
    /// `y = codes * scales`, of tiles of 1 x 128.
    fn dequantize<Y: Activation>(
        &self,
        y: &mut Self::Buffer<Y>,
        codes: &Self::Buffer<u8>,
        scales: &Self::Buffer<f32>,
        rows: usize,
        columns: usize,
    );
    /// Packed E5M6 codes ([`formats::e5m6`]) and scales of `x`: tiles of 1 x 128, scales that are powers of two. NaN and infinity stay
    /// what they are.
    fn quantize_e5m6<X: Activation>(
        &self,
        packed: &mut Self::Buffer<u8>,
        scales: &mut Self::Buffer<f32>,
        statistics: &mut Self::Buffer<Statistics>,
        slot: usize,
        x: &Self::Buffer<X>,
        dims: E5m6Dims,
    );
    /// `y = codes * scales`, the inverse of [`Kernels::quantize_e5m6`].
    fn dequantize_e5m6<Y: Activation>(
        &self,
        y: &mut Self::Buffer<Y>,
        packed: &Self::Buffer<u8>,
        scales: &Self::Buffer<f32>,
        dims: E5m6Dims,
    );
    /// [`Kernels::dispatch`] of E4M3 rows with their tiles of 1 x 128: row `r` of codes and scales is that of token
    /// `slot_of_row_R[r] / top_k`.
    fn dispatch_quantized(
        &self,
        codes_RD: &mut Self::Buffer<u8>,
        scales: &mut Self::Buffer<f32>,
        from_codes_TD: &Self::Buffer<u8>,
        from_scales: &Self::Buffer<f32>,
        slot_of_row_R: &Self::Buffer<u32>,
        dims: DispatchDims,
    );

    // --- Fused with quantisation: each activation is read once, and what is quantised does not go through memory. Bit for bit the steps
    // --- that they replace, but for the sign of NaN -------------------------------------------------------------------------------

    /// Equals [`Kernels::rmsnorm_forward`], rounded to BF16, and then [`Kernels::quantize`] of that in tiles of 1 x 128. Codes are
    /// `[rows, width]`. The rounded values are also stored, in the columns `dims.y`, if there is a `y`: the gate needs them.
    #[allow(clippy::too_many_arguments)]
    fn rmsnorm_quantize<X: Activation>(
        &self,
        codes_TD: &mut Self::Buffer<u8>,
        scales: &mut Self::Buffer<f32>,
        statistics: &mut Self::Buffer<Statistics>,
        slot: usize,
        rstd_T: &mut Self::Buffer<f32>,
        y: Option<&mut Self::Buffer<Bf16>>,
        x: &Self::Buffer<X>,
        gain_D: &Self::Buffer<f32>,
        dims: RmsNormDims,
        scaling: Scaling,
    );
    /// Equals [`Kernels::swiglu_forward`], rounded to BF16, and then [`Kernels::quantize`] of that in tiles of 1 x 128.
    #[allow(clippy::too_many_arguments)]
    fn swiglu_quantize<X: Activation>(
        &self,
        codes_RF: &mut Self::Buffer<u8>,
        scales: &mut Self::Buffer<f32>,
        statistics: &mut Self::Buffer<Statistics>,
        slot: usize,
        gate_up_R2F: &Self::Buffer<X>,
        dims: SwigluDims,
        scaling: Scaling,
    );
    /// [`Kernels::swiglu_quantize`] of `gate_up` as it is cached: E4M3 codes with tiles of 1 x 128 over all of a row's `2F` columns. Equals
    /// [`Kernels::dequantize`] to FP32 and then [`Kernels::swiglu_quantize`].
    #[allow(clippy::too_many_arguments)]
    fn swiglu_requantize(
        &self,
        codes_RF: &mut Self::Buffer<u8>,
        scales: &mut Self::Buffer<f32>,
        statistics: &mut Self::Buffer<Statistics>,
        slot: usize,
        from_codes_R2F: &Self::Buffer<u8>,
        from_scales: &Self::Buffer<f32>,
        dims: SwigluDims,
        scaling: Scaling,
    );

    // --- Optimizer ------------------------------------------------------------------------------------------------------------

    /// Sum of squares in double precision, summed in an order that depends on the length only.
    fn sum_squares(&self, x: &Self::Buffer<f32>) -> f64;
    /// One AdamW step: `g = gradient_scale * gradient`; `m = b1 m + (1 - b1) g`; `v = b2 v + (1 - b2) g^2`;
    /// `p -= lr (m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + weight_decay p)`. Moments are rounded once, when they are stored: the
    /// parameter moves by what they were before. The gradient is 0 afterwards, for the sums of the next step, and `rounded` is the new parameter:
    /// both are in cache.
    fn adamw<M: Activation>(
        &self,
        parameter: &mut Self::Buffer<f32>,
        rounded: Option<&mut Self::Buffer<Bf16>>,
        first_moment: &mut Self::Buffer<M>,
        second_moment: &mut Self::Buffer<M>,
        gradient: &mut Self::Buffer<f32>,
        step: AdamW,
    );
    /// Exponential moving average: `average = decay * average + (1 - decay) * parameter`.
    fn average(&self, average: &mut Self::Buffer<f32>, parameter: &Self::Buffer<f32>, decay: f32);
}
