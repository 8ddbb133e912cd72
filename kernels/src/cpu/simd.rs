//! A tiny vector trait, its instruction sets and their detection.
//!
//! Algorithms are written once, generic over [`Simd`], and instantiated per instruction set by [`dispatch`], which enters a function
//! compiled with that set's target features. Everything between the entry and the intrinsics is `#[inline(always)]`, so that the whole
//! loop is compiled with those features.

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
mod x86;

use crate::formats::{Activation, Bf16, DataType, SumOrder, e4m3};
#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2, Avx512, Avx512Bf16};

/// An instruction set that this machine has. Holding a value is the proof: the constructors detect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    #[cfg(target_arch = "x86_64")]
    Amx,
}

impl Isa {
    /// Plain Rust, on any machine.
    pub const PORTABLE: Self = Self(Kind::Portable);

    /// AVX2 with FMA, if the machine has both.
    #[must_use]
    pub fn avx2() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return Some(Self(Kind::Avx2));
        }
        None
    }

    /// AVX-512 (F), if the machine has it together with AVX2 and FMA.
    #[must_use]
    pub fn avx512() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if Self::avx2().is_some() && is_x86_feature_detected!("avx512f") {
            return Some(Self(Kind::Avx512));
        }
        None
    }

    /// AVX-512 with BF16 dot products and byte permutations (F, BW, DQ, VL, VBMI, BF16).
    #[must_use]
    pub fn avx512_bf16() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if Self::avx512().is_some()
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vbmi")
            && is_x86_feature_detected!("avx512bf16")
            && is_x86_feature_detected!("popcnt")
        {
            return Some(Self(Kind::Avx512Bf16));
        }
        None
    }

    /// AVX-512 with BF16, and AMX tiles for products of BF16 and E4M3, if the operating system lets this process use them.
    #[must_use]
    pub fn amx_bf16() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if Self::avx512_bf16().is_some() && amx::available() {
            return Some(Self(Kind::Amx));
        }
        None
    }

    /// Whether products of BF16 and E4M3 run on AMX tiles.
    pub(crate) const fn has_tiles(self) -> bool {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Amx => true,
            _ => false,
        }
    }

    /// In which order the terms of a product of E4M3 are added.
    #[must_use]
    pub const fn sum_order(self) -> SumOrder {
        if self.has_tiles() { SumOrder::Tiles } else { SumOrder::Pairs }
    }

    /// The best set of this machine.
    #[must_use]
    pub fn best() -> Self {
        Self::amx_bf16()
            .or_else(Self::avx512_bf16)
            .or_else(Self::avx512)
            .or_else(Self::avx2)
            .unwrap_or(Self::PORTABLE)
    }

    /// All sets of this machine, the portable one first.
    #[must_use]
    pub fn available() -> Vec<Self> {
        let sets = [
            Some(Self::PORTABLE),
            Self::avx2(),
            Self::avx512(),
            Self::avx512_bf16(),
            Self::amx_bf16(),
        ];
        sets.into_iter().flatten().collect()
    }

    /// Name for reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.0 {
            Kind::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Bf16 => "avx512-bf16",
            #[cfg(target_arch = "x86_64")]
            Kind::Amx => "amx-bf16",
        }
    }
}

/// A computation that is generic over the instruction set.
pub trait Job {
    /// What it returns.
    type Output;
    /// Runs it. Implementations are `#[inline(always)]`.
    fn run<S: Simd>(self) -> Self::Output;
}

