//! Packing of BF16 and E4M3 operands into tiles.
//!
//! A block of `vectors x depth` becomes panels of 16 vectors, each a row of tiles of 32 terms, padded with zeros:
//!
//! | form | tile | how, from vectors side by side in memory | from terms side by side |
//! |---|---|---|---|
//! | `Left` | `[16 vectors][32 terms]` | pairs of terms interleaved, then transposed | copied |
//! | `Right` | `[16 pairs][16 vectors][2 terms]` | pairs of terms interleaved | pairs transposed |

use super::super::View;
use crate::cpu::simd::{Avx512Bf16, CODES, Simd, amx};
use crate::formats::Bf16;
use std::arch::x86_64::*;

/// A row of a tile: 16 pairs of BF16 values.
pub type Row = __m512i;

const ROWS: usize = amx::ROWS;
/// Terms or vectors that are read at once: two tiles of terms, four panels of vectors.
const RUN: usize = CODES;

/// Which operand of a product of tiles.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Rows of the result.
    Left,
    /// Columns of the result.
    Right,
}

/// Elements of an operand that become BF16 values.
pub trait Element: Copy {
    /// `RUN` values, of which the first `count` are those at `pointer` and the others are zero.
    ///
    /// # Safety
    /// `pointer` is valid for `count` elements; only inside `dispatch` with these features.
    unsafe fn load(pointer: *const Self, count: usize) -> [Row; 2];
}

impl Element for Bf16 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16,avx2,fma")]
    unsafe fn load(pointer: *const Self, count: usize) -> [Row; 2] {
        let present = present(count);
        // SAFETY: what is masked is not read.
        unsafe {
            [
                _mm512_maskz_loadu_epi16(present as u32, pointer.cast()),
                _mm512_maskz_loadu_epi16((present >> 32) as u32, pointer.wrapping_add(RUN / 2).cast()),
            ]
        }
    }
}

impl Element for u8 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16,avx2,fma")]
    unsafe fn load(pointer: *const Self, count: usize) -> [Row; 2] {
        let mut values = [Bf16::default(); RUN];
        // SAFETY: the caller guarantees the codes, and the array holds `RUN` values. Code 0 is zero.
        unsafe {
            Avx512Bf16::decode_e4m3(values.as_mut_ptr(), pointer, count);
            Bf16::load(values.as_ptr(), RUN)
        }
    }
}

/// The first `count` of 64.
#[inline]
const fn present(count: usize) -> u64 {
    if count >= 64 { u64::MAX } else { (1 << count) - 1 }
}

/// Bytes of the tiles of `vectors x depth`.
pub const fn bytes(vectors: usize, depth: usize) -> usize {
    vectors.div_ceil(ROWS) * depth.div_ceil(amx::TERMS) * amx::BYTES
}

/// Packs `vectors x depth` of a view; a panel of 16 vectors takes `bytes(16, depth)`.
///
/// # Safety
/// `tiles` is valid for `bytes(vectors, depth)`; the view holds `vectors x depth`, and either its vectors or its terms lie side by side; only inside
/// `dispatch` with these features.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16,avx2,fma")]
pub unsafe fn pack<T: Element>(tiles: *mut u8, view: View<'_, T>, (vectors, depth): (usize, usize), form: Form) {
    // SAFETY: passed on from the caller.
    unsafe {
        if view.column == 1 {
            pack_terms(tiles, view, (vectors, depth), form);
        } else {
            assert_eq!(view.row, 1, "vectors or terms of an operand lie side by side");
            pack_vectors(tiles, view, (vectors, depth), form);
        }
    }
}

