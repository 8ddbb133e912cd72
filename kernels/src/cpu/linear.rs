//! Linear layer: forward, gradient of the input, gradient of the weight, all on one product.

use super::Cpu;
use super::gemm::{self, Expert, Grid, Operand, Output, Product, Size};
use crate::dims::LinearDims;
use crate::formats::Activation;
use crate::{Matrix, Write};
use rayon::prelude::*;

/// Runs the blocks of one product on all threads.
pub fn multiply(cpu: &Cpu, product: &Product<'_>) {
    cpu.pool().install(|| run(cpu, product, product.grid(cpu.isa(), cpu.threads())));
}

/// Runs the blocks of a grid; on the pool's threads.
pub fn run(cpu: &Cpu, product: &Product<'_>, grid: Grid) {
    let blocks = (0..grid.len()).into_par_iter().with_max_len(1);
    blocks.for_each(|index| gemm::run(cpu.isa(), product, grid.task(index)));
}

/// `y (=|+=) x w^T`.
pub fn forward<Y: Activation>(cpu: &Cpu, y: &mut [Y], x: Matrix<'_, Cpu>, w: Matrix<'_, Cpu>, dims: LinearDims, write: Write) {
    dims.check_forward(cpu, y.len(), x, w);
    let LinearDims { rows, input, output } = dims;
    let all = Expert::default();
    let product = Product {
        size: Size {
            m: rows,
            n: output,
            k: input,
        },
        a: Operand::rows(x, input, all),
        b: Operand::weights(w, (output, input), all, false),
        c: Output::new(y, output),
        write,
    };
    multiply(cpu, &product);
}

/// `dx (=|+=) dy w`.
pub fn backward_input<Y: Activation>(cpu: &Cpu, dx: &mut [Y], dy: Matrix<'_, Cpu>, w: Matrix<'_, Cpu>, dims: LinearDims, write: Write) {
    dims.check_backward_input(cpu, dx.len(), dy, w);
    let LinearDims { rows, input, output } = dims;
    let all = Expert::default();
    let product = Product {
        size: Size {
            m: rows,
            n: input,
            k: output,
        },
        a: Operand::rows(dy, output, all),
        b: Operand::weights(w, (output, input), all, true),
        c: Output::new(dx, input),
        write,
    };
    multiply(cpu, &product);
}

/// `dw += dy^T x`.
pub fn backward_weight(cpu: &Cpu, dw: &mut [f32], dy: Matrix<'_, Cpu>, x: Matrix<'_, Cpu>, dims: LinearDims) {
    dims.check_backward_weight(cpu, dw.len(), dy, x);
    let LinearDims { rows, input, output } = dims;
    let all = Expert::default();
    let product = Product {
        size: Size {
            m: output,
            n: input,
            k: rows,
        },
        a: Operand::columns(dy, output, all),
        b: Operand::columns(x, input, all),
        c: Output::new(dw, input),
        write: Write::Accumulate,
    };
    multiply(cpu, &product);
}
