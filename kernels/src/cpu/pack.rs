//! Packing: copies of a block of a matrix in the order in which the register tile reads it.

use super::gemm::View;
use crate::formats::Activation;

/// Most elements of a vector or rows of a tile that are copied at once.
pub const QUAD: usize = 4;

/// Terms that are packed for all panels before the next ones, where each term is a row of the source and may be a page of its own: so
/// many stay in the TLB.
const TERMS: usize = 32;

/// Packs `rows x depth` of a view, widened, into panels of `height` rows, each `[depth][height]`. The last panel has the rows that are left, rounded
/// up to a multiple of `step` with zeros.
#[inline(always)]
pub fn pack<T: Activation>(panels: &mut Vec<f32>, view: View<'_, T>, size: (usize, usize), height: usize, step: usize) {
    let len = size.0.next_multiple_of(step) * size.1;
    if panels.len() < len {
        panels.resize(len, 0.0);
    }
    pack_into(&mut panels[..len], view, size, height, step);
}

/// As [`pack`], into a slice of the right length.
#[inline(always)]
pub fn pack_into<T: Activation>(panels: &mut [f32], view: View<'_, T>, (rows, depth): (usize, usize), height: usize, step: usize) {
    // Rows that are contiguous along the terms are read to the end, which prefetchers follow.
    let most = if view.row == 1 { TERMS } else { depth.max(1) };
    for k in (0..depth).step_by(most) {
        let terms = most.min(depth - k);
        for first in (0..rows).step_by(height) {
            let present = height.min(rows - first);
            let height = present.next_multiple_of(step);
            let panel = &mut panels[first * depth + k * height..][..terms * height];
            pack_panel(panel, view.skip_rows(first).skip_columns(k), (present, terms), height);
        }
    }
}

/// Packs a part of one panel.
#[inline(always)]
pub fn pack_panel<T: Activation>(panel: &mut [f32], view: View<'_, T>, (present, terms): (usize, usize), height: usize) {
    if present < height {
        panel.fill(0.0);
    }
    if view.row == 1 {
        match present {
            32 if height == 32 => copy::<32, T>(panel, &view),
            16 if height == 16 => copy::<16, T>(panel, &view),
            12 if height == 12 => copy::<12, T>(panel, &view),
            6 if height == 6 => copy::<6, T>(panel, &view),
            4 if height == 4 => copy::<4, T>(panel, &view),
            _ => strided(panel, &view, present, height),
        }
    } else if view.column == 1 {
        transpose(panel, &view, (present, terms), height);
    } else {
        strided(panel, &view, present, height);
    }
}

/// Rows lie side by side in memory: one copy of constant length per term.
#[inline(always)]
fn copy<const HEIGHT: usize, T: Activation>(panel: &mut [f32], view: &View<'_, T>) {
    let mut start = view.offset;
    for target in panel.as_chunks_mut::<HEIGHT>().0 {
        let line: &[T; HEIGHT] = view.data[start..].first_chunk().expect("a term of a panel has all of its rows");
        // Copies: a loop from memory to memory would not vectorise, since the compiler cannot rule out an overlap.
        let (line, mut values) = (*line, [0.0; HEIGHT]);
        for i in 0..HEIGHT {
            values[i] = line[i].to_f32();
        }
        *target = values;
        start += view.column;
    }
}

/// Any strides, element by element.
#[inline(always)]
fn strided<T: Activation>(panel: &mut [f32], view: &View<'_, T>, present: usize, height: usize) {
    for (k, target) in panel.chunks_exact_mut(height).enumerate() {
        for (i, value) in target[..present].iter_mut().enumerate() {
            *value = view.data[view.offset + i * view.row + k * view.column].to_f32();
        }
    }
}

