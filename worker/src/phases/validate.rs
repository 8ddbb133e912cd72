//! Loss on the held-out split.

use crate::context::PhaseContext;
use crate::data::shard::Rows;
use crate::error::Result;
use crate::model::Storage;
use crate::train::Trainer;
use fathom_kernels::Kernels;
use std::f64::consts::LN_2;

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

/// The losses of one validation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Validated {
    /// Of the parameters as they are.
    pub current: ValidationLoss,
    /// Of their moving average, if one is kept.
    pub averaged: Option<ValidationLoss>,
}

/// Evaluates the first `limit` rows (all, if there are fewer), with the averaged parameters too if an average is kept; nothing if there are no rows
/// or if the phase is asked to stop.
///
/// `token_bytes` is the text length of each token.
pub fn validate<K: Kernels, A: Storage>(
    trainer: &mut Trainer<K, A>,
    rows: &Rows,
    limit: usize,
    token_bytes: &[u32],
    context: &dyn PhaseContext,
) -> Result<Option<Validated>> {
    let Some(current) = measure(trainer, rows, limit, token_bytes, context)? else {
        return Ok(None);
    };
    let averaged = match trainer.with_average(|trainer| measure(trainer, rows, limit, token_bytes, context)) {
        None => None,
        Some(outcome) => match outcome? {
            None => return Ok(None),
            measured => measured,
        },
    };
    Ok(Some(Validated { current, averaged }))
}

fn measure<K: Kernels, A: Storage>(
    trainer: &mut Trainer<K, A>,
    rows: &Rows,
    limit: usize,
    token_bytes: &[u32],
    context: &dyn PhaseContext,
) -> Result<Option<ValidationLoss>> {
    let count = rows.len().min(limit);
    let (batch, row_tokens) = (trainer.micro_batch().sequences, rows.row_tokens());
    let (mut nats, mut targets, mut bytes) = (0.0, 0_u64, 0_u64);
    let mut tokens = vec![0; batch * row_tokens];
    for first in (0..count).step_by(batch) {
        if context.stop_requested() {
            return Ok(None);
        }
        let present = batch.min(count - first);
        for (index, row) in tokens.chunks_exact_mut(row_tokens).enumerate() {
            // A last micro-batch that is not full repeats a row, which is not counted.
            rows.read(first + index.min(present - 1), row)?;
        }
        let nll = trainer.evaluate(&tokens);
        let length = row_tokens - 1;
        nats += nll[..present * length].iter().map(|&value| f64::from(value)).sum::<f64>();
        targets += (present * length) as u64;
        let predicted = tokens.chunks_exact(row_tokens).take(present).flat_map(|row| &row[1..]);
        bytes += predicted.map(|&token| u64::from(token_bytes[token as usize])).sum::<u64>();
    }
    Ok((targets > 0).then(|| ValidationLoss {
        loss: nats / targets as f64,
        bits_per_byte: nats / LN_2 / bytes.max(1) as f64,
        rows: count,
    }))
}
