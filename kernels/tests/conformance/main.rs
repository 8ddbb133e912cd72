//! Every backend and instruction set of this machine, every operation, one table of shapes, against the reference.

mod draw;
mod operations;

use draw::Draw;
use fathom_kernels::compare::{bound, scaled_error};
use fathom_kernels::cpu::simd::Isa;
use fathom_kernels::dims::*;
use fathom_kernels::{Cpu, Reference};
use operations::{Memory, Operation, Optimizer};
use proptest::prelude::*;
use std::sync::LazyLock;

static BACKENDS: LazyLock<Vec<Cpu>> = LazyLock::new(|| Isa::available().into_iter().map(|isa| Cpu::with_isa(2, isa)).collect());
static THREADS: LazyLock<Vec<Cpu>> = LazyLock::new(|| [1, 2, 3].map(Cpu::new).into_iter().collect());

/// Compares every backend with the reference, and thread counts with each other.
fn check<O: Operation>(operation: &O, seed: u64) {
    let expected = operation.run(&Reference, &mut Draw::new(seed));
    for cpu in BACKENDS.iter() {
        for (actual, expected) in operation.run(cpu, &mut Draw::new(seed)).iter().zip(&expected) {
            let error = scaled_error(&actual.values, &expected.values);
            // No arithmetic, or arithmetic in a prescribed order: no error.
            let bound = if expected.length == 0 { 0.0 } else { bound(expected.length) };
            assert!(
                error <= bound,
                "{} of {} on {}: {error:e} > {bound:e}",
                expected.name,
                operation.name(),
                cpu.isa().name()
            );
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
        check(&Memory(len), 1);
    }
}

#[test]
fn embedding() {
    for (rows, width, vocabulary) in [(0, 4, 3), (1, 1, 1), (7, 33, 2), (200, 64, 5), (131, 97, 1009)] {
        check(&EmbeddingDims { rows, width, vocabulary }, 2);
    }
}

#[test]
fn rmsnorm() {
    for rows in [0, 1, 63, 64, 65, 131] {
        for width in [1, 7, 16, 64, 97] {
            check(&RmsNormDims::dense(rows, width, 1e-6), 3);
        }
    }
    let (x, y) = (Columns { stride: 80, offset: 3 }, Columns { stride: 40, offset: 5 });
    check(
        &RmsNormDims {
            rows: 67,
            width: 31,
            x,
            y,
            epsilon: 1e-6,
        },
        3,
    );
}

#[test]
fn linear() {
    for rows in EDGES {
        for (input, output) in [(1, 1), (7, 31), (16, 32), (17, 97), (64, 16), (97, 64)] {
            check(&LinearDims { rows, input, output }, 4);
        }
    }
    for (rows, input, output) in [(13, 0, 5), (13, 5, 0), (509, 263, 521), (3, 1031, 7), (1031, 5, 3), (7, 3, 1031)] {
        check(&LinearDims { rows, input, output }, 4);
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
        check(
            &GroupedDims {
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
        check(&dims, 6);
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
        check(
            &AttentionDims {
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
        check(&SwigluDims { rows, width }, 8);
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
        check(
            &DispatchDims {
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
        check(
            &PrefixDims {
                sequences,
                length,
                prefix,
                width,
            },
            11,
        );
    }
}

#[test]
fn head_loss() {
    for (rows, width, vocabulary) in [(0, 4, 3), (1, 1, 1), (7, 16, 2), (65, 33, 101), (397, 8, 257)] {
        check(&HeadDims { rows, width, vocabulary }, 12);
    }
}

/// More logits than one chunk of rows holds.
#[test]
fn head_loss_in_chunks() {
    check(
        &HeadDims {
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
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn linear_of_any_shape(rows in 0_usize..150, input in 0_usize..300, output in 0_usize..150, seed: u64) {
        check(&LinearDims { rows, input, output }, seed);
    }

    #[test]
    fn grouped_linear_of_any_shape(rows in 0_usize..200, groups in 1_usize..20, input in 1_usize..70, output in 1_usize..70, seed: u64) {
        check(&GroupedDims { rows, groups, input, output }, seed);
    }

    #[test]
    fn attention_of_any_shape(length in 1_usize..80, heads in 1_usize..4, nope in 1_usize..40, pairs in 0_usize..12, value in 1_usize..40,
        seed: u64) {
        let scale = 1.0 / ((nope + 2 * pairs) as f32).sqrt();
        check(&AttentionDims { sequences: 2, length, heads, nope, rope: 2 * pairs, value, kv_rank: 3, scale }, seed);
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
        check(&HeadDims { rows, width, vocabulary }, seed);
    }
}
