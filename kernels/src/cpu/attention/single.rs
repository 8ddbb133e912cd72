//! Attention on FP32 operands.
//!
//! ```text
//! for each panel of W = 2 LANES queries:                  (all keys up to the panel's last query)
//!   P^T[key][query] = K Q^T                               queries are lanes: softmax needs no sum across lanes
//!   forward:   softmax over keys; O = P V
//!   backward:  P^T = exp(. - lse); dP^T = V dO^T; dS^T = P^T (dP^T - delta); dQ = dS K; dV += P^T dO; dK += dS^T Q
//! ```
//!
//! Only one panel's P is held, S x W values. P and dP of a panel's last W keys are computed whole and their upper triangle zeroed: W / 2 of
//! the keys of a query on average. What is multiplied by them stops at the diagonal, by register tiles.

use super::{Backward, Core, Forward, Head, MOST_LANES, PAD, cut};
use crate::cpu::exp::{exp, exp_nonpositive};
use crate::cpu::gemm::View;
use crate::cpu::pack::pack_into;
use crate::cpu::rmsnorm::dot;
use crate::cpu::simd::{Isa, Simd};
use crate::cpu::tile::{Rows, Scalars, multiply};
use crate::dims::AttentionDims;

/// Padded widths of keys and values.
#[inline(always)]
fn widths(dims: &AttentionDims) -> (usize, usize) {
    ((dims.nope + dims.rope).next_multiple_of(PAD), dims.value.next_multiple_of(PAD))
}

impl Head<'_, f32> {
    #[inline(always)]
    fn widths(&self) -> (usize, usize) {
        widths(self.dims)
    }

    /// Copies the first `count` keys to padded rows.
    #[inline(always)]
    fn copy_keys(&self, count: usize, k: &mut [f32]) {
        let AttentionDims { nope, rope, .. } = *self.dims;
        for (s, k) in k.chunks_exact_mut(self.widths().0).take(count).enumerate() {
            let (plain, rotary) = self.key(s);
            k[..nope].copy_from_slice(plain);
            k[nope..nope + rope].copy_from_slice(rotary);
            k[nope + rope..].fill(0.0);
        }
    }

    /// Copies the first `count` values to padded rows.
    #[inline(always)]
    fn copy_values(&self, count: usize, v: &mut [f32]) {
        let value = self.dims.value;
        for (s, v) in v.chunks_exact_mut(self.widths().1).take(count).enumerate() {
            v[..value].copy_from_slice(self.value(s));
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

/// First row and height of the register tiles of some rows: sums over keys or queries stop at the diagonal tile by tile.
fn tiles<S: Simd>(rows: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..rows)
        .step_by(S::GEMM_ROWS)
        .map(move |start| (start, S::GEMM_ROWS.min(rows - start)))
}

impl Core for f32 {
    fn forward_workspace(_: Isa, dims: &AttentionDims, end: usize) -> usize {
        let (k_width, v_width) = widths(dims);
        end * (2 * k_width + v_width + MOST_LANES) + MOST_LANES * (k_width + v_width)
    }

    #[inline(always)]
    fn forward<S: Simd>(pass: Forward<'_, Self>) {
        let Forward {
            head,
            queries: (start, end),
            o,
            lse,
            workspace: mut rest,
        } = pass;
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
            for (start, rows) in tiles::<S>(last - first) {
                let weights = Scalars::Strided {
                    data: &p[start..],
                    row: 1,
                    term: queries,
                };
                let target = (&mut o_panel[start * v_width..], v_width);
                // SAFETY: as above.
                unsafe {
                    multiply::<S>(
                        target,
                        weights,
                        Rows { data: v, row: v_width },
                        (rows, value, first + start + rows),
                        false,
                    );
                }
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

    fn backward_workspace(_: Isa, dims: &AttentionDims) -> usize {
        let (k_width, v_width) = widths(dims);
        dims.length * (3 * (k_width + v_width) + 2 * MOST_LANES) + MOST_LANES * (3 * k_width + 3 * v_width)
    }

    #[inline(always)]
    fn backward<S: Simd>(pass: Backward<'_, Self>) {
        let Backward {
            head,
            d_o,
            o,
            lse,
            dq,
            dkv_up,
            dk_rope,
            workspace: mut rest,
        } = pass;
        let AttentionDims {
            nope,
            rope,
            value,
            length,
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
            let (mut lse_panel, mut delta) = ([0.0; MOST_LANES], [0.0; MOST_LANES]);
            lse_panel[..present].copy_from_slice(&lse[head.lse_at() + first..][..present]);
            for query in 0..present {
                let (o, d_o) = (&o[head.o_at(first + query)..][..value], &d_o[head.o_at(first + query)..][..value]);
                delta[query] = dot::<S, _>(d_o, o);
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
            for (start, rows) in tiles::<S>(present) {
                let by_query = Scalars::Strided {
                    data: &ds[start..],
                    row: 1,
                    term: queries,
                };
                let target = (&mut dq_panel[start * k_width..], k_width);
                // SAFETY: as above.
                unsafe {
                    multiply::<S>(
                        target,
                        by_query,
                        Rows { data: k, row: k_width },
                        (rows, width, first + start + rows),
                        false,
                    );
                }
            }
            let diagonal = tiles::<S>(present).map(|(start, rows)| (first + start, rows));
            for (start, rows) in std::iter::once((0, first)).chain(diagonal) {
                // Queries of the panel before the first of these keys do not see them.
                let unseeing = start.saturating_sub(first);
                let by_key = |data| Scalars::Strided {
                    data,
                    row: queries,
                    term: 1,
                };
                let (at, size) = (start * queries + unseeing, present - unseeing);
                // SAFETY: as above.
                unsafe {
                    let queries = Rows {
                        data: &q_rows[unseeing * k_width..],
                        row: k_width,
                    };
                    multiply::<S>(
                        (&mut dk[start * k_width..], k_width),
                        by_key(&ds[at..]),
                        queries,
                        (rows, width, size),
                        true,
                    );
                    let gradients = Rows {
                        data: &do_rows[unseeing * v_width..],
                        row: v_width,
                    };
                    multiply::<S>(
                        (&mut dv[start * v_width..], v_width),
                        by_key(&p[at..]),
                        gradients,
                        (rows, value, size),
                        true,
                    );
                }
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
            let (target, shared) = unsafe { (dkv_up.part(head.kv_at(s), nope + value), dk_rope.part(head.shared_at(s), rope)) };
            target[..nope].copy_from_slice(&dk[..nope]);
            target[nope..].copy_from_slice(&dv[..value]);
            shared.copy_from_slice(&dk[nope..width]);
        }
    }
}

/// Replaces the logits of a panel, `[keys][queries]`, by `e^(logit - largest)`, zero for keys after the query; returns each query's
/// largest logit and sum.
#[inline(always)]
fn softmax(p: &mut [f32], first: usize, last: usize, queries: usize) -> ([f32; MOST_LANES], [f32; MOST_LANES]) {
    mask(p, first, last, queries, f32::NEG_INFINITY);
    let (mut largest, mut sum) = ([f32::NEG_INFINITY; MOST_LANES], [0.0; MOST_LANES]);
    for row in p.chunks_exact(queries).take(last) {
        for (largest, &logit) in largest.iter_mut().zip(row) {
            *largest = if logit > *largest { logit } else { *largest };
        }
    }
    for row in p.chunks_exact_mut(queries).take(last) {
        for ((p, sum), &largest) in row.iter_mut().zip(&mut sum).zip(&largest) {
            *p = exp_nonpositive(*p - largest);
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
