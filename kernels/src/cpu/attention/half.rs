//! Attention on BF16 operands, in blocks that stay in L1, with FP32 sums.
//!
//! ```text
//! forward, for each panel of W = 2 LANES queries, for each block of keys up to the panel's last query:
//!   S^T[key][query] = K Q^T                               queries are lanes: softmax needs no sum across lanes
//!   n = largest exponent so far; O, sum *= 2^(n' - n)     P = 2^(scale log2(e) S - n)
//!   O += P V                                              pairs along keys: two rows of P^T, rounded into one
//! backward, for each panel of W keys, for each block of queries from the panel's first key on:
//!   S[query][key] = Q K^T; dP = dO V^T                    keys are lanes
//!   P = e^(S - lse); dS = P (dP - delta)
//!   dV += P^T dO; dK += dS^T Q                            pairs along queries: two rows, rounded into one
//!   dQ += dS K                                            pairs of keys LANES apart: two vectors of a row, rounded into one
//! ```
//!
//! `n` is an integer, so that rescaling is exact and the rounding of P does not depend on the blocks. Blocks on the diagonal compute what
//! their register tiles need of the triangle.

#[cfg(target_arch = "x86_64")]
use super::tiles;
use super::weights::{Layout, Scores, Softmax};
use super::{Backward, Core, Forward, MOST_LANES, PAD, cut};
use crate::cpu::gemm::View;
use crate::cpu::pack::pack_into;
use crate::cpu::pair_tile::{Pairs, Part, height, multiply};
use crate::cpu::rmsnorm::dot;
use crate::cpu::simd::{Isa, Simd, dispatch};
use crate::cpu::tile::Rows;
use crate::dims::AttentionDims;
use crate::formats::Bf16;
use std::f32::consts::{LN_2, LOG2_E};

/// Keys per block of the forward pass, queries per block of the backward pass: even, and multiples of every panel.
pub const BLOCK: usize = 64;

/// Sizes of local copies, in pairs or FP32 values.
#[derive(Clone, Copy)]
struct Widths {
    /// Pairs of a query or key, of a value.
    key: usize,
    value: usize,
    /// Columns of a row of queries or keys, of values, that is read as vectors.
    key_row: usize,
    value_row: usize,
}

impl Widths {
    #[inline(always)]
    fn of(dims: &AttentionDims) -> Self {
        let (key, value) = (dims.nope + dims.rope, dims.value);
        Self {
            key: key.div_ceil(2),
            value: value.div_ceil(2),
            key_row: key.next_multiple_of(PAD),
            value_row: value.next_multiple_of(PAD),
        }
    }
}

/// A row in two parts.
type Row<'a> = (&'a [Bf16], &'a [Bf16]);

/// `rows` rows in panels of `lanes` rows, each `[pairs][lanes]`, where a pair are neighbours in a row. The last panel has the rows that are
/// left, rounded up to a multiple of `step` with zeros. `copy` holds `lanes` rows.
#[inline(always)]
fn pack_along<'a>(
    panels: &mut [f32],
    (rows, pairs): (usize, usize),
    (lanes, step): (usize, usize),
    copy: &mut [f32],
    row: impl Fn(usize) -> Row<'a>,
) {
    let copy = &mut copy[..lanes * pairs];
    for (first, panel) in (0..rows).step_by(lanes).zip(panels.chunks_mut(lanes * pairs)) {
        let present = lanes.min(rows - first);
        let copied: &mut [Bf16] = bytemuck::cast_slice_mut(copy);
        for (i, target) in copied.chunks_exact_mut(2 * pairs).take(present).enumerate() {
            let (a, b) = row(first + i);
            target[..a.len()].copy_from_slice(a);
            target[a.len()..][..b.len()].copy_from_slice(b);
            target[a.len() + b.len()..].fill(Bf16::default());
        }
        let panel = &mut panel[..present.next_multiple_of(step) * pairs];
        pack_into(panel, View::rows(copy, pairs), (present, pairs), lanes, step);
    }
}

/// Two rows as one row of pairs, column by column: row `i` of `target`, `[pairs][width]`, has the rows `partner(i)`. Rows from `rows` on are
/// zero, or left out where both are.
#[inline(always)]
fn pack_across<'a>(
    target: &mut [f32],
    width: usize,
    rows: usize,
    partner: impl Fn(usize) -> (usize, usize),
    row: impl Fn(usize) -> Row<'a>,
) {
    for (i, target) in target.chunks_exact_mut(width).enumerate() {
        let (even, odd) = partner(i);
        if even >= rows {
            break;
        }
        let (a, b) = row(even);
        let (head, tail) = target.split_at_mut(a.len());
        if odd < rows {
            let (c, d) = row(odd);
            interleave(head, a, c);
            interleave(tail, b, d);
        } else {
            widen(head, a);
            widen(tail, b);
        }
    }
}

