//! Attention on BF16 operands with AMX tiles: the blocks of [`super::half`], but what that has in rows of outputs is transposed here, so that weights are
//! always the right operand, whose pairs of keys or queries they are rounded to.
//!
//! ```text
//! forward, for each panel of 32 queries, for each block of keys up to the panel's last query:
//!   S^T[key][query] = K Q^T
//!   n = largest exponent so far; O^T, sum *= 2^(n' - n)     P = 2^(scale log2(e) S - n)
//!   O^T[value][query] += V^T P
//! backward, for each panel of 32 keys, for each block of queries from the panel's first key on:
//!   S[query][key] = Q K^T; dP = dO V^T
//!   P = e^(S - lse); dS = P (dP - delta)
//!   dV^T[value][key] += dO^T P; dK^T[dim][key] += Q^T dS    pairs along queries
//!   dQ[query][dim] += dS K                                  pairs of keys 16 apart: two vectors of a row, rounded into one
//! ```

use super::half::{BLOCK, fill_rows, round};
use super::weights::{Layout, Scores, Softmax};
use super::{Backward, Forward, Head, cut};
use crate::cpu::gemm::View;
use crate::cpu::gemm::tiles::pack::{Form, bytes, pack, transpose};
use crate::cpu::rmsnorm::dot;
use crate::cpu::simd::Avx512Bf16;
use crate::cpu::simd::amx::{self, TileProduct};
use crate::dims::AttentionDims;
use crate::formats::Bf16;
use std::arch::x86_64::*;
use std::f32::consts::{LN_2, LOG2_E};

/// Queries or keys of a panel: two tiles.
const LANES: usize = 2 * amx::ROWS;
/// Values of a tile's row.
const ROW: usize = amx::ROWS;
/// Weights of a block: of the first 16 lanes in pairs, `[pair][16]`, then of the others.
const WEIGHTS: Layout = Layout {
    row: ROW,
    half: BLOCK / 2 * ROW,
};

/// Elements of local copies.
#[derive(Clone, Copy)]
struct Widths {
    /// Of a query or key, of a value, in whole tiles of terms.
    key: usize,
    value: usize,
    /// The same in whole rows of tiles.
    key_row: usize,
    value_row: usize,
}

impl Widths {
    fn of(dims: &AttentionDims) -> Self {
        let (key, value) = (dims.nope + dims.rope, dims.value);
        Self {
            key: key.next_multiple_of(amx::TERMS),
            value: value.next_multiple_of(amx::TERMS),
            key_row: key.next_multiple_of(ROW),
            value_row: value.next_multiple_of(ROW),
        }
    }
}

/// The tiles of `vectors x depth`, in elements of a workspace.
const fn tiles(vectors: usize, depth: usize) -> usize {
    bytes(vectors, depth) / size_of::<f32>()
}

/// Elements to skip so that what follows begins with a cache line, at most.
const ALIGNMENT: usize = 15;

/// A workspace from its first whole cache line on.
fn aligned(workspace: &mut [f32]) -> &mut [f32] {
    let skip = workspace.as_ptr().align_offset(64);
    &mut workspace[skip..]
}

/// Elements of workspace for the queries before `end`.
pub fn forward_workspace(dims: &AttentionDims, end: usize) -> usize {
    let widths = Widths::of(dims);
    let keys = end.next_multiple_of(amx::TERMS);
    let operands = keys * widths.key / 2 + tiles(keys, widths.key) + tiles(widths.value_row, keys);
    ALIGNMENT + operands + tiles(LANES, widths.key) + LANES * widths.value_row + BLOCK * LANES * 3 / 2
}

/// Elements of workspace.
pub fn backward_workspace(dims: &AttentionDims) -> usize {
    let widths = Widths::of(dims);
    let rows = dims.length.next_multiple_of(BLOCK);
    let by_query = tiles(rows, widths.key) + tiles(rows, widths.value);
    let by_column = tiles(widths.key_row, rows) + tiles(widths.value_row, rows);
    let panel = LANES * widths.key / 2 + 2 * tiles(LANES, widths.key) + tiles(LANES, widths.value);
    let sums = 2 * LANES * (widths.key_row + widths.value_row);
    ALIGNMENT + by_query + by_column + panel + sums + rows * (widths.key_row + 2) + BLOCK * LANES * 7 / 2
}

