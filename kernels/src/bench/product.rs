//! One matrix product of any shape.

use super::cases::values;
use super::operands::{Held, Precision};
use super::{Measurement, Work, measure, peak_flops, peak_flops_bf16};
use crate::cpu::Cpu;
use crate::dims::LinearDims;
use crate::formats::{Activation, Bf16, Grouping};
use crate::{Kernels, Write};

/// `y[m, n] = x[m, k] w[n, k]^T`, with the output as large as activations of the precision.
#[must_use]
pub fn product(cpu: &Cpu, precision: Precision, m: usize, n: usize, k: usize) -> Measurement {
    match precision {
        Precision::F32 => product_as::<f32>(cpu, precision, (m, n, k), peak_flops(cpu)),
        Precision::Bf16 | Precision::Fp8 => product_as::<Bf16>(cpu, precision, (m, n, k), peak_flops_bf16(cpu)),
    }
}

fn product_as<Y: Activation>(cpu: &Cpu, precision: Precision, (m, n, k): (usize, usize, usize), peak: f64) -> Measurement {
    let x = Held::new(cpu, &values(cpu, m * k), (m, k), Grouping::Row, precision);
    let w = Held::new(cpu, &values(cpu, n * k), (n, k), Grouping::Block, precision);
    let mut y = cpu.zeros::<Y>(m * n);
    let work = Work {
        flops: 2.0 * (m * n * k) as f64,
        bytes: precision.operand_bytes() * (m * k + n * k) as f64 + precision.activation_bytes() * (m * n) as f64,
    };
    let dims = LinearDims {
        rows: m,
        input: k,
        output: n,
    };
    measure(format!("gemm {precision} {m}x{n}x{k}"), work, peak, || {
        cpu.linear_forward(&mut y, x.matrix(), w.matrix(), dims, Write::Overwrite);
    })
}
