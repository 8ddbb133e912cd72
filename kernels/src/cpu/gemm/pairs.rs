//! Packing of BF16: as [`crate::cpu::pack`], with two terms to an element.

use super::View;
use crate::cpu::pack::{QUAD, quad};
use crate::cpu::simd::Simd;
use crate::formats::Bf16;

/// Terms that are packed for all panels before the next ones, where each term is a row of the source and may be a page of its own.
pub const TERMS: usize = 32;

/// Pairs of `depth` terms.
pub const fn pairs(depth: usize) -> usize {
    depth.div_ceil(2)
}

/// Elements that stand for `depth` terms in a panel: pairs where the instruction set has a product of them, else values.
pub const fn elements<S: Simd>(depth: usize) -> usize {
    if S::DOT_PAIRS { pairs(depth) } else { depth }
}

/// A pair as the instruction reads it: the even term in the lower half.
#[inline(always)]
const fn pair(even: Bf16, odd: Bf16) -> f32 {
    f32::from_bits(even.0 as u32 | (odd.0 as u32) << 16)
}

/// Packs `rows x depth` of a view into panels of `height` rows, each `[pairs(depth)][height]`. The last panel has the rows that are left,
/// rounded up to a multiple of `step` with zeros; the odd half of the last pair is zero if there is no such term.
#[inline(always)]
pub fn pack_pairs(panels: &mut [f32], view: View<'_, Bf16>, (rows, depth): (usize, usize), height: usize, step: usize) {
    let most = if view.row == 1 { TERMS } else { depth.max(1) };
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
        for panel in part.panels(pairs) {
            let view = view.skip_rows(panel.first).skip_columns(k);
            pack_panel(&mut panels[panel.start..][..panel.len], view, (panel.present, terms), panel.height);
        }
    }
}

/// Terms `k..k + terms` of all panels; `k` is even.
#[derive(Clone, Copy)]
pub struct Part {
    pub rows: usize,
    pub depth: usize,
    pub k: usize,
    pub terms: usize,
    pub height: usize,
    pub step: usize,
}

/// Part of a panel.
pub struct Panel {
    /// Its first row, and rows that there are.
    pub first: usize,
    pub present: usize,
    /// Rows with zeros.
    pub height: usize,
    /// Its elements among those of all panels.
    pub start: usize,
    pub len: usize,
}

impl Part {
    /// The parts of the panels, in order; `elements` says how many stand for so many terms.
    #[inline(always)]
    pub fn panels(self, elements: impl Fn(usize) -> usize) -> impl Iterator<Item = Panel> {
        (0..self.rows).step_by(self.height).map(move |first| {
            let present = self.height.min(self.rows - first);
            // A division for the last panel alone.
            let height = if present == self.height {
                present
            } else {
                present.next_multiple_of(self.step)
            };
            Panel {
                first,
                present,
                height,
                start: first * elements(self.depth) + elements(self.k) * height,
                len: elements(self.terms) * height,
            }
        })
    }
}

/// Packs a part of one panel.
#[inline(always)]
pub fn pack_panel(panel: &mut [f32], view: View<'_, Bf16>, (present, terms): (usize, usize), height: usize) {
    if present < height {
        panel.fill(0.0);
    }
    if view.row == 1 {
        match present {
            32 if height == 32 => interleave::<32>(panel, &view, terms),
            16 if height == 16 => interleave::<16>(panel, &view, terms),
            12 if height == 12 => interleave::<12>(panel, &view, terms),
            6 if height == 6 => interleave::<6>(panel, &view, terms),
            4 if height == 4 => interleave::<4>(panel, &view, terms),
            _ => interleave_any(panel, &view, (present, terms), height),
        }
    } else {
        assert_eq!(view.column, 1, "rows or terms of an operand lie side by side");
        transpose(panel, &view, (present, terms), height);
    }
}

/// Rows lie side by side in memory: two terms make one line of pairs, of constant length.
#[inline(always)]
fn interleave<const HEIGHT: usize>(panel: &mut [f32], view: &View<'_, Bf16>, terms: usize) {
    let line = |term: usize| -> &[Bf16; HEIGHT] {
        let line = view.data[view.offset + term * view.column..].first_chunk();
        line.expect("a term of a panel has all of its rows")
    };
    let zeros = [Bf16(0); HEIGHT];
    for (index, target) in panel.as_chunks_mut::<HEIGHT>().0.iter_mut().enumerate() {
        let even = line(2 * index);
        let odd = if 2 * index + 1 < terms { line(2 * index + 1) } else { &zeros };
        // Copies: a loop from memory to memory would not vectorise, since the compiler cannot rule out an overlap.
        let (even, odd, mut pairs) = (*even, *odd, [0.0; HEIGHT]);
        for i in 0..HEIGHT {
            pairs[i] = pair(even[i], odd[i]);
        }
        *target = pairs;
    }
}

