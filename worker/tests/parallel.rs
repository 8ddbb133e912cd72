//! Ranks that are threads here and find each other over real TCP: their sums are those of the tree, and what goes wrong has a name.

#![allow(clippy::unwrap_used)]

mod common;

use common::training::{MICRO, PRECISIONS, SETTINGS, bits, trainer};
use fathom_kernels::formats::Bf16;
use fathom_kernels::{Comm, Cpu};
use fathom_spec::manifest::Precision;
use fathom_worker::error::Error;
use fathom_worker::model::{Recipe, Storage};
use fathom_worker::parallel::{Place, Rendezvous, Tcp, connect};
use fathom_worker::train::StepReport;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

const KEY: &str = "run/pretrain/1";

fn rendezvous(directory: &Path, rank: usize, size: usize) -> Rendezvous {
    Rendezvous {
        place: Place::File(directory.join("rank-0")),
        key: KEY.into(),
        rank,
        size,
        deadline: Duration::from_secs(60),
    }
}

/// Runs `work` on every rank of a group, each in a thread.
fn group<R: Send>(size: usize, work: impl Fn(Tcp) -> R + Sync) -> Vec<R> {
    let directory = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        let ranks: Vec<_> = (0..size)
            .map(|rank| {
                let (work, rendezvous) = (&work, rendezvous(directory.path(), rank, size));
                scope.spawn(move || work(connect(&rendezvous, &|| false).unwrap()))
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

fn rank_of(comm: &Tcp) -> usize {
    Comm::<Cpu>::rank(comm)
}

/// Values of a rank, in buffers of the given lengths: of all magnitudes, so that every order of a sum has bits of its own.
fn values(rank: usize, lengths: &[usize]) -> Vec<Vec<f32>> {
    let value = |index: usize| {
        let hash = (index * 8 + rank + 1) as u32;
        let hash = hash.wrapping_mul(0x9E37_79B9) ^ hash.wrapping_mul(0x85EB_CA6B) >> 13;
        (hash as f32 / u32::MAX as f32 - 0.5) * 10.0_f32.powi((hash % 7) as i32 - 3)
    };
    let mut next = 0..;
    lengths.iter().map(|&len| next.by_ref().take(len).map(value).collect()).collect()
}

fn tree(ranks: &[f32]) -> f32 {
    match ranks {
        [one] => *one,
        _ => tree(&ranks[..ranks.len() / 2]) + tree(&ranks[ranks.len() / 2..]),
    }
}

#[test]
fn sums_are_those_of_the_tree_to_the_bit() {
    let shapes: [&[usize]; 7] = [
        &[],
        &[0],
        &[1],
        &[0, 5, 0, 17],
        &[16, 16],
        &[300_001],
        &[7, 70_000, 1, 0, 131_072, 33],
    ];
    for size in [1, 2, 4, 8] {
        for lengths in shapes {
            let results = group(size, |mut comm| {
                let mut buffers = values(rank_of(&comm), lengths);
                let mut slices: Vec<&mut [f32]> = buffers.iter_mut().map(Vec::as_mut_slice).collect();
                // Twice: a group is used more than once.
                comm.all_reduce(&mut slices).unwrap();
                let once = buffers.clone();
                let mut slices: Vec<&mut [f32]> = buffers.iter_mut().map(Vec::as_mut_slice).collect();
                comm.all_reduce(&mut slices).unwrap();
                (once, buffers)
            });
            let given: Vec<_> = (0..size).map(|rank| values(rank, lengths)).collect();
            for (once, twice) in results {
                for (buffer, len) in lengths.iter().enumerate() {
                    for index in 0..*len {
                        let ranks: Vec<f32> = given.iter().map(|values| values[buffer][index]).collect();
                        let sum = tree(&ranks);
                        assert_eq!(
                            once[buffer][index].to_bits(),
                            sum.to_bits(),
                            "{size} ranks, {lengths:?}: {buffer}, {index}"
                        );
                        assert_eq!(twice[buffer][index].to_bits(), (sum * size as f32).to_bits());
                    }
                }
            }
        }
    }
}

#[test]
fn all_gather_keeps_the_order_of_ranks_and_any_length() {
    for size in [1, 2, 4, 8] {
        let given = |rank: usize| vec![rank as u8; rank * rank * 40_000 % 100_001];
        let results = group(size, |mut comm| {
            let mine = given(rank_of(&comm));
            comm.all_gather(&mine).unwrap()
        });
        let expected: Vec<_> = (0..size).map(given).collect();
        assert!(results.iter().all(|result| *result == expected), "{size} ranks");
    }
}

/// The ranks of a group make steps; their reports and bits.
fn train<A: Storage>(recipe: Recipe, size: usize) -> Vec<(Vec<StepReport>, Vec<u32>)> {
    const STEPS: u64 = 3;
    const MICRO_BATCHES: usize = 8;
    group(size, |mut comm| {
        let mut trainer = trainer::<A>(Cpu::new(1), recipe);
        let vocabulary = trainer.model.architecture.vocab_size;
        let share = MICRO_BATCHES / size * MICRO.sequences * (MICRO.length + 1);
        let reports = (1..=STEPS).map(|step| {
            let all: Vec<u32> = (0..MICRO_BATCHES as u64 / 2)
                .flat_map(|part| common::training::rows(step * 100 + part, vocabulary))
                .collect();
            let mine = &all[rank_of(&comm) * share..][..share];
            trainer.step_among(&mut comm, step, mine, SETTINGS, &|| false).unwrap().unwrap()
        });
        let reports = reports.collect();
        (
            reports,
            bits(&trainer.model.kernels, &trainer.model.layout, trainer.model.weights.masters()),
        )
    })
}

/// One, two, four or eight ranks with the same global batch: the same reports and the same weights on each of them.
#[test]
fn the_number_of_ranks_changes_no_bit() {
    for precision in PRECISIONS {
        let recipe = Recipe {
            precision,
            recompute: precision.recomputes(),
            ..Recipe::F32
        };
        let run = |size| match precision {
            Precision::F32 => train::<f32>(recipe, size),
            Precision::Bf16 | Precision::Fp8 => train::<Bf16>(recipe, size),
        };
        let alone = run(1).remove(0);
        assert!(alone.0.iter().all(|report| report.total_loss.is_finite()));
        for size in [2, 4, 8] {
            for (rank, (reports, bits)) in run(size).into_iter().enumerate() {
                assert_eq!(reports, alone.0, "{precision:?}, rank {rank} of {size}");
                assert!(bits == alone.1, "{precision:?}, rank {rank} of {size}: weights differ");
            }
        }
    }
}

/// A rank that is gone is noticed at once and named, by those that it is linked to and then by all.
#[test]
fn a_lost_rank_is_named_within_seconds() {
    let start = Instant::now();
    let errors = group(4, |mut comm| {
        let rank = rank_of(&comm);
        comm.all_gather(&[]).unwrap();
        if rank == 2 {
            return None;
        }
        let mut values = vec![1.0; 1 << 20];
        Some((rank, comm.all_reduce(&mut [&mut values]).unwrap_err()))
    });
    assert!(start.elapsed() < Duration::from_secs(5));
    for (rank, error) in errors.into_iter().flatten() {
        let Error::PeerLost { rank: lost, .. } = error else {
            panic!("rank {rank}: {error}");
        };
        assert!(lost == 2 || rank == 1, "rank {rank} blames {lost}");
    }
}

/// Ranks that do not execute the same work say so, and do not add up what does not belong together.
#[test]
fn ranks_at_different_operations_are_told_apart() {
    let causes = group(2, |mut comm| {
        let mut values = vec![1.0; 10 + rank_of(&comm)];
        let error = comm.all_reduce(&mut [&mut values]).unwrap_err();
        std::error::Error::source(&error).unwrap().to_string()
    });
    assert!(
        causes.iter().any(|cause| cause.contains("the ranks execute different work")),
        "{causes:?}"
    );
}

#[test]
fn who_is_missing_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let late = |rank| Rendezvous {
        deadline: Duration::from_millis(300),
        ..rendezvous(directory.path(), rank, 4)
    };
    let error = |rank| connect(&late(rank), &|| false).unwrap_err();
    let alone = error(1).to_string();
    assert!(alone.contains("rank 0 was not reached"), "{alone}");
    let (first, second) = std::thread::scope(|scope| {
        let second = scope.spawn(|| error(2));
        (error(0).to_string(), second.join().unwrap())
    });
    assert!(first.contains("rank 1, 3 of 4 did not come"), "{first}");
    assert!(matches!(second, Error::Rendezvous { .. }), "{second}");
    assert!(matches!(connect(&late(0), &|| true), Err(Error::Stopped)));
    let error = connect(&rendezvous(directory.path(), 0, 3), &|| false).unwrap_err();
    assert!(matches!(error, Error::Config { .. }), "{error}");
}

/// Rank 0 drops strangers, tells ranks of another attempt why, and waits for its own.
#[test]
fn strangers_and_ranks_of_other_attempts_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| connect(&rendezvous(directory.path(), 0, 2), &|| false));
        let old = Rendezvous {
            key: "run/pretrain/0".into(),
            ..rendezvous(directory.path(), 1, 2)
        };
        let error = connect(&old, &|| false).unwrap_err().to_string();
        assert!(
            error.contains("it belongs to `run/pretrain/0`, this is `run/pretrain/1`"),
            "{error}"
        );
        let address = std::fs::read_to_string(directory.path().join("rank-0")).unwrap();
        let silent = TcpStream::connect(&address).unwrap();
        let mut loud = TcpStream::connect(&address).unwrap();
        loud.write_all(b"GET / HTTP/1.1\r\nHost: fathom\r\n\r\n").unwrap();
        let mut mute = TcpStream::connect(&address).unwrap();
        // A greeting whose key would be 64 KiB.
        mute.write_all(b"fathomR1\x01\0\0\0\x02\0\0\0\x01\0\xff\xff").unwrap();
        let second = connect(&rendezvous(directory.path(), 1, 2), &|| false).unwrap();
        drop(silent);
        assert_eq!(mute.read(&mut [0; 16]).unwrap_or(0), 0, "it was answered");
        let mut pair = [first.join().unwrap().unwrap(), second];
        let [first, second] = &mut pair;
        std::thread::scope(|scope| {
            scope.spawn(|| first.all_gather(b"a").unwrap());
            assert_eq!(second.all_gather(b"b").unwrap(), [b"a", b"b"]);
        });
    });
}
