//! Output head and cross-entropy, a chunk of rows at a time: the logits of a chunk are the largest buffer there is.
//!
//! ```text
//! for each chunk of rows:
//!   logits = x head^T                                    (product, parallel over blocks)
//!   nll; logits := scale (softmax(logits) - onehot)      (parallel over rows)
//!   dx = logits head;  dhead += logits^T x               (products)
//! ```

use super::Cpu;
use super::exp::exp;
use super::gemm::{Expert, Operand, Output, Product, Size, View};
use super::linear::multiply;
use super::simd::{Job, Simd, dispatch};
use crate::dims::HeadDims;
use crate::formats::{Activation, Bf16, DataType};
use crate::{IGNORE, Matrix, Write};
use rayon::prelude::*;

/// Logits per chunk, about: 8 MiB.
const LOGITS: usize = 1 << 21;
/// Fewest rows per chunk: each chunk reads the whole head.
const ROWS: usize = 192;
/// Lanes of a reduction over the vocabulary.
const LANES: usize = 32;

/// `nll = -log softmax(x head^T)[target]`, 0 where ignored.
pub fn forward<A: Activation>(cpu: &Cpu, nll: &mut [f32], x: &Vec<A>, head: &Vec<A>, targets: &[i32], dims: HeadDims) {
    dims.check(nll.len(), x.len(), head.len(), targets.len());
    let (x, head) = (Matrix::of(x), Matrix::of(head));
    let chunk = chunk(dims);
    let mut logits = cpu.scratch(chunk * dims.vocabulary);
    for start in (0..dims.rows).step_by(chunk) {
        let rows = chunk.min(dims.rows - start);
        compute_logits(cpu, &mut logits, x, head, (start, rows), dims);
        losses(
            cpu,
            &mut nll[start..][..rows],
            &mut logits,
            &targets[start..][..rows],
            None,
            dims.vocabulary,
        );
    }
    cpu.keep_scratch(logits);
}

/// Loss and its gradient: `dlogits = scale (softmax - onehot)`, `dx = dlogits head`, `dhead += dlogits^T x`.
pub fn backward<A: Activation>(
    cpu: &Cpu,
    nll: &mut [f32],
    dx: &mut [A],
    dhead: &mut [f32],
    x: &Vec<A>,
    head: &Vec<A>,
    targets: &[i32],
    scale: f32,
    dims: HeadDims,
) {
    dims.check(nll.len(), x.len(), head.len(), targets.len());
    dims.check(nll.len(), dx.len(), dhead.len(), targets.len());
    let HeadDims { width, vocabulary, .. } = dims;
    let (x, head) = (Matrix::of(x), Matrix::of(head));
    let chunk = chunk(dims);
    let mut logits = cpu.scratch(chunk * vocabulary);
    for start in (0..dims.rows).step_by(chunk) {
        let rows = chunk.min(dims.rows - start);
        compute_logits(cpu, &mut logits, x, head, (start, rows), dims);
        losses(
            cpu,
            &mut nll[start..][..rows],
            &mut logits,
            &targets[start..][..rows],
            Some(Gradient {
                scale,
                data_type: A::DATA_TYPE,
            }),
            vocabulary,
        );
        let dx = Product {
            size: Size {
                m: rows,
                n: width,
                k: vocabulary,
            },
            a: dlogits::<A>(&logits, vocabulary, false),
            b: Operand::weights(head, (vocabulary, width), Expert::default(), true),
            c: Output::new(dx, width).skip_rows(start),
            write: Write::Overwrite,
        };
        multiply(cpu, &dx);
        let dhead = Product {
            size: Size {
                m: vocabulary,
                n: width,
                k: rows,
            },
            a: dlogits::<A>(&logits, vocabulary, true),
            b: Operand::columns(x, width, from(start)),
            c: Output::new(dhead, width),
            write: Write::Accumulate,
        };
        multiply(cpu, &dhead);
    }
    cpu.keep_scratch(logits);
}

/// Rows per chunk.
fn chunk(dims: HeadDims) -> usize {
    (LOGITS / dims.vocabulary.max(1)).max(ROWS).min(dims.rows.max(1))
}

/// Rows from `first` on.
const fn from(first: usize) -> Expert {
    Expert { index: 0, first }
}

