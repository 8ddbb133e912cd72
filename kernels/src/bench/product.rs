//! One matrix product of any shape.

use super::{Measurement, Work, measure, peak_flops};
use crate::cpu::Cpu;
use crate::dims::LinearDims;
use crate::{Kernels, Write};

/// `y[m, n] = x[m, k] w[n, k]^T` in f32.
#[must_use]
pub fn product(cpu: &Cpu, m: usize, n: usize, k: usize) -> Measurement {
    let filled = |len: usize| {
        let mut buffer = cpu.zeros::<f32>(len);
        cpu.fill(&mut buffer, 0.5);
        buffer
    };
    let (x, w, mut y) = (filled(m * k), filled(n * k), cpu.zeros::<f32>(m * n));
    let work = Work {
        flops: 2.0 * (m * n * k) as f64,
        bytes: 4.0 * (m * k + n * k + m * n) as f64,
    };
    let dims = LinearDims {
        rows: m,
        input: k,
        output: n,
    };
    measure(format!("gemm f32 {m}x{n}x{k}"), work, peak_flops(cpu), || {
        cpu.linear_forward(&mut y, &x, &w, dims, Write::Overwrite);
    })
}
