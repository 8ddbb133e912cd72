//! The vectors of x86-64: AVX2, AVX-512, and AVX-512 with BF16.

use super::{CODES, EXP2, EXP2_LOWEST, EXP2_SHIFT, Job, Simd, run_avx2, run_avx512, run_avx512_bf16};
use crate::formats::{Bf16, MAGNITUDE, e4m3};
use std::arch::x86_64::*;

/// AVX2 with FMA.
#[derive(Clone, Copy)]
pub struct Avx2;

/// AVX-512 (F).
#[derive(Clone, Copy)]
pub struct Avx512;

/// AVX-512 with BF16 dot products.
#[derive(Clone, Copy)]
pub struct Avx512Bf16;

macro_rules! x86 {
    ($set:ident, $run:ident, $vector:ty, $lanes:literal, $rows:literal, $dot_pairs:literal, $($name:ident($($argument:ident: $type:ty),+) $(-> $result:ty)? = $call:expr;)+) => {
        impl Simd for $set {
            const LANES: usize = $lanes;
            const GEMM_ROWS: usize = $rows;
            const DOT_PAIRS: bool = $dot_pairs;
            type V = $vector;
            #[inline(always)]
            unsafe fn call<J: Job>(job: J) -> J::Output {
                // SAFETY: the caller guarantees the instruction set.
                unsafe { $run(job) }
            }
            $(
                #[inline(always)]
                unsafe fn $name($($argument: $type),+) $(-> $result)? {
                    // SAFETY: the caller guarantees the instruction set, and `LANES` values where there is a pointer.
                    unsafe { $call }
                }
            )+
        }
    };
}

/// The odd and the even values of pairs, widened.
macro_rules! halves {
    (avx2 $pairs:ident) => {
        (
            _mm256_and_ps($pairs, _mm256_castsi256_ps(_mm256_set1_epi32(0xffff_0000_u32 as i32))),
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_castps_si256($pairs))),
        )
    };
    (avx512 $pairs:ident) => {{
        let bits = _mm512_castps_si512($pairs);
        (
            _mm512_castsi512_ps(_mm512_and_si512(bits, _mm512_set1_epi32(0xffff_0000_u32 as i32))),
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits)),
        )
    }};
}

/// The nearest BF16 values in the upper halves; the lower halves are anything.
macro_rules! round_bf16 {
    (avx2 $v:ident) => {{
        let bits = _mm256_castps_si256($v);
        let even = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
        let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(even, _mm256_set1_epi32(0x7fff)));
        let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
        let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>($v, $v));
        _mm256_blendv_epi8(rounded, quiet, nan)
    }};
    (avx512 $v:ident) => {{
        let bits = _mm512_castps_si512($v);
        let even = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(even, _mm512_set1_epi32(0x7fff)));
        let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>($v, $v);
        _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x0040_0000))
    }};
}

/// One byte of the BF16 values of E4M3 magnitudes: `computed`, but for the small ones and NaN what the table has.
macro_rules! half {
    ($computed:expr, $table:ident, $magnitudes:ident, $small:ident, $nan:ident) => {{
        let table = _mm256_broadcastsi128_si256(_mm_load_si128($table.0.as_ptr().cast()));
        let finite = _mm256_blendv_epi8($computed, _mm256_shuffle_epi8(table, $magnitudes), $small);
        _mm256_blendv_epi8(finite, _mm256_set1_epi8($table.0[e4m3::NAN_CODE as usize] as i8), $nan)
    }};
}

