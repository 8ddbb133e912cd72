//! A tiny vector trait, its instruction sets and their detection.
//!
//! Algorithms are written once, generic over [`Simd`], and instantiated per instruction set by [`dispatch`], which enters a function
//! compiled with that set's target features. Everything between the entry and the intrinsics is `#[inline(always)]`, so that the whole
//! loop is compiled with those features.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

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

    /// The widest set of this machine.
    #[must_use]
    pub fn best() -> Self {
        Self::avx512().or_else(Self::avx2).unwrap_or(Self::PORTABLE)
    }

    /// All sets of this machine, the portable one first.
    #[must_use]
    pub fn available() -> Vec<Self> {
        [Some(Self::PORTABLE), Self::avx2(), Self::avx512()].into_iter().flatten().collect()
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
    /// A vector.
    type V: Copy;
    /// All lanes `value`.
    unsafe fn splat(value: f32) -> Self::V;
    /// `LANES` values from `pointer`.
    unsafe fn load(pointer: *const f32) -> Self::V;
    /// `LANES` values to `pointer`.
    unsafe fn store(pointer: *mut f32, v: Self::V);
    /// `a + b`.
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`; one rounding where the set has FMA, two in portable code.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
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
    type V = [f32; 8];
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
    portable! {
        add(a, b) = |a: f32, b: f32| a + b;
        fma(a, b, c) = |a: f32, b: f32, c: f32| a * b + c;
    }
}

/// AVX2 with FMA.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub struct Avx2;

/// AVX-512 (F).
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub struct Avx512;

#[cfg(target_arch = "x86_64")]
macro_rules! x86 {
    ($set:ident, $vector:ty, $lanes:literal, $rows:literal, $($name:ident($($argument:ident),+) = $call:expr;)+) => {
        impl Simd for $set {
            const LANES: usize = $lanes;
            const GEMM_ROWS: usize = $rows;
            type V = $vector;
            x86!(@splat $set);
            $(
                #[inline(always)]
                unsafe fn $name($($argument: Self::V),+) -> Self::V {
                    // SAFETY: the caller guarantees the instruction set.
                    unsafe { $call }
                }
            )+
        }
    };
    (@splat Avx2) => {
        #[inline(always)]
        unsafe fn splat(value: f32) -> Self::V {
            // SAFETY: the caller guarantees the instruction set.
            unsafe { _mm256_set1_ps(value) }
        }
        #[inline(always)]
        unsafe fn load(pointer: *const f32) -> Self::V {
            // SAFETY: the caller guarantees the instruction set and eight values.
            unsafe { _mm256_loadu_ps(pointer) }
        }
        #[inline(always)]
        unsafe fn store(pointer: *mut f32, v: Self::V) {
            // SAFETY: as for `load`.
            unsafe { _mm256_storeu_ps(pointer, v) }
        }
    };
    (@splat Avx512) => {
        #[inline(always)]
        unsafe fn splat(value: f32) -> Self::V {
            // SAFETY: the caller guarantees the instruction set.
            unsafe { _mm512_set1_ps(value) }
        }
        #[inline(always)]
        unsafe fn load(pointer: *const f32) -> Self::V {
            // SAFETY: the caller guarantees the instruction set and sixteen values.
            unsafe { _mm512_loadu_ps(pointer) }
        }
        #[inline(always)]
        unsafe fn store(pointer: *mut f32, v: Self::V) {
            // SAFETY: as for `load`.
            unsafe { _mm512_storeu_ps(pointer, v) }
        }
    };
}

// Register tiles: 6 x 16 with 16 ymm registers, 12 x 32 with 32 zmm registers (two vectors per row in both).
#[cfg(target_arch = "x86_64")]
x86! { Avx2, __m256, 8, 6,
    add(a, b) = _mm256_add_ps(a, b);
    fma(a, b, c) = _mm256_fmadd_ps(a, b, c);
}

#[cfg(target_arch = "x86_64")]
x86! { Avx512, __m512, 16, 12,
    add(a, b) = _mm512_add_ps(a, b);
    fma(a, b, c) = _mm512_fmadd_ps(a, b, c);
}