/// Elements of an operand of one head, from row `first` on, `width` apart.
fn rows<'a>(data: &'a [Bf16], offset: usize, width: usize) -> View<'a, Bf16> {
    View {
        data,
        offset,
        row: width,
        column: 1,
    }
}

/// The transpose.
const fn transposed<'a>(view: View<'a, Bf16>) -> View<'a, Bf16> {
    View {
        row: view.column,
        column: view.row,
        ..view
    }
}

impl<'a> Head<'a, Bf16> {
    fn queries(&self) -> View<'a, Bf16> {
        let AttentionDims { heads, nope, rope, .. } = *self.dims;
        rows(self.q, self.q_at(0), heads * (nope + rope))
    }

    fn values(&self) -> View<'a, Bf16> {
        let AttentionDims { heads, nope, value, .. } = *self.dims;
        rows(self.kv_up, self.kv_at(0) + nope, heads * (nope + value))
    }

    fn outputs<'o>(&self, o: &'o [Bf16]) -> View<'o, Bf16> {
        let AttentionDims { heads, value, .. } = *self.dims;
        rows(o, self.o_at(0), heads * value)
    }

    /// Copies the keys that `key` names, in rows of `width`; where it names none, zeros.
    fn copy_keys(&self, target: &mut [f32], width: usize, key: impl Fn(usize) -> Option<usize>) {
        let target: &mut [Bf16] = bytemuck::cast_slice_mut(target);
        for (i, target) in target.chunks_exact_mut(width).enumerate() {
            let (a, b) = key(i).map_or((&[][..], &[][..]), |s| self.key(s));
            let (head, tail) = target.split_at_mut(a.len());
            head.copy_from_slice(a);
            tail[..b.len()].copy_from_slice(b);
            tail[b.len()..].fill(Bf16::default());
        }
    }
}

/// Packs a block into tiles.
///
/// # Safety
/// As for [`pack`], with memory of the right length checked here.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16,avx2,fma")]
unsafe fn pack_into(target: &mut [f32], view: View<'_, Bf16>, size: (usize, usize), form: Form) {
    assert!(target.len() >= tiles(size.0, size.1), "memory for tiles");
    view.check(size.0, size.1);
    // SAFETY: checked.
    unsafe { pack(target.as_mut_ptr().cast(), view, size, form) };
}

/// An operand of products in memory.
#[derive(Clone, Copy)]
struct Tiles<'a> {
    data: &'a [f32],
    /// Elements from a panel of 16 vectors to the next.
    panel: usize,
}

impl<'a> Tiles<'a> {
    /// Tiles of panels of so many terms.
    const fn of(data: &'a [f32], terms: usize) -> Self {
        Self {
            data,
            panel: tiles(ROW, terms),
        }
    }

    /// From a vector and a term on, each the first of a panel or tile.
    fn at(self, vector: usize, term: usize) -> Self {
        let skip = vector / ROW * self.panel + term / amx::TERMS * tiles(ROW, amx::TERMS);
        Self {
            data: &self.data[skip..],
            ..self
        }
    }
}

/// `sums (=|+=) a b` for `height x width` sums, in whole tiles, in rows of `row`, and `terms` terms.
///
/// # Safety
/// Inside [`amx::configure`]; the operands hold the tiles, and the sums the rows of tiles.
unsafe fn multiply(
    sums: &mut [f32],
    row: usize,
    a: Tiles<'_>,
    b: Tiles<'_>,
    (height, width): (usize, usize),
    terms: usize,
    accumulate: bool,
) {
    let steps = terms.div_ceil(amx::TERMS);
    let reach = |tiles: Tiles<'_>, vectors: usize| (vectors.div_ceil(ROW) - 1) * tiles.panel + steps * amx::BYTES / size_of::<f32>();
    assert!(
        a.data.len() >= reach(a, height) && b.data.len() >= reach(b, width),
        "operands of tiles"
    );
    assert!(
        sums.len() >= (height.next_multiple_of(ROW) - 1) * row + width.next_multiple_of(ROW),
        "sums of tiles"
    );
    for i in (0..height).step_by(2 * ROW) {
        for j in (0..width).step_by(2 * ROW) {
            let product = TileProduct {
                a: a.data.as_ptr().wrapping_add(i / ROW * a.panel).cast(),
                a_row: ROW * size_of::<f32>(),
                a_step: amx::BYTES,
                a_next: a.panel * size_of::<f32>(),
                b: b.data.as_ptr().wrapping_add(j / ROW * b.panel).cast(),
                b_next: b.panel * size_of::<f32>(),
                steps,
                sums: sums[i * row + j..].as_mut_ptr(),
                sums_row: row * size_of::<f32>(),
                accumulate,
            };
            // SAFETY: passed on from the caller; lengths are checked above.
            unsafe { product.run(height - i > ROW, width - j > ROW) };
        }
    }
}