// Register tiles: 6 x 16 with 16 ymm registers, 12 x 32 with 32 zmm registers (two vectors per row in both).
x86! { Avx2, run_avx2, __m256, 8, 6, false,
    splat(value: f32) -> Self::V = _mm256_set1_ps(value);
    load(pointer: *const f32) -> Self::V = _mm256_loadu_ps(pointer);
    store(pointer: *mut f32, v: Self::V) = _mm256_storeu_ps(pointer, v);
    add(a: Self::V, b: Self::V) -> Self::V = _mm256_add_ps(a, b);
    mul(a: Self::V, b: Self::V) -> Self::V = _mm256_mul_ps(a, b);
    div(a: Self::V, b: Self::V) -> Self::V = _mm256_div_ps(a, b);
    fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V = _mm256_fmadd_ps(a, b, c);
    load_bf16(pointer: *const Bf16) -> Self::V =
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(pointer.cast()))));
    store_bf16(pointer: *mut Bf16, v: Self::V) = {
        let halves = _mm256_srli_epi32::<16>(round_bf16!(avx2 v));
        // Packing works on each half of the register by itself.
        let packed = _mm256_permute4x64_epi64::<0b1000>(_mm256_packus_epi32(halves, halves));
        _mm_storeu_si128(pointer.cast(), _mm256_castsi256_si128(packed));
    };
    dot_pairs(sums: Self::V, a: Self::V, b: Self::V) -> Self::V = {
        let ((a_odd, a_even), (b_odd, b_even)) = (halves!(avx2 a), halves!(avx2 b));
        _mm256_fmadd_ps(a_even, b_even, _mm256_fmadd_ps(a_odd, b_odd, sums))
    };
    max(a: Self::V, b: Self::V) -> Self::V = _mm256_max_ps(a, b);
    exp2(x: Self::V) -> Self::V = {
        let lowest = _mm256_set1_ps(EXP2_LOWEST);
        let clamped = _mm256_max_ps(lowest, x);
        let shifted = _mm256_add_ps(clamped, _mm256_set1_ps(EXP2_SHIFT));
        let r = _mm256_sub_ps(clamped, _mm256_sub_ps(shifted, _mm256_set1_ps(EXP2_SHIFT)));
        let mut p = _mm256_set1_ps(EXP2[0]);
        for coefficient in &EXP2[1..] {
            p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(*coefficient));
        }
        // The low bits of `shifted` are the exponent; those of the shift itself are zero.
        let n = _mm256_add_epi32(_mm256_castps_si256(shifted), _mm256_set1_epi32(127));
        let y = _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(n)));
        _mm256_andnot_ps(_mm256_cmp_ps::<_CMP_LT_OQ>(x, lowest), y)
    };
    round_pairs(even: Self::V, odd: Self::V) -> Self::V = {
        let even = _mm256_srli_epi32::<16>(round_bf16!(avx2 even));
        let odd = _mm256_and_si256(round_bf16!(avx2 odd), _mm256_set1_epi32(0xffff_0000_u32 as i32));
        _mm256_castsi256_ps(_mm256_or_si256(even, odd))
    };
    decode_e4m3(y: *mut Bf16, codes: *const u8, count: usize) = {
        let mut copy = [0; CODES];
        let codes = if count < CODES {
            std::ptr::copy_nonoverlapping(codes, copy.as_mut_ptr(), count);
            copy.as_ptr()
        } else {
            codes
        };
        for first in (0..CODES).step_by(32) {
            // Unpacking takes the lower or the upper half of each half of a register.
            let codes = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_loadu_si256(codes.add(first).cast()));
            let magnitudes = _mm256_and_si256(codes, _mm256_set1_epi8(e4m3::NAN_CODE as i8));
            // Those whose exponent is 0 or 1 are looked up; others move to BF16's place, four bits up, and get its bias.
            let nibble = _mm256_set1_epi8(0x0f);
            let small = _mm256_cmpgt_epi8(_mm256_set1_epi8(16), magnitudes);
            let nan = _mm256_cmpeq_epi8(magnitudes, _mm256_set1_epi8(e4m3::NAN_CODE as i8));
            let lower = _mm256_slli_epi16::<4>(_mm256_and_si256(magnitudes, nibble));
            let lower = half!(lower, LOWER, magnitudes, small, nan);
            let upper = _mm256_and_si256(_mm256_srli_epi16::<4>(magnitudes), nibble);
            let upper = half!(_mm256_add_epi8(upper, _mm256_set1_epi8(0x3c)), UPPER, magnitudes, small, nan);
            let upper = _mm256_or_si256(upper, _mm256_and_si256(codes, _mm256_set1_epi8(i8::MIN)));
            _mm256_storeu_si256(y.add(first).cast(), _mm256_unpacklo_epi8(lower, upper));
            _mm256_storeu_si256(y.add(first + 16).cast(), _mm256_unpackhi_epi8(lower, upper));
        }
    };
}

