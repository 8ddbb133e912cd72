//! The health of runs. A detector per run is fed as records are committed; after a restart it is built again from the newest steps in the
//! store. What a detector finds becomes an event; when the verdict changes, that becomes one too.

use self::rebuild::rebuild;
use crate::Api;
use crate::problem::Problem;
use crate::view::{Event, Verdict};
use fathom_spec::health::{Detection, Detector, Health, Severity, Situation, StepView, Thresholds, assess};
use fathom_spec::record::{Body, EventKind, Record};
use fathom_store::events::NewEvent;
use fathom_store::runs::RunRow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

mod rebuild;
pub(crate) mod situation;

/// Detectors that are kept.
const MOST_MONITORS: usize = 256;
/// A run is judged at most this often while it reports.
const JUDGE_PERIOD: Duration = Duration::from_secs(2);
/// Silence is noticed this often.
const WATCH_PERIOD: Duration = Duration::from_secs(5);

/// The detectors of all runs.
#[derive(Clone, Default)]
pub(crate) struct Monitors {
    runs: Arc<Mutex<HashMap<i64, Monitor>>>,
}

/// Waits for its turn behind whoever feeds the run now.
type Monitor = Arc<tokio::sync::Mutex<State>>;

#[derive(Default)]
struct State {
    detector: Option<Detector>,
    verdict: Option<Verdict>,
    judged: Option<Instant>,
}

impl State {
    fn assess(&mut self, run: &RunRow, situation: &Situation) -> Health {
        let detector = self.detector.get_or_insert_with(|| Detector::new(Thresholds::default()));
        let mut health = assess(detector, situation);
        health.run = Some(run.name.clone());
        health.next_action.href = situation::href(run, &health);
        health
    }
}

impl Monitors {
    /// Detectors of these runs are built again: what they are judged by has changed.
    pub(crate) fn forget(&self, forgotten: &[RunRow]) {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        for run in forgotten {
            runs.remove(&run.id);
        }
    }

    fn of(&self, run: i64) -> Monitor {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        if runs.len() >= MOST_MONITORS && !runs.contains_key(&run) {
            // Those that nobody uses now; they are built again when asked for.
            runs.retain(|_, monitor| Arc::strong_count(monitor) > 1);
        }
        Arc::clone(runs.entry(run).or_default())
    }
}

/// Feeds records that were committed, in order.
pub(crate) async fn observe(api: &Api, run: &RunRow, records: &[Record]) -> Result<(), Problem> {
    let monitor = api.monitors.of(run.id);
    let mut state = monitor.lock().await;
    let Some(detector) = &mut state.detector else {
        // What was just committed is part of what is read.
        state.detector = Some(rebuild(api, run).await?);
        return judge(api, run, &mut state).await;
    };
    let mut found = Vec::new();
    for record in records {
        match &record.body {
            Body::Metrics(batch) => found.extend(detector.observe(&StepView::new(batch, record.time))),
            Body::Event(event) if event.kind == EventKind::AttemptStarted => detector.restart(event.step.unwrap_or(0), record.time),
            Body::Event(_) | Body::Progress(_) => {}
        }
    }
    announce(api, run, &found).await?;
    let due = state.judged.is_none_or(|judged| judged.elapsed() >= JUDGE_PERIOD);
    if due || !found.is_empty() {
        judge(api, run, &mut state).await?;
    }
    Ok(())
}

/// The health of a run now.
pub(crate) async fn health(api: &Api, run: &RunRow) -> Result<Health, Problem> {
    let situation = situation::of(api, run).await?;
    health_in(api, run, &situation).await
}

/// The health of a run of which is known what there is beside its steps.
pub(crate) async fn health_in(api: &Api, run: &RunRow, situation: &Situation) -> Result<Health, Problem> {
    let monitor = api.monitors.of(run.id);
    let mut state = monitor.lock().await;
    if state.detector.is_none() {
        state.detector = Some(rebuild(api, run).await?);
    }
    Ok(state.assess(run, situation))
}

/// Judges a run and announces another verdict.
async fn judge(api: &Api, run: &RunRow, state: &mut State) -> Result<(), Problem> {
    let situation = situation::of(api, run).await?;
    let health = state.assess(run, &situation);
    state.judged = Some(Instant::now());
    let verdict = Verdict::from(health.verdict);
    if state.verdict != Some(verdict) {
        let before = state.verdict.replace(verdict);
        api.hub.health(&run.job, Some(&run.name), verdict.word());
        // The first verdict after a start is no change.
        if let Some(before) = before {
            changed(api, run, &health, before, verdict).await?;
        }
    }
    Ok(())
}

async fn changed(api: &Api, run: &RunRow, health: &Health, before: Verdict, now: Verdict) -> Result<(), Problem> {
    let reason = health.reasons.first().map_or(String::new(), |reason| format!(": {}", reason.text));
    let severity = match now {
        Verdict::Healthy | Verdict::NoData => "info",
        Verdict::Watch => "warning",
        Verdict::Failing | Verdict::Stalled => "error",
    };
    let event = NewEvent {
        job: run.job_id,
        run: Some(run.id),
        attempt: None,
        key: format!("health/{}/{:.0}", run.name, health.evaluated_at * 1e3),
        time: health.evaluated_at,
        kind: "HealthChanged".into(),
        severity,
        step: health.step,
        message: format!("Health went from {} to {}{reason}", before.word(), now.word()),
    };
    publish(api, &[event]).await
}

async fn announce(api: &Api, run: &RunRow, found: &[Detection]) -> Result<(), Problem> {
    if found.is_empty() {
        return Ok(());
    }
    let events: Vec<NewEvent> = found
        .iter()
        .map(|detection| NewEvent {
            job: run.job_id,
            run: Some(run.id),
            attempt: None,
            key: format!(
                "detected/{}/{:?}/{:?}/{}",
                run.name, detection.code, detection.severity, detection.step
            ),
            time: detection.time.unwrap_or_else(|| api.now()),
            kind: "Detected".into(),
            severity: match detection.severity {
                Severity::Watch => "warning",
                Severity::Failing | Severity::Stalled => "error",
            },
            step: Some(detection.step),
            message: detection.text.clone(),
        })
        .collect();
    publish(api, &events).await
}

/// Stores events and announces those that are new.
pub(crate) async fn publish(api: &Api, events: &[NewEvent]) -> Result<(), Problem> {
    for row in api.timed("add_events", api.store.add_events(events)).await? {
        api.hub.event(&Event::from(row));
    }
    Ok(())
}

/// Judges what runs every few seconds: silence sends no request. Ends when it is aborted.
pub(crate) async fn watch(api: Api) {
    let mut ticks = tokio::time::interval(WATCH_PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(problem) = watch_once(&api).await {
            tracing::warn!(problem.code = problem.code(), "the health of running jobs could not be judged");
        }
    }
}

async fn watch_once(api: &Api) -> Result<(), Problem> {
    let filter = fathom_store::jobs::JobFilter {
        state: Some("running"),
        name_contains: None,
    };
    let jobs = api
        .timed("jobs_newest", api.store.jobs_newest(&api.config.project, &filter, None, 100))
        .await?;
    for job in jobs.items {
        for run in api.timed("runs", api.store.runs(job.id)).await? {
            if run.state != "running" {
                continue;
            }
            let monitor = api.monitors.of(run.id);
            let mut state = monitor.lock().await;
            if state.detector.is_none() {
                state.detector = Some(rebuild(api, &run).await?);
            }
            judge(api, &run, &mut state).await?;
        }
    }
    Ok(())
}