/// Writes `o` and `lse` of a range of queries.
///
/// # Safety
/// The machine has the tiles and the features.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16,avx2,fma")]
pub unsafe fn forward(pass: Forward<'_, Bf16>) {
    let Forward {
        head,
        queries: (start, end),
        o,
        lse,
        workspace,
    } = pass;
    let AttentionDims {
        nope, rope, value, scale, ..
    } = *head.dims;
    let (widths, width) = (Widths::of(head.dims), nope + rope);
    let mut rest = aligned(workspace);
    let keys = end.next_multiple_of(amx::TERMS);
    let copy = cut(&mut rest, keys * widths.key / 2);
    let (k, v) = (
        cut(&mut rest, tiles(keys, widths.key)),
        cut(&mut rest, tiles(widths.value_row, keys)),
    );
    let q = cut(&mut rest, tiles(LANES, widths.key));
    let sums = cut(&mut rest, LANES * widths.value_row);
    let (s, p) = (cut(&mut rest, BLOCK * LANES), cut(&mut rest, BLOCK / 2 * LANES));
    head.copy_keys(copy, widths.key, |s| (s < end).then_some(s));
    // SAFETY: passed on from the caller.
    unsafe {
        amx::configure();
        pack_into(
            k,
            View::rows(bytemuck::cast_slice(copy), widths.key),
            (keys, widths.key),
            Form::Left,
        );
        pack_into(v, transposed(head.values()), (value, end), Form::Left);
    }
    let (k, v) = (Tiles::of(k, widths.key), Tiles::of(v, end));
    for first in (start..end).step_by(LANES) {
        let last = end.min(first + LANES);
        // SAFETY: as above.
        unsafe { pack_into(q, head.queries().skip_rows(first), (last - first, width), Form::Right) };
        let lanes = (last - first).next_multiple_of(ROW);
        let q = Tiles::of(q, widths.key);
        let mut softmax = Softmax::new(scale * LOG2_E);
        for block in (0..last).step_by(BLOCK) {
            let keys = BLOCK.min(last - block);
            let padded = keys.next_multiple_of(amx::TERMS);
            // SAFETY: as above.
            unsafe { multiply(s, LANES, k.at(block, 0), q, (keys, lanes), width, false) };
            fill_rows(s, LANES, keys, |key| 0..(block + key).saturating_sub(first), f32::NEG_INFINITY);
            s[keys * LANES..padded * LANES].fill(f32::NEG_INFINITY);
            // SAFETY: as above.
            let factors = unsafe { softmax.block::<Avx512Bf16>(p, s, padded / 2, WEIGHTS) };
            if block > 0 {
                rescale(sums, &factors);
            }
            let p = Tiles {
                data: p,
                panel: WEIGHTS.half,
            };
            // SAFETY: as above.
            unsafe { multiply(sums, LANES, v.at(0, block), p, (value, lanes), padded, block > 0) };
        }
        // SAFETY: only this task writes these queries of this head.
        let lse = unsafe { lse.part(head.lse_at() + first, last - first) };
        let mut factors = [0.0; LANES];
        for (query, lse) in lse.iter_mut().enumerate() {
            let (exponent, sum) = (softmax.exponents[query], softmax.sums[query]);
            *lse = exponent * LN_2 + sum.ln();
            factors[query] = 1.0 / sum;
        }
        rescale(sums, &factors);
        for_columns(sums, (last - first, value), |query, from, values| {
            // SAFETY: as above.
            let o = unsafe { o.part(head.o_at(first + query) + from, values.len()) };
            round(o, values, 1.0);
        });
    }
    // SAFETY: passed on from the caller.
    unsafe { amx::release() };
}

