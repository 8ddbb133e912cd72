//! The health of runs. A detector per run is fed as records are committed; after a restart it is built again from the newest steps in the
//! store. What a detector finds becomes an event; when the verdict changes, that becomes one too.

use crate::Api;
use crate::problem::Problem;
use crate::view::{Event, Verdict};
use fathom_spec::health::{Detection, Detector, Health, Load, Severity, StepView, Thresholds, assess};
use fathom_spec::record::{Body, EventKind, Record};
use fathom_store::attempts::segments;
use fathom_store::events::NewEvent;
use fathom_store::read::{Range, View};
use fathom_store::runs::RunRow;
use fathom_store::series::{TIME, TOKENS};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub(crate) mod situation;

/// Steps from which a detector is built again.
const STEPS: u64 = 3000;
/// Newest matrices of expert load that it is given then: each is a query.
const LOADS: u32 = 8;
/// Scalars that it is given.
const SCALARS: usize = 64;
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

impl Monitors {
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
        return judge(api, run, &mut state, true).await.map(drop);
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
        judge(api, run, &mut state, true).await?;
    }
    Ok(())
}

/// The health of a run now.
pub(crate) async fn health(api: &Api, run: &RunRow) -> Result<Health, Problem> {
    let monitor = api.monitors.of(run.id);
    let mut state = monitor.lock().await;
    if state.detector.is_none() {
        state.detector = Some(rebuild(api, run).await?);
    }
    judge(api, run, &mut state, false).await
}

/// Judges a run and, if asked to, announces another verdict.
async fn judge(api: &Api, run: &RunRow, state: &mut State, announce: bool) -> Result<Health, Problem> {
    let situation = situation::of(api, run).await?;
    let detector = state.detector.get_or_insert_with(|| Detector::new(Thresholds::default()));
    let mut health = assess(detector, &situation);
    health.run = Some(run.name.clone());
    health.next_action.href = situation::href(run, &health);
    state.judged = Some(Instant::now());
    let verdict = Verdict::from(health.verdict);
    if announce && state.verdict != Some(verdict) {
        let before = state.verdict.replace(verdict);
        api.hub.health(&run.job, Some(&run.name), verdict.word());
        // The first verdict after a start is no change.
        if let Some(before) = before {
            changed(api, run, &health, before, verdict).await?;
        }
    }
    Ok(health)
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

/// A detector that has seen the newest steps of a run.
async fn rebuild(api: &Api, run: &RunRow) -> Result<Detector, Problem> {
    let mut detector = Detector::new(Thresholds::default());
    let Some(last) = run.last_step.map(i64::unsigned_abs) else {
        return Ok(detector);
    };
    let from = last.saturating_sub(STEPS - 1);
    let steps = scalars(api, run, from, last).await?;
    let loads = loads(api, run, last).await?;
    let attempts = api.timed("attempts", api.store.attempts(run.id)).await?;
    let mut starts: Vec<(u64, f64)> = segments(&attempts)
        .iter()
        .filter(|segment| segment.first > from.max(1))
        .filter_map(|segment| Some((segment.first, attempts.iter().find(|row| row.id == segment.attempt)?.started_at)))
        .collect();
    starts.reverse();
    for (step, scalars) in &steps {
        while let Some((first, time)) = starts.pop_if(|(first, _)| *first <= *step) {
            detector.restart(first - 1, time);
        }
        let load = loads.get(step).map(|matrix| Load {
            rows: matrix.rows,
            columns: matrix.columns,
            values: &matrix.values,
        });
        // Old findings were announced when they were new.
        let _ = detector.observe(&StepView {
            step: *step,
            tokens: scalars.get(TOKENS).map_or(0, |&tokens| tokens as u64),
            time: scalars.get(TIME).copied().unwrap_or(0.0),
            scalars,
            load,
        });
    }
    Ok(detector)
}

/// Scalars by step, the axes among them.
async fn scalars(api: &Api, run: &RunRow, from: u64, to: u64) -> Result<BTreeMap<u64, BTreeMap<String, f64>>, Problem> {
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
    for axis in [TOKENS, TIME] {
        let row = api.timed("series_by_name", api.store.series_by_name(run.id, axis)).await?;
        scalars.push((row.id, row.name));
    }
    let ids: Vec<i64> = scalars.iter().map(|(id, _)| *id).collect();
    let range = Range {
        from,
        to,
        buckets: u32::try_from(to - from + 1).unwrap_or(u32::MAX),
    };
    let window = api.timed("window", api.store.window(run.id, &ids, range, View::Resolved)).await?;
    let mut steps: BTreeMap<u64, BTreeMap<String, f64>> = BTreeMap::new();
    for (id, name) in scalars {
        for bucket in window.series.get(&id).into_iter().flatten() {
            steps.entry(bucket.last_step).or_default().insert(name.clone(), bucket.last);
        }
    }
    Ok(steps)
}

/// The newest exact matrices of expert load, by step.
async fn loads(api: &Api, run: &RunRow, last: u64) -> Result<BTreeMap<u64, fathom_store::matrices::MatrixValue>, Problem> {
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
            judge(api, &run, &mut state, true).await?;
        }
    }
    Ok(())
}
