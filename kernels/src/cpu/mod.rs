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
mod disjoint;
mod dispatch;
mod elementwise;
mod embedding;
mod exp;
mod gemm;
mod grouped_linear;
mod head_loss;
mod linear;
mod pack;
mod peak;
mod prefix;
mod quantize;
mod rmsnorm;
mod rope;
mod route;
pub mod simd;
mod swiglu;
mod tile;

use crate::dims::{
    AdamW, AttentionDims, DispatchDims, EmbeddingDims, GroupedDims, HeadDims, LinearDims, PrefixDims, RmsNormDims, RopeDims, RouteDims,
    SwigluDims,
};
use crate::{Element, Kernels, Rotation, Write};
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

    /// Runs `work` on one of the threads. Operations called from there save the hand-over to the threads, about 10 microseconds each: run a
    /// whole training loop this way.
    pub fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.pool.install(work)
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
        peak::run(self, rounds)
    }

    /// Number of threads.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }
}

impl Kernels for Cpu {
    type Buffer<T: Element> = Vec<T>;

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

    fn add(&self, y: &mut Vec<f32>, x: &Vec<f32>) {
        elementwise::add(self, y, x);
    }

    fn embedding_forward(&self, y: &mut Vec<f32>, table: &Vec<f32>, tokens: &Vec<u32>, dims: EmbeddingDims) {
        embedding::forward(self, y, table, tokens, dims);
    }

    fn embedding_backward(&self, dtable: &mut Vec<f32>, dy: &Vec<f32>, tokens: &Vec<u32>, dims: EmbeddingDims) {
        embedding::backward(self, dtable, dy, tokens, dims);
    }

    fn rmsnorm_forward(&self, y: &mut Vec<f32>, rstd: &mut Vec<f32>, x: &Vec<f32>, gain: &Vec<f32>, dims: RmsNormDims) {
        rmsnorm::forward(self, y, rstd, x, gain, dims);
    }

    fn rmsnorm_backward(
        &self,
        dx: &mut Vec<f32>,
        dgain: &mut Vec<f32>,
        dy: &Vec<f32>,
        x: &Vec<f32>,
        gain: &Vec<f32>,
        rstd: &Vec<f32>,
        dims: RmsNormDims,
        write: Write,
    ) {
        rmsnorm::backward(self, dx, dgain, dy, x, gain, rstd, dims, write);
    }

    fn linear_forward(&self, y: &mut Vec<f32>, x: &Vec<f32>, w: &Vec<f32>, dims: LinearDims, write: Write) {
        linear::forward(self, y, x, w, dims, write);
    }

    fn linear_backward_input(&self, dx: &mut Vec<f32>, dy: &Vec<f32>, w: &Vec<f32>, dims: LinearDims, write: Write) {
        linear::backward_input(self, dx, dy, w, dims, write);
    }

    fn linear_backward_weight(&self, dw: &mut Vec<f32>, dy: &Vec<f32>, x: &Vec<f32>, dims: LinearDims) {
        linear::backward_weight(self, dw, dy, x, dims);
    }

    fn grouped_linear_forward(&self, y: &mut Vec<f32>, x: &Vec<f32>, w: &Vec<f32>, offsets: &Vec<u32>, dims: GroupedDims) {
        grouped_linear::forward(self, y, x, w, offsets, dims);
    }

    fn grouped_linear_backward_input(&self, dx: &mut Vec<f32>, dy: &Vec<f32>, w: &Vec<f32>, offsets: &Vec<u32>, dims: GroupedDims) {
        grouped_linear::backward_input(self, dx, dy, w, offsets, dims);
    }

    fn grouped_linear_backward_weight(&self, dw: &mut Vec<f32>, dy: &Vec<f32>, x: &Vec<f32>, offsets: &Vec<u32>, dims: GroupedDims) {
        grouped_linear::backward_weight(self, dw, dy, x, offsets, dims);
    }

    fn rope(&self, x: &mut Vec<f32>, table: &Vec<f32>, dims: RopeDims, rotation: Rotation) {
        rope::rotate(self, x, table, dims, rotation);
    }

