//! Schedules as functions of tokens seen, never of steps (paper, section 4.2).

use fathom_spec::manifest::{Balance, BalanceMethod, Batch, LearningRate, Mtp};
use fathom_spec::quantity::Tokens;
use std::f64::consts::PI;

/// Learning rate of the step that ends at `seen` tokens of `total`: linear from 0, constant, cosine, constant, final constant.
#[must_use]
pub fn learning_rate(schedule: &LearningRate, seen: Tokens, total: Tokens) -> f64 {
    let LearningRate {
        peak,
        floor,
        last,
        warmup_until,
        decay_from,
        decay_until,
        final_from,
    } = *schedule;
    let at = |milestone: fathom_spec::quantity::Milestone| milestone.resolve(total).0;
    let n = seen.0;
    if n < at(warmup_until) {
        peak * n as f64 / at(warmup_until) as f64
    } else if n >= at(final_from) {
        last
    } else if n >= at(decay_until) {
        floor
    } else if n > at(decay_from) {
        let share = (n - at(decay_from)) as f64 / (at(decay_until) - at(decay_from)) as f64;
        floor + 0.5 * (peak - floor) * (1.0 + (PI * share).cos())
    } else {
        peak
    }
}

/// Sequences in the batch that begins at `seen` tokens of `total`: a ramp linear in tokens, rounded to whole micro-batches.
#[must_use]
pub fn batch_sequences(batch: &Batch, seen: Tokens, total: Tokens) -> u32 {
    let end = batch.ramp_until.resolve(total).0;
    if seen.0 >= end {
        return batch.sequences;
    }
    let share = seen.0 as f64 / end as f64;
    let sequences = f64::from(batch.ramp_from) + share * (f64::from(batch.sequences) - f64::from(batch.ramp_from));
    let micro_batches = (sequences / f64::from(batch.micro_batch)).round() as u32;
    micro_batches.max(1) * batch.micro_batch
}

/// Bias update speed of the step that ends at `seen` tokens of `total`: constant, then 0; always 0 where a loss balances.
#[must_use]
pub fn bias_update_speed(balance: &Balance, seen: Tokens, total: Tokens) -> f64 {
    if balance.method == BalanceMethod::AuxiliaryLossFree && seen <= balance.bias_update_until.resolve(total) {
        balance.bias_update_speed
    } else {
        0.0
    }
}

/// Weight of the MTP loss in the step that ends at `seen` tokens of `total`.
#[must_use]
pub fn mtp_weight(mtp: &Mtp, seen: Tokens, total: Tokens) -> f64 {
    if seen <= mtp.final_from.resolve(total) {
        mtp.weight
    } else {
        mtp.final_weight
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fathom_spec::quantity::Milestone;

    const T: u64 = 1_000_000_000_000;

    fn released() -> LearningRate {
        let at = |tokens: u64| Milestone::Tokens(Tokens(tokens));
        LearningRate {
            peak: 2.2e-4,
            floor: 2.2e-5,
            last: 7.3e-6,
            warmup_until: at(25_000_000_000),
            decay_from: at(10 * T),
            decay_until: at(14_300_000_000_000),
            final_from: at(14_633_000_000_000),
        }
    }

    #[test]
    fn learning_rate_of_the_paper() {
        let total = Tokens(14_800_000_000_000);
        for (seen, expected) in [
            (0, 0.0),
            (12_500_000_000, 1.1e-4),
            (25_000_000_000, 2.2e-4),
            (10 * T, 2.2e-4),
            (12_150_000_000_000, 1.21e-4), // half-way down the cosine: the mean of peak and floor
            (14_300_000_000_000, 2.2e-5),
            (14_632_000_000_000, 2.2e-5),
            (14_633_000_000_000, 7.3e-6),
            (14_800_000_000_000, 7.3e-6),
        ] {
            let rate = learning_rate(&released(), Tokens(seen), total);
            assert!((rate - expected).abs() < 1e-12, "at {seen}: {rate} instead of {expected}");
        }
    }

    #[test]
    fn batch_ramp_of_the_paper() {
        let batch = Batch {
            sequences: 15_360,
            ramp_from: 3072,
            ramp_until: Milestone::Tokens(Tokens(469_000_000_000)),
            micro_batch: 128,
        };
        let (mut seen, mut steps) = (0, 0);
        while seen < 14_800_000_000_000 {
            seen += u64::from(batch_sequences(&batch, Tokens(seen), Tokens(14_800_000_000_000))) * 4096;
            steps += 1;
            if seen < 469_000_000_000 {
                assert!(steps < 15_050, "about 15.0K steps of ramp");
            }
        }
        assert_eq!((steps + 50) / 100, 2428, "about 242.8K steps, not {steps}");
    }

    #[test]
    fn switches_happen_after_the_milestone() {
        let balance = Balance {
            bias_update_speed: 0.001,
            bias_update_until: Milestone::Fraction(0.5),
            centered: false,
            method: BalanceMethod::AuxiliaryLossFree,
            loss_weight: 1e-4,
            loss_selection: fathom_spec::manifest::BalanceSelection::Unbiased,
        };
        let mtp = Mtp {
            weight: 0.3,
            final_weight: 0.1,
            final_from: Milestone::Fraction(0.5),
        };
        let sequence = Balance {
            method: BalanceMethod::Sequence,
            ..balance.clone()
        };
        assert!(
            bias_update_speed(&sequence, Tokens(1), Tokens(1000)) == 0.0,
            "only the loss balances"
        );
        for (seen, speed, weight) in [(1, 0.001, 0.3), (500, 0.001, 0.3), (501, 0.0, 0.1), (1000, 0.0, 0.1)] {
            assert!((bias_update_speed(&balance, Tokens(seen), Tokens(1000)) - speed).abs() < f64::EPSILON);
            assert!((mtp_weight(&mtp, Tokens(seen), Tokens(1000)) - weight).abs() < f64::EPSILON);
        }
    }
}