/// E4M3 codes of sixteen finite values, in the lower bytes of the lanes: `codes::encode_e4m3`.
macro_rules! encode_e4m3 {
    ($values:expr) => {{
        const STEPS: f32 = 16384.0;
        const NORMAL: f32 = 1.0 / 64.0;
        /// `(a & b) | c`.
        const MERGE: i32 = 0xea;
        let bits = _mm512_castps_si512($values);
        let magnitude = _mm512_and_si512(bits, _mm512_set1_epi32(MAGNITUDE as i32));
        let small = _mm512_cmplt_epu32_mask(magnitude, _mm512_set1_epi32(NORMAL.to_bits() as i32));
        let subnormal = _mm512_castps_si512(_mm512_add_ps(_mm512_castsi512_ps(magnitude), _mm512_set1_ps(STEPS)));
        let odd = _mm512_and_si512(_mm512_srli_epi32::<20>(magnitude), _mm512_set1_epi32(1));
        let rounded = _mm512_add_epi32(_mm512_add_epi32(magnitude, odd), _mm512_set1_epi32(0x7_ffff - (120 << 23)));
        let normal = _mm512_srli_epi32::<20>(rounded);
        let code = _mm512_mask_sub_epi32(normal, small, subnormal, _mm512_set1_epi32(STEPS.to_bits() as i32));
        _mm512_ternarylogic_epi32::<MERGE>(_mm512_srli_epi32::<24>(bits), _mm512_set1_epi32(0x80), code)
    }};
}

/// AVX-512 but for the product and the rounding of BF16 values. What differs is written as closures but pasted: a real one would be compiled
/// without the features.
macro_rules! avx512 {
    (
        $set:ident,
        $run:ident,
        $native:literal,
        |$sums:ident, $a:ident, $b:ident| $dot_pairs:expr,
        |$even:ident, $odd:ident| $round_pairs:expr,
        |$v:ident| $round:expr,
        $($more:tt)*
    ) => {
        x86! { $set, $run, __m512, 16, 12, $native,
            splat(value: f32) -> Self::V = _mm512_set1_ps(value);
            load(pointer: *const f32) -> Self::V = _mm512_loadu_ps(pointer);
            store(pointer: *mut f32, v: Self::V) = _mm512_storeu_ps(pointer, v);
            add(a: Self::V, b: Self::V) -> Self::V = _mm512_add_ps(a, b);
            mul(a: Self::V, b: Self::V) -> Self::V = _mm512_mul_ps(a, b);
            div(a: Self::V, b: Self::V) -> Self::V = _mm512_div_ps(a, b);
            fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V = _mm512_fmadd_ps(a, b, c);
            load_bf16(pointer: *const Bf16) -> Self::V =
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(pointer.cast()))));
            store_bf16(pointer: *mut Bf16, $v: Self::V) = _mm256_storeu_si256(pointer.cast(), $round);
            dot_pairs($sums: Self::V, $a: Self::V, $b: Self::V) -> Self::V = $dot_pairs;
            max(a: Self::V, b: Self::V) -> Self::V = _mm512_max_ps(a, b);
            exp2(x: Self::V) -> Self::V = {
                // Far enough below for zero, and the difference of -inf and -inf would be NaN.
                let clamped = _mm512_max_ps(_mm512_set1_ps(2.0 * EXP2_LOWEST), x);
                let n = _mm512_roundscale_ps::<0>(clamped);
                let r = _mm512_sub_ps(clamped, n);
                let mut p = _mm512_set1_ps(EXP2[0]);
                for coefficient in &EXP2[1..] {
                    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(*coefficient));
                }
                _mm512_scalef_ps(p, n)
            };
            round_pairs($even: Self::V, $odd: Self::V) -> Self::V = $round_pairs;
            $($more)*
        }
    };
}

avx512! { Avx512, run_avx512, false, |sums, a, b| {
    let ((a_odd, a_even), (b_odd, b_even)) = (halves!(avx512 a), halves!(avx512 b));
    _mm512_fmadd_ps(a_even, b_even, _mm512_fmadd_ps(a_odd, b_odd, sums))
}, |even, odd| {
    let even = _mm512_srli_epi32::<16>(round_bf16!(avx512 even));
    let odd = _mm512_and_si512(round_bf16!(avx512 odd), _mm512_set1_epi32(0xffff_0000_u32 as i32));
    _mm512_castsi512_ps(_mm512_or_si512(even, odd))
}, |v| _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(round_bf16!(avx512 v))), }