/// Multiplies each of `LANES` columns by its factor.
#[target_feature(enable = "avx512f")]
fn rescale(rows: &mut [f32], factors: &[f32; LANES]) {
    if factors.iter().all(|&factor| factor == 1.0) {
        return;
    }
    for row in rows.as_chunks_mut::<LANES>().0 {
        for (value, factor) in row.iter_mut().zip(factors) {
            *value *= factor;
        }
    }
}

/// Columns of `[width][LANES]` sums as rows: calls `write` with the column, the first row and values of up to 16 rows.
#[inline]
#[target_feature(enable = "avx512f")]
fn for_columns(sums: &[f32], (columns, width): (usize, usize), mut write: impl FnMut(usize, usize, &[f32])) {
    for from in (0..width).step_by(ROW) {
        let count = ROW.min(width - from);
        for lane in (0..columns).step_by(ROW) {
            let block = &sums[from * LANES + lane..];
            let _ = &block[(ROW - 1) * LANES..][..ROW];
            let mut lines = [[0.0_f32; ROW]; ROW];
            // SAFETY: 16 rows of 16 values are inside, as checked above; registers are plain bits.
            unsafe {
                let mut rows = [_mm512_setzero_si512(); ROW];
                for (i, row) in rows.iter_mut().enumerate() {
                    *row = _mm512_loadu_si512(block.as_ptr().add(i * LANES).cast());
                }
                for (line, row) in lines.iter_mut().zip(transpose(rows)) {
                    _mm512_storeu_si512(line.as_mut_ptr().cast(), row);
                }
            }
            for (i, line) in lines.iter().enumerate().take(columns - lane) {
                write(lane + i, from, &line[..count]);
            }
        }
    }
}

