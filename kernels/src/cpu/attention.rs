//! Causal attention core, in panels of queries.
//!
//! ```text
//! for each (sequence, head):                              (parallel)
//!   copy keys [S, n + r] and values [S, v] side by side, as rows or packed for the register tile
//!   for each panel of W = 2 LANES queries:                (all keys up to the panel's last query)
//!     P^T[key][query] = K Q^T                             queries are lanes: softmax needs no sum across lanes
//!     forward:   softmax over keys; O = P V
//!     backward:  P^T = exp(. - lse); dP^T = V dO^T; dS^T = P^T (dP^T - delta); dQ = dS K; dV += P^T dO; dK += dS^T Q
//! ```
//!
//! Only one panel's P is held, S x W values. A panel computes the upper triangle of its last W keys too and zeroes it: W / 2 of the keys
//! of a query on average. The forward pass is parallel over panels as well; the backward pass is not, since panels add to dK and dV.

use super::Cpu;
use super::disjoint::Disjoint;
use super::exp::exp;
use super::gemm::View;
use super::pack::pack_into;
use super::simd::{Job, Simd, dispatch};
use super::tile::{Rows, Scalars, multiply};
use crate::dims::AttentionDims;
use rayon::prelude::*;
use std::cell::Cell;

/// Rows of local copies are padded to a multiple of the widest vector.
const PAD: usize = 16;
/// Most queries per panel, over all instruction sets.
const MOST_QUERIES: usize = 32;
/// Panels per forward task: copying keys and values is a small share of their work.
const FORWARD_QUERIES: usize = 256;

thread_local! {
    /// Local copies and panels; grows to the largest and stays.
    static WORKSPACE: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// One head of one sequence.
#[derive(Clone, Copy)]
struct Head<'a> {
    q: &'a [f32],
    kv_up: &'a [f32],
    kv_a: &'a [f32],
    dims: &'a AttentionDims,
    sequence: usize,
    head: usize,
}

impl<'a> Head<'a> {
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
    /// Start of this head's row of `lse`.
    #[inline(always)]
    fn lse_at(&self) -> usize {
        self.head * self.dims.rows() + self.row(0)
    }
    /// Padded widths of keys and values.
    #[inline(always)]
    fn widths(&self) -> (usize, usize) {
        (
            (self.dims.nope + self.dims.rope).next_multiple_of(PAD),
            self.dims.value.next_multiple_of(PAD),
        )
    }

    /// Copies the first `count` keys to padded rows.
    #[inline(always)]
    fn copy_keys(&self, count: usize, k: &mut [f32]) {
        let AttentionDims { nope, rope, kv_rank, .. } = *self.dims;
        for (s, k) in k.chunks_exact_mut(self.widths().0).take(count).enumerate() {
            k[..nope].copy_from_slice(&self.kv_up[self.kv_at(s)..][..nope]);
            k[nope..nope + rope].copy_from_slice(&self.kv_a[self.row(s) * (kv_rank + rope) + kv_rank..][..rope]);
            k[nope + rope..].fill(0.0);
        }
    }

    /// Copies the first `count` values to padded rows.
    #[inline(always)]
    fn copy_values(&self, count: usize, v: &mut [f32]) {
        let AttentionDims { nope, value, .. } = *self.dims;
        for (s, v) in v.chunks_exact_mut(self.widths().1).take(count).enumerate() {
            v[..value].copy_from_slice(&self.kv_up[self.kv_at(s) + nope..][..value]);
            v[value..].fill(0.0);
        }
    }

    /// `Q^T` of a panel, times the scale; absent queries are zero.
    #[inline(always)]
    fn pack_queries(&self, target: &mut [f32], first: usize, present: usize, queries: usize) {
        let width = self.dims.nope + self.dims.rope;
        pack(
            target,
            self.q,
            (self.q_at(first), self.dims.q_width()),
            (present, width),
            queries,
            self.dims.scale,
        );
    }
}

/// Transposes `present` rows of `width` values into `[width][queries]`, scaled; columns past the present ones are zero.
#[inline(always)]
fn pack(target: &mut [f32], source: &[f32], (start, stride): (usize, usize), (present, width): (usize, usize), queries: usize, scale: f32) {
    if present < queries {
        target[..width * queries].fill(0.0);
    }
    for query in 0..present {
        let row = &source[start + query * stride..][..width];
        for (column, &value) in target.chunks_exact_mut(queries).zip(row) {
            column[query] = scale * value;
        }
    }
}

