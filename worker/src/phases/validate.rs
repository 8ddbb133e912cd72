//! Loss on the held-out split, and the load of the experts on each of its sources (paper, figure 9).

use super::pretrain::matrix;
use crate::context::PhaseContext;
use crate::data::manifest::{SourceRows, validation_sources};
use crate::data::shard::Rows;
use crate::error::Result;
use crate::model::Storage;
use crate::train::{Trainer, max_violations};
use fathom_kernels::Kernels;
use fathom_spec::record::Matrix;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::f64::consts::LN_2;
use std::ops::Range;
use std::path::Path;

/// Longest part of a metric's name that stands for a source, in characters.
const METRIC_CHARACTERS: usize = 48;

/// The rows of the held-out split, source after source.
pub struct HeldOut {
    /// All rows.
    pub rows: Rows,
    /// Those that have rows, in their order.
    sources: Vec<Source>,
}

/// A source that has rows.
struct Source {
    name: String,
    /// What stands for it in names of metrics.
    metric: String,
    rows: Range<usize>,
}

impl HeldOut {
    /// Opens the split of a corpus. One that does not tell its sources apart is one source.
    ///
    /// # Errors
    /// [`crate::error::Error::Io`], [`crate::error::Error::Data`] if a file is damaged.
    pub fn open(corpus: &Path) -> Result<Self> {
        let rows = Rows::open(&corpus.join("validation"))?;
        let mut recorded = validation_sources(corpus, rows.len())?;
        if recorded.is_empty() {
            recorded.push(SourceRows {
                name: "all".into(),
                rows: rows.len(),
            });
        }
        let metrics = metric_names(recorded.iter().map(|source| source.name.as_str()));
        let mut end = 0;
        let sources = recorded.into_iter().zip(metrics).map(|(SourceRows { name, rows }, metric)| {
            end += rows;
            let rows = end - rows..end;
            Source { name, metric, rows }
        });
        let sources = sources.filter(|source| !source.rows.is_empty()).collect();
        Ok(Self { rows, sources })
    }

    /// The first rows of each source, `limit` in all or as many as there are.
    fn parts(&self, limit: usize) -> Vec<Range<usize>> {
        let rows: Vec<usize> = self.sources.iter().map(|source| source.rows.len()).collect();
        let starts = self.sources.iter().map(|source| source.rows.start);
        starts
            .zip(shares(&rows, limit))
            .map(|(start, share)| start..start + share)
            .collect()
    }
}

/// What stands for sources in names of metrics: their words of letters and digits joined by `_`, and a number where that is the same.
fn metric_names<'a>(sources: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut uses: BTreeMap<String, usize> = BTreeMap::new();
    let unique = |name: &str| {
        let words: Vec<&str> = name
            .split(|character: char| !character.is_alphanumeric())
            .filter(|word| !word.is_empty())
            .collect();
        let joined = words.join("_");
        // Of a path, the end tells more than the start.
        let skip = joined.chars().count().saturating_sub(METRIC_CHARACTERS);
        let end: String = joined.chars().skip(skip).skip_while(|&character| character == '_').collect();
        let base = if end.is_empty() { "source".to_owned() } else { end };
        let number = uses.entry(base.clone()).or_default();
        *number += 1;
        // No base has a `-`.
        if *number == 1 { base } else { format!("{base}-{number}") }
    };
    sources.map(unique).collect()
}

/// `limit` rows, or all, in proportion to the rows of each source: by largest remainders, and at least one where `limit` allows it.
fn shares(rows: &[usize], limit: usize) -> Vec<usize> {
    let total: usize = rows.iter().sum();
    if limit >= total {
        return rows.to_vec();
    }
    let scaled = |rows: usize| rows as u128 * limit as u128;
    let mut shares: Vec<usize> = rows.iter().map(|&rows| (scaled(rows) / total as u128) as usize).collect();
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by_key(|&source| std::cmp::Reverse(scaled(rows[source]) % total as u128));
    let left = limit - shares.iter().sum::<usize>();
    for &source in &order[..left] {
        shares[source] += 1;
    }
    let present: Vec<usize> = (0..rows.len()).filter(|&source| rows[source] > 0).collect();
    if limit >= present.len() {
        while let Some(&without) = present.iter().find(|&&source| shares[source] == 0) {
            // The first of the largest has at least two.
            let largest = present
                .iter()
                .copied()
                .rev()
                .max_by_key(|&source| shares[source])
                .unwrap_or(without);
            shares[largest] -= 1;
            shares[without] += 1;
        }
    }
    shares
}

/// Loss over rows of the held-out split.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ValidationLoss {
    /// Mean, in nats per token.
    pub loss: f64,
    /// Bits per byte of the text that the predicted tokens stand for.
    pub bits_per_byte: f64,
    /// Rows.
    pub rows: usize,
}

