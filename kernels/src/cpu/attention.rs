//! Causal attention core: one head of one sequence at a time, on FP32 or BF16 operands.
//!
//! A head's keys and values are copied side by side, in the order in which register tiles read them; `P` and `dS` exist in panels only. The
//! forward pass is parallel over ranges of queries as well; the backward pass is not, since every query adds to the gradients of all keys
//! before it.

mod half;
mod single;
#[cfg(target_arch = "x86_64")]
mod tiles;
mod weights;

use super::Cpu;
use super::disjoint::Disjoint;
use super::simd::{Isa, Job, Simd, dispatch};
use crate::dims::AttentionDims;
use crate::formats::{Activation, Bf16, DataType};
use bytemuck::{cast_slice, cast_slice_mut};
use rayon::prelude::*;
use std::cell::Cell;

/// Queries per forward task: copying keys and values is a small share of their work.
const FORWARD_QUERIES: usize = 256;
/// Rows of local copies are padded to a multiple of the widest vector.
const PAD: usize = 16;
/// Most rows or columns of a panel, over all instruction sets: two vectors.
const MOST_LANES: usize = 32;

thread_local! {
    /// Local copies and panels; grows to the largest and stays.
    static WORKSPACE: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// The passes over one head, for operands of one type.
trait Core: Activation {
    /// Elements of workspace for the queries before `end`.
    fn forward_workspace(isa: Isa, dims: &AttentionDims, end: usize) -> usize;
    /// Writes `o` and `lse` of a range of queries.
    fn forward<S: Simd>(pass: Forward<'_, Self>);
    /// Elements of workspace.
    fn backward_workspace(isa: Isa, dims: &AttentionDims) -> usize;
    /// Writes `dq`, `dkv_up` and the head's part of the shared key's gradient.
    fn backward<S: Simd>(pass: Backward<'_, Self>);
    /// [`Core::forward`] with an instruction set.
    fn run_forward(isa: Isa, pass: Forward<'_, Self>) {
        dispatch(isa, pass);
    }
    /// [`Core::backward`] with an instruction set.
    fn run_backward(isa: Isa, pass: Backward<'_, Self>) {
        dispatch(isa, pass);
    }
}

/// One head of one sequence.
#[derive(Clone, Copy)]
struct Head<'a, A> {
    q: &'a [A],
    kv_up: &'a [A],
    kv_a: &'a [A],
    dims: &'a AttentionDims,
    sequence: usize,
    head: usize,
}

impl<'a, A: Activation> Head<'a, A> {
    #[inline(always)]
    fn row(&self, s: usize) -> usize {
        self.sequence * self.dims.length + s
    }
    /// Start of this head's columns in row `s` of queries, keys without position, outputs.
    #[inline(always)]
    fn q_at(&self, s: usize) -> usize {
        (self.row(s) * self.dims.heads + self.head) * (self.dims.nope + self.dims.rope)
    }
    #[inline(always)]
    fn kv_at(&self, s: usize) -> usize {
        (self.row(s) * self.dims.heads + self.head) * (self.dims.nope + self.dims.value)
    }
    #[inline(always)]
    fn o_at(&self, s: usize) -> usize {
        (self.row(s) * self.dims.heads + self.head) * self.dims.value
    }
    /// Start of this head's part of row `s` of the shared key's gradients, `[T][H][r]`.
    #[inline(always)]
    fn shared_at(&self, s: usize) -> usize {
        (self.row(s) * self.dims.heads + self.head) * self.dims.rope
    }
    /// Start of this head's row of `lse`.
    #[inline(always)]
    fn lse_at(&self) -> usize {
        self.head * self.dims.rows() + self.row(0)
    }

    #[inline(always)]
    fn query(&self, s: usize) -> &'a [A] {
        &self.q[self.q_at(s)..][..self.dims.nope + self.dims.rope]
    }
    /// The two parts of a key.
    #[inline(always)]
    fn key(&self, s: usize) -> (&'a [A], &'a [A]) {
        let AttentionDims { nope, rope, kv_rank, .. } = *self.dims;
        (
            &self.kv_up[self.kv_at(s)..][..nope],
            &self.kv_a[self.row(s) * (kv_rank + rope) + kv_rank..][..rope],
        )
    }
    #[inline(always)]
    fn value(&self, s: usize) -> &'a [A] {
        &self.kv_up[self.kv_at(s) + self.dims.nope..][..self.dims.value]
    }
}

