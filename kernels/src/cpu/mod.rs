//! SIMD kernels on the threads of one machine. One file per operation family; a file holds plain functions over slices.
//!
//! Loops are written once: either over [`simd::Simd`] vectors (GEMM, attention) or as plain Rust that the compiler vectorises inside
//! [`simd::dispatch`]. However the work is split, the order of every sum is fixed by the sizes alone, so results do not depend on the number
//! of threads.

// Intrinsics and disjoint writes from several threads need it; each block says why it is sound. Nowhere else in Fathom.
#![allow(unsafe_code)]
// A backward pass takes its forward pass's operands.
#![allow(clippy::too_many_arguments)]

mod adamw;
mod attention;
mod codes;
mod dequantize;
mod disjoint;
mod dispatch;
mod e5m6;
mod elementwise;
mod embedding;
mod exp;
mod gemm;
mod grouped_linear;
mod head_loss;
pub(crate) mod instances;
mod linear;
mod pack;
mod pair_tile;
mod peak;
mod prefix;
mod quantize;
mod quantize_tile;
mod rmsnorm;
mod rmsnorm_quantize;
mod rope;
mod route;
pub mod simd;
mod swiglu;
mod swiglu_quantize;
mod tile;
mod widen;

use crate::dims::{
    AdamW, AttentionDims, DispatchDims, EmbeddingDims, GroupedDims, HeadDims, LinearDims, PrefixDims, RmsNormDims, RopeDims, RouteDims,
    SwigluDims,
};
use crate::formats::{Activation, Bf16, E5m6Dims, QuantizeDims, QuantizeGroupedDims, Scaling, Source, Statistics};
use crate::{Element, Kernels, Matrix, Rotation, Write};
use simd::Isa;
use std::sync::{Mutex, PoisonError};

/// Kernels on this machine's CPU.
pub struct Cpu {
    isa: Isa,
    pool: rayon::ThreadPool,
    /// Memory of intermediate results, kept from call to call.
    scratch: Mutex<Vec<Vec<f32>>>,
}

impl Cpu {
    /// The widest instruction set of this machine, on `threads` threads; 0 means one per available core.
    ///
    /// # Panics
    /// If the operating system refuses the threads.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        Self::with_isa(threads, Isa::best())
    }

    /// As [`Cpu::new`], with a given instruction set.
    ///
    /// # Panics
    /// If the operating system refuses the threads.
    #[must_use]
    pub fn with_isa(threads: usize, isa: Isa) -> Self {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("kernels-{index}"))
            .build()
            .expect("the operating system grants a few threads");
        Self {
            isa,
            pool,
            scratch: Mutex::default(),
        }
    }

    /// The instruction set in use.
    #[must_use]
    pub const fn isa(&self) -> Isa {
        self.isa
    }

    /// Where parallel work runs.
    pub(crate) const fn pool(&self) -> &rayon::ThreadPool {
        &self.pool
    }

    /// `len` values left over from earlier work.
    fn scratch(&self, len: usize) -> Vec<f32> {
        let mut kept = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        // The smallest that is large enough, else the largest.
        kept.sort_by_key(Vec::capacity);
        let index = kept
            .partition_point(|buffer| buffer.capacity() < len)
            .min(kept.len().saturating_sub(1));
        let mut buffer = if kept.is_empty() { Vec::new() } else { kept.swap_remove(index) };
        drop(kept);
        buffer.resize(len, 0.0);
        buffer
    }

    /// Takes memory back for the next [`Cpu::scratch`].
    fn keep_scratch(&self, buffer: Vec<f32>) {
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }

    /// Runs `rounds` rounds of multiply-adds on registers alone, on every thread; returns the floating-point operations done.
    pub(crate) fn multiply_add_registers(&self, rounds: usize) -> f64 {
        peak::run::<false>(self, rounds)
    }

    /// As [`Cpu::multiply_add_registers`], of pairs of BF16 values.
    pub(crate) fn multiply_add_pairs(&self, rounds: usize) -> f64 {
        peak::run::<true>(self, rounds)
    }

    /// Number of threads.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }
}

