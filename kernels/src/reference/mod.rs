//! The oracle: every operation as naive loops, one file per family, each file ending in finite-difference tests of its backward pass.
//!
//! Values are read as `f64`, computed in `f64` and rounded once when stored, so the result is the nearest `f32` to the exact one, up to
//! a few double-precision roundings. The loops are generic over the stored types: activations are `f32` or BF16, and finite differences need
//! `f64` throughout.

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
mod product;
mod quantize;
mod quantized_linear;
mod quantized_product;
mod real;
mod reduce;
mod rmsnorm;
mod rmsnorm_quantize;
mod rope;
mod route;
mod swiglu;
mod swiglu_quantize;

use crate::dims::{
    AdamW, AttentionDims, DispatchDims, EmbeddingDims, GroupedDims, HeadDims, LinearDims, PrefixDims, RmsNormDims, RopeDims, RouteDims,
    SwigluDims,
};
use crate::formats::{Activation, Bf16, E5m6Dims, QuantizeDims, QuantizeGroupedDims, Scaling, Source, Statistics, SumOrder};
use crate::{Element, Kernels, Matrix, Rotation, Write};

/// Naive kernels on host vectors.
#[derive(Clone, Copy, Debug)]
pub struct Reference {
    /// Of products of E4M3; nothing else depends on it.
    pub sum_order: SumOrder,
}