/// Runs a job with an instruction set.
#[inline]
pub fn dispatch<J: Job>(isa: Isa, job: J) -> J::Output {
    match isa.0 {
        Kind::Portable => job.run::<Portable>(),
        // SAFETY: an `Isa` of this kind is only made after detection of its features.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => unsafe { run_avx2(job) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => unsafe { run_avx512(job) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512Bf16 | Kind::Amx => unsafe { run_avx512_bf16(job) },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run_avx2<J: Job>(job: J) -> J::Output {
    job.run::<Avx2>()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma")]
fn run_avx512<J: Job>(job: J) -> J::Output {
    job.run::<Avx512>()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16,avx2,fma,popcnt")]
fn run_avx512_bf16<J: Job>(job: J) -> J::Output {
    job.run::<Avx512Bf16>()
}

/// E4M3 codes that are decoded at once.
pub const CODES: usize = 64;

/// Vectors of `LANES` f32 and the operations on them.
///
/// # Safety
/// Every method may only be called inside [`dispatch`] (or where the instruction set is otherwise known to exist); pointers must be valid
/// for `LANES` values, without alignment.
#[allow(clippy::missing_safety_doc)] // the trait states it once for all methods
pub trait Simd: Copy + 'static {
    /// Values per vector.
    const LANES: usize;
    /// Rows of the GEMM register tile.
    const GEMM_ROWS: usize;
    /// Whether [`Simd::dot_pairs`] is one instruction. If not, large products widen their operands once, when they pack them.
    const DOT_PAIRS: bool;
    /// A vector.
    type V: Copy;
    /// Runs a job in a function of its own: what is inlined in several places is compiled for each of them.
    unsafe fn call<J: Job>(job: J) -> J::Output;
    /// All lanes `value`.
    unsafe fn splat(value: f32) -> Self::V;
    /// `LANES` values from `pointer`.
    unsafe fn load(pointer: *const f32) -> Self::V;
    /// `LANES` values to `pointer`.
    unsafe fn store(pointer: *mut f32, v: Self::V);
    /// `a + b`.
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b`.
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`; one rounding where the set has FMA, two in portable code.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `LANES` values from `pointer`, widened exactly.
    unsafe fn load_bf16(pointer: *const Bf16) -> Self::V;
    /// `LANES` values to `pointer`, each rounded to the nearest as by [`Bf16::from_f32`].
    unsafe fn store_bf16(pointer: *mut Bf16, v: Self::V);
    /// `sums + a_odd b_odd`, then `+ a_even b_even`, where each lane of `a` and `b` is a pair of BF16 values, the even one in the lower half.
    /// Fused where the set has FMA: the same bits if the products are exact. Subnormal operands and results may count as zero.
    unsafe fn dot_pairs(sums: Self::V, a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`.
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// The larger of each lane; `b` where either is NaN.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// `2^x` of each lane, for `x` up to 127, within 2 units in the last place; 0 or subnormal below -126; NaN for NaN.
    unsafe fn exp2(x: Self::V) -> Self::V;
    /// Each lane's two values rounded to BF16, as a pair; subnormal ones may become zero.
    unsafe fn round_pairs(even: Self::V, odd: Self::V) -> Self::V;
    /// `LANES` values from `pointer`, as [`Activation::to_f32`] has it.
    #[inline(always)]
    unsafe fn load_as<A: Activation>(pointer: *const A) -> Self::V {
        // SAFETY: passed on from the caller; the trait is sealed, so the type is the one it says.
        unsafe {
            match A::DATA_TYPE {
                DataType::F32 => Self::load(pointer.cast()),
                DataType::Bf16 => Self::load_bf16(pointer.cast()),
            }
        }
    }
    /// `LANES` values to `pointer`, as [`Activation::from_f32`] has it.
    #[inline(always)]
    unsafe fn store_as<A: Activation>(pointer: *mut A, v: Self::V) {
        // SAFETY: as for `load_as`.
        unsafe {
            match A::DATA_TYPE {
                DataType::F32 => Self::store(pointer.cast(), v),
                DataType::Bf16 => Self::store_bf16(pointer.cast(), v),
            }
        }
    }
    /// The values of `count <= CODES` E4M3 codes, and what else completes [`CODES`] values.
    ///
    /// `codes` must be valid for `count` codes, `y` for `CODES` values.
    #[inline(always)]
    unsafe fn decode_e4m3(y: *mut Bf16, codes: *const u8, count: usize) {
        // SAFETY: passed on from the caller.
        let (y, codes) = unsafe { (std::slice::from_raw_parts_mut(y, count), std::slice::from_raw_parts(codes, count)) };
        for (y, &code) in y.iter_mut().zip(codes) {
            *y = Bf16(e4m3::DECODE_BF16[usize::from(code)]);
        }
    }
    /// The E4M3 codes of [`CODES`] finite values, each of which rounds to at most 448 in magnitude; how many are 448 in magnitude, and how many are zero.
    ///
    /// `codes` and `values` must be valid for so many.
    #[inline(always)]
    unsafe fn encode_e4m3(codes: *mut u8, values: *const f32) -> (u32, u32) {
        // SAFETY: passed on from the caller.
        let (codes, values) = unsafe { (&mut *codes.cast(), &*values.cast()) };
        super::codes::encode_e4m3(codes, values)
    }
    /// Sum of all lanes, in a fixed order.
    #[inline(always)]
    unsafe fn sum(v: Self::V) -> f32 {
        let mut lanes = [0.0; 16];
        // SAFETY: `lanes` holds at least `LANES` values.
        unsafe { Self::store(lanes.as_mut_ptr(), v) };
        let mut width = Self::LANES;
        while width > 1 {
            width /= 2;
            for lane in 0..width {
                lanes[lane] += lanes[lane + width];
            }
        }
        lanes[0]
    }
}

/// Plain Rust over eight lanes; the compiler uses what the target's baseline has.
#[derive(Clone, Copy)]
pub struct Portable;

macro_rules! portable {
    ($($name:ident($($argument:ident),+) = $each:expr;)+) => {$(
        #[inline(always)]
        unsafe fn $name($($argument: Self::V),+) -> Self::V {
            std::array::from_fn(|lane| ($each)($($argument[lane]),+))
        }
    )+};
}

impl Simd for Portable {
    const LANES: usize = 8;
    const GEMM_ROWS: usize = 4;
    const DOT_PAIRS: bool = false;
    type V = [f32; 8];
    #[inline(never)]
    unsafe fn call<J: Job>(job: J) -> J::Output {
        job.run::<Self>()
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self::V {
        [value; 8]
    }
    #[inline(always)]
    unsafe fn load(pointer: *const f32) -> Self::V {
        // SAFETY: the caller guarantees eight values; an array of f32 has the alignment of f32.
        unsafe { pointer.cast::<[f32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(pointer: *mut f32, v: Self::V) {
        // SAFETY: as for `load`.
        unsafe { pointer.cast::<[f32; 8]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_bf16(pointer: *const Bf16) -> Self::V {
        // SAFETY: as for `load`.
        unsafe { pointer.cast::<[Bf16; 8]>().read_unaligned() }.map(Bf16::to_f32)
    }
    #[inline(always)]
    unsafe fn store_bf16(pointer: *mut Bf16, v: Self::V) {
        // SAFETY: as for `load`.
        unsafe { pointer.cast::<[Bf16; 8]>().write_unaligned(v.map(Bf16::from_f32)) }
    }
    #[inline(always)]
    unsafe fn dot_pairs(sums: Self::V, a: Self::V, b: Self::V) -> Self::V {
        let odd = |pair: f32| f32::from_bits(pair.to_bits() & 0xffff_0000);
        let even = |pair: f32| f32::from_bits(pair.to_bits() << 16);
        std::array::from_fn(|lane| (sums[lane] + odd(a[lane]) * odd(b[lane])) + even(a[lane]) * even(b[lane]))
    }
    portable! {
        mul(a, b) = |a: f32, b: f32| a * b;
        div(a, b) = |a: f32, b: f32| a / b;
        max(a, b) = |a: f32, b: f32| if a > b { a } else { b };
        exp2(x) = exp2;
        round_pairs(even, odd) =
            |even: f32, odd: f32| f32::from_bits(u32::from(Bf16::from_f32(even).0) | u32::from(Bf16::from_f32(odd).0) << 16);
        add(a, b) = |a: f32, b: f32| a + b;
        fma(a, b, c) = |a: f32, b: f32, c: f32| a * b + c;
    }
}

/// `2^x`: `x = n + r`, `|r| <= 1 / 2`, and a polynomial for `2^r`.
#[inline(always)]
fn exp2(x: f32) -> f32 {
    let clamped = if x < EXP2_LOWEST { EXP2_LOWEST } else { x };
    let shifted = clamped + EXP2_SHIFT;
    let r = clamped - (shifted - EXP2_SHIFT);
    let p = EXP2.iter().fold(0.0, |p, coefficient| p * r + coefficient);
    let n = shifted.to_bits().wrapping_sub(EXP2_SHIFT.to_bits());
    let y = p * f32::from_bits(n.wrapping_add(127) << 23);
    if x < EXP2_LOWEST { 0.0 } else { y }
}

/// Coefficients of `2^r` on `|r| <= 1 / 2`, the highest first.
const EXP2: [f32; 7] = [
    1.535_336_2e-4,
    1.339_887_4e-3,
    9.618_437e-3,
    5.550_332_5e-2,
    2.402_264_8e-1,
    std::f32::consts::LN_2,
    1.0,
];
/// The lowest `x` with a normal `2^x`.
const EXP2_LOWEST: f32 = -126.0;
/// Adding it leaves the nearest integer in the low bits of the sum (1.5 x 2^23).
const EXP2_SHIFT: f32 = 12_582_912.0;

#[cfg(test)]
mod tests {
    use super::*;

    /// Widens, rounds and multiplies pairs of every BF16 pattern, and of values around each rounding edge.
    struct Check;

    impl Job for Check {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd>(self) {
            for first in (0..=u16::MAX).step_by(S::LANES) {
                let halves: [Bf16; 16] = std::array::from_fn(|lane| Bf16(first.wrapping_add(lane as u16)));
                let mut wide = [0.0_f32; 16];
                // SAFETY: a job runs inside `dispatch`; the arrays hold sixteen values.
                unsafe { S::store(wide.as_mut_ptr(), S::load_as(halves.as_ptr())) };
                for lane in 0..S::LANES {
                    assert_eq!(wide[lane].to_bits(), halves[lane].to_f32().to_bits());
                }
                for lower in [0_u32, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
                    let values: [f32; 16] = std::array::from_fn(|lane| f32::from_bits(wide[lane].to_bits() | lower));
                    let mut rounded = [Bf16::default(); 16];
                    // SAFETY: as above.
                    unsafe { S::store_as(rounded.as_mut_ptr(), S::load(values.as_ptr())) };
                    for lane in 0..S::LANES {
                        assert_eq!(rounded[lane], Bf16::from_f32(values[lane]), "{:#x}", values[lane].to_bits());
                    }
                }
            }
            Self::round_pairs::<S>();
            Self::exp2::<S>();
            // 2^8 + 1 does not fit; of a pair the odd product is added first.
            let pair = |odd: f32, even: f32| f32::from_bits(u32::from(Bf16::from_f32(odd).0) << 16 | u32::from(Bf16::from_f32(even).0));
            let (a, b) = (pair(-3.0, 2.0_f32.powi(-12)), pair(2.0_f32.powi(20), 1.0));
            let mut sums = [0.0; 16];
            // SAFETY: as above.
            unsafe {
                let result = S::dot_pairs(S::splat(3.0 * 2.0_f32.powi(20)), S::splat(a), S::splat(b));
                S::store(sums.as_mut_ptr(), result);
            }
            assert_eq!(sums[..S::LANES], [2.0_f32.powi(-12); 16][..S::LANES]);
        }
    }

    impl Check {
        /// Pairs of normal values around each rounding edge.
        #[inline(always)]
        fn round_pairs<S: Simd>() {
            for upper in (0x0080_0000..0x7f80_0000_u32).step_by(0x0013_0000) {
                for lower in [0_u32, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
                    let (even, odd) = (f32::from_bits(upper | lower), f32::from_bits(0x8001_0000 + (upper | lower)));
                    let mut pairs = [0.0; 16];
                    // SAFETY: a job runs inside `dispatch`; the array holds sixteen values.
                    unsafe { S::store(pairs.as_mut_ptr(), S::round_pairs(S::splat(even), S::splat(odd))) };
                    let expected = u32::from(Bf16::from_f32(even).0) | u32::from(Bf16::from_f32(odd).0) << 16;
                    assert!(pairs[..S::LANES].iter().all(|pair| pair.to_bits() == expected), "{even:e}, {odd:e}");
                }
            }
        }

        #[inline(always)]
        fn exp2<S: Simd>() {
            let of = |x: f32| {
                let mut lanes = [0.0; 16];
                // SAFETY: as above.
                unsafe { S::store(lanes.as_mut_ptr(), S::exp2(S::splat(x))) };
                lanes[0]
            };
            let mut x = -126.0_f32;
            while x < 126.0 {
                let (got, exact) = (of(x), f64::from(x).exp2());
                let unit = f64::from(f32::from_bits((exact as f32).to_bits() + 1)) - f64::from(exact as f32);
                assert!((f64::from(got) - exact).abs() <= 2.0 * unit, "2^{x} = {got}, not {exact}");
                x += 0.001_37;
            }
            // Integers are exact: sums are rescaled by them.
            assert_eq!(
                [-126.0, -3.0, 0.0, 1.0, 127.0].map(of),
                [-126, -3, 0, 1, 127].map(|n| 2.0_f32.powi(n))
            );
            assert!([-126.5, -1e30, f32::NEG_INFINITY].into_iter().all(|x| of(x) < f32::MIN_POSITIVE));
            assert!(of(f32::NAN).is_nan());
        }
    }

    /// Decodes every code from every place, in runs of every length.
    struct Decode;

    impl Job for Decode {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd>(self) {
            let codes: [u8; 256] = std::array::from_fn(|code| code as u8);
            for (first, count) in (0..=256 - CODES).flat_map(|first| (1..=CODES).map(move |count| (first, count))) {
                let mut values = [Bf16::default(); CODES];
                // SAFETY: a job runs inside `dispatch`; the slice holds `count` codes, the array `CODES` values.
                unsafe { S::decode_e4m3(values.as_mut_ptr(), codes[first..][..count].as_ptr(), count) };
                for (value, &code) in values.iter().zip(&codes[first..][..count]) {
                    assert_eq!(value.0, e4m3::DECODE_BF16[usize::from(code)], "code {code:#x}");
                }
            }
        }
    }

    #[test]
    fn e4m3_of_every_instruction_set() {
        for isa in Isa::available() {
            dispatch(isa, Decode);
        }
    }

    #[test]
    fn bf16_of_every_instruction_set() {
        for isa in Isa::available() {
            dispatch(isa, Check);
        }
    }
}
