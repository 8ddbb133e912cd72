//! What is shown of jobs beside their own rows, read for all of them at once: a list of 100 costs as many queries as one job.

use super::assemble::training_run;
use crate::Api;
use crate::monitor::{self, situation};
use crate::problem::Problem;
use fathom_spec::health::{Health, Situation};
use fathom_store::attempts::AttemptRow;
use fathom_store::jobs::JobRow;
use fathom_store::read::{Range, Read, View};
use fathom_store::runs::RunRow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Points of a sparkline.
const SPARKLINE: u32 = 48;
/// The scalars that a job shows.
const LOSS: &str = "loss.main";
const SPEED: &str = "tokens_per_second";
/// Runs whose detectors are made again at the same time.
const JUDGED_AT_A_TIME: usize = 4;
/// Runs whose curves are kept.
const MOST_KEPT: usize = 1_000;

/// What a run's curves end in.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Curves {
    pub(super) loss: Vec<f64>,
    pub(super) last_loss: Option<f64>,
    pub(super) last_speed: Option<f64>,
}

/// The curves of runs, each with the number of records that the run had before they were read: with another number they are read again.
#[derive(Clone, Default)]
pub(crate) struct KeptCurves {
    runs: Arc<Mutex<HashMap<i64, (i64, Curves)>>>,
}

impl KeptCurves {
    fn get(&self, run: i64, records: i64) -> Option<Curves> {
        let runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        runs.get(&run)
            .filter(|(known, _)| *known == records)
            .map(|(_, curves)| curves.clone())
    }

    fn put(&self, run: i64, records: i64, curves: Curves) {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        if runs.len() >= MOST_KEPT && !runs.contains_key(&run) {
            runs.clear();
        }
        runs.insert(run, (records, curves));
    }
}

/// What is known of some jobs beside their rows.
pub(super) struct Overview {
    runs: HashMap<i64, Vec<RunRow>>,
    curves: HashMap<i64, Curves>,
    health: HashMap<i64, Health>,
}

impl Overview {
    /// Of these jobs.
    pub(super) async fn read(api: &Api, jobs: &[JobRow]) -> Result<Self, Problem> {
        let ids: Vec<i64> = jobs.iter().map(|job| job.id).collect();
        // Before the runs: what comes in between is then read again next time.
        let records = api.timed("records_of", api.store.records_of(&ids)).await?;
        let runs = api.timed("runs_of", api.store.runs_of(&ids)).await?;
        let trained: Vec<&RunRow> = jobs
            .iter()
            .filter_map(|job| training_run(job, runs.get(&job.id).map_or(&[], Vec::as_slice)))
            .collect();
        let trained_ids: Vec<i64> = trained.iter().map(|run| run.id).collect();
        let attempts = api.timed("attempts_of", api.store.attempts_of(&trained_ids)).await?;
        let curves = curves(api, &trained, &records, &attempts).await?;
        let situations = situation::of_all(api, &trained, &attempts).await?;
        let health = health(api, &trained, situations).await?;
        Ok(Self { runs, curves, health })
    }

    /// The runs of a job, oldest first.
    pub(super) fn runs(&self, job: &JobRow) -> &[RunRow] {
        self.runs.get(&job.id).map_or(&[], Vec::as_slice)
    }

    /// Curves of the training run of a job.
    pub(super) fn curves(&self, run: &RunRow) -> Curves {
        self.curves.get(&run.id).cloned().unwrap_or_default()
    }

    /// Health of the training run of a job.
    pub(super) fn health(&self, run: &RunRow) -> Option<&Health> {
        self.health.get(&run.id)
    }
}

/// The health of some runs. After a start their detectors are made again, which takes a while: several at a time.
async fn health(api: &Api, runs: &[&RunRow], mut situations: HashMap<i64, Situation>) -> Result<HashMap<i64, Health>, Problem> {
    let turns = Arc::new(Semaphore::new(JUDGED_AT_A_TIME));
    let mut judged = JoinSet::new();
    for run in runs {
        let Some(situation) = situations.remove(&run.id) else { continue };
        let (api, run, turns) = (api.clone(), RunRow::clone(run), Arc::clone(&turns));
        judged.spawn(async move {
            // Nobody closes the semaphore.
            let _turn = turns.acquire().await;
            (run.id, monitor::health_in(&api, &run, &situation).await)
        });
    }
    let mut found = HashMap::with_capacity(runs.len());
    while let Some(done) = judged.join_next().await {
        let (run, health) = done.map_err(|error| Problem::internal("the health of a run could not be judged", &error))?;
        found.insert(run, health?);
    }
    Ok(found)
}

async fn curves(
    api: &Api,
    runs: &[&RunRow],
    records: &HashMap<i64, i64>,
    attempts: &HashMap<i64, Vec<AttemptRow>>,
) -> Result<HashMap<i64, Curves>, Problem> {
    let count = |run: &RunRow| records.get(&run.id).copied().unwrap_or(0);
    let mut found = HashMap::with_capacity(runs.len());
    let mut missing = Vec::new();
    for run in runs {
        match api.curves.get(run.id, count(run)) {
            Some(curves) => drop(found.insert(run.id, curves)),
            None => missing.push(*run),
        }
    }
    if missing.is_empty() {
        return Ok(found);
    }
    let ids: Vec<i64> = missing.iter().map(|run| run.id).collect();
    let names = api.timed("scalars_of", api.store.scalars_of(&ids, &[LOSS, SPEED])).await?;
    let series = |run: &RunRow, name: &str| names.get(&(run.id, name.to_owned())).copied();
    let wanted: Vec<Vec<i64>> = missing
        .iter()
        .map(|run| [LOSS, SPEED].into_iter().filter_map(|name| series(run, name)).collect())
        .collect();
    let reads: Vec<Read<'_>> = missing
        .iter()
        .zip(&wanted)
        .map(|(run, series)| Read {
            attempts: attempts.get(&run.id).map_or(&[], Vec::as_slice),
            series,
            range: Range {
                from: 0,
                to: run.last_step.unwrap_or(0).unsigned_abs(),
                buckets: SPARKLINE,
            },
            view: View::Resolved,
        })
        .collect();
    let windows = api.timed("windows", api.store.windows(&reads)).await?;
    for (run, window) in missing.iter().zip(windows) {
        let column = |name: &str| -> Vec<f64> {
            let buckets = series(run, name).and_then(|id| window.series.get(&id));
            buckets.into_iter().flatten().map(|bucket| bucket.last).collect()
        };
        let (loss, speed) = (column(LOSS), column(SPEED));
        let curves = Curves {
            last_loss: loss.last().copied(),
            last_speed: speed.last().copied(),
            loss,
        };
        api.curves.put(run.id, count(run), curves.clone());
        found.insert(run.id, curves);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_number_of_records_makes_curves_old() {
        let kept = KeptCurves::default();
        let curves = Curves {
            last_loss: Some(2.0),
            ..Curves::default()
        };
        kept.put(1, 10, curves.clone());
        assert_eq!(kept.get(1, 10), Some(curves));
        assert_eq!(kept.get(1, 11), None);
        assert_eq!(kept.get(2, 10), None);
    }

    #[test]
    fn no_more_runs_are_kept_than_allowed() {
        let kept = KeptCurves::default();
        for run in 0..=MOST_KEPT as i64 {
            kept.put(run, 1, Curves::default());
        }
        assert_eq!(kept.runs.lock().unwrap().len(), 1);
        assert!(kept.get(MOST_KEPT as i64, 1).is_some());
    }
}
