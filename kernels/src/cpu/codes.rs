//! Steps of the quantisation of 128 values: load, find the largest, encode, pack, transpose. Plain Rust that is compiled with the
//! instruction set of the job that inlines it.

// Counting iterators check for overflow in builds with debug assertions, which then do not vectorise.
#![allow(clippy::needless_range_loop)]

use super::simd::{CODES, Simd};
use crate::formats::{Bf16, GROUP, Grouping, MAGNITUDE, Source, Statistics, e4m3, e5m6};

/// One group's width of a row.
pub type Values = [f32; GROUP];
/// Their codes.
pub type Codes = [u8; GROUP];

/// Bits of the largest magnitude; NaN and infinity count, and are larger than what is finite.
#[inline(always)]
pub fn maximum(values: &Values) -> u32 {
    values.iter().fold(0, |maximum, value| (value.to_bits() & MAGNITUDE).max(maximum))
}

/// Bits of the largest finite magnitude.
pub fn finite_maximum(values: &Values) -> u32 {
    let finite = values.iter().filter(|value| value.is_finite());
    finite.fold(0, |maximum, value| (value.to_bits() & MAGNITUDE).max(maximum))
}

/// What the encoding of a row of any values counts.
#[derive(Clone, Copy, Default)]
pub struct Counts {
    saturated: u32,
    underflowed: u32,
    non_finite: u32,
}

impl Counts {
    fn count(&mut self, value: f32, zero: bool, largest: bool) {
        self.non_finite += u32::from(!value.is_finite());
        self.saturated += u32::from(largest && value.is_finite());
        self.underflowed += u32::from(zero && value != 0.0);
    }

    /// Adds them to statistics.
    pub fn add_to(self, statistics: &mut Statistics) {
        statistics.saturated += u64::from(self.saturated);
        statistics.underflowed += u64::from(self.underflowed);
        statistics.non_finite += u64::from(self.non_finite);
    }
}

/// Encodes finite values, each scaled by `scale(j, value)`; the result rounds to at most 448. How many codes are of the largest magnitude, and
/// of zero.
#[inline(always)]
pub fn encode_e4m3_row<S: Simd>(codes: &mut Codes, values: &Values, scale: impl Fn(usize, f32) -> f32) -> (u32, u32) {
    let mut scaled = [0.0; GROUP];
    for j in 0..GROUP {
        scaled[j] = scale(j, values[j]);
    }
    let (mut largest, mut zeros) = (0, 0);
    for (codes, values) in codes.as_chunks_mut::<CODES>().0.iter_mut().zip(scaled.as_chunks::<CODES>().0) {
        // SAFETY: the arrays hold `CODES` elements; only jobs call it, inside `dispatch`.
        let counts = unsafe { S::encode_e4m3(codes.as_mut_ptr(), values.as_ptr()) };
        (largest, zeros) = (largest + counts.0, zeros + counts.1);
    }
    (largest, zeros)
}

/// [`Simd::encode_e4m3`] in plain Rust. Codes are counted in bytes, of which a vector has many.
#[inline(always)]
pub fn encode_e4m3(codes: &mut [u8; CODES], values: &[f32; CODES]) -> (u32, u32) {
    for j in 0..CODES {
        codes[j] = encode_one_e4m3(values[j]) as u8;
    }
    let count = |magnitude: u8| {
        let equal = |code: &u8| u8::from(code & e4m3::NAN_CODE == magnitude);
        u32::from(codes.iter().fold(0_u8, |count, code| count.wrapping_add(equal(code))))
    };
    (count(e4m3::LARGEST_CODE), count(0))
}

/// How many values are zero.
#[inline(always)]
pub fn zero_values(values: &Values) -> u32 {
    let zero = |value: &f32| u32::from(value.to_bits() & MAGNITUDE == 0);
    values.iter().fold(0_u32, |count, value| count.wrapping_add(zero(value)))
}

/// As [`encode_e4m3_row`], for any values.
pub fn encode_e4m3_broken_row(codes: &mut Codes, values: &Values, scale: impl Fn(usize, f32) -> f32) -> Counts {
    let mut counts = Counts::default();
    for (j, (code, &value)) in codes.iter_mut().zip(values).enumerate() {
        *code = e4m3::encode(if value.is_finite() { scale(j, value) } else { value });
        let magnitude = *code & e4m3::NAN_CODE;
        counts.count(value, magnitude == 0, magnitude == e4m3::LARGEST_CODE);
    }
    counts
}