/// Terms lie side by side in memory: a transposition, in blocks of 4 x 4.
#[inline(always)]
fn transpose<T: Activation>(panel: &mut [f32], view: &View<'_, T>, (present, depth): (usize, usize), height: usize) {
    let mut i = 0;
    while i + QUAD <= present {
        let start = view.offset + i * view.row;
        let rows: [&[T]; QUAD] = std::array::from_fn(|index| &view.data[start + index * view.row..][..depth]);
        let blocks = rows.map(|row| row.as_chunks::<QUAD>().0);
        for block in 0..depth / QUAD {
            let block_rows = [
                widen(&blocks[0][block]),
                widen(&blocks[1][block]),
                widen(&blocks[2][block]),
                widen(&blocks[3][block]),
            ];
            quad(&mut panel[block * QUAD * height + i..], height, block_rows);
        }
        let k = depth / QUAD * QUAD;
        for k in k..depth {
            for (index, row) in rows.iter().enumerate() {
                panel[k * height + i + index] = row[k].to_f32();
            }
        }
        i += QUAD;
    }
    for i in i..present {
        let row = &view.data[view.offset + i * view.row..][..depth];
        for (k, value) in row.iter().enumerate() {
            panel[k * height + i] = value.to_f32();
        }
    }
}

#[inline(always)]
fn widen<T: Activation>(values: &[T; QUAD]) -> [f32; QUAD] {
    [values[0].to_f32(), values[1].to_f32(), values[2].to_f32(), values[3].to_f32()]
}

/// `target[k * height + i] = rows[i][k]` for a block of 4 x 4.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub fn quad(target: &mut [f32], height: usize, rows: [[f32; QUAD]; QUAD]) {
    use std::arch::x86_64::{_mm_loadu_ps, _mm_movehl_ps, _mm_movelh_ps, _mm_storeu_ps, _mm_unpackhi_ps, _mm_unpacklo_ps};
    assert!(target.len() > (QUAD - 1) * height + QUAD - 1);
    // SAFETY: SSE is part of x86-64; each row has four elements, and the four lines of the target are inside it, as just checked.
    unsafe {
        let [r0, r1, r2, r3] = rows.map(|row| _mm_loadu_ps(row.as_ptr()));
        let (low01, low23) = (_mm_unpacklo_ps(r0, r1), _mm_unpacklo_ps(r2, r3));
        let (high01, high23) = (_mm_unpackhi_ps(r0, r1), _mm_unpackhi_ps(r2, r3));
        let target = target.as_mut_ptr();
        _mm_storeu_ps(target, _mm_movelh_ps(low01, low23));
        _mm_storeu_ps(target.add(height), _mm_movehl_ps(low23, low01));
        _mm_storeu_ps(target.add(2 * height), _mm_movelh_ps(high01, high23));
        _mm_storeu_ps(target.add(3 * height), _mm_movehl_ps(high23, high01));
    }
}

/// `target[k * height + i] = rows[i][k]` for a block of 4 x 4.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
pub fn quad(target: &mut [f32], height: usize, rows: [[f32; QUAD]; QUAD]) {
    for (i, row) in rows.iter().enumerate() {
        for (k, &value) in row.iter().enumerate() {
            target[k * height + i] = value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_of_every_layout() {
        let data: Vec<f32> = (0..4000).map(|i| i as f32).collect();
        let views = [(40, 1), (1, 40), (80, 2)].map(|(row, column)| View {
            data: &data,
            offset: 3,
            row,
            column,
        });
        for (view, (rows, depth)) in views
            .iter()
            .flat_map(|view| [(1, 1), (12, 9), (31, 16), (37, 7)].map(|size| (view, size)))
        {
            for (height, step) in [(4, 1), (6, 1), (12, 1), (16, 8), (32, 16)] {
                let mut panels = vec![-1.0; 3];
                pack(&mut panels, *view, (rows, depth), height, step);
                for (i, k) in (0..rows.next_multiple_of(step)).flat_map(|i| (0..depth).map(move |k| (i, k))) {
                    let first = i / height * height;
                    let width = height.min(rows.next_multiple_of(step) - first);
                    let expected = if i < rows { data[3 + i * view.row + k * view.column] } else { 0.0 };
                    assert_eq!(
                        panels[first * depth + k * width + i - first],
                        expected,
                        "{rows}x{depth} in {height}: ({i}, {k})"
                    );
                }
            }
        }
    }
}