/// Cuts the next `len` values off a workspace.
fn cut<'a>(rest: &mut &'a mut [f32], len: usize) -> &'a mut [f32] {
    let (part, tail) = std::mem::take(rest).split_at_mut(len);
    *rest = tail;
    part
}

/// Runs a pass on this thread's workspace, which is taken out and put back: a borrowing closure would lose the instruction set's features.
fn take_workspace(len: usize) -> Vec<f32> {
    let mut workspace = WORKSPACE.take();
    if workspace.len() < len {
        workspace.resize(len, 0.0);
    }
    workspace
}

/// A range of queries of one head.
struct Forward<'a, A> {
    head: Head<'a, A>,
    queries: (usize, usize),
    o: &'a Disjoint<'a, A>,
    lse: &'a Disjoint<'a, f32>,
    workspace: &'a mut [f32],
}

impl<A: Core> Job for Forward<'_, A> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        A::forward::<S>(self);
    }
}

/// `o = softmax(scale q k^T) v` and the log of the softmax denominator.
pub fn forward<A: Activation>(cpu: &Cpu, o: &mut [A], lse: &mut [f32], q: &[A], kv_up: &[A], kv_a: &[A], dims: AttentionDims) {
    dims.check(o.len(), lse.len(), q.len(), kv_up.len(), kv_a.len());
    match A::DATA_TYPE {
        DataType::F32 => forward_of::<f32>(
            cpu,
            cast_slice_mut(o),
            lse,
            cast_slice(q),
            cast_slice(kv_up),
            cast_slice(kv_a),
            dims,
        ),
        DataType::Bf16 => forward_of::<Bf16>(
            cpu,
            cast_slice_mut(o),
            lse,
            cast_slice(q),
            cast_slice(kv_up),
            cast_slice(kv_a),
            dims,
        ),
    }
}

fn forward_of<A: Core>(cpu: &Cpu, o: &mut [A], lse: &mut [f32], q: &[A], kv_up: &[A], kv_a: &[A], dims: AttentionDims) {
    let (o, lse) = (&Disjoint::new(o), &Disjoint::new(lse));
    let parts = dims.length.div_ceil(FORWARD_QUERIES);
    cpu.pool().install(|| {
        (0..dims.sequences * dims.heads * parts)
            .into_par_iter()
            .with_max_len(1)
            .for_each(|task| {
                let (sequence, head, part) = (task / parts / dims.heads, task / parts % dims.heads, task % parts);
                let head = Head {
                    q,
                    kv_up,
                    kv_a,
                    dims: &dims,
                    sequence,
                    head,
                };
                let start = part * FORWARD_QUERIES;
                let end = dims.length.min(start + FORWARD_QUERIES);
                let mut workspace = take_workspace(A::forward_workspace(cpu.isa(), &dims, end));
                A::run_forward(
                    cpu.isa(),
                    Forward {
                        head,
                        queries: (start, end),
                        o,
                        lse,
                        workspace: &mut workspace,
                    },
                );
                WORKSPACE.set(workspace);
            });
    });
}

/// All queries of one head.
struct Backward<'a, A> {
    head: Head<'a, A>,
    d_o: &'a [A],
    o: &'a [A],
    lse: &'a [f32],
    dq: &'a Disjoint<'a, A>,
    dkv_up: &'a Disjoint<'a, A>,
    dk_rope: &'a Disjoint<'a, f32>,
    workspace: &'a mut [f32],
}

impl<A: Core> Job for Backward<'_, A> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        A::backward::<S>(self);
    }
}

