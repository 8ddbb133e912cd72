//! The oracle: every operation as naive loops, one file per family, each file ending in finite-difference tests of its backward pass.
//!
//! Values are read as `f64`, computed in `f64` and rounded once when stored, so the result is the nearest `f32` to the exact one, up to
//! a few double-precision roundings. The loops are generic over the stored type, because finite differences need `f64` throughout.

mod adamw;
mod attention;
mod dispatch;
mod embedding;
#[cfg(test)]
mod gradient;
mod grouped_linear;
mod head_loss;
mod linear;
mod memory;
mod prefix;
mod quantize;
mod quantized_product;
mod real;
mod reduce;
mod rmsnorm;
mod rope;
mod route;
mod swiglu;

use crate::dims::{
    AdamW, AttentionDims, DispatchDims, EmbeddingDims, GroupedDims, HeadDims, LinearDims, PrefixDims, RmsNormDims, RopeDims, RouteDims,
    SwigluDims,
};
use crate::{Element, Kernels, Rotation, Write};

/// Naive kernels on host vectors.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reference;

impl Kernels for Reference {
    type Buffer<T: Element> = Vec<T>;

    fn zeros<T: Element>(&self, len: usize) -> Self::Buffer<T> {
        vec![T::default(); len]
    }

    fn len<T: Element>(&self, buffer: &Self::Buffer<T>) -> usize {
        buffer.len()
    }

    fn upload<T: Element>(&self, buffer: &mut Self::Buffer<T>, offset: usize, source: &[T]) {
        memory::upload(buffer, offset, source);
    }

    fn download<T: Element>(&self, target: &mut [T], buffer: &Self::Buffer<T>, offset: usize) {
        memory::download(target, buffer, offset);
    }

    fn fill<T: Element>(&self, buffer: &mut Self::Buffer<T>, value: T) {
        buffer.fill(value);
    }

    fn copy<T: Element>(&self, y: &mut Self::Buffer<T>, x: &Self::Buffer<T>) {
        memory::copy(y, x);
    }

    fn add(&self, y: &mut Self::Buffer<f32>, x: &Self::Buffer<f32>) {
        memory::add(y, x);
    }

    fn embedding_forward(
        &self,
        y_TD: &mut Self::Buffer<f32>,
        table_VD: &Self::Buffer<f32>,
        tokens_T: &Self::Buffer<u32>,
        dims: EmbeddingDims,
    ) {
        dims.check(y_TD.len(), table_VD.len(), tokens_T.len());
        embedding::forward(y_TD, table_VD, tokens_T, dims);
    }

    fn embedding_backward(
        &self,
        dtable_VD: &mut Self::Buffer<f32>,
        dy_TD: &Self::Buffer<f32>,
        tokens_T: &Self::Buffer<u32>,
        dims: EmbeddingDims,
    ) {
        dims.check(dy_TD.len(), dtable_VD.len(), tokens_T.len());
        embedding::backward(dtable_VD, dy_TD, tokens_T, dims);
    }

