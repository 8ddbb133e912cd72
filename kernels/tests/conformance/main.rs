//! Every backend and instruction set of this machine, every operation, one table of shapes, against the reference.

mod compositions;
mod draw;
mod formats;
mod operations;
mod products;

use draw::Draw;
use fathom_kernels::compare::{bound, scaled_error};
use fathom_kernels::cpu::simd::Isa;
use fathom_kernels::dims::*;
use fathom_kernels::formats::{Bf16, DataType};
use fathom_kernels::{Cpu, Kernels, Matrix, Reference, Write};
use operations::{Average, Memory, Of, Operation, Optimizer, Output};
use products::{GroupedLinear, HeadLoss, Linear, Operands};
use proptest::prelude::*;
use std::marker::PhantomData;
use std::sync::LazyLock;

static BACKENDS: LazyLock<Vec<Cpu>> = LazyLock::new(|| Isa::available().into_iter().map(|isa| Cpu::with_isa(2, isa)).collect());
static THREADS: LazyLock<Vec<Cpu>> = LazyLock::new(|| [1, 2, 3].map(Cpu::new).into_iter().collect());

/// Bounds on the scaled error of each element and on its mean.
///
/// Two values that differ by rounding errors in FP32 are rounded to BF16 values that are at most a unit in the last place more apart, one that
/// the FP32 error predicts on average: any second rounding to BF16 would show in the mean. A few elements prove little about the mean.
fn bounds(output: &Output) -> (f64, f64) {
    /// Unit in the last place of a BF16 value, relative to the value, at most.
    const UNIT: f64 = 1.0 / 128.0;
    // No arithmetic, or arithmetic in a prescribed order: no error.
    let bound = if output.length == 0 { 0.0 } else { bound(output.length) };
    match output.rounded {
        _ if output.length == 0 => (0.0, 0.0),
        DataType::F32 => (bound + output.rounding, bound + output.rounding),
        DataType::Bf16 => {
            let units = UNIT * output.units;
            let each = bound + units + output.rounding;
            (each, bound + output.rounding + 2.0 * units / output.values.len().max(1) as f64)
        }
    }
}

/// Mean of [`scaled_error`] over the elements.
fn mean_error(actual: &[f32], expected: &[f32]) -> f64 {
    let squares: f64 = expected.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    let count = expected.len().max(1) as f64;
    let scale = if squares > 0.0 { (squares / count).sqrt() } else { 1.0 };
    let error = |(&a, &b): (&f32, &f32)| (f64::from(a) - f64::from(b)).abs() / (scale + f64::from(b).abs());
    actual.iter().zip(expected).map(error).sum::<f64>() / count
}

/// As [`check`], for each type of activations.
fn check_activations<O: Copy>(operation: O, seed: u64)
where
    Of<f32, O>: Operation,
    Of<Bf16, O>: Operation,
{
    check(&Of::<f32, O>::new(operation), seed);
    check(&Of::<Bf16, O>::new(operation), seed);
}

/// Compares every backend with the reference, and thread counts with each other.
fn check<O: Operation>(operation: &O, seed: u64) {
    let mut expected = Vec::new();
    let mut order = None;
    for cpu in BACKENDS.iter() {
        let sum_order = cpu.isa().sum_order();
        if order.replace(sum_order) != Some(sum_order) {
            expected = operation.run(&Reference { sum_order }, &mut Draw::new(seed));
        }
        for (actual, expected) in operation.run(cpu, &mut Draw::new(seed)).iter().zip(&expected) {
            let label = || format!("{} of {} on {}", expected.name, operation.name(), cpu.isa().name());
            let error = scaled_error(&actual.values, &expected.values);
            let (each, mean) = bounds(expected);
            assert!(error <= each, "{}: {error:e} > {each:e}", label());
            // Values that are compared bit for bit may be infinite.
            let error = if each == 0.0 {
                0.0
            } else {
                mean_error(&actual.values, &expected.values)
            };
            assert!(error <= mean, "{}: on average {error:e} > {mean:e}", label());
        }
    }
    let runs: Vec<_> = THREADS.iter().map(|cpu| operation.run(cpu, &mut Draw::new(seed))).collect();
    for (cpu, run) in THREADS.iter().zip(&runs) {
        for (a, b) in run.iter().zip(&runs[0]) {
            let same = a.values.iter().zip(&b.values).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{} of {} differs on {} threads", a.name, operation.name(), cpu.threads());
        }
    }
}

/// Sizes around every tile, vector and chunk edge: none, one, primes, powers of two.
const EDGES: [usize; 9] = [0, 1, 2, 7, 16, 17, 31, 64, 97];

