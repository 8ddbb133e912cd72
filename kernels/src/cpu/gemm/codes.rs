//! Packing of E4M3: strips of codes are decoded to BF16 in the L1 cache, and packed from there.

use super::View;
use super::operand::Quantized;
use super::pairs::{self, Panel, Part, elements};
use crate::cpu::pack::{self, pack};
use crate::cpu::simd::{CODES, Simd};
use crate::formats::{Bf16, GROUP};

/// Codes of a row that are decoded for one panel: 32 rows of them take 8 KiB.
const TERMS: usize = 128;
/// Terms that are decoded for all panels, where each is a row of the source: for 512 panel rows they take 16 KiB.
const LINES: usize = 16;

/// Packs codes: as [`pairs::pack_pairs`] does, or as [`pack()`].
#[inline(always)]
pub fn pack_codes<S: Simd>(
    panels: &mut [f32],
    strip: &mut Vec<Bf16>,
    codes: View<'_, u8>,
    (rows, depth): (usize, usize),
    height: usize,
    step: usize,
) {
    let most = if codes.row == 1 { LINES } else { TERMS };
    for k in (0..depth).step_by(most) {
        let terms = most.min(depth - k);
        let part = Part {
            rows,
            depth,
            k,
            terms,
            height,
            step,
        };
        let codes = codes.skip_columns(k);
        if codes.row == 1 {
            let decoded = decode::<S>(strip, codes.data, codes.offset, codes.column, (terms, rows));
            for panel in part.panels(elements::<S>) {
                let view = View {
                    row: 1,
                    column: decoded.row,
                    ..decoded
                }
                .skip_rows(panel.first);
                pack_panel::<S>(panels, view, terms, &panel);
            }
        } else {
            for panel in part.panels(elements::<S>) {
                let codes = codes.skip_rows(panel.first);
                let view = decode::<S>(strip, codes.data, codes.offset, codes.row, (panel.present, terms));
                pack_panel::<S>(panels, view, terms, &panel);
            }
        }
    }
}

/// Packs a part of one panel, as pairs or as values.
#[inline(always)]
fn pack_panel<S: Simd>(panels: &mut [f32], view: View<'_, Bf16>, terms: usize, panel: &Panel) {
    let (target, size) = (&mut panels[panel.start..][..panel.len], (panel.present, terms));
    if S::DOT_PAIRS {
        pairs::pack_panel(target, view, size, panel.height);
    } else {
        pack::pack_panel(target, view, size, panel.height);
    }
}

/// `lines` runs of `count` codes, `distance` apart, as rows of values.
#[inline(always)]
fn decode<'s, S: Simd>(
    strip: &'s mut Vec<Bf16>,
    codes: &[u8],
    offset: usize,
    distance: usize,
    (lines, count): (usize, usize),
) -> View<'s, Bf16> {
    let row = count.next_multiple_of(CODES);
    if strip.len() < lines * row {
        strip.resize(lines * row, Bf16::default());
    }
    for (line, values) in strip.chunks_exact_mut(row.max(1)).take(lines).enumerate() {
        let codes = &codes[offset + line * distance..][..count];
        for (values, codes) in values.as_chunks_mut::<CODES>().0.iter_mut().zip(codes.chunks(CODES)) {
            // SAFETY: a chunk has 1 to `CODES` codes and the array `CODES` values; the caller runs inside `dispatch`.
            unsafe { S::decode_e4m3(values.as_mut_ptr(), codes.as_ptr(), codes.len()) };
        }
    }
    View::rows(strip, row)
}

/// Packs scales as if they were terms: a panel of `height` rows has one of each for every `GROUP` terms. `(i, k)` is the block's place.
#[inline(always)]
pub fn pack_scales(
    panels: &mut Vec<f32>,
    operand: &Quantized<'_>,
    (i, k): (usize, usize),
    (rows, depth): (usize, usize),
    height: usize,
    step: usize,
) {
    let groups = depth.div_ceil(GROUP);
    let scales = operand.scales.skip_columns(k / GROUP);
    if operand.vectors == 1 {
        pack(panels, scales.skip_rows(i), (rows, groups), height, step);
        return;
    }
    let padded = rows.next_multiple_of(step);
    if panels.len() < padded * groups {
        panels.resize(padded * groups, 0.0);
    }
    for first in (0..rows).step_by(height) {
        let height = height.min(padded - first);
        for (group, line) in panels[first * groups..][..groups * height].chunks_exact_mut(height).enumerate() {
            for (row, scale) in line.iter_mut().enumerate().take(rows - first) {
                let vector = (i + first + row) / operand.vectors;
                *scale = scales.data[scales.offset + vector * scales.row + group * scales.column];
            }
        }
    }
}