/// Cuts the next `len` values off a workspace.
fn cut<'a>(rest: &mut &'a mut [f32], len: usize) -> &'a mut [f32] {
    let (part, tail) = std::mem::take(rest).split_at_mut(len);
    *rest = tail;
    part
}

/// Runs a task on this thread's workspace, which is taken out and put back: a borrowing closure would lose the instruction set's features.
fn take_workspace(len: usize) -> Vec<f32> {
    let mut workspace = WORKSPACE.take();
    if workspace.len() < len {
        workspace.resize(len, 0.0);
    }
    workspace
}

/// `o = softmax(scale q k^T) v` and the log of the softmax denominator.
pub fn forward(cpu: &Cpu, o: &mut [f32], lse: &mut [f32], q: &[f32], kv_up: &[f32], kv_a: &[f32], dims: AttentionDims) {
    dims.check(o.len(), lse.len(), q.len(), kv_up.len(), kv_a.len());
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
                let (k_width, v_width) = head.widths();
                let mut workspace = take_workspace(end * (2 * k_width + v_width + MOST_QUERIES) + MOST_QUERIES * (k_width + v_width));
                dispatch(
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

/// A range of queries of one head.
struct Forward<'a> {
    head: Head<'a>,
    queries: (usize, usize),
    o: &'a Disjoint<'a, f32>,
    lse: &'a Disjoint<'a, f32>,
    workspace: &'a mut [f32],
}

impl Job for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self {
            head,
            queries: (start, end),
            o,
            lse,
            workspace: mut rest,
        } = self;
        let (queries, value, width) = (2 * S::LANES, head.dims.value, head.dims.nope + head.dims.rope);
        let (k_width, v_width) = head.widths();
        let (k, v) = (cut(&mut rest, end * k_width), cut(&mut rest, end * v_width));
        let k_panels = cut(&mut rest, end * width);
        let (p, q, o_panel) = (
            cut(&mut rest, end * queries),
            cut(&mut rest, width * queries),
            cut(&mut rest, queries * v_width),
        );
        head.copy_keys(end, k);
        head.copy_values(end, v);
        pack_into(k_panels, View::rows(k, k_width), (end, width), S::GEMM_ROWS, 1);
        for first in (start..end).step_by(queries) {
            let last = end.min(first + queries);
            head.pack_queries(q, first, last - first, queries);
            // SAFETY: a job runs inside `dispatch`.
            unsafe {
                let (keys, panel) = (Scalars::Panels { data: k_panels, rows: end }, Rows { data: q, row: queries });
                multiply::<S>((p, queries), keys, panel, (last, queries, width), false);
            }
            let (largest, sum) = softmax(p, first, last, queries);
            // SAFETY: as above.
            unsafe {
                let (weights, values) = (
                    Scalars::Strided {
                        data: p,
                        row: 1,
                        term: queries,
                    },
                    Rows { data: v, row: v_width },
                );
                multiply::<S>((o_panel, v_width), weights, values, (last - first, value, last), false);
            }
            // SAFETY: only this task writes these queries of this head.
            let lse = unsafe { lse.part(head.lse_at() + first, last - first) };
            for (query, o_panel) in o_panel.chunks_exact(v_width).take(last - first).enumerate() {
                lse[query] = largest[query] + sum[query].ln();
                // SAFETY: as above.
                let o = unsafe { o.part(head.o_at(first + query), value) };
                for (o, &unscaled) in o.iter_mut().zip(o_panel) {
                    *o = unscaled / sum[query];
                }
            }
        }
    }
}

/// Replaces the logits of a panel, `[keys][queries]`, by `e^(logit - largest)`, zero for keys after the query; returns each query's
/// largest logit and sum.
#[inline(always)]
fn softmax(p: &mut [f32], first: usize, last: usize, queries: usize) -> ([f32; MOST_QUERIES], [f32; MOST_QUERIES]) {
    mask(p, first, last, queries, f32::NEG_INFINITY);
    let (mut largest, mut sum) = ([f32::NEG_INFINITY; MOST_QUERIES], [0.0; MOST_QUERIES]);
    for row in p.chunks_exact(queries).take(last) {
        for (largest, &logit) in largest.iter_mut().zip(row) {
            *largest = if logit > *largest { logit } else { *largest };
        }
    }
    for row in p.chunks_exact_mut(queries).take(last) {
        for ((p, sum), &largest) in row.iter_mut().zip(&mut sum).zip(&largest) {
            *p = exp(*p - largest);
            *sum += *p;
        }
    }
    (largest, sum)
}