/// The code of a value whose magnitude rounds to at most 448, without branches.
#[inline(always)]
fn encode_one_e4m3(value: f32) -> u32 {
    // Adding it leaves multiples of 2^-9, the step of subnormal codes, in the last bits.
    const STEPS: f32 = 16384.0;
    const NORMAL: u32 = (1.0_f32 / 64.0).to_bits();
    let bits = value.to_bits();
    let magnitude = bits & MAGNITUDE;
    let subnormal = (f32::from_bits(magnitude) + STEPS).to_bits().wrapping_sub(STEPS.to_bits());
    let normal = (magnitude.wrapping_add(0x7_ffff + ((magnitude >> 20) & 1)) >> 20).wrapping_sub(120 << 3);
    let code = if magnitude < NORMAL { subnormal } else { normal };
    code | ((bits >> 24) & 0x80)
}

/// The code of a finite value whose magnitude rounds to at most 65024, without branches.
#[inline(always)]
fn encode_e5m6(value: f32) -> u32 {
    const STEPS: f32 = 8.0;
    const NORMAL: u32 = (1.0_f32 / 16384.0).to_bits();
    let bits = value.to_bits();
    let magnitude = bits & MAGNITUDE;
    let subnormal = (f32::from_bits(magnitude) + STEPS).to_bits().wrapping_sub(STEPS.to_bits());
    let normal = (magnitude.wrapping_add(0xffff + ((magnitude >> 17) & 1)) >> 17).wrapping_sub(112 << 6);
    let code = if magnitude < NORMAL { subnormal } else { normal };
    code | ((bits >> 20) & 0x800)
}

/// Values `column..column + count` of a row of the source, then zeros: where they are, or else in `values`.
#[inline(always)]
pub fn load<'a, S: Simd>(
    values: &'a mut Values,
    x: &Source<'a>,
    (row, column, count): (usize, usize, usize),
    columns: usize,
) -> &'a Values {
    let start = row * columns + column;
    match *x {
        Source::F32(x) => match x[start..start + count].first_chunk() {
            Some(x) => return x,
            None => each(values, &x[start..start + count], |x| x),
        },
        Source::Bf16(x) => {
            let mut padded = [Bf16::default(); GROUP];
            let x = whole(&mut padded, &x[start..start + count]);
            for j in (0..GROUP).step_by(S::LANES) {
                // SAFETY: only jobs call it, inside `dispatch`; lanes divide the arrays' length.
                unsafe { S::store(values.as_mut_ptr().add(j), S::load_bf16(x.as_ptr().add(j))) };
            }
        }
        Source::E4m3 { codes, scales, grouping } => {
            let codes = &codes[start..start + count];
            let (height, width) = grouping.size();
            let scales = &scales[row / height * columns.div_ceil(width)..];
            if grouping == Grouping::Column {
                let mut padded = [0.0; GROUP];
                let factors = whole(&mut padded, &scales[column..column + count]);
                each(values, codes, e4m3::widen);
                for j in 0..GROUP {
                    values[j] *= factors[j];
                }
            } else {
                let scale = scales[column / GROUP];
                each(values, codes, |code| e4m3::widen(code) * scale);
            }
        }
        Source::E5m6 { packed, scales } => {
            let scale = scales[row * columns.div_ceil(GROUP) + column / GROUP];
            let packed = &packed[row * e5m6::packed_len(columns) + column / 2 * 3..][..e5m6::packed_len(count)];
            let mut codes = [0_u32; GROUP];
            for (pair, bytes) in codes.as_chunks_mut::<2>().0.iter_mut().zip(packed.as_chunks::<3>().0) {
                let both = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0]);
                *pair = [both & 0xfff, both >> 12];
            }
            each(values, &codes[..count], |code| e5m6::decode(code as u16) * scale);
        }
    }
    values
}