fn compute_logits(cpu: &Cpu, logits: &mut [f32], x: Matrix<'_, Cpu>, head: Matrix<'_, Cpu>, (start, rows): (usize, usize), dims: HeadDims) {
    let HeadDims { width, vocabulary, .. } = dims;
    let product = Product {
        size: Size {
            m: rows,
            n: vocabulary,
            k: width,
        },
        a: Operand::rows(x, width, from(start)),
        b: Operand::weights(head, (vocabulary, width), Expert::default(), false),
        c: Output::new(logits, vocabulary),
        write: Write::Overwrite,
    };
    multiply(cpu, &product);
}

/// The gradient of the logits that [`losses`] has left: rows, or `transposed` columns, summed along the other dimension. BF16 takes the
/// first half of each row's memory.
fn dlogits<A: Activation>(logits: &[f32], vocabulary: usize, transposed: bool) -> Operand<'_> {
    match (A::DATA_TYPE, transposed) {
        (DataType::F32, false) => Operand::F32(View::rows(logits, vocabulary)),
        (DataType::F32, true) => Operand::F32(View::transposed(logits, vocabulary)),
        (DataType::Bf16, false) => Operand::Bf16(View::rows(bytemuck::cast_slice(logits), 2 * vocabulary)),
        (DataType::Bf16, true) => Operand::Bf16(View::transposed(bytemuck::cast_slice(logits), 2 * vocabulary)),
    }
}

/// What becomes of the logits.
#[derive(Clone, Copy)]
struct Gradient {
    /// Factor of the loss.
    scale: f32,
    /// Type of the result.
    data_type: DataType,
}

/// Losses of a chunk's rows; if a gradient is asked for, the logits become it.
fn losses(cpu: &Cpu, nll: &mut [f32], logits: &mut [f32], targets: &[i32], gradient: Option<Gradient>, vocabulary: usize) {
    cpu.pool().install(|| {
        nll.par_iter_mut()
            .zip(logits.par_chunks_mut(vocabulary.max(1)))
            .zip(targets)
            .with_min_len(4)
            .for_each(|((nll, logits), &target)| {
                if target == IGNORE {
                    *nll = 0.0;
                    logits.fill(0.0);
                    return;
                }
                let target = usize::try_from(target).ok().filter(|&index| index < vocabulary);
                let target = target.unwrap_or_else(|| panic!("a target is outside the vocabulary of {vocabulary}"));
                let scale = gradient.map(|gradient| gradient.scale);
                *nll = dispatch(cpu.isa(), Row { logits, target, scale });
                if gradient.is_some_and(|gradient| gradient.data_type == DataType::Bf16) {
                    dispatch(cpu.isa(), Narrow { row: logits });
                }
            });
    });
}

struct Row<'a> {
    logits: &'a mut [f32],
    target: usize,
    scale: Option<f32>,
}

impl Job for Row<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self) -> f32 {
        let mut largest = [f32::NEG_INFINITY; LANES];
        for chunk in self.logits.chunks(LANES) {
            for (largest, &logit) in largest.iter_mut().zip(chunk) {
                *largest = if logit > *largest { logit } else { *largest };
            }
        }
        let largest = largest.into_iter().fold(f32::NEG_INFINITY, f32::max);
        let at_target = self.logits[self.target];
        let mut sums = [0.0_f32; LANES];
        for chunk in self.logits.chunks_mut(LANES) {
            for (sum, logit) in sums.iter_mut().zip(chunk) {
                *logit = exp(*logit - largest);
                *sum += *logit;
            }
        }
        let sum = sums.iter().map(|&sum| f64::from(sum)).sum::<f64>();
        if let Some(scale) = self.scale {
            let factor = (f64::from(scale) / sum) as f32;
            for logit in self.logits.iter_mut() {
                *logit *= factor;
            }
            self.logits[self.target] -= scale;
        }
        (sum.ln() + f64::from(largest) - f64::from(at_target)) as f32
    }
}

/// Rounds a row to BF16, in the first half of its memory.
struct Narrow<'a> {
    row: &'a mut [f32],
}

impl Job for Narrow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let len = self.row.len();
        let halves: &mut [Bf16] = bytemuck::cast_slice_mut(self.row);
        for start in (0..len).step_by(LANES) {
            let count = LANES.min(len - start);
            let mut values = [0.0_f32; LANES];
            values[..count].copy_from_slice(bytemuck::cast_slice(&halves[2 * start..][..2 * count]));
            // What is written has been read: the rounded values end where the read ones do or before.
            for (half, value) in halves[start..][..count].iter_mut().zip(values) {
                *half = Bf16::from_f32(value);
            }
        }
    }
}