/// # Safety
/// As for [`pack`]; terms lie side by side.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16,avx2,fma")]
unsafe fn pack_terms<T: Element>(tiles: *mut u8, view: View<'_, T>, (vectors, depth): (usize, usize), form: Form) {
    let panel = bytes(ROWS, depth);
    for first in (0..vectors).step_by(ROWS) {
        let present = ROWS.min(vectors - first);
        let tiles = tiles.wrapping_add(first / ROWS * panel);
        let zero = _mm512_setzero_si512();
        for term in (0..depth).step_by(RUN) {
            let count = RUN.min(depth - term);
            let tile = tiles.wrapping_add(term / amx::TERMS * amx::BYTES);
            let two = count > amx::TERMS;
            let row = |i: usize| {
                if i < present {
                    let start = view.offset + (first + i) * view.row + term;
                    // SAFETY: rows and terms are inside the view.
                    unsafe { T::load(view.data.as_ptr().add(start), count) }
                } else {
                    [zero; 2]
                }
            };
            // SAFETY: tiles are inside the panel.
            unsafe {
                match form {
                    Form::Left => {
                        for i in 0..ROWS {
                            let [lower, upper] = row(i);
                            let target = tile.add(i * size_of::<Row>());
                            _mm512_storeu_si512(target.cast(), lower);
                            if two {
                                _mm512_storeu_si512(target.add(amx::BYTES).cast(), upper);
                            }
                        }
                    }
                    Form::Right => {
                        let (mut lower, mut upper) = ([zero; ROWS], [zero; ROWS]);
                        for (i, (lower, upper)) in lower.iter_mut().zip(&mut upper).enumerate() {
                            [*lower, *upper] = row(i);
                        }
                        store(tile, transpose(lower));
                        if two {
                            store(tile.add(amx::BYTES), transpose(upper));
                        }
                    }
                }
            }
        }
    }
}

/// # Safety
/// As for [`pack`]; vectors lie side by side.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16,avx2,fma")]
unsafe fn pack_vectors<T: Element>(tiles: *mut u8, view: View<'_, T>, (vectors, depth): (usize, usize), form: Form) {
    /// Pairs of the first and of the last 16 of 32 vectors: words of the even term, and of the odd one from 32 on.
    const INTERLEAVE: [[u16; 32]; 2] = {
        let (mut words, mut half) = ([[0; 32]; 2], 0);
        while half < 2 {
            let mut i = 0;
            while i < ROWS {
                words[half][2 * i] = (ROWS * half + i) as u16;
                words[half][2 * i + 1] = (32 + ROWS * half + i) as u16;
                i += 1;
            }
            half += 1;
        }
        words
    };
    const PANELS: usize = RUN / ROWS;
    let panel = bytes(ROWS, depth);
    let zero = _mm512_setzero_si512();
    let mut panels = [[zero; ROWS]; PANELS];
    // SAFETY: reads of constants, and of vectors and terms inside the view; tiles are inside their panels.
    unsafe {
        let interleave = INTERLEAVE.each_ref().map(|words| _mm512_loadu_si512(words.as_ptr().cast()));
        // All vectors of some terms before the next ones: each term may be a page of its own.
        for term in (0..depth).step_by(amx::TERMS) {
            let tile = tiles.wrapping_add(term / amx::TERMS * amx::BYTES);
            for first in (0..vectors).step_by(RUN) {
                let count = RUN.min(vectors - first);
                let present = count.div_ceil(ROWS);
                let tile = tile.wrapping_add(first / ROWS * panel);
                let line = |term: usize| {
                    if term < depth {
                        T::load(view.data.as_ptr().add(view.offset + first + term * view.column), count)
                    } else {
                        [zero; 2]
                    }
                };
                for pair in 0..ROWS {
                    let (even, odd) = (line(term + 2 * pair), line(term + 2 * pair + 1));
                    for (index, rows) in panels.iter_mut().enumerate() {
                        let row = _mm512_permutex2var_epi16(even[index / 2], interleave[index % 2], odd[index / 2]);
                        if form == Form::Left {
                            rows[pair] = row;
                        } else if index < present {
                            _mm512_storeu_si512(tile.wrapping_add(index * panel + pair * size_of::<Row>()).cast(), row);
                        }
                    }
                }
                if form == Form::Left {
                    for (index, rows) in panels.iter().enumerate().take(present) {
                        store(tile.wrapping_add(index * panel), transpose(*rows));
                    }
                }
            }
        }
    }
}