/// The same for a panel of any height.
#[inline(always)]
fn interleave_any(panel: &mut [f32], view: &View<'_, Bf16>, (present, terms): (usize, usize), height: usize) {
    let line = |term: usize| &view.data[view.offset + term * view.column..][..present];
    for (index, target) in panel.chunks_exact_mut(height).enumerate() {
        let even = line(2 * index);
        if 2 * index + 1 < terms {
            for (target, (&even, &odd)) in target.iter_mut().zip(even.iter().zip(line(2 * index + 1))) {
                *target = pair(even, odd);
            }
        } else {
            for (target, &even) in target.iter_mut().zip(even) {
                *target = pair(even, Bf16(0));
            }
        }
    }
}

/// Terms lie side by side in memory, as pairs already: a transposition of pairs, in blocks of 4 x 4.
#[inline(always)]
fn transpose(panel: &mut [f32], view: &View<'_, Bf16>, (present, terms): (usize, usize), height: usize) {
    let row = |i: usize| &view.data[view.offset + i * view.row..][..terms];
    let mut i = 0;
    while i + QUAD <= present {
        let rows: [&[Bf16]; QUAD] = std::array::from_fn(|index| row(i + index));
        let blocks = rows.map(|row| row.as_chunks::<{ 2 * QUAD }>().0);
        for block in 0..terms / (2 * QUAD) {
            let block_rows = [
                four_pairs(&blocks[0][block]),
                four_pairs(&blocks[1][block]),
                four_pairs(&blocks[2][block]),
                four_pairs(&blocks[3][block]),
            ];
            quad(&mut panel[block * QUAD * height + i..], height, block_rows);
        }
        let k = terms / (2 * QUAD) * 2 * QUAD;
        if k < terms {
            for (index, row) in rows.iter().enumerate() {
                scatter(&mut panel[k / 2 * height + i + index..], &row[k..], height);
            }
        }
        i += QUAD;
    }
    for i in i..present {
        scatter(&mut panel[i..], row(i), height);
    }
}

#[inline(always)]
fn four_pairs(terms: &[Bf16; 2 * QUAD]) -> [f32; QUAD] {
    let words: [u32; QUAD] = bytemuck::cast(*terms);
    let even_first = |word: u32| if cfg!(target_endian = "big") { word.rotate_left(16) } else { word };
    words.map(|word| f32::from_bits(even_first(word)))
}

/// The pairs of one row, `height` apart.
#[inline(always)]
fn scatter(panel: &mut [f32], terms: &[Bf16], height: usize) {
    for (index, terms) in terms.chunks(2).enumerate() {
        panel[index * height] = pair(terms[0], terms.get(1).copied().unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_of_both_layouts() {
        let data: Vec<Bf16> = (1..4001).map(Bf16).collect();
        let views = [(41, 1), (1, 41)].map(|(row, column)| View {
            data: &data,
            offset: 3,
            row,
            column,
        });
        for (view, (rows, depth)) in views
            .iter()
            .flat_map(|view| [(1, 1), (12, 9), (31, 16), (37_usize, 40)].map(|size| (view, size)))
        {
            for (height, step) in [(4, 1), (6, 1), (12, 1), (16, 8), (32, 16)] {
                let mut panels = vec![-1.0; rows.next_multiple_of(step) * pairs(depth)];
                pack_pairs(&mut panels, *view, (rows, depth), height, step);
                let value = |i: usize, k: usize| {
                    let present = i < rows && k < depth;
                    if present {
                        data[3 + i * view.row + k * view.column]
                    } else {
                        Bf16(0)
                    }
                };
                for (i, k) in (0..rows.next_multiple_of(step)).flat_map(|i| (0..pairs(depth)).map(move |k| (i, k))) {
                    let first = i / height * height;
                    let width = height.min(rows.next_multiple_of(step) - first);
                    assert_eq!(
                        panels[first * pairs(depth) + k * width + i - first].to_bits(),
                        pair(value(i, 2 * k), value(i, 2 * k + 1)).to_bits(),
                        "{rows}x{depth} in {height}: ({i}, {k})"
                    );
                }
            }
        }
    }
}
