//! Linear layers per expert: the blocks of all experts' products in one task list, without padding.

use super::Cpu;
use super::gemm::{self, Output, Product, Size, Task, View};
use crate::Write;
use crate::dims::GroupedDims;
use rayon::prelude::*;

/// Runs every block of every product. Large blocks first would balance better; experts are balanced by training itself.
fn multiply(cpu: &Cpu, products: &[Product<'_>]) {
    // Many products balance by themselves.
    let threads = if products.len() > 4 * cpu.threads() { 1 } else { cpu.threads() };
    let tasks: Vec<(usize, Task)> = products
        .iter()
        .enumerate()
        .flat_map(|(index, product)| gemm::tasks(product.size, threads).map(move |task| (index, task)))
        .collect();
    cpu.pool().install(|| {
        tasks
            .into_par_iter()
            .with_max_len(1)
            .for_each(|(index, task)| gemm::run(cpu.isa(), &products[index], task));
    });
}

/// Expert, first row and number of rows of each group that has any.
fn groups(offsets: &[u32], dims: GroupedDims) -> impl Iterator<Item = (usize, usize, usize)> {
    let bounds = offsets[..=dims.groups].windows(2).map(|pair| (pair[0] as usize, pair[1] as usize));
    bounds
        .enumerate()
        .filter(|(_, (start, end))| end > start)
        .map(|(group, (start, end))| (group, start, end - start))
}

/// `y[r] = x[r] w[e(r)]^T`.
pub fn forward(cpu: &Cpu, y: &mut [f32], x: &[f32], w: &[f32], offsets: &[u32], dims: GroupedDims) {
    dims.check(y.len(), x.len(), w.len(), offsets.len());
    dims.check_offsets(offsets);
    let GroupedDims { input, output, .. } = dims;
    let c = Output::new(y, output);
    let products: Vec<_> = groups(offsets, dims)
        .map(|(group, start, rows)| Product {
            size: Size {
                m: rows,
                n: output,
                k: input,
            },
            a: View::rows(x, input).skip_rows(start),
            b: View::transposed(&w[group * output * input..][..output * input], input),
            c: c.skip_rows(start),
            write: Write::Overwrite,
        })
        .collect();
    multiply(cpu, &products);
}

/// `dx[r] = dy[r] w[e(r)]`.
pub fn backward_input(cpu: &Cpu, dx: &mut [f32], dy: &[f32], w: &[f32], offsets: &[u32], dims: GroupedDims) {
    dims.check(dy.len(), dx.len(), w.len(), offsets.len());
    dims.check_offsets(offsets);
    let GroupedDims { input, output, .. } = dims;
    let c = Output::new(dx, input);
    let products: Vec<_> = groups(offsets, dims)
        .map(|(group, start, rows)| Product {
            size: Size {
                m: rows,
                n: input,
                k: output,
            },
            a: View::rows(dy, output).skip_rows(start),
            b: View::rows(&w[group * output * input..][..output * input], input),
            c: c.skip_rows(start),
            write: Write::Overwrite,
        })
        .collect();
    multiply(cpu, &products);
}

/// `dw[e] += dy^T x` over the rows of e.
pub fn backward_weight(cpu: &Cpu, dw: &mut [f32], dy: &[f32], x: &[f32], offsets: &[u32], dims: GroupedDims) {
    dims.check(dy.len(), x.len(), dw.len(), offsets.len());
    dims.check_offsets(offsets);
    let GroupedDims { input, output, .. } = dims;
    let c = Output::new(dw, input);
    let products: Vec<_> = groups(offsets, dims)
        .map(|(group, start, rows)| Product {
            size: Size {
                m: output,
                n: input,
                k: rows,
            },
            a: View::transposed(dy, output).skip_columns(start),
            b: View::rows(x, input).skip_rows(start),
            c: c.skip_rows(group * output),
            write: Write::Accumulate,
        })
        .collect();
    multiply(cpu, &products);
}