/// Pairs of the values of two rows.
#[inline(always)]
fn interleave(target: &mut [f32], even: &[Bf16], odd: &[Bf16]) {
    for ((target, even), odd) in target.iter_mut().zip(even).zip(odd) {
        *target = f32::from_bits(u32::from(even.0) | u32::from(odd.0) << 16);
    }
}

/// Pairs of the values of a row and zero.
#[inline(always)]
fn widen(target: &mut [f32], even: &[Bf16]) {
    for (target, even) in target.iter_mut().zip(even) {
        *target = f32::from_bits(u32::from(even.0));
    }
}

/// Neighbouring rows as a pair.
const fn neighbours(pair: usize) -> (usize, usize) {
    (2 * pair, 2 * pair + 1)
}

/// Sets the given columns of each row: those on the far side of the diagonal.
#[inline(always)]
pub fn fill_rows(block: &mut [f32], lanes: usize, rows: usize, columns: impl Fn(usize) -> std::ops::Range<usize>, value: f32) {
    for (i, row) in block.chunks_exact_mut(lanes).take(rows).enumerate() {
        row[columns(i)].fill(value);
    }
}

impl Core for Bf16 {
    fn forward_workspace(isa: Isa, dims: &AttentionDims, end: usize) -> usize {
        #[cfg(target_arch = "x86_64")]
        if isa.has_tiles() {
            return tiles::forward_workspace(dims, end);
        }
        let widths = Widths::of(dims);
        let operands = end * widths.key + end.div_ceil(2) * widths.value_row;
        operands + MOST_LANES * (2 * widths.key + widths.value_row) + BLOCK * MOST_LANES * 3 / 2
    }

    fn run_forward(isa: Isa, pass: Forward<'_, Self>) {
        #[cfg(target_arch = "x86_64")]
        if isa.has_tiles() {
            // SAFETY: the instruction set is proof of the tiles and the features.
            unsafe { tiles::forward(pass) };
            return;
        }
        dispatch(isa, pass);
    }

    fn run_backward(isa: Isa, pass: Backward<'_, Self>) {
        #[cfg(target_arch = "x86_64")]
        if isa.has_tiles() {
            // SAFETY: as above.
            unsafe { tiles::backward(pass) };
            return;
        }
        dispatch(isa, pass);
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
        let (lanes, widths, value) = (2 * S::LANES, Widths::of(head.dims), head.dims.value);
        let k = cut(&mut rest, end * widths.key);
        let v = cut(&mut rest, end.div_ceil(2) * widths.value_row);
        let (q, copy) = (cut(&mut rest, lanes * widths.key), cut(&mut rest, lanes * widths.key));
        let o_panel = cut(&mut rest, lanes * widths.value_row);
        let (s, p) = (cut(&mut rest, BLOCK * lanes), cut(&mut rest, BLOCK / 2 * lanes));
        pack_along(k, (end, widths.key), (height::<S>(), 1), copy, |s| head.key(s));
        pack_across(v, widths.value_row, end, neighbours, |s| (head.value(s), &[]));
        for first in (start..end).step_by(lanes) {
            let last = end.min(first + lanes);
            pack_along(q, (last - first, widths.key), (lanes, lanes), copy, |s| {
                (head.query(first + s), &[])
            });
            let mut softmax = Softmax::new(head.dims.scale * LOG2_E);
            for block in (0..last).step_by(BLOCK) {
                let keys = BLOCK.min(last - block);
                let k = Pairs::Panels {
                    data: &k[block * widths.key..],
                    rows: end - block,
                };
                // SAFETY: a job runs inside `dispatch`.
                unsafe {
                    multiply::<S>(
                        (s, lanes),
                        k,
                        Rows { data: q, row: lanes },
                        (keys, lanes, widths.key),
                        false,
                        |keys| Part {
                            columns: (block + keys.start).saturating_sub(first)..lanes,
                            terms: 0..widths.key,
                        },
                    );
                }
                fill_rows(s, lanes, keys, |key| 0..(block + key).saturating_sub(first), f32::NEG_INFINITY);
                s[keys * lanes..keys.next_multiple_of(2) * lanes].fill(f32::NEG_INFINITY);
                // SAFETY: as above.
                let factors = unsafe { softmax.block::<S>(p, s, keys.div_ceil(2), Layout::rows::<S>()) };
                if block > 0 {
                    rescale(o_panel, widths.value_row, &factors);
                }
                // SAFETY: as above.
                unsafe {
                    let p = Pairs::Strided {
                        data: p,
                        row: 1,
                        term: lanes,
                    };
                    let v = Rows {
                        data: &v[block / 2 * widths.value_row..],
                        row: widths.value_row,
                    };
                    let size = (last - first, value, keys.div_ceil(2));
                    multiply::<S>((o_panel, widths.value_row), p, v, size, block > 0, |queries| Part {
                        columns: 0..value,
                        terms: 0..(first + queries.end - block).div_ceil(2),
                    });
                }
            }
            // SAFETY: only this task writes these queries of this head.
            let lse = unsafe { lse.part(head.lse_at() + first, last - first) };
            for (query, o_panel) in o_panel.chunks_exact(widths.value_row).take(last - first).enumerate() {
                let (exponent, sum) = (softmax.exponents[query], softmax.sums[query]);
                lse[query] = exponent * LN_2 + sum.ln();
                // SAFETY: as above.
                let o = unsafe { o.part(head.o_at(first + query), value) };
                let factor = 1.0 / sum;
                for (o, &unscaled) in o.iter_mut().zip(o_panel) {
                    *o = Self::from_f32(factor * unscaled);
                }
            }
        }
    }