/// Sets the elements of keys after the query.
#[inline(always)]
fn mask(p: &mut [f32], first: usize, last: usize, queries: usize, value: f32) {
    for key in first..last {
        p[key * queries..][..key - first].fill(value);
    }
}

/// `dv = P^T dO`; `dP = dO v^T`; `dS = P (dP - rowsum(dO o))`; `dq = scale dS k`; `dk = scale dS^T q`.
pub fn backward(
    cpu: &Cpu,
    dq: &mut [f32],
    dkv_up: &mut [f32],
    dkv_a: &mut [f32],
    d_o: &[f32],
    o: &[f32],
    lse: &[f32],
    q: &[f32],
    kv_up: &[f32],
    kv_a: &[f32],
    dims: AttentionDims,
) {
    dims.check(o.len(), lse.len(), q.len(), kv_up.len(), kv_a.len());
    dims.check(d_o.len(), lse.len(), dq.len(), dkv_up.len(), dkv_a.len());
    let AttentionDims {
        heads,
        rope,
        kv_rank,
        length,
        ..
    } = dims;
    // The shared key's gradient of each head, [T][H][r], summed below in the order of heads.
    let mut dk_rope = cpu.scratch(dims.rows() * heads * rope);
    let (dq, dkv_up) = (&Disjoint::new(dq), &Disjoint::new(dkv_up));
    let shared = &Disjoint::new(&mut dk_rope);
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
            let (k_width, v_width) = head.widths();
            let per_query = 3 * k_width + 3 * v_width;
            let mut workspace = take_workspace(length * (3 * (k_width + v_width) + 2 * MOST_QUERIES) + MOST_QUERIES * per_query);
            dispatch(
                cpu.isa(),
                Backward {
                    head,
                    d_o,
                    o,
                    lse,
                    dq,
                    dkv_up,
                    dk_rope: shared,
                    workspace: &mut workspace,
                },
            );
            WORKSPACE.set(workspace);
        });
    });
    if rope > 0 {
        let rows = dkv_a[..dims.rows() * dims.kv_a_width()]
            .par_chunks_mut(dims.kv_a_width())
            .zip(dk_rope.par_chunks(heads * rope));
        cpu.pool().install(|| {
            rows.with_min_len(64).for_each(|(dkv_a, dk_rope)| {
                let target = &mut dkv_a[kv_rank..];
                target.fill(0.0);
                for head in dk_rope.chunks_exact(rope) {
                    for (target, &value) in target.iter_mut().zip(head) {
                        *target += value;
                    }
                }
            });
        });
    }
    cpu.keep_scratch(dk_rope);
}

/// All queries of one head.
struct Backward<'a> {
    head: Head<'a>,
    d_o: &'a [f32],
    o: &'a [f32],
    lse: &'a [f32],
    dq: &'a Disjoint<'a, f32>,
    dkv_up: &'a Disjoint<'a, f32>,
    dk_rope: &'a Disjoint<'a, f32>,
    workspace: &'a mut [f32],
}