#[test]
fn memory() {
    for len in EDGES.into_iter().chain([16_384, 16_385, 50_021]) {
        check_activations(Memory(len), 1);
    }
}

#[test]
fn embedding() {
    for (rows, width, vocabulary) in [(0, 4, 3), (1, 1, 1), (7, 33, 2), (200, 64, 5), (131, 97, 1009)] {
        check_activations(EmbeddingDims { rows, width, vocabulary }, 2);
    }
}

#[test]
fn rmsnorm() {
    for rows in [0, 1, 63, 64, 65, 131] {
        for width in [1, 7, 16, 64, 97] {
            check_activations(RmsNormDims::dense(rows, width, 1e-6), 3);
        }
    }
    let (x, y) = (Columns { stride: 80, offset: 3 }, Columns { stride: 40, offset: 5 });
    check_activations(
        RmsNormDims {
            rows: 67,
            width: 31,
            x,
            y,
            epsilon: 1e-6,
        },
        3,
    );
}

const OPERANDS: [Operands; 5] = [Operands::F32, Operands::Bf16, Operands::Mixed, Operands::MixedOther, Operands::E4m3];

fn check_linear(dims: LinearDims, seed: u64) {
    for operands in OPERANDS {
        check(&Linear::<f32>(dims, operands, PhantomData), seed);
        check(&Linear::<Bf16>(dims, operands, PhantomData), seed);
    }
}

fn check_grouped_linear(dims: GroupedDims, seed: u64) {
    for operands in OPERANDS {
        check(&GroupedLinear::<f32>(dims, operands, PhantomData), seed);
        check(&GroupedLinear::<Bf16>(dims, operands, PhantomData), seed);
    }
}

#[test]
fn linear() {
    for rows in EDGES {
        for (input, output) in [(1, 1), (7, 31), (16, 32), (17, 97), (64, 16), (97, 64)] {
            check_linear(LinearDims { rows, input, output }, 4);
        }
    }
    for (rows, input, output) in [(13, 0, 5), (13, 5, 0), (3, 1031, 7), (1031, 5, 3), (7, 3, 1031)] {
        check_linear(LinearDims { rows, input, output }, 4);
    }
}

/// Several slices of K, several blocks of C, tiles and blocks of scales with a rest.
#[test]
fn large_linear() {
    for (rows, input, output) in [(509, 263, 521), (130, 2309, 131)] {
        check_linear(LinearDims { rows, input, output }, 4);
    }
}

#[test]
fn grouped_linear() {
    for (rows, groups, input, output) in [
        (0, 3, 4, 5),
        (1, 1, 1, 1),
        (5, 16, 7, 9),
        (300, 5, 33, 64),
        (517, 16, 96, 48),
        (600, 4, 64, 257),
    ] {
        check_grouped_linear(
            GroupedDims {
                rows,
                groups,
                input,
                output,
            },
            5,
        );
    }
}

#[test]
#[should_panic(expected = "whether the operands of a product are E4M3: both or neither")]
fn e4m3_beside_another_type_is_refused() {
    let (codes, scales, w, mut y) = (vec![0; 6], vec![1.0; 2], vec![0.0; 6], vec![0.0; 4]);
    let dims = LinearDims {
        rows: 2,
        input: 3,
        output: 2,
    };
    let x = Matrix::E4m3 {
        codes: &codes,
        scales: &scales,
    };
    THREADS[0].linear_forward(&mut y, x, (&w).into(), dims, Write::Overwrite);
}

#[test]
fn rope() {
    for (rows, length, heads, rotary) in [(0, 4, 2, 4), (1, 1, 1, 2), (12, 4, 3, 6), (130, 65, 2, 16), (10, 5, 1, 0)] {
        let dims = RopeDims {
            rows,
            length,
            heads,
            row_stride: heads * (rotary + 5) + 3,
            head_stride: rotary + 5,
            offset: 2,
            rotary,
        };
        check_activations(dims, 6);
    }
}

#[test]
fn attention() {
    for (sequences, length, heads, nope, rope, value) in [
        (0, 4, 2, 4, 2, 4),
        (2, 0, 2, 4, 2, 4),
        (1, 1, 1, 1, 2, 1),
        (3, 1, 2, 16, 8, 16),
        (2, 7, 3, 5, 2, 3),
        (1, 31, 2, 16, 0, 32),
        (2, 33, 2, 32, 16, 32),
        (1, 97, 3, 17, 6, 40),
        (1, 300, 1, 24, 8, 20),
    ] {
        let scale = 1.0 / ((nope + rope) as f32).sqrt();
        check_activations(
            AttentionDims {
                sequences,
                length,
                heads,
                nope,
                rope,
                value,
                kv_rank: 5,
                scale,
            },
            7,
        );
    }
}

