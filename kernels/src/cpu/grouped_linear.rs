//! Linear layers per expert: the blocks of all experts' products in one task list, without padding.

use super::Cpu;
use super::gemm::{self, Expert, Operand, Output, Product, Size, Task};
use crate::dims::GroupedDims;
use crate::formats::Activation;
use crate::{Matrix, Write};
use rayon::prelude::*;

/// Runs every block of every product. Large blocks first would balance better; experts are balanced by training itself.
fn multiply(cpu: &Cpu, products: &[Product<'_>]) {
    // Many products balance by themselves.
    let threads = if products.len() > 4 * cpu.threads() { 1 } else { cpu.threads() };
    let tasks: Vec<(usize, Task)> = products
        .iter()
        .enumerate()
        .flat_map(|(index, product)| product.tasks(cpu.isa(), threads).map(move |task| (index, task)))
        .collect();
    cpu.pool().install(|| {
        tasks
            .into_par_iter()
            .with_max_len(1)
            .for_each(|(index, task)| gemm::run(cpu.isa(), &products[index], task));
    });
}

/// Each expert that has any rows, and their number.
fn experts(offsets: &[u32], dims: GroupedDims) -> impl Iterator<Item = (Expert, usize)> {
    let bounds = offsets[..=dims.groups].windows(2).map(|pair| (pair[0] as usize, pair[1] as usize));
    bounds
        .enumerate()
        .filter(|(_, (first, end))| end > first)
        .map(|(index, (first, end))| (Expert { index, first }, end - first))
}

/// `y[r] = x[r] w[e(r)]^T`.
pub fn forward<Y: Activation>(cpu: &Cpu, y: &mut [Y], x: Matrix<'_, Cpu>, w: Matrix<'_, Cpu>, offsets: &[u32], dims: GroupedDims) {
    dims.check_forward(cpu, y.len(), x, w, offsets.len());
    dims.check_offsets(offsets);
    let GroupedDims { input, output, .. } = dims;
    let c = Output::new(y, output);
    let products: Vec<_> = experts(offsets, dims)
        .map(|(expert, rows)| Product {
            size: Size {
                m: rows,
                n: output,
                k: input,
            },
            a: Operand::rows(x, input, expert),
            b: Operand::weights(w, (output, input), expert, false),
            c: c.skip_rows(expert.first),
            write: Write::Overwrite,
        })
        .collect();
    multiply(cpu, &products);
}

/// `dx[r] = dy[r] w[e(r)]`.
pub fn backward_input<Y: Activation>(cpu: &Cpu, dx: &mut [Y], dy: Matrix<'_, Cpu>, w: Matrix<'_, Cpu>, offsets: &[u32], dims: GroupedDims) {
    dims.check_backward_input(cpu, dx.len(), dy, w, offsets.len());
    dims.check_offsets(offsets);
    let GroupedDims { input, output, .. } = dims;
    let c = Output::new(dx, input);
    let products: Vec<_> = experts(offsets, dims)
        .map(|(expert, rows)| Product {
            size: Size {
                m: rows,
                n: input,
                k: output,
            },
            a: Operand::rows(dy, output, expert),
            b: Operand::weights(w, (output, input), expert, true),
            c: c.skip_rows(expert.first),
            write: Write::Overwrite,
        })
        .collect();
    multiply(cpu, &products);
}

/// `dw[e] += dy^T x` over the rows of e.
pub fn backward_weight(cpu: &Cpu, dw: &mut [f32], dy: Matrix<'_, Cpu>, x: Matrix<'_, Cpu>, offsets: &[u32], dims: GroupedDims) {
    dims.check_backward_weight(cpu, dw.len(), dy, x, offsets.len());
    dims.check_offsets(offsets);
    let GroupedDims { input, output, .. } = dims;
    let c = Output::new(dw, input);
    let products: Vec<_> = experts(offsets, dims)
        .map(|(expert, rows)| Product {
            size: Size {
                m: output,
                n: input,
                k: rows,
            },
            a: Operand::columns(dy, output, expert),
            b: Operand::columns(x, input, expert),
            c: c.skip_rows(expert.index * output),
            write: Write::Accumulate,
        })
        .collect();
    multiply(cpu, &products);
}