impl Kernels for Cpu {
    type Buffer<T: Element> = Vec<T>;

    /// On one of the threads: operations called from there save the hand-over to the threads, 10 microseconds or more each.
    fn scope<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.pool.install(work)
    }

    fn zeros<T: Element>(&self, len: usize) -> Vec<T> {
        vec![T::default(); len]
    }

    fn len<T: Element>(&self, buffer: &Vec<T>) -> usize {
        buffer.len()
    }

    fn upload<T: Element>(&self, buffer: &mut Vec<T>, offset: usize, source: &[T]) {
        buffer[offset..offset + source.len()].copy_from_slice(source);
    }

    fn download<T: Element>(&self, target: &mut [T], buffer: &Vec<T>, offset: usize) {
        target.copy_from_slice(&buffer[offset..offset + target.len()]);
    }

    fn fill<T: Element>(&self, buffer: &mut Vec<T>, value: T) {
        elementwise::fill(self, buffer, value);
    }

    fn copy<T: Element>(&self, y: &mut Vec<T>, x: &Vec<T>) {
        elementwise::copy(self, y, x);
    }

    fn add<A: Activation>(&self, y: &mut Vec<A>, x: &Vec<A>) {
        A::add(self, y, x);
    }

    fn embedding_forward<A: Activation>(&self, y: &mut Vec<A>, table: &Vec<A>, tokens: &Vec<u32>, dims: EmbeddingDims) {
        A::embedding_forward(self, y, table, tokens, dims);
    }

    fn embedding_backward<A: Activation>(&self, dtable: &mut Vec<f32>, dy: &Vec<A>, tokens: &Vec<u32>, dims: EmbeddingDims) {
        A::embedding_backward(self, dtable, dy, tokens, dims);
    }

    fn rmsnorm_forward<A: Activation>(&self, y: &mut Vec<A>, rstd: &mut Vec<f32>, x: &Vec<A>, gain: &Vec<f32>, dims: RmsNormDims) {
        A::rmsnorm_forward(self, y, rstd, x, gain, dims);
    }

    fn rmsnorm_backward<A: Activation>(
        &self,
        dx: &mut Vec<A>,
        dgain: &mut Vec<f32>,
        dy: &Vec<A>,
        x: &Vec<A>,
        gain: &Vec<f32>,
        rstd: &Vec<f32>,
        dims: RmsNormDims,
        write: Write,
    ) {
        A::rmsnorm_backward(self, dx, dgain, dy, x, gain, rstd, dims, write);
    }

    fn linear_forward<Y: Activation>(&self, y: &mut Vec<Y>, x: Matrix<'_, Self>, w: Matrix<'_, Self>, dims: LinearDims, write: Write) {
        Y::linear_forward(self, y, x, w, dims, write);
    }

    fn linear_backward_input<Y: Activation>(
        &self,
        dx: &mut Vec<Y>,
        dy: Matrix<'_, Self>,
        w: Matrix<'_, Self>,
        dims: LinearDims,
        write: Write,
    ) {
        Y::linear_backward_input(self, dx, dy, w, dims, write);
    }

    fn linear_backward_weight(&self, dw: &mut Vec<f32>, dy: Matrix<'_, Self>, x: Matrix<'_, Self>, dims: LinearDims) {
        linear::backward_weight(self, dw, dy, x, dims);
    }

    fn grouped_linear_forward<Y: Activation>(
        &self,
        y: &mut Vec<Y>,
        x: Matrix<'_, Self>,
        w: Matrix<'_, Self>,
        offsets: &Vec<u32>,
        dims: GroupedDims,
    ) {
        Y::grouped_linear_forward(self, y, x, w, offsets, dims);
    }

    fn grouped_linear_backward_input<Y: Activation>(
        &self,
        dx: &mut Vec<Y>,
        dy: Matrix<'_, Self>,
        w: Matrix<'_, Self>,
        offsets: &Vec<u32>,
        dims: GroupedDims,
    ) {
        Y::grouped_linear_backward_input(self, dx, dy, w, offsets, dims);
    }

    fn grouped_linear_backward_weight(
        &self,
        dw: &mut Vec<f32>,
        dy: Matrix<'_, Self>,
        x: Matrix<'_, Self>,
        offsets: &Vec<u32>,
        dims: GroupedDims,
    ) {
        grouped_linear::backward_weight(self, dw, dy, x, offsets, dims);
    }

    fn rope<A: Activation>(&self, x: &mut Vec<A>, table: &Vec<f32>, dims: RopeDims, rotation: Rotation) {
        A::rope(self, x, table, dims, rotation);
    }

    fn attention_forward<A: Activation>(
        &self,
        o: &mut Vec<A>,
        lse: &mut Vec<f32>,
        q: &Vec<A>,
        kv_up: &Vec<A>,
        kv_a: &Vec<A>,
        dims: AttentionDims,
    ) {
        A::attention_forward(self, o, lse, q, kv_up, kv_a, dims);
    }

    fn attention_backward<A: Activation>(
        &self,
        dq: &mut Vec<A>,
        dkv_up: &mut Vec<A>,
        dkv_a: &mut Vec<A>,
        d_o: &Vec<A>,
        o: &Vec<A>,
        lse: &Vec<f32>,
        q: &Vec<A>,
        kv_up: &Vec<A>,
        kv_a: &Vec<A>,
        dims: AttentionDims,
    ) {
        A::attention_backward(self, dq, dkv_up, dkv_a, d_o, o, lse, q, kv_up, kv_a, dims);
    }

    fn swiglu_forward<A: Activation>(&self, a: &mut Vec<A>, gate_up: &Vec<A>, dims: SwigluDims) {
        A::swiglu_forward(self, a, gate_up, dims);
    }

    fn swiglu_backward<A: Activation>(&self, dgate_up: &mut Vec<A>, da: &Vec<A>, gate_up: &Vec<A>, dims: SwigluDims) {
        A::swiglu_backward(self, dgate_up, da, gate_up, dims);
    }

    fn swiglu_backward_routed<A: Activation>(
        &self,
        dgate_up: &mut Vec<A>,
        a: &mut Vec<A>,
        dweights: &mut Vec<f32>,
        da: &Vec<A>,
        gate_up: &Vec<A>,
        weights: &Vec<f32>,
        slot_of_row: &Vec<u32>,
        dims: SwigluDims,
    ) {
        A::swiglu_backward_routed(self, dgate_up, a, dweights, da, gate_up, weights, slot_of_row, dims);
    }

    fn route_forward(
        &self,
        scores: &mut Vec<f32>,
        indices: &mut Vec<u32>,
        weights: &mut Vec<f32>,
        counts: &mut Vec<u32>,
        logits: &Vec<f32>,
        bias: &Vec<f32>,
        dims: RouteDims,
    ) {
        route::forward(self, scores, indices, weights, counts, logits, bias, dims);
    }

    fn balance_forward(&self, loss: &mut Vec<f32>, frequency: &mut Vec<f32>, scores: &Vec<f32>, indices: &Vec<u32>, dims: RouteDims) {
        route::balance_forward(self, loss, frequency, scores, indices, dims);
    }

    fn route_backward(
        &self,
        dlogits: &mut Vec<f32>,
        dweights: &Vec<f32>,
        scores: &Vec<f32>,
        indices: &Vec<u32>,
        frequency: &Vec<f32>,
        balance_scale: f32,
        dims: RouteDims,
    ) {
        route::backward(self, dlogits, dweights, scores, indices, frequency, balance_scale, dims);
    }

    fn update_bias(&self, bias: &mut Vec<f32>, counts: &Vec<u32>, gamma: f32, centered: bool) {
        route::update_bias(bias, counts, gamma, centered);
    }

    fn dispatch_plan(
        &self,
        offsets: &mut Vec<u32>,
        slot_of_row: &mut Vec<u32>,
        row_of_slot: &mut Vec<u32>,
        indices: &Vec<u32>,
        dims: DispatchDims,
    ) {
        dispatch::plan(offsets, slot_of_row, row_of_slot, indices, dims);
    }

    fn dispatch<A: Activation>(&self, x_r: &mut Vec<A>, x_t: &Vec<A>, slot_of_row: &Vec<u32>, dims: DispatchDims) {
        A::dispatch(self, x_r, x_t, slot_of_row, dims);
    }

    fn combine<A: Activation>(&self, y_t: &mut Vec<A>, y_r: &Vec<A>, weights: &Vec<f32>, row_of_slot: &Vec<u32>, dims: DispatchDims) {
        A::combine(self, y_t, y_r, Some(weights), row_of_slot, dims);
    }

    fn dispatch_backward<A: Activation>(&self, dx_t: &mut Vec<A>, dx_r: &Vec<A>, row_of_slot: &Vec<u32>, dims: DispatchDims) {
        A::combine(self, dx_t, dx_r, None, row_of_slot, dims);
    }

    fn prefix_forward<A: Activation>(&self, y: &mut Vec<A>, x: &Vec<A>, dims: PrefixDims) {
        A::prefix_forward(self, y, x, dims);
    }

    fn prefix_backward<A: Activation>(&self, dx: &mut Vec<A>, dy: &Vec<A>, dims: PrefixDims) {
        A::prefix_backward(self, dx, dy, dims);
    }

    fn head_loss_forward<A: Activation>(&self, nll: &mut Vec<f32>, x: &Vec<A>, head: &Vec<A>, targets: &Vec<i32>, dims: HeadDims) {
        A::head_loss_forward(self, nll, x, head, targets, dims);
    }

    fn head_loss_backward<A: Activation>(
        &self,
        nll: &mut Vec<f32>,
        dx: &mut Vec<A>,
        dhead: &mut Vec<f32>,
        x: &Vec<A>,
        head: &Vec<A>,
        targets: &Vec<i32>,
        scale: f32,
        dims: HeadDims,
    ) {
        A::head_loss_backward(self, nll, dx, dhead, x, head, targets, scale, dims);
    }

    fn cast<X: Activation, Y: Activation>(&self, y: &mut Vec<Y>, x: &Vec<X>) {
        elementwise::cast(self, y, x);
    }

    fn quantize<X: Activation>(
        &self,
        codes: &mut Vec<u8>,
        scales: &mut Vec<f32>,
        statistics: &mut Vec<Statistics>,
        slot: usize,
        x: &Vec<X>,
        dims: QuantizeDims,
    ) {
        statistics[slot] = statistics[slot].merge(self.quantize_source(codes, scales, Source::of(x), dims));
    }

    fn quantize_stack<X: Activation>(
        &self,
        codes: &mut Vec<u8>,
        scales: &mut Vec<f32>,
        statistics: &mut Vec<Statistics>,
        slot: usize,
        x: &Vec<X>,
        groups: usize,
        dims: QuantizeDims,
    ) {
        statistics[slot] = statistics[slot].merge(self.quantize_stack_source(codes, scales, Source::of(x), groups, dims));
    }

    fn quantize_grouped<X: Activation>(
        &self,
        codes: &mut Vec<u8>,
        scales: &mut Vec<f32>,
        statistics: &mut Vec<Statistics>,
        slot: usize,
        x: &Vec<X>,
        offsets: &Vec<u32>,
        dims: QuantizeGroupedDims,
    ) {
        statistics[slot] = statistics[slot].merge(self.quantize_grouped_source(codes, scales, Source::of(x), offsets, dims));
    }

    fn retile_grouped(
        &self,
        codes: &mut Vec<u8>,
        scales: &mut Vec<f32>,
        statistics: &mut Vec<Statistics>,
        slot: usize,
        from_codes: &Vec<u8>,
        from_scales: &Vec<f32>,
        offsets: &Vec<u32>,
        dims: QuantizeGroupedDims,
    ) {
        let x = Source::tiles(from_codes, from_scales);
        statistics[slot] = statistics[slot].merge(self.quantize_grouped_source(codes, scales, x, offsets, dims));
    }

    fn dequantize<Y: Activation>(&self, y: &mut Vec<Y>, codes: &Vec<u8>, scales: &Vec<f32>, rows: usize, columns: usize) {
        self.dequantize_source(y, Source::tiles(codes, scales), rows, columns);
    }

    fn quantize_e5m6<X: Activation>(
        &self,
        packed: &mut Vec<u8>,
        scales: &mut Vec<f32>,
        statistics: &mut Vec<Statistics>,
        slot: usize,
        x: &Vec<X>,
        dims: E5m6Dims,
    ) {
        statistics[slot] = statistics[slot].merge(self.quantize_e5m6_source(packed, scales, Source::of(x), dims));
    }

    fn dequantize_e5m6<Y: Activation>(&self, y: &mut Vec<Y>, packed: &Vec<u8>, scales: &Vec<f32>, dims: E5m6Dims) {
        self.dequantize_source(y, Source::E5m6 { packed, scales }, dims.rows, dims.columns);
    }

    fn dispatch_quantized(
        &self,
        codes_r: &mut Vec<u8>,
        scales_r: &mut Vec<f32>,
        codes_t: &Vec<u8>,
        scales_t: &Vec<f32>,
        slot_of_row: &Vec<u32>,
        dims: DispatchDims,
    ) {
        dispatch::dispatch_quantized(self, codes_r, scales_r, codes_t, scales_t, slot_of_row, dims);
    }

    fn rmsnorm_quantize<X: Activation>(
        &self,
        codes: &mut Vec<u8>,
        scales: &mut Vec<f32>,
        statistics: &mut Vec<Statistics>,
        slot: usize,
        rstd: &mut Vec<f32>,
        y: Option<&mut Vec<Bf16>>,
        x: &Vec<X>,
        gain: &Vec<f32>,
        dims: RmsNormDims,
        scaling: Scaling,
    ) {
        let y = y.map(Vec::as_mut_slice);
        let new = rmsnorm_quantize::forward(self, codes, scales, rstd, y, x, gain, dims, scaling);
        statistics[slot] = statistics[slot].merge(new);
    }

    fn swiglu_quantize<X: Activation>(
        &self,
        codes: &mut Vec<u8>,
        scales: &mut Vec<f32>,
        statistics: &mut Vec<Statistics>,
        slot: usize,
        gate_up: &Vec<X>,
        dims: SwigluDims,
        scaling: Scaling,
    ) {
        let new = swiglu_quantize::forward(self, codes, scales, Source::of(gate_up), dims, scaling);
        statistics[slot] = statistics[slot].merge(new);
    }

    fn swiglu_requantize(
        &self,
        codes: &mut Vec<u8>,
        scales: &mut Vec<f32>,
        statistics: &mut Vec<Statistics>,
        slot: usize,
        from_codes: &Vec<u8>,
        from_scales: &Vec<f32>,
        dims: SwigluDims,
        scaling: Scaling,
    ) {
        let new = swiglu_quantize::forward(self, codes, scales, Source::tiles(from_codes, from_scales), dims, scaling);
        statistics[slot] = statistics[slot].merge(new);
    }

    fn sum_squares(&self, x: &Vec<f32>) -> f64 {
        elementwise::sum_squares(self, x)
    }

    fn adamw<M: Activation>(
        &self,
        parameter: &mut Vec<f32>,
        rounded: Option<&mut Vec<Bf16>>,
        first: &mut Vec<M>,
        second: &mut Vec<M>,
        gradient: &mut Vec<f32>,
        step: AdamW,
    ) {
        adamw::update(self, parameter, rounded.map(Vec::as_mut_slice), first, second, gradient, step);
    }

    fn average(&self, average: &mut Vec<f32>, parameter: &Vec<f32>, decay: f32) {
        elementwise::average(self, average, parameter, decay);
    }
}
