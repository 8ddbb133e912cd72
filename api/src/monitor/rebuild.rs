//! A detector made again from the newest steps in the store.

use crate::Api;
use crate::problem::Problem;
use fathom_spec::health::{Detector, Load, StepView, Thresholds};
use fathom_store::attempts::{AttemptRow, segments};
use fathom_store::codec::buckets::Bucket;
use fathom_store::matrices::MatrixValue;
use fathom_store::read::{Range, View};
use fathom_store::runs::RunRow;
use fathom_store::series::{TIME, TOKENS};
use std::collections::BTreeMap;
use std::iter::Peekable;
use std::vec::IntoIter;

/// Steps from which a detector is built again.
const STEPS: u64 = 3000;
/// Newest matrices of expert load that it is given then: each is a query.
const LOADS: u32 = 8;
/// Scalars that it is given.
const SCALARS: usize = 64;

/// A detector that has seen the newest steps of a run.
pub(super) async fn rebuild(api: &Api, run: &RunRow) -> Result<Detector, Problem> {
    let mut detector = Detector::new(thresholds(api, run).await?);
    let Some(last) = run.last_step.map(i64::unsigned_abs) else {
        return Ok(detector);
    };
    let from = last.saturating_sub(STEPS - 1);
    let attempts = api.timed("attempts", api.store.attempts(run.id)).await?;
    let mut steps = scalars(api, run, &attempts, from, last).await?;
    let loads = loads(api, run, last).await?;
    let mut starts: Vec<(u64, f64)> = segments(&attempts)
        .iter()
        .filter(|segment| segment.first > from.max(1))
        .filter_map(|segment| Some((segment.first, attempts.iter().find(|row| row.id == segment.attempt)?.started_at)))
        .collect();
    starts.reverse();
    while let Some(step) = steps.advance() {
        while let Some((first, time)) = starts.pop_if(|(first, _)| *first <= step) {
            detector.restart(first - 1, time);
        }
        let load = loads.get(&step).map(|matrix| Load {
            rows: matrix.rows,
            columns: matrix.columns,
            values: &matrix.values,
        });
        // Old findings were announced when they were new.
        let _ = detector.observe(&StepView {
            step,
            tokens: steps.scalars.get(TOKENS).map_or(0, |&tokens| tokens as u64),
            time: steps.scalars.get(TIME).copied().unwrap_or(0.0),
            scalars: &steps.scalars,
            load,
        });
    }
    Ok(detector)
}

/// What the job's manifest says of its health; the defaults where it cannot be read, as that of a newer version may not.
async fn thresholds(api: &Api, run: &RunRow) -> Result<Thresholds, Problem> {
    let newest = api.timed("generation", api.store.generation(run.job_id, None)).await?;
    let job = fathom_spec::parse_manifest(&newest.submitted);
    Ok(job.map(|job| job.thresholds(&run.phase)).unwrap_or_default())
}

/// Points of several series, step by step. One map serves all steps: names hardly change from one to the next.
struct Steps {
    columns: Vec<(String, Peekable<IntoIter<Bucket>>)>,
    scalars: BTreeMap<String, f64>,
}

impl Steps {
    fn new(columns: impl Iterator<Item = (String, Vec<Bucket>)>) -> Self {
        let columns = columns.map(|(name, points)| (name, points.into_iter().peekable()));
        Self {
            columns: columns.collect(),
            scalars: BTreeMap::new(),
        }
    }

    /// Goes to the next step that has a point; the map then holds the points of this step.
    fn advance(&mut self) -> Option<u64> {
        let columns = self.columns.iter_mut();
        let step = columns.filter_map(|(_, points)| points.peek().map(|point| point.last_step)).min()?;
        for (name, points) in &mut self.columns {
            match (points.next_if(|point| point.last_step == step), self.scalars.get_mut(name)) {
                (Some(point), Some(value)) => *value = point.last,
                (Some(point), None) => drop(self.scalars.insert(name.clone(), point.last)),
                (None, Some(_)) => drop(self.scalars.remove(name)),
                (None, None) => {}
            }
        }
        Some(step)
    }
}