/// # Safety
/// `tile` is valid for a tile.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store(tile: *mut u8, rows: [Row; ROWS]) {
    for (i, row) in rows.into_iter().enumerate() {
        // SAFETY: inside the tile.
        unsafe { _mm512_storeu_si512(tile.add(i * size_of::<Row>()).cast(), row) };
    }
}

/// Transposes 16 x 16 pairs.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn transpose(rows: [Row; ROWS]) -> [Row; ROWS] {
    /// Quarters 0 and 2 of each, and 1 and 3.
    const EVEN: i32 = 0b10_00_10_00;
    const ODD: i32 = 0b11_01_11_01;
    let mut a = rows;
    for i in (0..ROWS).step_by(2) {
        a[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        a[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    // In quarter q of `b[4 i + j]`: column 4 q + j of rows 4 i to 4 i + 3.
    let mut b = a;
    for i in (0..ROWS).step_by(4) {
        b[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
        b[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
        b[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
        b[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
    }
    let mut c = b;
    for j in 0..4 {
        let (upper, lower) = (j, 8 + j);
        let (even, even_below) = (
            _mm512_shuffle_i32x4::<EVEN>(b[upper], b[upper + 4]),
            _mm512_shuffle_i32x4::<EVEN>(b[lower], b[lower + 4]),
        );
        let (odd, odd_below) = (
            _mm512_shuffle_i32x4::<ODD>(b[upper], b[upper + 4]),
            _mm512_shuffle_i32x4::<ODD>(b[lower], b[lower + 4]),
        );
        c[j] = _mm512_shuffle_i32x4::<EVEN>(even, even_below);
        c[4 + j] = _mm512_shuffle_i32x4::<EVEN>(odd, odd_below);
        c[8 + j] = _mm512_shuffle_i32x4::<ODD>(even, even_below);
        c[12 + j] = _mm512_shuffle_i32x4::<ODD>(odd, odd_below);
    }
    c
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::Isa;

    /// Every form, layout and edge, element by element.
    #[test]
    fn tiles_of_both_forms() {
        if Isa::avx512_bf16().is_none() {
            return;
        }
        let data: Vec<Bf16> = (1..30_000).map(Bf16).collect();
        for (vectors, depth) in [(1, 1), (16, 32), (17, 31), (5, 33), (64, 64), (70, 97), (129, 130)] {
            for (row, column) in [(151, 1), (1, 151)] {
                let view = View {
                    data: &data,
                    offset: 3,
                    row,
                    column,
                };
                for form in [Form::Left, Form::Right] {
                    let mut tiles = vec![u8::MAX; bytes(vectors, depth)];
                    // SAFETY: the memory is as long as it says, the view holds the block, and the features exist.
                    unsafe { pack(tiles.as_mut_ptr(), view, (vectors, depth), form) };
                    let steps = depth.div_ceil(amx::TERMS);
                    for (vector, term) in (0..vectors.next_multiple_of(ROWS)).flat_map(|i| (0..steps * amx::TERMS).map(move |k| (i, k))) {
                        let tile = (vector / ROWS * steps + term / amx::TERMS) * amx::BYTES;
                        let (i, k) = (vector % ROWS, term % amx::TERMS);
                        let element = match form {
                            Form::Left => i * amx::TERMS + k,
                            Form::Right => k / 2 * amx::TERMS + 2 * i + k % 2,
                        };
                        let at = tile + 2 * element;
                        let expected = if vector < vectors && term < depth {
                            data[3 + vector * row + term * column]
                        } else {
                            Bf16(0)
                        };
                        assert_eq!(
                            u16::from_le_bytes([tiles[at], tiles[at + 1]]),
                            expected.0,
                            "{vectors}x{depth}, strides {row}, {column}: ({vector}, {term})"
                        );
                    }
                }
            }
        }
    }
}