/// What a validation measured of one source.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceValidation {
    /// The source.
    pub name: String,
    /// What stands for it in names of metrics.
    metric: String,
    /// Of its rows.
    pub loss: ValidationLoss,
    /// Tokens of its rows sent to each expert, per MoE layer of the main model, `[layers][E]`.
    pub expert_counts: Vec<Vec<u32>>,
}

impl SourceValidation {
    /// MaxVio, mean over layers; nothing for a model without experts.
    fn max_violation(&self) -> Option<f64> {
        let violations = max_violations(&self.expert_counts);
        (!violations.is_empty()).then(|| violations.iter().sum::<f64>() / violations.len() as f64)
    }
}

/// What a validation measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Validated {
    /// Of the parameters as they are.
    pub current: ValidationLoss,
    /// Of their moving average, if one is kept.
    pub averaged: Option<ValidationLoss>,
    /// The same parameters as in `current` on each source that has a share; empty if there is one source.
    pub sources: Vec<SourceValidation>,
}

impl Validated {
    /// Scalars by name.
    pub fn scalars(&self) -> Vec<(String, f64)> {
        let mut scalars = Vec::new();
        for (of, loss) in [("", Some(self.current)), ("ema.", self.averaged)] {
            if let Some(loss) = loss {
                scalars.push((format!("validation.{of}loss"), loss.loss));
                scalars.push((format!("validation.{of}bits_per_byte"), loss.bits_per_byte));
            }
        }
        for source in &self.sources {
            let SourceValidation { metric, loss, .. } = source;
            scalars.push((format!("validation.loss.{metric}"), loss.loss));
            scalars.push((format!("validation.bits_per_byte.{metric}"), loss.bits_per_byte));
            scalars.extend(
                source
                    .max_violation()
                    .map(|value| (format!("validation.max_violation.{metric}"), value)),
            );
        }
        scalars
    }

    /// Matrices by name: the experts' load on each source, a row per MoE layer of the main model.
    pub fn matrices(&self) -> impl Iterator<Item = (String, Matrix)> {
        self.sources.iter().map(|source| {
            let row = |counts: &Vec<u32>| counts.iter().map(|&count| count as f32).collect();
            let load = matrix(source.expert_counts.iter().map(row).collect());
            (format!("validation.load.{}", source.metric), load)
        })
    }

    /// Adds what a phase's statistics say of its last validation.
    pub fn describe(&self, statistics: &mut Value) {
        let Self {
            current,
            averaged,
            sources,
        } = self;
        statistics["validation_loss"] = json!(current.loss);
        statistics["validation_bits_per_byte"] = json!(current.bits_per_byte);
        statistics["validation_rows"] = json!(current.rows);
        if let Some(averaged) = averaged {
            statistics["validation_ema_loss"] = json!(averaged.loss);
            statistics["validation_ema_bits_per_byte"] = json!(averaged.bits_per_byte);
        }
        if !sources.is_empty() {
            let describe = |source: &SourceValidation| {
                let ValidationLoss { loss, bits_per_byte, rows } = source.loss;
                let max_violation = source.max_violation();
                json!({"loss": loss, "bits_per_byte": bits_per_byte, "rows": rows, "max_violation": max_violation})
            };
            let entries = sources.iter().map(|source| (source.name.clone(), describe(source)));
            statistics["validation_sources"] = Value::Object(entries.collect());
        }
    }
}

/// Evaluates `limit` rows (all, if there are fewer), of each source its share, with the averaged parameters too if an average is kept; nothing if
/// there are no rows or if the phase is asked to stop.
///
/// `token_bytes` is the text length of each token.
pub fn validate<K: Kernels, A: Storage>(
    trainer: &mut Trainer<K, A>,
    held_out: &HeldOut,
    limit: usize,
    token_bytes: &[u32],
    context: &dyn PhaseContext,
) -> Result<Option<Validated>> {
    let parts = held_out.parts(limit);
    let measure_all = |trainer: &mut Trainer<K, A>| {
        let measured = parts
            .iter()
            .map(|part| measure(trainer, &held_out.rows, part.clone(), token_bytes, context));
        measured.collect::<Result<Option<Vec<Sums>>>>()
    };
    let Some(sums) = measure_all(trainer)? else {
        return Ok(None);
    };
    let Some(current) = total(&sums) else {
        return Ok(None);
    };
    let averaged = match trainer.with_average(measure_all) {
        None => None,
        Some(outcome) => match outcome? {
            None => return Ok(None),
            Some(sums) => total(&sums),
        },
    };
    let sources = if held_out.sources.len() > 1 {
        let measured = held_out.sources.iter().zip(sums).filter_map(|(source, sums)| {
            Some(SourceValidation {
                name: source.name.clone(),
                metric: source.metric.clone(),
                loss: sums.loss()?,
                expert_counts: sums.expert_counts,
            })
        });
        measured.collect()
    } else {
        Vec::new()
    };
    Ok(Some(Validated {
        current,
        averaged,
        sources,
    }))
}

