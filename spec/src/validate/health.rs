//! Thresholds that contradict each other.

use crate::health::Thresholds;
use crate::report::Report;
use crate::tree::Path;

/// A limit that must not be above another one of the same rule: section, its name and value, then the other's.
type Order<'a> = (&'a str, (&'a str, f64), (&'a str, f64));

pub(super) fn check(health: &Thresholds, path: &Path, report: &mut Report<'_>) {
    let Thresholds {
        hold_steps: _,
        hold_seconds: _,
        loss,
        gradient,
        throughput,
        balance,
        progress,
        checkpoint,
        restarts,
    } = health;
    let orders: [Order<'_>; 11] = [
        ("loss", ("watchZ", loss.watch_z), ("singleZ", loss.single_z)),
        ("loss", ("watchZ", loss.watch_z), ("failingZ", loss.failing_z)),
        ("loss", ("watchRise", loss.watch_rise), ("failingRise", loss.failing_rise)),
        ("loss", ("fastSteps", loss.fast_steps.into()), ("slowSteps", loss.slow_steps.into())),
        ("gradient", ("watchZ", gradient.watch_z), ("singleZ", gradient.single_z)),
        (
            "throughput",
            ("watchDrop", throughput.watch_drop),
            ("failingDrop", throughput.failing_drop),
        ),
        (
            "balance",
            ("watchMaxViolation", balance.watch_max_violation),
            ("failingMaxViolation", balance.failing_max_violation),
        ),
        (
            "progress",
            ("watchSteps", progress.watch_steps),
            ("stalledSteps", progress.stalled_steps),
        ),
        (
            "progress",
            ("watchSeconds", progress.watch_seconds),
            ("stalledSeconds", progress.stalled_seconds),
        ),
        (
            "checkpoint",
            ("watchIntervals", checkpoint.watch_intervals),
            ("failingIntervals", checkpoint.failing_intervals),
        ),
        (
            "restarts",
            ("watchPerHour", restarts.watch_per_hour.into()),
            ("failingPerHour", restarts.failing_per_hour.into()),
        ),
    ];
    for (section, (lower, low), (upper, high)) in orders {
        if low > high {
            let path = path.field(section).field(lower);
            report.error(&path, format!("{low} is above `{upper}`, which is {high}; it must not be"));
        }
    }
}