/// Writes `dq`, `dkv_up` and the head's part of the shared key's gradient.
///
/// # Safety
/// The machine has the tiles and the features.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16,avx2,fma")]
pub unsafe fn backward(pass: Backward<'_, Bf16>) {
    let Backward {
        head,
        d_o,
        o,
        lse,
        dq: dq_result,
        dkv_up,
        dk_rope,
        workspace,
    } = pass;
    let AttentionDims {
        nope,
        rope,
        value,
        length,
        scale,
        ..
    } = *head.dims;
    let (widths, width) = (Widths::of(head.dims), nope + rope);
    let mut rest = aligned(workspace);
    let padded_length = length.next_multiple_of(BLOCK);
    let (q, d_o_tiles) = (
        cut(&mut rest, tiles(padded_length, widths.key)),
        cut(&mut rest, tiles(padded_length, widths.value)),
    );
    let (q_columns, do_columns) = (
        cut(&mut rest, tiles(widths.key_row, padded_length)),
        cut(&mut rest, tiles(widths.value_row, padded_length)),
    );
    let copy = cut(&mut rest, LANES * widths.key / 2);
    let (k, k_columns) = (cut(&mut rest, tiles(LANES, widths.key)), cut(&mut rest, tiles(LANES, widths.key)));
    let v = cut(&mut rest, tiles(LANES, widths.value));
    let (dk, dv) = (cut(&mut rest, LANES * widths.key_row), cut(&mut rest, LANES * widths.value_row));
    let dk_rows = cut(&mut rest, LANES * widths.key_row);
    let (exponents, deltas) = (cut(&mut rest, padded_length), cut(&mut rest, padded_length));
    let dq = cut(&mut rest, padded_length * widths.key_row);
    let (s, dp) = (cut(&mut rest, BLOCK * LANES), cut(&mut rest, BLOCK * LANES));
    let (p, ds) = (cut(&mut rest, BLOCK / 2 * LANES), cut(&mut rest, BLOCK / 2 * LANES));
    let ds_rows = cut(&mut rest, BLOCK * ROW);

    let gradients = head.outputs(d_o);
    // SAFETY: passed on from the caller.
    unsafe {
        amx::configure();
        pack_into(q, head.queries(), (length, width), Form::Left);
        pack_into(d_o_tiles, gradients, (length, value), Form::Left);
        pack_into(q_columns, transposed(head.queries()), (width, length), Form::Left);
        pack_into(do_columns, transposed(gradients), (value, length), Form::Left);
    }
    let (q, d_o_tiles) = (Tiles::of(q, width), Tiles::of(d_o_tiles, value));
    let (q_columns, do_columns) = (Tiles::of(q_columns, length), Tiles::of(do_columns, length));
    for (s, (exponent, delta)) in exponents.iter_mut().zip(&mut *deltas).take(length).enumerate() {
        *exponent = lse[head.lse_at() + s] * LOG2_E;
        *delta = dot::<Avx512Bf16, _>(&d_o[head.o_at(s)..][..value], &o[head.o_at(s)..][..value]);
    }
    exponents[length..].fill(0.0);
    deltas[length..].fill(0.0);
    dq.fill(0.0);
    for first in (0..length).step_by(LANES) {
        let present = LANES.min(length - first);
        let lanes = present.next_multiple_of(ROW);
        // SAFETY: as above.
        unsafe {
            let key = |s| (s < present).then_some(first + s);
            head.copy_keys(copy, widths.key, key);
            pack_into(k, View::rows(bytemuck::cast_slice(copy), widths.key), (present, width), Form::Right);
            pack_into(v, head.values().skip_rows(first), (present, value), Form::Right);
            // A pair of keys 16 apart.
            head.copy_keys(copy, widths.key, |s| key(s % 2 * ROW + s / 2));
            pack_into(
                k_columns,
                View::transposed(bytemuck::cast_slice(copy), widths.key),
                (width, LANES),
                Form::Right,
            );
        }
        let (k, v, k_columns) = (Tiles::of(k, width), Tiles::of(v, value), Tiles::of(k_columns, LANES));
        for block in (first..length).step_by(BLOCK) {
            let queries = BLOCK.min(length - block);
            let padded = queries.next_multiple_of(amx::TERMS);
            // SAFETY: as above.
            unsafe {
                multiply(s, LANES, q.at(block, 0), k, (queries, lanes), width, false);
                multiply(dp, LANES, d_o_tiles.at(block, 0), v, (queries, lanes), value, false);
            }
            // Keys after the query, and keys that there are not.
            let unseen = |query: usize| present.min(block + query + 1 - first)..LANES;
            fill_rows(s, LANES, queries, unseen, f32::NEG_INFINITY);
            fill_rows(dp, LANES, queries, unseen, 0.0);
            s[queries * LANES..padded * LANES].fill(f32::NEG_INFINITY);
            dp[queries * LANES..padded * LANES].fill(0.0);
            let scores = Scores {
                s,
                dp,
                exponents: &exponents[block..],
                deltas: &deltas[block..],
                scale: scale * LOG2_E,
            };
            // SAFETY: as above.
            unsafe { scores.weights::<Avx512Bf16>(p, ds, ds_rows, padded / 2, WEIGHTS) };
            let weights = |data| Tiles { data, panel: WEIGHTS.half };
            let add = block > first;
            let dq = &mut dq[block * widths.key_row..];
            // SAFETY: as above.
            unsafe {
                multiply(dv, LANES, do_columns.at(0, block), weights(p), (value, lanes), padded, add);
                multiply(dk, LANES, q_columns.at(0, block), weights(ds), (width, lanes), padded, add);
                multiply(
                    dq,
                    widths.key_row,
                    Tiles::of(ds_rows, LANES),
                    k_columns,
                    (queries, width),
                    LANES,
                    true,
                );
            }
        }
        for_columns(dv, (present, value), |key, from, values| {
            // SAFETY: only this task writes this head's part of these rows.
            let target = unsafe { dkv_up.part(head.kv_at(first + key) + nope + from, values.len()) };
            round(target, values, 1.0);
        });
        for_columns(dk, (present, width), |key, from, values| {
            dk_rows[key * widths.key_row + from..][..values.len()].copy_from_slice(values);
        });
        for (key, dk) in dk_rows.chunks_exact(widths.key_row).take(present).enumerate() {
            // SAFETY: as above.
            let (target, shared) = unsafe {
                (
                    dkv_up.part(head.kv_at(first + key), nope),
                    dk_rope.part(head.shared_at(first + key), rope),
                )
            };
            round(target, dk, scale);
            for (shared, &dk) in shared.iter_mut().zip(&dk[nope..]) {
                *shared = scale * dk;
            }
        }
    }
    for (s, dq) in dq.chunks_exact(widths.key_row).take(length).enumerate() {
        // SAFETY: only this task writes this head's part of these rows.
        round(unsafe { dq_result.part(head.q_at(s), width) }, dq, scale);
    }
    // SAFETY: passed on from the caller.
    unsafe { amx::release() };
}
