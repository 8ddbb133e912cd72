//! Linear layers per expert: the blocks of all experts' products side by side, without padding.

use super::Cpu;
use super::gemm::{Expert, Operand, Output, Product, Size};
use super::linear::run;
use crate::dims::GroupedDims;
use crate::formats::Activation;
use crate::{Matrix, Write};
use rayon::prelude::*;

/// Runs the product of each expert that has any rows, which `product` makes of the expert and their number. Large ones first would balance better;
/// experts are balanced by training itself.
fn multiply<'a>(cpu: &Cpu, offsets: &[u32], dims: GroupedDims, product: impl Fn(Expert, usize) -> Product<'a> + Sync) {
    // Many products balance by themselves.
    let threads = if dims.groups > 4 * cpu.threads() { 1 } else { cpu.threads() };
    cpu.pool().install(|| {
        (0..dims.groups).into_par_iter().with_max_len(1).for_each(|index| {
            let (first, end) = (offsets[index] as usize, offsets[index + 1] as usize);
            if end > first {
                let product = product(Expert { index, first }, end - first);
                run(cpu, &product, product.grid(cpu.isa(), threads));
            }
        });
    });
}

/// `y[r] = x[r] w[e(r)]^T`.
pub fn forward<Y: Activation>(cpu: &Cpu, y: &mut [Y], x: Matrix<'_, Cpu>, w: Matrix<'_, Cpu>, offsets: &[u32], dims: GroupedDims) {
    dims.check_forward(cpu, y.len(), x, w, offsets.len());
    dims.check_offsets(offsets);
    let GroupedDims { input, output, .. } = dims;
    let c = Output::new(y, output);
    multiply(cpu, offsets, dims, |expert, rows| Product {
        size: Size {
            m: rows,
            n: output,
            k: input,
        },
        a: Operand::rows(x, input, expert),
        b: Operand::weights(w, (output, input), expert, false),
        c: c.skip_rows(expert.first),
        write: Write::Overwrite,
    });
}

/// `dx[r] = dy[r] w[e(r)]`.
pub fn backward_input<Y: Activation>(cpu: &Cpu, dx: &mut [Y], dy: Matrix<'_, Cpu>, w: Matrix<'_, Cpu>, offsets: &[u32], dims: GroupedDims) {
    dims.check_backward_input(cpu, dx.len(), dy, w, offsets.len());
    dims.check_offsets(offsets);
    let GroupedDims { input, output, .. } = dims;
    let c = Output::new(dx, input);
    multiply(cpu, offsets, dims, |expert, rows| Product {
        size: Size {
            m: rows,
            n: input,
            k: output,
        },
        a: Operand::rows(dy, output, expert),
        b: Operand::weights(w, (output, input), expert, true),
        c: c.skip_rows(expert.first),
        write: Write::Overwrite,
    });
}

/// `dw[e] += dy^T x` over the rows of e.
pub fn backward_weight(cpu: &Cpu, dw: &mut [f32], dy: Matrix<'_, Cpu>, x: Matrix<'_, Cpu>, offsets: &[u32], dims: GroupedDims) {
    dims.check_backward_weight(cpu, dw.len(), dy, x, offsets.len());
    dims.check_offsets(offsets);
    let GroupedDims { input, output, .. } = dims;
    let c = Output::new(dw, input);
    multiply(cpu, offsets, dims, |expert, rows| Product {
        size: Size {
            m: output,
            n: input,
            k: rows,
        },
        a: Operand::columns(dy, output, expert),
        b: Operand::columns(x, input, expert),
        c: c.skip_rows(expert.index * output),
        write: Write::Accumulate,
    });
}