impl Reference {
    /// The order of `vdpbf16ps`, and of instruction sets without such an instruction.
    pub const PAIRS: Self = Self {
        sum_order: SumOrder::Pairs,
    };
    /// The order of `tdpbf16ps`.
    pub const TILES: Self = Self {
        sum_order: SumOrder::Tiles,
    };
}

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

    fn add<A: Activation>(&self, y: &mut Self::Buffer<A>, x: &Self::Buffer<A>) {
        memory::add(y, x);
    }

    fn embedding_forward<A: Activation>(
        &self,
        y_TD: &mut Self::Buffer<A>,
        table_VD: &Self::Buffer<A>,
        tokens_T: &Self::Buffer<u32>,
        dims: EmbeddingDims,
    ) {
        dims.check(y_TD.len(), table_VD.len(), tokens_T.len());
        embedding::forward(y_TD, table_VD, tokens_T, dims);
    }

    fn embedding_backward<A: Activation>(
        &self,
        dtable_VD: &mut Self::Buffer<f32>,
        dy_TD: &Self::Buffer<A>,
        tokens_T: &Self::Buffer<u32>,
        dims: EmbeddingDims,
    ) {
        dims.check(dy_TD.len(), dtable_VD.len(), tokens_T.len());
        embedding::backward(dtable_VD, dy_TD, tokens_T, dims);
    }

    fn rmsnorm_forward<A: Activation>(
        &self,
        y: &mut Self::Buffer<A>,
        rstd_T: &mut Self::Buffer<f32>,
        x: &Self::Buffer<A>,
        gain_D: &Self::Buffer<f32>,
        dims: RmsNormDims,
    ) {
        dims.check(x.len(), y.len(), gain_D.len(), rstd_T.len());
        rmsnorm::forward(y, rstd_T, x, gain_D, dims);
    }

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
    ) {
        dims.check(x.len().min(dx.len()), dy.len(), gain_D.len().min(dgain_D.len()), rstd_T.len());
        rmsnorm::backward(dx, dgain_D, dy, x, gain_D, rstd_T, dims, write);
    }

    fn linear_forward<Y: Activation>(
        &self,
        y_TN: &mut Self::Buffer<Y>,
        x_TK: Matrix<'_, Self>,
        w_NK: Matrix<'_, Self>,
        dims: LinearDims,
        write: Write,
    ) {
        dims.check_forward(self, y_TN.len(), x_TK, w_NK);
        product::forward(y_TN, x_TK, w_NK, dims, write, self.sum_order);
    }

    fn linear_backward_input<Y: Activation>(
        &self,
        dx_TK: &mut Self::Buffer<Y>,
        dy_TN: Matrix<'_, Self>,
        w_NK: Matrix<'_, Self>,
        dims: LinearDims,
        write: Write,
    ) {
        dims.check_backward_input(self, dx_TK.len(), dy_TN, w_NK);
        product::backward_input(dx_TK, dy_TN, w_NK, dims, write, self.sum_order);
    }

    fn linear_backward_weight(&self, dw_NK: &mut Self::Buffer<f32>, dy_TN: Matrix<'_, Self>, x_TK: Matrix<'_, Self>, dims: LinearDims) {
        dims.check_backward_weight(self, dw_NK.len(), dy_TN, x_TK);
        product::backward_weight(dw_NK, dy_TN, x_TK, dims, self.sum_order);
    }

    fn grouped_linear_forward<Y: Activation>(
        &self,
        y_RN: &mut Self::Buffer<Y>,
        x_RK: Matrix<'_, Self>,
        w_ENK: Matrix<'_, Self>,
        offsets_E1: &Self::Buffer<u32>,
        dims: GroupedDims,
    ) {
        dims.check_forward(self, y_RN.len(), x_RK, w_ENK, offsets_E1.len());
        product::grouped_forward(y_RN, x_RK, w_ENK, offsets_E1, dims, self.sum_order);
    }

    fn grouped_linear_backward_input<Y: Activation>(
        &self,
        dx_RK: &mut Self::Buffer<Y>,
        dy_RN: Matrix<'_, Self>,
        w_ENK: Matrix<'_, Self>,
        offsets_E1: &Self::Buffer<u32>,
        dims: GroupedDims,
    ) {
        dims.check_backward_input(self, dx_RK.len(), dy_RN, w_ENK, offsets_E1.len());
        product::grouped_backward_input(dx_RK, dy_RN, w_ENK, offsets_E1, dims, self.sum_order);
    }

    fn grouped_linear_backward_weight(
        &self,
        dw_ENK: &mut Self::Buffer<f32>,
        dy_RN: Matrix<'_, Self>,
        x_RK: Matrix<'_, Self>,
        offsets_E1: &Self::Buffer<u32>,
        dims: GroupedDims,
    ) {
        dims.check_backward_weight(self, dw_ENK.len(), dy_RN, x_RK, offsets_E1.len());
        product::grouped_backward_weight(dw_ENK, dy_RN, x_RK, offsets_E1, dims, self.sum_order);
    }

    fn rope<A: Activation>(&self, x: &mut Self::Buffer<A>, table: &Self::Buffer<f32>, dims: RopeDims, rotation: Rotation) {
        dims.check(x.len(), table.len());
        rope::rotate(x, table, dims, rotation);
    }

    fn attention_forward<A: Activation>(
        &self,
        o_THv: &mut Self::Buffer<A>,
        lse_HT: &mut Self::Buffer<f32>,
        q: &Self::Buffer<A>,
        kv_up: &Self::Buffer<A>,
        kv_a: &Self::Buffer<A>,
        dims: AttentionDims,
    ) {
        dims.check(o_THv.len(), lse_HT.len(), q.len(), kv_up.len(), kv_a.len());
        attention::forward(o_THv, lse_HT, q, kv_up, kv_a, dims);
    }

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
    ) {
        dims.check(o_THv.len(), lse_HT.len(), q.len(), kv_up.len(), kv_a.len());
        dims.check(do_THv.len(), lse_HT.len(), dq.len(), dkv_up.len(), dkv_a.len());
        attention::backward(dq, dkv_up, dkv_a, do_THv, o_THv, lse_HT, q, kv_up, kv_a, dims);
    }

    fn swiglu_forward<A: Activation>(&self, a_RF: &mut Self::Buffer<A>, gate_up_R2F: &Self::Buffer<A>, dims: SwigluDims) {
        dims.check(a_RF.len(), gate_up_R2F.len());
        swiglu::forward(a_RF, gate_up_R2F, dims);
    }

    fn swiglu_backward<A: Activation>(
        &self,
        dgate_up_R2F: &mut Self::Buffer<A>,
        da_RF: &Self::Buffer<A>,
        gate_up_R2F: &Self::Buffer<A>,
        dims: SwigluDims,
    ) {
        dims.check(da_RF.len(), gate_up_R2F.len().min(dgate_up_R2F.len()));
        swiglu::backward(dgate_up_R2F, da_RF, gate_up_R2F, dims);
    }

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

    fn dispatch<A: Activation>(
        &self,
        x_RD: &mut Self::Buffer<A>,
        x_TD: &Self::Buffer<A>,
        slot_of_row_R: &Self::Buffer<u32>,
        dims: DispatchDims,
    ) {
        dims.check(x_TD.len(), x_RD.len(), slot_of_row_R.len());
        dispatch::dispatch(x_RD, x_TD, slot_of_row_R, dims);
    }

    fn combine<A: Activation>(
        &self,
        y_TD: &mut Self::Buffer<A>,
        y_RD: &Self::Buffer<A>,
        weights_TK: &Self::Buffer<f32>,
        row_of_slot_R: &Self::Buffer<u32>,
        dims: DispatchDims,
    ) {
        dims.check(y_TD.len(), y_RD.len(), row_of_slot_R.len().min(weights_TK.len()));
        dispatch::combine(y_TD, y_RD, weights_TK, row_of_slot_R, dims);
    }

    fn dispatch_backward<A: Activation>(
        &self,
        dx_TD: &mut Self::Buffer<A>,
        dx_RD: &Self::Buffer<A>,
        row_of_slot_R: &Self::Buffer<u32>,
        dims: DispatchDims,
    ) {
        dims.check(dx_TD.len(), dx_RD.len(), row_of_slot_R.len());
        dispatch::dispatch_backward(dx_TD, dx_RD, row_of_slot_R, dims);
    }

    fn prefix_forward<A: Activation>(&self, y: &mut Self::Buffer<A>, x: &Self::Buffer<A>, dims: PrefixDims) {
        dims.check(y.len(), x.len());
        prefix::forward(y, x, dims);
    }

    fn prefix_backward<A: Activation>(&self, dx: &mut Self::Buffer<A>, dy: &Self::Buffer<A>, dims: PrefixDims) {
        dims.check(dy.len(), dx.len());
        prefix::backward(dx, dy, dims);
    }

    fn head_loss_forward<A: Activation>(
        &self,
        nll_T: &mut Self::Buffer<f32>,
        x_TD: &Self::Buffer<A>,
        head_VD: &Self::Buffer<A>,
        targets_T: &Self::Buffer<i32>,
        dims: HeadDims,
    ) {
        dims.check(nll_T.len(), x_TD.len(), head_VD.len(), targets_T.len());
        head_loss::forward(nll_T, x_TD, head_VD, targets_T, dims);
    }

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
    ) {
        dims.check(
            nll_T.len(),
            x_TD.len().min(dx_TD.len()),
            head_VD.len().min(dhead_VD.len()),
            targets_T.len(),
        );
        head_loss::backward(nll_T, dx_TD, dhead_VD, x_TD, head_VD, targets_T, scale, dims);
    }

    fn cast<X: Activation, Y: Activation>(&self, y: &mut Self::Buffer<Y>, x: &Self::Buffer<X>) {
        memory::cast(y, x);
    }

    fn quantize<X: Activation>(
        &self,
        codes: &mut Self::Buffer<u8>,
        scales: &mut Self::Buffer<f32>,
        statistics: &mut Self::Buffer<Statistics>,
        slot: usize,
        x: &Self::Buffer<X>,
        dims: QuantizeDims,
    ) {
        statistics[slot] = statistics[slot].merge(self.quantize_source(codes, scales, Source::of(x), dims));
    }

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
    ) {
        statistics[slot] = statistics[slot].merge(self.quantize_stack_source(codes, scales, Source::of(x), groups, dims));
    }

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
    ) {
        statistics[slot] = statistics[slot].merge(self.quantize_grouped_source(codes, scales, Source::of(x), offsets_E1, dims));
    }

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
    ) {
        let x = Source::tiles(from_codes, from_scales);
        statistics[slot] = statistics[slot].merge(self.quantize_grouped_source(codes, scales, x, offsets_E1, dims));
    }

    fn dequantize<Y: Activation>(
        &self,
        y: &mut Self::Buffer<Y>,
        codes: &Self::Buffer<u8>,
        scales: &Self::Buffer<f32>,
        rows: usize,
        columns: usize,
    ) {
        self.dequantize_source(y, Source::tiles(codes, scales), rows, columns);
    }

    fn quantize_e5m6<X: Activation>(
        &self,
        packed: &mut Self::Buffer<u8>,
        scales: &mut Self::Buffer<f32>,
        statistics: &mut Self::Buffer<Statistics>,
        slot: usize,
        x: &Self::Buffer<X>,
        dims: E5m6Dims,
    ) {
        statistics[slot] = statistics[slot].merge(self.quantize_e5m6_source(packed, scales, Source::of(x), dims));
    }

    fn dequantize_e5m6<Y: Activation>(
        &self,
        y: &mut Self::Buffer<Y>,
        packed: &Self::Buffer<u8>,
        scales: &Self::Buffer<f32>,
        dims: E5m6Dims,
    ) {
        self.dequantize_source(y, Source::E5m6 { packed, scales }, dims.rows, dims.columns);
    }

    fn dispatch_quantized(
        &self,
        codes_RD: &mut Self::Buffer<u8>,
        scales: &mut Self::Buffer<f32>,
        from_codes_TD: &Self::Buffer<u8>,
        from_scales: &Self::Buffer<f32>,
        slot_of_row_R: &Self::Buffer<u32>,
        dims: DispatchDims,
    ) {
        dims.check(from_codes_TD.len(), codes_RD.len(), slot_of_row_R.len());
        dims.check_scales(from_scales.len(), scales.len());
        dispatch::dispatch_quantized(codes_RD, scales, from_codes_TD, from_scales, slot_of_row_R, dims);
    }

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
    ) {
        dims.check(x.len(), y.as_ref().map_or(usize::MAX, |y| y.len()), gain_D.len(), rstd_T.len());
        let y = y.map(Vec::as_mut_slice);
        let new = rmsnorm_quantize::forward(codes_TD, scales, rstd_T, y, x, gain_D, dims, scaling);
        statistics[slot] = statistics[slot].merge(new);
    }

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
    ) {
        let new = swiglu_quantize::forward(codes_RF, scales, Source::of(gate_up_R2F), dims, scaling);
        statistics[slot] = statistics[slot].merge(new);
    }

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
    ) {
        let new = swiglu_quantize::forward(codes_RF, scales, Source::tiles(from_codes_R2F, from_scales), dims, scaling);
        statistics[slot] = statistics[slot].merge(new);
    }

    fn sum_squares(&self, x: &Self::Buffer<f32>) -> f64 {
        reduce::sum_squares(x)
    }

    fn adamw<M: Activation>(
        &self,
        parameter: &mut Self::Buffer<f32>,
        rounded: Option<&mut Self::Buffer<Bf16>>,
        first_moment: &mut Self::Buffer<M>,
        second_moment: &mut Self::Buffer<M>,
        gradient: &mut Self::Buffer<f32>,
        step: AdamW,
    ) {
        step.check(parameter.len(), first_moment.len(), second_moment.len(), gradient.len());
        adamw::step(parameter, first_moment, second_moment, gradient, step);
        gradient.fill(0.0);
        if let Some(rounded) = rounded {
            self.cast(rounded, parameter);
        }
    }

    fn average(&self, average: &mut Self::Buffer<f32>, parameter: &Self::Buffer<f32>, decay: f32) {
        memory::average(average, parameter, decay);
    }
}
