//! Linear layers: three products each.

use super::Cpu;
use super::gemm::{self, Output, Product, Size, View};
use crate::Write;
use crate::dims::LinearDims;
use rayon::prelude::*;

/// Runs the blocks of one product on all threads.
pub fn multiply(cpu: &Cpu, product: &Product<'_>) {
    let tasks: Vec<_> = gemm::tasks(product.size, cpu.threads()).collect();
    cpu.pool().install(|| {
        tasks
            .into_par_iter()
            .with_max_len(1)
            .for_each(|task| gemm::run(cpu.isa(), product, task));
    });
}

/// `y (=|+=) x w^T`.
pub fn forward(cpu: &Cpu, y: &mut [f32], x: &[f32], w: &[f32], dims: LinearDims, write: Write) {
    dims.check(y.len(), x.len(), w.len());
    let LinearDims { rows, input, output } = dims;
    let c = Output::new(y, output);
    multiply(
        cpu,
        &Product {
            size: Size {
                m: rows,
                n: output,
                k: input,
            },
            a: View::rows(x, input),
            b: View::transposed(w, input),
            c,
            write,
        },
    );
}

/// `dx (=|+=) dy w`.
pub fn backward_input(cpu: &Cpu, dx: &mut [f32], dy: &[f32], w: &[f32], dims: LinearDims, write: Write) {
    dims.check(dy.len(), dx.len(), w.len());
    let LinearDims { rows, input, output } = dims;
    let c = Output::new(dx, input);
    multiply(
        cpu,
        &Product {
            size: Size {
                m: rows,
                n: input,
                k: output,
            },
            a: View::rows(dy, output),
            b: View::rows(w, input),
            c,
            write,
        },
    );
}

/// `dw += dy^T x`.
pub fn backward_weight(cpu: &Cpu, dw: &mut [f32], dy: &[f32], x: &[f32], dims: LinearDims) {
    dims.check(dy.len(), x.len(), dw.len());
    let LinearDims { rows, input, output } = dims;
    let c = Output::new(dw, input);
    multiply(
        cpu,
        &Product {
            size: Size {
                m: output,
                n: input,
                k: rows,
            },
            a: View::transposed(dy, output),
            b: View::rows(x, input),
            c,
            write: Write::Accumulate,
        },
    );
}