#[test]
fn swiglu() {
    for (rows, width) in [(0, 4), (1, 1), (31, 7), (32, 64), (97, 33)] {
        check_activations(SwigluDims { rows, width }, 8);
    }
}

#[test]
fn route() {
    for (sequences, length) in [(0, 4), (1, 1), (3, 1), (2, 67)] {
        for (experts, top_k, groups, kept_groups) in [
            (1, 1, 1, 1),
            (5, 5, 1, 1),
            (8, 1, 4, 1),
            (6, 3, 3, 2),
            (16, 4, 4, 2),
            (66, 8, 33, 5),
        ] {
            for (normalise, balance_unbiased) in [(true, true), (true, false), (false, true)] {
                let scaling = 2.5;
                check(
                    &RouteDims {
                        sequences,
                        length,
                        experts,
                        top_k,
                        groups,
                        kept_groups,
                        normalise,
                        scaling,
                        balance_unbiased,
                    },
                    9,
                );
            }
        }
    }
}

#[test]
fn dispatch() {
    for (tokens, top_k, experts, width) in [(0, 2, 3, 4), (1, 1, 1, 1), (67, 1, 5, 7), (131, 4, 16, 33), (9, 3, 40, 64)] {
        check_activations(
            DispatchDims {
                tokens,
                top_k,
                experts,
                width,
            },
            10,
        );
    }
}

#[test]
fn prefix() {
    for (sequences, length, prefix, width) in [(0, 4, 2, 3), (1, 1, 0, 3), (3, 7, 5, 33), (2, 4, 4, 1)] {
        check_activations(
            PrefixDims {
                sequences,
                length,
                prefix,
                width,
            },
            11,
        );
    }
}

fn check_head_loss(dims: HeadDims, seed: u64) {
    check(&HeadLoss::<f32>(dims, PhantomData), seed);
    check(&HeadLoss::<Bf16>(dims, PhantomData), seed);
}

#[test]
fn head_loss() {
    for (rows, width, vocabulary) in [(0, 4, 3), (1, 1, 1), (7, 16, 2), (65, 33, 101), (397, 8, 257)] {
        check_head_loss(HeadDims { rows, width, vocabulary }, 12);
    }
}

/// More logits than one chunk of rows holds.
#[test]
fn head_loss_in_chunks() {
    check_head_loss(
        HeadDims {
            rows: 401,
            width: 3,
            vocabulary: 11_003,
        },
        12,
    );
}

#[test]
fn optimizer() {
    for len in EDGES.into_iter().chain([16_385]) {
        check(&Optimizer(len), 13);
        check(&Average(len), 14);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn linear_of_any_shape(rows in 0_usize..150, input in 0_usize..300, output in 0_usize..150, seed: u64) {
        check_linear(LinearDims { rows, input, output }, seed);
    }

    #[test]
    fn grouped_linear_of_any_shape(rows in 0_usize..200, groups in 1_usize..20, input in 1_usize..70, output in 1_usize..70, seed: u64) {
        check_grouped_linear(GroupedDims { rows, groups, input, output }, seed);
    }

    #[test]
    fn attention_of_any_shape(length in 1_usize..80, heads in 1_usize..4, nope in 1_usize..40, pairs in 0_usize..12, value in 1_usize..40,
        seed: u64) {
        let scale = 1.0 / ((nope + 2 * pairs) as f32).sqrt();
        check_activations(AttentionDims { sequences: 2, length, heads, nope, rope: 2 * pairs, value, kv_rank: 3, scale }, seed);
    }

    #[test]
    fn route_of_any_shape(length in 1_usize..40, groups in 1_usize..6, size in 2_usize..8, kept in 1_usize..6, top_k in 1_usize..9,
        seed: u64) {
        let kept_groups = kept.min(groups);
        check(&RouteDims { sequences: 2, length, experts: groups * size, top_k: top_k.min(kept_groups * size), groups, kept_groups,
            normalise: true, scaling: 1.5, balance_unbiased: true }, seed);
    }

    #[test]
    fn head_loss_of_any_shape(rows in 0_usize..60, width in 1_usize..40, vocabulary in 1_usize..200, seed: u64) {
        check_head_loss(HeadDims { rows, width, vocabulary }, seed);
    }
}