/// Scalars of a range of steps, the axes among them.
async fn scalars(api: &Api, run: &RunRow, attempts: &[AttemptRow], from: u64, to: u64) -> Result<Steps, Problem> {
    let catalogue = api.timed("catalogue", api.store.catalogue(run.id)).await?;
    let mut scalars: Vec<(i64, String)> = catalogue
        .into_iter()
        .filter(|row| row.kind == "scalar")
        .map(|row| (row.id, row.name))
        .collect();
    // Losses, norms and speeds first: a run may measure thousands of things.
    let known = [
        "loss.",
        "gradient",
        "tokens_per_second",
        "validation.",
        "moe.max_violation",
        "learning_rate",
    ];
    scalars.sort_by_key(|(_, name)| known.iter().position(|prefix| name.starts_with(prefix)).unwrap_or(known.len()));
    scalars.truncate(SCALARS);
    let axes = api.timed("scalars_of", api.store.scalars_of(&[run.id], &[TOKENS, TIME])).await?;
    scalars.extend(axes.into_iter().map(|((_, name), id)| (id, name)));
    let ids: Vec<i64> = scalars.iter().map(|(id, _)| *id).collect();
    let range = Range {
        from,
        to,
        buckets: u32::try_from(to - from + 1).unwrap_or(u32::MAX),
    };
    let window = api.store.window_of(attempts, &ids, range, View::Resolved);
    let mut window = api.timed("window", window).await?;
    let columns = scalars
        .into_iter()
        .map(|(id, name)| (name, window.series.remove(&id).unwrap_or_default()));
    Ok(Steps::new(columns))
}

/// The newest exact matrices of expert load, by step.
async fn loads(api: &Api, run: &RunRow, last: u64) -> Result<BTreeMap<u64, MatrixValue>, Problem> {
    let mut loads = BTreeMap::new();
    let series = match api.store.series_by_name(run.id, "moe.load").await {
        Err(fathom_store::Error::NotFound { .. }) => return Ok(loads),
        other => other?,
    };
    let from = last.saturating_sub(u64::from(LOADS));
    let (steps, _) = api
        .timed("matrix_steps", api.store.matrix_steps(run.id, &series, from, last, LOADS))
        .await?;
    for (first, step) in steps {
        if first == step {
            let matrix = api.timed("matrix", api.store.matrix(run.id, &series, Some(step))).await?;
            loads.insert(step, matrix);
        }
    }
    Ok(loads)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_has_its_own_points_and_no_others() {
        let points = |points: &[(u64, f64)]| points.iter().map(|&(step, value)| Bucket::of(step, value, 0)).collect::<Vec<_>>();
        let columns = [
            ("loss", points(&[(1, 4.0), (2, 3.0), (4, 1.0)])),
            ("validation", points(&[(2, 3.5), (3, 3.4)])),
            ("nothing", Vec::new()),
        ];
        let mut steps = Steps::new(columns.into_iter().map(|(name, points)| (name.to_owned(), points)));
        let mut seen = Vec::new();
        while let Some(step) = steps.advance() {
            let scalars: Vec<_> = steps.scalars.iter().map(|(name, &value)| (name.clone(), value)).collect();
            seen.push((step, scalars));
        }
        let row = |step, scalars: &[(&str, f64)]| {
            (
                step,
                scalars.iter().map(|&(name, value)| (name.to_owned(), value)).collect::<Vec<_>>(),
            )
        };
        let expected = [
            row(1, &[("loss", 4.0)]),
            row(2, &[("loss", 3.0), ("validation", 3.5)]),
            row(3, &[("validation", 3.4)]),
            row(4, &[("loss", 1.0)]),
        ];
        assert_eq!(seen, expected);
    }
}
