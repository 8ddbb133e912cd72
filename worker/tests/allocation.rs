//! Memory is taken once: a step after the first ones asks the allocator for its report and for nothing else.
//!
//! A file of its own, as an allocator counts for a whole process.

#![allow(clippy::unwrap_used)]

mod common;

use common::training::{PRECISIONS, SETTINGS, rows, trainer};
use dhat::{HeapStats, Profiler};
use fathom_kernels::Cpu;
use fathom_kernels::formats::Bf16;
use fathom_spec::manifest::Precision;
use fathom_worker::model::{BalanceScope, Recipe, Storage};
use fathom_worker::train::StepReport;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// Steps until every buffer has its size, nearly: an expert that gets more rows than ever before may still enlarge a thread's workspace.
const FIRST: u64 = 5;
/// Steps that are measured. One allocation in each of them is more than what workspaces and the queue of the threads add.
const STEPS: u64 = 100;

/// Blocks of a report on the heap, and the one that its statistics are downloaded to.
fn blocks(report: &StepReport) -> usize {
    (1 + report.expert_counts.len()) + (1 + report.numerics.len()) + 1 + 1
}

/// Blocks that the steps allocated, and those of their reports.
fn measure<A: Storage>(recipe: Recipe) -> (u64, u64) {
    let mut trainer = trainer::<A>(Cpu::new(2), recipe);
    let batches: Vec<_> = (1..=FIRST + STEPS)
        .map(|step| rows(step, trainer.model.architecture.vocab_size))
        .collect();
    let (mut before, mut reported) = (0, 0);
    for (step, rows) in (1..).zip(&batches) {
        if step == FIRST + 1 {
            before = HeapStats::get().total_blocks;
        }
        let report = trainer.step(step, rows, SETTINGS, &|| false).expect("never interrupted");
        reported = blocks(&report) as u64 * STEPS;
    }
    (HeapStats::get().total_blocks - before, reported)
}

#[test]
fn a_step_allocates_its_report_alone() {
    let _profiler = Profiler::builder().testing().build();
    let scopes = [BalanceScope::Sequence, BalanceScope::MicroBatch];
    for (precision, balance_scope) in PRECISIONS.into_iter().flat_map(|precision| scopes.map(|scope| (precision, scope))) {
        let recipe = Recipe {
            precision,
            recompute: precision.recomputes(),
            balance_unbiased: true,
            balance_scope,
        };
        let (allocated, reported) = match precision {
            Precision::F32 => measure::<f32>(recipe),
            Precision::Bf16 | Precision::Fp8 => measure::<Bf16>(recipe),
        };
        assert!(
            (reported..reported + STEPS / 2).contains(&allocated),
            "{precision:?}, {balance_scope:?}: {allocated} blocks in {STEPS} steps, of which {reported} for reports"
        );
    }
}