/// As [`load`], from any column: the values may lie in two tiles.
#[inline(always)]
pub fn load_across<'a, S: Simd>(
    values: &'a mut Values,
    x: &Source<'a>,
    (row, column, count): (usize, usize, usize),
    columns: usize,
) -> &'a Values {
    let first = count.min(GROUP - column % GROUP);
    if first == count {
        return load::<S>(values, x, (row, column, count), columns);
    }
    load::<S>(values, x, (row, column, first), columns);
    let mut rest = [0.0; GROUP];
    let rest = load::<S>(&mut rest, x, (row, column + first, count - first), columns);
    values[first..count].copy_from_slice(&rest[..count - first]);
    values
}

/// `values[j] = convert(x[j])`, what is missing of 128 from zero.
#[inline(always)]
fn each<T: Copy + Default>(values: &mut Values, x: &[T], convert: impl Fn(T) -> f32) {
    let mut padded = [T::default(); GROUP];
    let x = whole(&mut padded, x);
    for j in 0..GROUP {
        values[j] = convert(x[j]);
    }
}

/// All 128 of `x`, or else a copy before zeros: loops of constant length vectorise.
#[inline(always)]
fn whole<'a, T: Copy>(zeros: &'a mut [T; GROUP], x: &'a [T]) -> &'a [T; GROUP] {
    match x.first_chunk() {
        Some(x) => x,
        None => {
            zeros[..x.len()].copy_from_slice(x);
            zeros
        }
    }
}

/// Encodes finite values whose magnitude times `inverse` rounds to at most 65024.
#[inline(always)]
pub fn encode_e5m6_row(codes: &mut [u16; GROUP], values: &Values, inverse: f32) {
    for (code, &value) in codes.iter_mut().zip(values) {
        *code = encode_e5m6(value * inverse) as u16;
    }
}

/// How many codes are of the largest magnitude, and of zero.
#[inline(always)]
pub fn count_e5m6_row(codes: &[u16; GROUP]) -> (u32, u32) {
    let count = |magnitude: u16| {
        let equal = |code: &u16| u16::from(code & e5m6::MAGNITUDE == magnitude);
        u32::from(codes.iter().fold(0_u16, |count, code| count.wrapping_add(equal(code))))
    };
    (count(e5m6::LARGEST_CODE), count(0))
}

/// As [`encode_e5m6_row`], for any values.
pub fn encode_e5m6_broken_row(codes: &mut [u16; GROUP], values: &Values, inverse: f32) -> Counts {
    let mut counts = Counts::default();
    for (code, &value) in codes.iter_mut().zip(values) {
        *code = e5m6::encode(if value.is_finite() { value * inverse } else { value });
        let magnitude = *code & e5m6::MAGNITUDE;
        counts.count(value, magnitude == 0, magnitude == e5m6::LARGEST_CODE);
    }
    counts
}

/// Packs the codes of a tile, as many as there are bytes for.
#[inline(always)]
pub fn pack_e5m6(packed: &mut [u8], codes: &[u16; GROUP]) {
    // Four codes side by side in a word move together in two steps.
    let four = |codes: &[u16; 4]| {
        let word = codes.iter().rev().fold(0, |word, &code| word << 16 | u64::from(code));
        let pairs = word & 0x0fff_0000_0fff | (word & 0x0fff_0000_0fff_0000) >> 4;
        pairs & 0xff_ffff | (pairs >> 8) & 0xffff_ff00_0000
    };
    let (words, rest) = packed.as_chunks_mut::<6>();
    for (bytes, codes) in words.iter_mut().zip(codes.as_chunks().0) {
        bytes.copy_from_slice(&four(codes).to_le_bytes()[..6]);
    }
    if !rest.is_empty() {
        let codes = &codes[4 * words.len()..];
        rest.copy_from_slice(&four(&[codes[0], codes[1], 0, 0]).to_le_bytes()[..3]);
    }
}