impl Job for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self {
            head,
            d_o,
            o,
            lse,
            dq,
            dkv_up,
            dk_rope,
            workspace: mut rest,
        } = self;
        let AttentionDims {
            nope,
            rope,
            value,
            length,
            heads,
            scale,
            ..
        } = *head.dims;
        let (queries, width) = (2 * S::LANES, nope + rope);
        let (k_width, v_width) = head.widths();
        let (k, v) = (cut(&mut rest, length * k_width), cut(&mut rest, length * v_width));
        let (k_panels, v_panels) = (cut(&mut rest, length * width), cut(&mut rest, length * value));
        let (dk, dv) = (cut(&mut rest, length * k_width), cut(&mut rest, length * v_width));
        let (p, ds) = (cut(&mut rest, length * queries), cut(&mut rest, length * queries));
        // The panel's queries and output gradients: transposed, and as rows.
        let (q_columns, do_columns) = (cut(&mut rest, width * queries), cut(&mut rest, value * queries));
        let (q_rows, do_rows) = (cut(&mut rest, queries * k_width), cut(&mut rest, queries * v_width));
        let dq_panel = cut(&mut rest, queries * k_width);
        head.copy_keys(length, k);
        head.copy_values(length, v);
        pack_into(k_panels, View::rows(k, k_width), (length, width), S::GEMM_ROWS, 1);
        pack_into(v_panels, View::rows(v, v_width), (length, value), S::GEMM_ROWS, 1);
        dk.fill(0.0);
        dv.fill(0.0);
        for first in (0..length).step_by(queries) {
            let last = length.min(first + queries);
            let present = last - first;
            head.pack_queries(q_columns, first, present, queries);
            pack(
                do_columns,
                d_o,
                (head.o_at(first), head.dims.o_width()),
                (present, value),
                queries,
                1.0,
            );
            let (mut lse_panel, mut delta) = ([0.0; MOST_QUERIES], [0.0; MOST_QUERIES]);
            lse_panel[..present].copy_from_slice(&lse[head.lse_at() + first..][..present]);
            for query in 0..present {
                let (o, d_o) = (&o[head.o_at(first + query)..][..value], &d_o[head.o_at(first + query)..][..value]);
                delta[query] = super::rmsnorm::dot(d_o, o);
                let (q_row, do_row) = (
                    &mut q_rows[query * k_width..][..k_width],
                    &mut do_rows[query * v_width..][..v_width],
                );
                for (target, &q) in q_row.iter_mut().zip(&head.q[head.q_at(first + query)..][..width]) {
                    *target = scale * q;
                }
                q_row[width..].fill(0.0);
                do_row[..value].copy_from_slice(d_o);
                do_row[value..].fill(0.0);
            }
            // SAFETY: a job runs inside `dispatch`.
            unsafe {
                let keys = Scalars::Panels {
                    data: k_panels,
                    rows: length,
                };
                multiply::<S>(
                    (p, queries),
                    keys,
                    Rows {
                        data: q_columns,
                        row: queries,
                    },
                    (last, queries, width),
                    false,
                );
                let values = Scalars::Panels {
                    data: v_panels,
                    rows: length,
                };
                multiply::<S>(
                    (ds, queries),
                    values,
                    Rows {
                        data: do_columns,
                        row: queries,
                    },
                    (last, queries, value),
                    false,
                );
            }
            mask(p, first, last, queries, f32::NEG_INFINITY);
            for (p, ds) in p.chunks_exact_mut(queries).zip(ds.chunks_exact_mut(queries)).take(last) {
                for ((p, ds), (&lse, &delta)) in p.iter_mut().zip(ds).zip(lse_panel.iter().zip(&delta)) {
                    *p = exp(*p - lse);
                    *ds = *p * (*ds - delta);
                }
            }
            // SAFETY: as above.
            unsafe {
                let by_query = Scalars::Strided {
                    data: ds,
                    row: 1,
                    term: queries,
                };
                multiply::<S>(
                    (dq_panel, k_width),
                    by_query,
                    Rows { data: k, row: k_width },
                    (present, width, last),
                    false,
                );
                let by_key = Scalars::Strided {
                    data: ds,
                    row: queries,
                    term: 1,
                };
                multiply::<S>(
                    (dk, k_width),
                    by_key,
                    Rows {
                        data: q_rows,
                        row: k_width,
                    },
                    (last, width, present),
                    true,
                );
                let by_key = Scalars::Strided {
                    data: p,
                    row: queries,
                    term: 1,
                };
                multiply::<S>(
                    (dv, v_width),
                    by_key,
                    Rows {
                        data: do_rows,
                        row: v_width,
                    },
                    (last, value, present),
                    true,
                );
            }
            for (query, panel) in dq_panel.chunks_exact(k_width).take(present).enumerate() {
                // SAFETY: only this task writes this head's part of these rows.
                let dq = unsafe { dq.part(head.q_at(first + query), width) };
                for (dq, &value) in dq.iter_mut().zip(panel) {
                    *dq = scale * value;
                }
            }
        }
        for (s, (dk, dv)) in dk.chunks_exact(k_width).zip(dv.chunks_exact(v_width)).enumerate() {
            // SAFETY: only this task writes this head's part of these rows.
            let (target, shared) = unsafe {
                (
                    dkv_up.part(head.kv_at(s), nope + value),
                    dk_rope.part((head.row(s) * heads + head.head) * rope, rope),
                )
            };
            target[..nope].copy_from_slice(&dk[..nope]);
            target[nope..].copy_from_slice(&dv[..value]);
            shared.copy_from_slice(&dk[nope..width]);
        }
    }
}