    fn attention_forward(
        &self,
        o: &mut Vec<f32>,
        lse: &mut Vec<f32>,
        q: &Vec<f32>,
        kv_up: &Vec<f32>,
        kv_a: &Vec<f32>,
        dims: AttentionDims,
    ) {
        attention::forward(self, o, lse, q, kv_up, kv_a, dims);
    }

    fn attention_backward(
        &self,
        dq: &mut Vec<f32>,
        dkv_up: &mut Vec<f32>,
        dkv_a: &mut Vec<f32>,
        d_o: &Vec<f32>,
        o: &Vec<f32>,
        lse: &Vec<f32>,
        q: &Vec<f32>,
        kv_up: &Vec<f32>,
        kv_a: &Vec<f32>,
        dims: AttentionDims,
    ) {
        attention::backward(self, dq, dkv_up, dkv_a, d_o, o, lse, q, kv_up, kv_a, dims);
    }

    fn swiglu_forward(&self, a: &mut Vec<f32>, gate_up: &Vec<f32>, dims: SwigluDims) {
        swiglu::forward(self, a, gate_up, dims);
    }

    fn swiglu_backward(&self, dgate_up: &mut Vec<f32>, da: &Vec<f32>, gate_up: &Vec<f32>, dims: SwigluDims) {
        swiglu::backward(self, dgate_up, da, gate_up, dims);
    }

    fn swiglu_backward_routed(
        &self,
        dgate_up: &mut Vec<f32>,
        a: &mut Vec<f32>,
        dweights: &mut Vec<f32>,
        da: &Vec<f32>,
        gate_up: &Vec<f32>,
        weights: &Vec<f32>,
        slot_of_row: &Vec<u32>,
        dims: SwigluDims,
    ) {
        swiglu::backward_routed(self, dgate_up, a, dweights, da, gate_up, weights, slot_of_row, dims);
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

    fn dispatch(&self, x_r: &mut Vec<f32>, x_t: &Vec<f32>, slot_of_row: &Vec<u32>, dims: DispatchDims) {
        dispatch::dispatch(self, x_r, x_t, slot_of_row, dims);
    }

    fn combine(&self, y_t: &mut Vec<f32>, y_r: &Vec<f32>, weights: &Vec<f32>, row_of_slot: &Vec<u32>, dims: DispatchDims) {
        dispatch::combine(self, y_t, y_r, Some(weights), row_of_slot, dims);
    }

    fn dispatch_backward(&self, dx_t: &mut Vec<f32>, dx_r: &Vec<f32>, row_of_slot: &Vec<u32>, dims: DispatchDims) {
        dispatch::combine(self, dx_t, dx_r, None, row_of_slot, dims);
    }

    fn prefix_forward(&self, y: &mut Vec<f32>, x: &Vec<f32>, dims: PrefixDims) {
        prefix::forward(y, x, dims);
    }

    fn prefix_backward(&self, dx: &mut Vec<f32>, dy: &Vec<f32>, dims: PrefixDims) {
        prefix::backward(dx, dy, dims);
    }

    fn head_loss_forward(&self, nll: &mut Vec<f32>, x: &Vec<f32>, head: &Vec<f32>, targets: &Vec<i32>, dims: HeadDims) {
        head_loss::forward(self, nll, x, head, targets, dims);
    }

    fn head_loss_backward(
        &self,
        nll: &mut Vec<f32>,
        dx: &mut Vec<f32>,
        dhead: &mut Vec<f32>,
        x: &Vec<f32>,
        head: &Vec<f32>,
        targets: &Vec<i32>,
        scale: f32,
        dims: HeadDims,
    ) {
        head_loss::backward(self, nll, dx, dhead, x, head, targets, scale, dims);
    }

    fn sum_squares(&self, x: &Vec<f32>) -> f64 {
        elementwise::sum_squares(self, x)
    }

    fn adamw(&self, parameter: &mut Vec<f32>, first: &mut Vec<f32>, second: &mut Vec<f32>, gradient: &Vec<f32>, step: AdamW) {
        adamw::update(self, parameter, first, second, gradient, step);
    }
}