    fn backward_workspace(isa: Isa, dims: &AttentionDims) -> usize {
        #[cfg(target_arch = "x86_64")]
        if isa.has_tiles() {
            return tiles::backward_workspace(dims);
        }
        let (widths, length) = (Widths::of(dims), dims.length);
        let rows = widths.key_row + widths.value_row;
        let operands = length * (widths.key + widths.value) + length.div_ceil(2) * rows;
        let statistics = 2 * length.next_multiple_of(2);
        let panel = MOST_LANES * (widths.key + widths.value + widths.key.max(widths.value) + widths.key_row / 2 + rows);
        operands + length * widths.key_row + statistics + panel + BLOCK * MOST_LANES * 7 / 2
    }

    #[inline(always)]
    fn backward<S: Simd>(pass: Backward<'_, Self>) {
        let Backward {
            head,
            d_o,
            o,
            lse,
            dq: dq_result,
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
        let (lanes, widths, width) = (2 * S::LANES, Widths::of(head.dims), nope + rope);
        let (pairs, even) = (length.div_ceil(2), length.next_multiple_of(2));
        let (q, d_o_panels) = (cut(&mut rest, length * widths.key), cut(&mut rest, length * widths.value));
        let (q_pairs, do_pairs) = (cut(&mut rest, pairs * widths.key_row), cut(&mut rest, pairs * widths.value_row));
        let (exponents, deltas) = (cut(&mut rest, even), cut(&mut rest, even));
        let dq = cut(&mut rest, length * widths.key_row);
        let (k, v) = (cut(&mut rest, lanes * widths.key), cut(&mut rest, lanes * widths.value));
        let k_pairs = cut(&mut rest, S::LANES * widths.key_row);
        let (dk, dv) = (cut(&mut rest, lanes * widths.key_row), cut(&mut rest, lanes * widths.value_row));
        let copy = cut(&mut rest, lanes * widths.key.max(widths.value));
        let (s, dp) = (cut(&mut rest, BLOCK * lanes), cut(&mut rest, BLOCK * lanes));
        let (p, ds) = (cut(&mut rest, BLOCK / 2 * lanes), cut(&mut rest, BLOCK / 2 * lanes));
        let ds_rows = cut(&mut rest, BLOCK * S::LANES);

        let d_o_row = |s| &d_o[head.o_at(s)..][..value];
        pack_along(q, (length, widths.key), (height::<S>(), 1), copy, |s| (head.query(s), &[]));
        pack_along(d_o_panels, (length, widths.value), (height::<S>(), 1), copy, |s| (d_o_row(s), &[]));
        pack_across(q_pairs, widths.key_row, length, neighbours, |s| (head.query(s), &[]));
        pack_across(do_pairs, widths.value_row, length, neighbours, |s| (d_o_row(s), &[]));
        for (s, (exponent, delta)) in exponents.iter_mut().zip(&mut *deltas).take(length).enumerate() {
            *exponent = lse[head.lse_at() + s] * LOG2_E;
            *delta = dot::<S, _>(d_o_row(s), &o[head.o_at(s)..][..value]);
        }
        exponents[length..].fill(0.0);
        deltas[length..].fill(0.0);
        dq.fill(0.0);
        for first in (0..length).step_by(lanes) {
            let present = lanes.min(length - first);
            pack_along(k, (present, widths.key), (lanes, lanes), copy, |s| head.key(first + s));
            pack_along(v, (present, widths.value), (lanes, lanes), copy, |s| (head.value(first + s), &[]));
            let apart = |pair| (pair, pair + S::LANES);
            pack_across(k_pairs, widths.key_row, present, apart, |s| head.key(first + s));
            dk.fill(0.0);
            dv.fill(0.0);
            for block in (first..length).step_by(BLOCK) {
                let queries = BLOCK.min(length - block);
                // Keys up to the last query of a range; all of them past the diagonal.
                let seen = |queries: std::ops::Range<usize>| 0..lanes.min(block + queries.end - first);
                let panel = |data, row: usize| Pairs::Panels { data, rows: row };
                // SAFETY: a job runs inside `dispatch`.
                unsafe {
                    let q = panel(&q[block * widths.key..], length - block);
                    multiply::<S>(
                        (s, lanes),
                        q,
                        Rows { data: k, row: lanes },
                        (queries, lanes, widths.key),
                        false,
                        |queries| Part {
                            columns: seen(queries),
                            terms: 0..widths.key,
                        },
                    );
                    let d_o = panel(&d_o_panels[block * widths.value..], length - block);
                    multiply::<S>(
                        (dp, lanes),
                        d_o,
                        Rows { data: v, row: lanes },
                        (queries, lanes, widths.value),
                        false,
                        |queries| Part {
                            columns: seen(queries),
                            terms: 0..widths.value,
                        },
                    );
                }
                let unseen = |query: usize| seen(query..query + 1).end..lanes;
                fill_rows(s, lanes, queries, unseen, f32::NEG_INFINITY);
                fill_rows(dp, lanes, queries, unseen, 0.0);
                let padding = queries * lanes..queries.next_multiple_of(2) * lanes;
                s[padding.clone()].fill(f32::NEG_INFINITY);
                dp[padding].fill(0.0);
                let block_of = Scores {
                    s,
                    dp,
                    exponents: &exponents[block..],
                    deltas: &deltas[block..],
                    scale: scale * LOG2_E,
                };
                let query_pairs = queries.div_ceil(2);
                // A key is seen by the queries from itself on.
                let seeing = |keys: std::ops::Range<usize>| (first + keys.start).saturating_sub(block) / 2..query_pairs;
                // SAFETY: as above.
                unsafe {
                    block_of.weights::<S>(p, ds, ds_rows, query_pairs, Layout::rows::<S>());
                    let by_key = |data| Pairs::Strided { data, row: 1, term: lanes };
                    let rows = Rows {
                        data: &do_pairs[block / 2 * widths.value_row..],
                        row: widths.value_row,
                    };
                    multiply::<S>(
                        (dv, widths.value_row),
                        by_key(p),
                        rows,
                        (present, value, query_pairs),
                        true,
                        |keys| Part {
                            columns: 0..value,
                            terms: seeing(keys),
                        },
                    );
                    let rows = Rows {
                        data: &q_pairs[block / 2 * widths.key_row..],
                        row: widths.key_row,
                    };
                    multiply::<S>(
                        (dk, widths.key_row),
                        by_key(ds),
                        rows,
                        (present, width, query_pairs),
                        true,
                        |keys| Part {
                            columns: 0..width,
                            terms: seeing(keys),
                        },
                    );
                    let by_query = Pairs::Strided {
                        data: ds_rows,
                        row: S::LANES,
                        term: 1,
                    };
                    let rows = Rows {
                        data: k_pairs,
                        row: widths.key_row,
                    };
                    let target = (&mut dq[block * widths.key_row..], widths.key_row);
                    multiply::<S>(target, by_query, rows, (queries, width, S::LANES.min(present)), true, |queries| {
                        Part {
                            columns: 0..width,
                            terms: seen(queries),
                        }
                    });
                }
            }
            for (key, (dk, dv)) in dk
                .chunks_exact(widths.key_row)
                .zip(dv.chunks_exact(widths.value_row))
                .take(present)
                .enumerate()
            {
                // SAFETY: only this task writes this head's part of these rows.
                let (target, shared) = unsafe {
                    (
                        dkv_up.part(head.kv_at(first + key), nope + value),
                        dk_rope.part(head.shared_at(first + key), rope),
                    )
                };
                let (dk_result, dv_result) = target.split_at_mut(nope);
                round(dk_result, dk, scale);
                round(dv_result, dv, 1.0);
                for (shared, &dk) in shared.iter_mut().zip(&dk[nope..]) {
                    *shared = scale * dk;
                }
            }
        }
        for (s, dq) in dq.chunks_exact(widths.key_row).enumerate() {
            // SAFETY: only this task writes this head's part of these rows.
            round(unsafe { dq_result.part(head.q_at(s), width) }, dq, scale);
        }
    }
}

/// `target = factor * source`, rounded.
#[inline(always)]
pub fn round(target: &mut [Bf16], source: &[f32], factor: f32) {
    for (target, &value) in target.iter_mut().zip(source) {
        *target = Bf16::from_f32(factor * value);
    }
}

/// Multiplies each row by its factor.
#[inline(always)]
fn rescale(rows: &mut [f32], width: usize, factors: &[f32]) {
    for (row, &factor) in rows.chunks_exact_mut(width).zip(factors) {
        if factor != 1.0 {
            for value in row {
                *value *= factor;
            }
        }
    }
}
