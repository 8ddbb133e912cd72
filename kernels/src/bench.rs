//! Speed of the CPU kernels, and what the machine could do at best.
//!
//! Figures are the best of several repetitions: other work on the machine only ever adds time.

mod cases;
mod formats;
mod gemm;
mod operands;
mod product;

use crate::cpu::Cpu;
use std::time::{Duration, Instant};

pub use cases::operations;
pub use gemm::gemm;
pub use operands::Precision;
pub use product::product;

/// How long one operation is repeated.
const BUDGET: Duration = Duration::from_millis(150);
/// Fewest repetitions, whatever they take.
const REPETITIONS: usize = 3;

/// One measured operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Measurement {
    /// Operation and shape.
    pub name: String,
    /// Best time of one call.
    pub seconds: f64,
    /// Multiplications and additions per second, in units of 1e9; 0 where memory is what counts.
    pub gflops: f64,
    /// Bytes that must be read and written at least, per second, in units of 1e9.
    pub gigabytes: f64,
    /// `gflops` as a share of [`peak_flops`], or of [`peak_flops_bf16`] on BF16 operands; 0 without floating-point work.
    pub share_of_peak: f64,
}

/// Floating-point operations and bytes of one call.
#[derive(Clone, Copy, Debug)]
struct Work {
    flops: f64,
    bytes: f64,
}

/// Measures `call`.
fn measure(name: String, work: Work, peak: f64, mut call: impl FnMut()) -> Measurement {
    call(); // fills caches and workspaces
    let (start, mut best) = (Instant::now(), f64::INFINITY);
    let mut repetition = 0;
    while repetition < REPETITIONS || start.elapsed() < BUDGET {
        let before = Instant::now();
        call();
        best = best.min(before.elapsed().as_secs_f64());
        repetition += 1;
    }
    Measurement {
        name,
        seconds: best,
        gflops: work.flops / best / 1e9,
        gigabytes: work.bytes / best / 1e9,
        share_of_peak: work.flops / best / peak,
    }
}

/// Floating-point operations per second that all threads reach together on registers alone; the roof of every product of FP32.
#[must_use]
pub fn peak_flops(cpu: &Cpu) -> f64 {
    peak(|rounds| cpu.multiply_add_registers(rounds))
}

/// As [`peak_flops`], with products of BF16 values.
#[must_use]
pub fn peak_flops_bf16(cpu: &Cpu) -> f64 {
    peak(|rounds| cpu.multiply_add_pairs(rounds))
}

/// The best rate of `run`, which returns the operations of so many rounds.
fn peak(run: impl Fn(usize) -> f64) -> f64 {
    /// About 3 ms: shorter than the time that another process would take between two runs of the scheduler.
    const ROUNDS: usize = 1_000_000;
    let mut best = 0.0_f64;
    for _ in 0..40 {
        let start = Instant::now();
        let flops = run(ROUNDS);
        best = best.max(flops / start.elapsed().as_secs_f64());
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_follow_from_work_and_time() {
        let work = Work { flops: 4e9, bytes: 1e9 };
        let m = measure(String::from("sleep"), work, 8e9, || std::thread::sleep(Duration::from_millis(1)));
        assert!(m.seconds >= 1e-3);
        assert!((m.gflops * m.seconds - 4.0).abs() < 1e-9 && (m.gigabytes * m.seconds - 1.0).abs() < 1e-9);
        assert!((m.share_of_peak * 8.0 - m.gflops).abs() < 1e-9);
    }
}