/// `y[j * stride + i] = tile[i][j]`.
pub fn scatter(y: &mut [u8], stride: usize, tile: &[Codes; GROUP], (rows, columns): (usize, usize)) {
    for j in (0..columns).step_by(8) {
        let width = 8.min(columns - j);
        for i in (0..rows).step_by(8) {
            let height = 8.min(rows - i);
            let block = std::array::from_fn(|row| {
                let bytes: &[u8; 8] = tile[i + row][j..]
                    .first_chunk()
                    .expect("a row of the tile has a multiple of 8 codes");
                u64::from_le_bytes(*bytes)
            });
            for (column, bytes) in transpose_bytes(block).iter().take(width).enumerate() {
                let start = (j + column) * stride + i;
                let bytes = bytes.to_le_bytes();
                match y[start..].first_chunk_mut() {
                    Some(target) if height == 8 => *target = bytes,
                    _ => y[start..start + height].copy_from_slice(&bytes[..height]),
                }
            }
        }
    }
}

/// Byte `i` of word `j` of the result is byte `j` of word `i`: swaps quarters of the matrix, then of each quarter, then of each of those.
fn transpose_bytes(mut words: [u64; 8]) -> [u64; 8] {
    for (distance, mask) in [(4, 0xffff_ffff), (2, 0x0000_ffff_0000_ffff), (1, 0x00ff_00ff_00ff_00ff)] {
        for upper in (0..8).filter(|index| index & distance == 0) {
            let lower = upper + distance;
            let swapped = ((words[upper] >> (8 * distance)) ^ words[lower]) & mask;
            words[upper] ^= swapped << (8 * distance);
            words[lower] ^= swapped;
        }
    }
    words
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::GROUP;
    use crate::formats::{Along, Grouping, Operand, e4m3};
    use crate::{Reference, Write};
    use std::arch::x86_64::{
        __m512bh, __m512i, _mm512_dpbf16_ps, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_setzero_ps, _mm512_storeu_ps,
    };

    /// Columns per vector.
    const LANES: usize = 16;

    /// Sums of `GROUP` products of each of 16 rows with one, as the instruction adds them.
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn sums(one: &[u8; GROUP], rows: &[[u8; GROUP]; LANES]) -> [f32; LANES] {
        let pair = |codes: &[u8; GROUP], term: usize| {
            let bits = |code: u8| u32::from(e4m3::DECODE_BF16[usize::from(code)]);
            bits(codes[term]) | bits(codes[term + 1]) << 16
        };
        let mut sums = _mm512_setzero_ps();
        for term in (0..GROUP).step_by(2) {
            let all: [u32; LANES] = std::array::from_fn(|lane| pair(&rows[lane], term));
            // SAFETY: the array has 64 bytes, and the two vector types are the same bits.
            unsafe {
                let (a, b) = (_mm512_set1_epi32(pair(one, term) as i32), _mm512_loadu_si512(all.as_ptr().cast()));
                let bf16 = |vector| std::mem::transmute::<__m512i, __m512bh>(vector);
                sums = _mm512_dpbf16_ps(sums, bf16(a), bf16(b));
            }
        }
        let mut result = [0.0; LANES];
        // SAFETY: the array holds sixteen values.
        unsafe { _mm512_storeu_ps(result.as_mut_ptr(), sums) };
        result
    }

    /// The product that kernels reproduce adds as the processor does. Only machines with the instruction can tell.
    #[test]
    fn reference_adds_in_the_order_of_vdpbf16ps() {
        if !is_x86_feature_detected!("avx512bf16") {
            return;
        }
        let mut state = 1_u32;
        let mut code = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let code = (state >> 24) as u8;
            if code & e4m3::NAN_CODE == e4m3::NAN_CODE { 0 } else { code }
        };
        for _ in 0..500 {
            let one: [u8; GROUP] = std::array::from_fn(|_| code());
            let rows: [[u8; GROUP]; LANES] = std::array::from_fn(|_| std::array::from_fn(|_| code()));
            let scales = [1.0; LANES];
            let operand = |codes, rows: usize| Operand {
                codes,
                scales: &scales[..rows],
                rows,
                columns: GROUP,
                grouping: Grouping::Row,
                along: Along::Columns,
            };
            let mut y = [0.0; LANES];
            Reference::PAIRS.quantized_product(&mut y, operand(&one, 1), operand(rows.as_flattened(), LANES), Write::Overwrite);
            // SAFETY: the machine has the instruction, as just detected.
            let expected = unsafe { sums(&one, &rows) };
            assert_eq!(y.map(f32::to_bits), expected.map(f32::to_bits));
        }
    }
}