/// Sums over rows.
#[derive(Default)]
struct Sums {
    rows: usize,
    targets: u64,
    nats: f64,
    /// Of the text that the targets stand for.
    bytes: u64,
    /// Tokens sent to each expert, `[layers][E]`.
    expert_counts: Vec<Vec<u32>>,
}

impl Sums {
    fn loss(&self) -> Option<ValidationLoss> {
        (self.targets > 0).then(|| ValidationLoss {
            loss: self.nats / self.targets as f64,
            bits_per_byte: self.nats / LN_2 / self.bytes.max(1) as f64,
            rows: self.rows,
        })
    }
}

/// The loss over all sources: a mean over tokens, not over sources.
fn total(sums: &[Sums]) -> Option<ValidationLoss> {
    let mut total = Sums::default();
    for one in sums {
        total.rows += one.rows;
        total.targets += one.targets;
        total.nats += one.nats;
        total.bytes += one.bytes;
    }
    total.loss()
}

/// Nothing if the phase is asked to stop.
fn measure<K: Kernels, A: Storage>(
    trainer: &mut Trainer<K, A>,
    rows: &Rows,
    part: Range<usize>,
    token_bytes: &[u32],
    context: &dyn PhaseContext,
) -> Result<Option<Sums>> {
    let (batch, row_tokens) = (trainer.micro_batch().sequences, rows.row_tokens());
    let mut sums = Sums::default();
    let mut tokens = vec![0; batch * row_tokens];
    for first in part.clone().step_by(batch) {
        if context.stop_requested() {
            return Ok(None);
        }
        let present = batch.min(part.end - first);
        for (index, row) in tokens.chunks_exact_mut(row_tokens).enumerate() {
            // A last micro-batch that is not full repeats a row, which is not counted.
            rows.read(first + index.min(present - 1), row)?;
        }
        let nll = trainer.evaluate(&tokens);
        trainer.count_experts(&mut sums.expert_counts, present);
        let length = row_tokens - 1;
        sums.rows += present;
        sums.targets += (present * length) as u64;
        sums.nats += nll[..present * length].iter().map(|&value| f64::from(value)).sum::<f64>();
        let predicted = tokens.chunks_exact(row_tokens).take(present).flat_map(|row| &row[1..]);
        sums.bytes += predicted.map(|&token| u64::from(token_bytes[token as usize])).sum::<u64>();
    }
    Ok(Some(sums))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_limit_is_shared_in_proportion() {
        for (rows, limit, expected) in [
            (&[10, 10][..], 4, &[2, 2][..]),
            (&[30, 10], 4, &[3, 1]),
            (&[30, 10], 40, &[30, 10]),
            (&[30, 10], usize::MAX, &[30, 10]),
            // Equal remainders: the first gets more.
            (&[10, 10], 3, &[2, 1]),
            // At least one of each, at the cost of the largest.
            (&[1000, 1, 1], 10, &[8, 1, 1]),
            (&[1000, 1, 1], 3, &[1, 1, 1]),
            (&[1000, 1, 1], 2, &[2, 0, 0]),
            (&[0, 7, 0], 3, &[0, 3, 0]),
            (&[7], 3, &[3]),
            (&[5, 5], 0, &[0, 0]),
            (&[], 3, &[]),
            (&[usize::MAX / 2, usize::MAX / 2], 8, &[4, 4]),
        ] {
            assert_eq!(shares(rows, limit), expected, "{limit} of {rows:?}");
        }
    }

    proptest! {
        #[test]
        fn shares_are_near_the_proportion(rows in proptest::collection::vec(0_usize..200, 0..20), limit in 0_usize..2000) {
            let shares = shares(&rows, limit);
            let total: usize = rows.iter().sum();
            prop_assert_eq!(shares.iter().sum::<usize>(), limit.min(total));
            let present = rows.iter().filter(|&&rows| rows > 0).count();
            for (&share, &rows) in shares.iter().zip(&rows) {
                prop_assert!(share <= rows);
                prop_assert!(share > 0 || rows == 0 || limit < present);
            }
        }
    }

    #[test]
    fn sources_have_names_that_metrics_may_have() {
        for (sources, expected) in [
            (&["code", "documents"][..], &["code", "documents"][..]),
            (&["ema", "loss"], &["ema", "loss"]),
            (&["a b", "a.b", "a/*.b", "a_b-2"], &["a_b", "a_b-2", "a_b-3", "a_b_2"]),
            (&["", "$", "**"], &["source", "source-2", "source-3"]),
            (&["日本語 の文書"], &["日本語_の文書"]),
            (
                &[
                    "${CARGO_HOME:-~/.cargo}/registry/src/*/*/**/*.rs",
                    "/a/very/long/path/with/many/directories/to/the/texts/**/*.md",
                ],
                &[
                    "CARGO_HOME_cargo_registry_src_rs",
                    "long_path_with_many_directories_to_the_texts_md",
                ],
            ),
        ] {
            assert_eq!(metric_names(sources.iter().copied()), expected);
        }
    }
}
