//! Multiply-adds on registers alone: of FP32 values, and of pairs of BF16 values.

use super::Cpu;
use super::simd::{Job, Simd, dispatch};
use std::hint::black_box;

/// Independent accumulators: latency 4 times 2 units needs 8; 12 leave room for the two operands in 16 registers.
const CHAINS: usize = 12;

/// So many rounds; of pairs if `PAIRS`.
struct Chains<const PAIRS: bool>(usize);

impl<const PAIRS: bool> Job for Chains<PAIRS> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self) -> f32 {
        // SAFETY: a job runs inside `dispatch`.
        unsafe {
            // Hidden from the optimiser, and different, or it would fold the chains into one.
            let (a, b) = (S::splat(black_box(0.999)), S::splat(black_box(0.001)));
            let mut sums = [S::splat(0.0); CHAINS];
            for (index, sum) in sums.iter_mut().enumerate() {
                *sum = S::splat(black_box(index as f32));
            }
            for _ in 0..self.0 {
                for sum in &mut sums {
                    *sum = if PAIRS { S::dot_pairs(*sum, a, b) } else { S::fma(*sum, a, b) };
                }
            }
            let mut total = sums[0];
            for &sum in &sums[1..] {
                total = S::add(total, sum);
            }
            S::sum(total)
        }
    }
}

/// Runs `count` rounds on every thread; returns the floating-point operations done.
pub fn run<const PAIRS: bool>(cpu: &Cpu, count: usize) -> f64 {
    struct Lanes;
    impl Job for Lanes {
        type Output = usize;
        #[inline(always)]
        fn run<S: Simd>(self) -> usize {
            S::LANES
        }
    }
    #[cfg(target_arch = "x86_64")]
    if PAIRS && cpu.isa().has_tiles() {
        use super::simd::amx;
        // A round takes 64 cycles, some ten times as long as one of vectors.
        let count = count.div_ceil(10);
        let threads = cpu.pool().broadcast(|_| {
            // SAFETY: the instruction set is proof of the tiles.
            unsafe {
                amx::configure();
                amx::multiply_registers(count);
                amx::release();
            }
        });
        return (threads.len() * count * amx::ROUND_FLOPS) as f64;
    }
    let results = cpu.pool().broadcast(|_| black_box(dispatch(cpu.isa(), Chains::<PAIRS>(count))));
    let each = if PAIRS { 4.0 } else { 2.0 };
    each * (results.len() * count * CHAINS * dispatch(cpu.isa(), Lanes)) as f64
}