avx512! { Avx512Bf16, run_avx512_bf16, true,
    |sums, a, b| {
        _mm512_dpbf16_ps(sums, std::mem::transmute::<__m512, __m512bh>(a), std::mem::transmute::<__m512, __m512bh>(b))
    },
    |even, odd| {
        // Sixteen even values, then sixteen odd ones; interleaved.
        let halves = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(odd, even));
        const ORDER: [u16; 32] = {
            let mut order = [0; 32];
            let mut lane = 0;
            while lane < 16 {
                order[2 * lane] = lane as u16;
                order[2 * lane + 1] = 16 + lane as u16;
                lane += 1;
            }
            order
        };
        _mm512_castsi512_ps(_mm512_permutexvar_epi16(_mm512_loadu_si512(ORDER.as_ptr().cast()), halves))
    },
    |v| {
        const SUBNORMAL: i32 = 0x20;
        // The instruction takes subnormal values for zero.
        if _mm512_fpclass_ps_mask::<SUBNORMAL>(v) == 0 {
            std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v))
        } else {
            _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(round_bf16!(avx512 v)))
        }
    },
    encode_e4m3(codes: *mut u8, values: *const f32) -> (u32, u32) = {
        // Packing takes four lanes of each of the four in turn.
        const ORDER: [u32; 16] = [0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15];
        let first = _mm512_packus_epi32(
            encode_e4m3!(_mm512_loadu_ps(values)),
            encode_e4m3!(_mm512_loadu_ps(values.add(16))),
        );
        let second = _mm512_packus_epi32(
            encode_e4m3!(_mm512_loadu_ps(values.add(32))),
            encode_e4m3!(_mm512_loadu_ps(values.add(48))),
        );
        let order = _mm512_loadu_si512(ORDER.as_ptr().cast());
        let all = _mm512_permutexvar_epi32(order, _mm512_packus_epi16(first, second));
        _mm512_storeu_si512(codes.cast(), all);
        let magnitudes = _mm512_and_si512(all, _mm512_set1_epi8(e4m3::NAN_CODE as i8));
        let largest = _mm512_cmpeq_epi8_mask(magnitudes, _mm512_set1_epi8(e4m3::LARGEST_CODE as i8));
        (largest.count_ones(), _mm512_testn_epi8_mask(magnitudes, magnitudes).count_ones())
    };
    decode_e4m3(y: *mut Bf16, codes: *const u8, count: usize) = {
        let codes = _mm512_maskz_loadu_epi8(u64::MAX >> (CODES - count), codes.cast());
        // Unpacking takes the lower or the upper half of every quarter of a register: eight codes each.
        let codes = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), codes);
        let table = |half: &HalfTable, part| _mm512_load_si512(half.0.as_ptr().add(part * CODES).cast());
        let lower = _mm512_permutex2var_epi8(table(&LOWER, 0), codes, table(&LOWER, 1));
        let upper = _mm512_permutex2var_epi8(table(&UPPER, 0), codes, table(&UPPER, 1));
        let upper = _mm512_or_si512(upper, _mm512_and_si512(codes, _mm512_set1_epi8(i8::MIN)));
        _mm512_storeu_si512(y.cast(), _mm512_unpacklo_epi8(lower, upper));
        _mm512_storeu_si512(y.add(CODES / 2).cast(), _mm512_unpackhi_epi8(lower, upper));
    };
}

/// One byte of the BF16 value of every magnitude of E4M3: what `vpermi2b` selects from by the lower seven bits of a code.
#[repr(align(64))]
struct HalfTable([u8; 128]);

static LOWER: HalfTable = HalfTable::new(0);
static UPPER: HalfTable = HalfTable::new(8);

impl HalfTable {
    const fn new(shift: u32) -> Self {
        let mut table = [0; 128];
        let mut code = 0;
        while code < 128 {
            table[code] = (e4m3::DECODE_BF16[code] >> shift) as u8;
            code += 1;
        }
        Self(table)
    }
}
