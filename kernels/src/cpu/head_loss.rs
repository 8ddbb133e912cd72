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
use super::gemm::{Output, Product, Size, View};
use super::linear::multiply;
use super::simd::{Job, Simd, dispatch};
use crate::dims::HeadDims;
use crate::{IGNORE, Write};
use rayon::prelude::*;

/// Logits per chunk, about: 8 MiB.
const LOGITS: usize = 1 << 21;
/// Fewest rows per chunk: each chunk reads the whole head.
const ROWS: usize = 192;
/// Lanes of a reduction over the vocabulary.
const LANES: usize = 32;

/// `nll = -log softmax(x head^T)[target]`, 0 where ignored.
pub fn forward(cpu: &Cpu, nll: &mut [f32], x: &[f32], head: &[f32], targets: &[i32], dims: HeadDims) {
    dims.check(nll.len(), x.len(), head.len(), targets.len());
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
pub fn backward(
    cpu: &Cpu,
    nll: &mut [f32],
    dx: &mut [f32],
    dhead: &mut [f32],
    x: &[f32],
    head: &[f32],
    targets: &[i32],
    scale: f32,
    dims: HeadDims,
) {
    dims.check(nll.len(), x.len(), head.len(), targets.len());
    dims.check(nll.len(), dx.len(), dhead.len(), targets.len());
    let HeadDims { width, vocabulary, .. } = dims;
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
            Some(scale),
            vocabulary,
        );
        let dx = Product {
            size: Size {
                m: rows,
                n: width,
                k: vocabulary,
            },
            a: View::rows(&logits, vocabulary),
            b: View::rows(head, width),
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
            a: View::transposed(&logits, vocabulary),
            b: View::rows(x, width).skip_rows(start),
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

fn compute_logits(cpu: &Cpu, logits: &mut [f32], x: &[f32], head: &[f32], (start, rows): (usize, usize), dims: HeadDims) {
    let HeadDims { width, vocabulary, .. } = dims;
    let product = Product {
        size: Size {
            m: rows,
            n: vocabulary,
            k: width,
        },
        a: View::rows(x, width).skip_rows(start),
        b: View::transposed(head, width),
        c: Output::new(logits, vocabulary),
        write: Write::Overwrite,
    };
    multiply(cpu, &product);
}

/// Losses of a chunk's rows; with a scale, the logits become their gradient.
fn losses(cpu: &Cpu, nll: &mut [f32], logits: &mut [f32], targets: &[i32], scale: Option<f32>, vocabulary: usize) {
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
                *nll = dispatch(cpu.isa(), Row { logits, target, scale });
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