    fn rmsnorm_forward(
        &self,
        y: &mut Self::Buffer<f32>,
        rstd_T: &mut Self::Buffer<f32>,
        x: &Self::Buffer<f32>,
        gain_D: &Self::Buffer<f32>,
        dims: RmsNormDims,
    ) {
        dims.check(x.len(), y.len(), gain_D.len(), rstd_T.len());
        rmsnorm::forward(y, rstd_T, x, gain_D, dims);
    }

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
    ) {
        dims.check(x.len().min(dx.len()), dy.len(), gain_D.len().min(dgain_D.len()), rstd_T.len());
        rmsnorm::backward(dx, dgain_D, dy, x, gain_D, rstd_T, dims, write);
    }

    fn linear_forward(
        &self,
        y_TN: &mut Self::Buffer<f32>,
        x_TK: &Self::Buffer<f32>,
        w_NK: &Self::Buffer<f32>,
        dims: LinearDims,
        write: Write,
    ) {
        dims.check(y_TN.len(), x_TK.len(), w_NK.len());
        linear::forward(y_TN, x_TK, w_NK, dims, write);
    }

    fn linear_backward_input(
        &self,
        dx_TK: &mut Self::Buffer<f32>,
        dy_TN: &Self::Buffer<f32>,
        w_NK: &Self::Buffer<f32>,
        dims: LinearDims,
        write: Write,
    ) {
        dims.check(dy_TN.len(), dx_TK.len(), w_NK.len());
        linear::backward_input(dx_TK, dy_TN, w_NK, dims, write);
    }

    fn linear_backward_weight(&self, dw_NK: &mut Self::Buffer<f32>, dy_TN: &Self::Buffer<f32>, x_TK: &Self::Buffer<f32>, dims: LinearDims) {
        dims.check(dy_TN.len(), x_TK.len(), dw_NK.len());
        linear::backward_weight(dw_NK, dy_TN, x_TK, dims);
    }

    fn grouped_linear_forward(
        &self,
        y_RN: &mut Self::Buffer<f32>,
        x_RK: &Self::Buffer<f32>,
        w_ENK: &Self::Buffer<f32>,
        offsets_E1: &Self::Buffer<u32>,
        dims: GroupedDims,
    ) {
        dims.check(y_RN.len(), x_RK.len(), w_ENK.len(), offsets_E1.len());
        grouped_linear::forward(y_RN, x_RK, w_ENK, offsets_E1, dims);
    }

    fn grouped_linear_backward_input(
        &self,
        dx_RK: &mut Self::Buffer<f32>,
        dy_RN: &Self::Buffer<f32>,
        w_ENK: &Self::Buffer<f32>,
        offsets_E1: &Self::Buffer<u32>,
        dims: GroupedDims,
    ) {
        dims.check(dy_RN.len(), dx_RK.len(), w_ENK.len(), offsets_E1.len());
        grouped_linear::backward_input(dx_RK, dy_RN, w_ENK, offsets_E1, dims);
    }

    fn grouped_linear_backward_weight(
        &self,
        dw_ENK: &mut Self::Buffer<f32>,
        dy_RN: &Self::Buffer<f32>,
        x_RK: &Self::Buffer<f32>,
        offsets_E1: &Self::Buffer<u32>,
        dims: GroupedDims,
    ) {
        dims.check(dy_RN.len(), x_RK.len(), dw_ENK.len(), offsets_E1.len());
        grouped_linear::backward_weight(dw_ENK, dy_RN, x_RK, offsets_E1, dims);
    }

    fn rope(&self, x: &mut Self::Buffer<f32>, table: &Self::Buffer<f32>, dims: RopeDims, rotation: Rotation) {
        dims.check(x.len(), table.len());
        rope::rotate(x, table, dims, rotation);
    }

    fn attention_forward(
        &self,
        o_THv: &mut Self::Buffer<f32>,
        lse_HT: &mut Self::Buffer<f32>,
        q: &Self::Buffer<f32>,
        kv_up: &Self::Buffer<f32>,
        kv_a: &Self::Buffer<f32>,
        dims: AttentionDims,
    ) {
        dims.check(o_THv.len(), lse_HT.len(), q.len(), kv_up.len(), kv_a.len());
        attention::forward(o_THv, lse_HT, q, kv_up, kv_a, dims);
    }

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
    ) {
        dims.check(o_THv.len(), lse_HT.len(), q.len(), kv_up.len(), kv_a.len());
        dims.check(do_THv.len(), lse_HT.len(), dq.len(), dkv_up.len(), dkv_a.len());
        attention::backward(dq, dkv_up, dkv_a, do_THv, o_THv, lse_HT, q, kv_up, kv_a, dims);
    }

    fn swiglu_forward(&self, a_RF: &mut Self::Buffer<f32>, gate_up_R2F: &Self::Buffer<f32>, dims: SwigluDims) {
        dims.check(a_RF.len(), gate_up_R2F.len());
        swiglu::forward(a_RF, gate_up_R2F, dims);
    }

    fn swiglu_backward(
        &self,
        dgate_up_R2F: &mut Self::Buffer<f32>,
        da_RF: &Self::Buffer<f32>,
        gate_up_R2F: &Self::Buffer<f32>,
        dims: SwigluDims,
    ) {
        dims.check(da_RF.len(), gate_up_R2F.len().min(dgate_up_R2F.len()));
        swiglu::backward(dgate_up_R2F, da_RF, gate_up_R2F, dims);
    }

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
    ) {
        dims.check(da_RF.len().min(a_RF.len()), gate_up_R2F.len().min(dgate_up_R2F.len()));
        dims.check_routed(slot_of_row_R.len(), weights_TK.len(), dweights_TK.len());
        swiglu::backward_routed(dgate_up_R2F, a_RF, dweights_TK, da_RF, gate_up_R2F, weights_TK, slot_of_row_R, dims);
    }

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
    ) {
        dims.check(scores_TE.len().min(logits_TE.len()), indices_TK.len());
        dims.check_weights(weights_TK.len());
        dims.check_experts(bias_E.len(), counts_E.len());
        route::forward(scores_TE, indices_TK, weights_TK, counts_E, logits_TE, bias_E, dims);
    }

    fn balance_forward(
        &self,
        loss_B: &mut Self::Buffer<f32>,
        frequency_BE: &mut Self::Buffer<f32>,
        scores_TE: &Self::Buffer<f32>,
        indices_TK: &Self::Buffer<u32>,
        dims: RouteDims,
    ) {
        dims.check(scores_TE.len(), indices_TK.len());
        dims.check_balance(loss_B.len(), frequency_BE.len());
        route::balance(loss_B, frequency_BE, scores_TE, indices_TK, dims);
    }

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
    ) {
        dims.check(scores_TE.len().min(dlogits_TE.len()), indices_TK.len());
        dims.check_weights(dweights_TK.len());
        dims.check_balance(dims.sequences, frequency_BE.len());
        route::backward(dlogits_TE, dweights_TK, scores_TE, indices_TK, frequency_BE, balance_scale, dims);
    }

    fn update_bias(&self, bias_E: &mut Self::Buffer<f32>, counts_E: &Self::Buffer<u32>, gamma: f32, centered: bool) {
        route::update_bias(bias_E, counts_E, gamma, centered);
    }

    fn dispatch_plan(
        &self,
        offsets_E1: &mut Self::Buffer<u32>,
        slot_of_row_R: &mut Self::Buffer<u32>,
        row_of_slot_R: &mut Self::Buffer<u32>,
        indices_TK: &Self::Buffer<u32>,
        dims: DispatchDims,
    ) {
        dims.check_plan(offsets_E1.len(), slot_of_row_R.len(), row_of_slot_R.len(), indices_TK.len());
        dispatch::plan(offsets_E1, slot_of_row_R, row_of_slot_R, indices_TK, dims);
    }

    fn dispatch(&self, x_RD: &mut Self::Buffer<f32>, x_TD: &Self::Buffer<f32>, slot_of_row_R: &Self::Buffer<u32>, dims: DispatchDims) {
        dims.check(x_TD.len(), x_RD.len(), slot_of_row_R.len());
        dispatch::dispatch(x_RD, x_TD, slot_of_row_R, dims);
    }

    fn combine(
        &self,
        y_TD: &mut Self::Buffer<f32>,
        y_RD: &Self::Buffer<f32>,
        weights_TK: &Self::Buffer<f32>,
        row_of_slot_R: &Self::Buffer<u32>,
        dims: DispatchDims,
    ) {
        dims.check(y_TD.len(), y_RD.len(), row_of_slot_R.len().min(weights_TK.len()));
        dispatch::combine(y_TD, y_RD, weights_TK, row_of_slot_R, dims);
    }

    fn dispatch_backward(
        &self,
        dx_TD: &mut Self::Buffer<f32>,
        dx_RD: &Self::Buffer<f32>,
        row_of_slot_R: &Self::Buffer<u32>,
        dims: DispatchDims,
    ) {
        dims.check(dx_TD.len(), dx_RD.len(), row_of_slot_R.len());
        dispatch::dispatch_backward(dx_TD, dx_RD, row_of_slot_R, dims);
    }

    fn prefix_forward(&self, y: &mut Self::Buffer<f32>, x: &Self::Buffer<f32>, dims: PrefixDims) {
        dims.check(y.len(), x.len());
        prefix::forward(y, x, dims);
    }

    fn prefix_backward(&self, dx: &mut Self::Buffer<f32>, dy: &Self::Buffer<f32>, dims: PrefixDims) {
        dims.check(dy.len(), dx.len());
        prefix::backward(dx, dy, dims);
    }

    fn head_loss_forward(
        &self,
        nll_T: &mut Self::Buffer<f32>,
        x_TD: &Self::Buffer<f32>,
        head_VD: &Self::Buffer<f32>,
        targets_T: &Self::Buffer<i32>,
        dims: HeadDims,
    ) {
        dims.check(nll_T.len(), x_TD.len(), head_VD.len(), targets_T.len());
        head_loss::forward(nll_T, x_TD, head_VD, targets_T, dims);
    }

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
    ) {
        dims.check(
            nll_T.len(),
            x_TD.len().min(dx_TD.len()),
            head_VD.len().min(dhead_VD.len()),
            targets_T.len(),
        );
        head_loss::backward(nll_T, dx_TD, dhead_VD, x_TD, head_VD, targets_T, scale, dims);
    }

    fn sum_squares(&self, x: &Self::Buffer<f32>) -> f64 {
        reduce::sum_squares(x)
    }

    fn adamw(
        &self,
        parameter: &mut Self::Buffer<f32>,
        first_moment: &mut Self::Buffer<f32>,
        second_moment: &mut Self::Buffer<f32>,
        gradient: &Self::Buffer<f32>,
        step: AdamW,
    ) {
        step.check(parameter.len(), first_moment.len(), second_moment.len(), gradient.len());
        adamw::step(parameter, first_moment, second_moment, gradient, step);
    }
}