/// `dv = P^T dO`; `dP = dO v^T`; `dS = P (dP - rowsum(dO o))`; `dq = scale dS k`; `dk = scale dS^T q`.
pub fn backward<A: Activation>(
    cpu: &Cpu,
    dq: &mut [A],
    dkv_up: &mut [A],
    dkv_a: &mut [A],
    d_o: &[A],
    o: &[A],
    lse: &[f32],
    q: &[A],
    kv_up: &[A],
    kv_a: &[A],
    dims: AttentionDims,
) {
    dims.check(o.len(), lse.len(), q.len(), kv_up.len(), kv_a.len());
    dims.check(d_o.len(), lse.len(), dq.len(), dkv_up.len(), dkv_a.len());
    // The shared key's gradient of each head, [T][H][r], summed below in the order of heads.
    let mut dk_rope = cpu.scratch(dims.rows() * dims.heads * dims.rope);
    match A::DATA_TYPE {
        DataType::F32 => backward_of::<f32>(
            cpu,
            cast_slice_mut(dq),
            cast_slice_mut(dkv_up),
            &mut dk_rope,
            cast_slice(d_o),
            cast_slice(o),
            lse,
            cast_slice(q),
            cast_slice(kv_up),
            cast_slice(kv_a),
            dims,
        ),
        DataType::Bf16 => backward_of::<Bf16>(
            cpu,
            cast_slice_mut(dq),
            cast_slice_mut(dkv_up),
            &mut dk_rope,
            cast_slice(d_o),
            cast_slice(o),
            lse,
            cast_slice(q),
            cast_slice(kv_up),
            cast_slice(kv_a),
            dims,
        ),
    }
    sum_heads(cpu, dkv_a, &dk_rope, dims);
    cpu.keep_scratch(dk_rope);
}

fn backward_of<A: Core>(
    cpu: &Cpu,
    dq: &mut [A],
    dkv_up: &mut [A],
    dk_rope: &mut [f32],
    d_o: &[A],
    o: &[A],
    lse: &[f32],
    q: &[A],
    kv_up: &[A],
    kv_a: &[A],
    dims: AttentionDims,
) {
    let (dq, dkv_up, dk_rope) = (&Disjoint::new(dq), &Disjoint::new(dkv_up), &Disjoint::new(dk_rope));
    let heads = dims.heads;
    cpu.pool().install(|| {
        (0..dims.sequences * heads).into_par_iter().with_max_len(1).for_each(|task| {
            let head = Head {
                q,
                kv_up,
                kv_a,
                dims: &dims,
                sequence: task / heads,
                head: task % heads,
            };
            let mut workspace = take_workspace(A::backward_workspace(cpu.isa(), &dims));
            A::run_backward(
                cpu.isa(),
                Backward {
                    head,
                    d_o,
                    o,
                    lse,
                    dq,
                    dkv_up,
                    dk_rope,
                    workspace: &mut workspace,
                },
            );
            WORKSPACE.set(workspace);
        });
    });
}

/// The gradient of the rotary key, which all heads share.
fn sum_heads<A: Activation>(cpu: &Cpu, dkv_a: &mut [A], dk_rope: &[f32], dims: AttentionDims) {
    let AttentionDims { heads, rope, kv_rank, .. } = dims;
    if rope == 0 {
        return;
    }
    let rows = dkv_a[..dims.rows() * dims.kv_a_width()]
        .par_chunks_mut(dims.kv_a_width())
        .zip(dk_rope.par_chunks(heads * rope));
    cpu.pool().install(|| {
        rows.with_min_len(64).for_each(|(dkv_a, dk_rope)| {
            for (block, target) in dkv_a[kv_rank..].chunks_mut(PAD).enumerate() {
                let mut sums = [0.0; PAD];
                for head in dk_rope.chunks_exact(rope) {
                    for (sum, &value) in sums.iter_mut().zip(&head[block * PAD..][..target.len()]) {
                        *sum += value;
                    }
                }
                for (target, &sum) in target.iter_mut().zip(&sums) {
                    *target = A::from_f32(sum);
                }
            }
        });
    });
}
