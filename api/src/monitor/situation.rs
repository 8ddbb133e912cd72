//! What is known of a run beside its steps, from the store.

use crate::Api;
use crate::problem::Problem;
use fathom_spec::health::{ActionKind, CheckpointMark, EventSummary, Finished, Health, Page, Situation};
use fathom_spec::record::EventKind;
use fathom_store::attempts::{AttemptRow, superseded};
use fathom_store::events::{EventFilter, EventRow};
use fathom_store::runs::RunRow;
use std::collections::HashMap;

/// Newest events that are looked at.
const EVENTS: u32 = 200;

/// The situation of a run now.
pub(super) async fn of(api: &Api, run: &RunRow) -> Result<Situation, Problem> {
    let attempts = api.timed("attempts", api.store.attempts(run.id)).await?;
    let filter = EventFilter {
        run: Some(run.id),
        ..EventFilter::default()
    };
    let events = api.timed("events", api.store.events(run.job_id, &filter, None, EVENTS)).await?;
    Ok(situation(api.now(), run, &attempts, &events.items))
}

/// The situations of some runs now, by run, from their attempts.
pub(crate) async fn of_all(
    api: &Api,
    runs: &[&RunRow],
    attempts: &HashMap<i64, Vec<AttemptRow>>,
) -> Result<HashMap<i64, Situation>, Problem> {
    let ids: Vec<i64> = runs.iter().map(|run| run.id).collect();
    let events = api.timed("events_of", api.store.events_of(&ids, EVENTS)).await?;
    let now = api.now();
    let of = |run: &&RunRow| {
        let (attempts, events) = (attempts.get(&run.id), events.get(&run.id));
        let situation = situation(now, run, attempts.map_or(&[], Vec::as_slice), events.map_or(&[], Vec::as_slice));
        (run.id, situation)
    };
    Ok(runs.iter().map(of).collect())
}

fn situation(now: f64, run: &RunRow, attempts: &[AttemptRow], events: &[EventRow]) -> Situation {
    let counting: Vec<EventSummary> = events
        .iter()
        .filter(|event| !is_superseded(event, attempts))
        .filter_map(summary)
        .collect();
    let mut checkpoints: Vec<CheckpointMark> = counting
        .iter()
        .filter(|event| event.kind == EventKind::CheckpointCommitted)
        .filter_map(|event| {
            Some(CheckpointMark {
                step: event.step?,
                time: event.time,
            })
        })
        .collect();
    checkpoints.sort_by(|left, right| left.time.total_cmp(&right.time));
    let newest = attempts.last();
    Situation {
        now,
        running: run.state == "running",
        phase_state: run.state.clone(),
        started: newest.map(|row| row.started_at),
        heartbeat: None,
        last_record: newest.map(|row| row.last_time).into_iter().chain(run.last_time).reduce(f64::max),
        checkpoint: checkpoints.last().copied(),
        checkpoint_interval: interval(&checkpoints),
        restarts: restarts(attempts),
        finished: finished(run, newest),
        events: counting,
    }
}

/// Median seconds between checkpoints; none before the third.
fn interval(checkpoints: &[CheckpointMark]) -> Option<f64> {
    let mut gaps: Vec<f64> = checkpoints.windows(2).map(|pair| pair[1].time - pair[0].time).collect();
    gaps.sort_by(f64::total_cmp);
    (gaps.len() > 1).then(|| gaps[gaps.len() / 2])
}

/// When attempts began after one that did not stop on request.
fn restarts(attempts: &[AttemptRow]) -> Vec<f64> {
    let unasked = |row: &AttemptRow| row.outcome.as_deref().is_none_or(|outcome| outcome == "failed");
    attempts
        .windows(2)
        .filter(|pair| unasked(&pair[0]))
        .map(|pair| pair[1].started_at)
        .collect()
}

fn finished(run: &RunRow, newest: Option<&AttemptRow>) -> Option<Finished> {
    let time = newest.and_then(|row| row.ended_at).or(run.last_time);
    match run.state.as_str() {
        "succeeded" | "cached" => Some(Finished {
            succeeded: true,
            message: None,
            time,
        }),
        "failed" => Some(Finished {
            succeeded: false,
            message: newest.and_then(|row| row.message.clone()),
            time,
        }),
        _ => None,
    }
}

/// Whether a later attempt made the step of an event again.
pub(crate) fn is_superseded(event: &EventRow, attempts: &[AttemptRow]) -> bool {
    let (Some(step), Some(id)) = (event.step, event.attempt_id) else {
        return false;
    };
    let Some(index) = attempts.iter().position(|row| row.id == id) else {
        return false;
    };
    superseded(attempts, index).is_some_and(|(first, last)| (first..=last).contains(&step.unsigned_abs()))
}

/// Events of workers; those of the server itself are no reasons.
fn summary(event: &EventRow) -> Option<EventSummary> {
    let kind = serde_json::from_value(serde_json::Value::String(event.kind.clone())).ok()?;
    Some(EventSummary {
        kind,
        step: event.step.map(i64::unsigned_abs),
        time: event.time,
        message: event.message.clone(),
    })
}

/// The page of the dashboard for the next action.
pub(super) fn href(run: &RunRow, health: &Health) -> Option<String> {
    let job = &run.job;
    match health.next_action.kind {
        ActionKind::Resume | ActionKind::Rollback => Some(format!("/jobs/{job}/checkpoints")),
        ActionKind::Wait | ActionKind::None => None,
        ActionKind::Open => {
            let reason = health.reasons.first()?;
            let page = match reason.page {
                Page::Curves => "curves",
                Page::Experts => "experts",
                Page::Checkpoints => "checkpoints",
                Page::Logs => "logs",
            };
            let mut parameters = vec![format!("run={}", run.name)];
            parameters.extend(reason.metric.as_ref().map(|metric| format!("metric={metric}")));
            parameters.extend(reason.since.step.map(|step| format!("step={step}")));
            parameters.extend(reason.layer.map(|layer| format!("layer={layer}")));
            parameters.extend(reason.expert.map(|expert| format!("expert={expert}")));
            Some(format!("/jobs/{job}/{page}?{}", parameters.join("&")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(id: i64, from_step: i64, started_at: f64, outcome: Option<&str>) -> AttemptRow {
        AttemptRow {
            id,
            attempt: id as i32,
            execution: 1,
            from_step,
            started_at,
            ended_at: None,
            outcome: outcome.map(str::to_owned),
            message: None,
            last_step: Some(from_step + 10),
            last_time: started_at + 1.0,
            sealed_steps: 0,
        }
    }

    #[test]
    fn pauses_are_no_restarts() {
        let rows = [
            attempt(1, 0, 1.0, Some("stopped")),
            attempt(2, 10, 2.0, Some("failed")),
            attempt(3, 20, 3.0, None),
            attempt(4, 30, 4.0, None),
        ];
        assert_eq!(restarts(&rows), [3.0, 4.0]);
    }

    #[test]
    fn the_usual_time_between_checkpoints() {
        let marks = |times: &[f64]| times.iter().map(|&time| CheckpointMark { step: 1, time }).collect::<Vec<_>>();
        assert_eq!(interval(&marks(&[1.0, 2.0])), None);
        assert_eq!(interval(&marks(&[1.0, 2.0, 4.0, 5.0])), Some(1.0));
    }

    #[test]
    fn events_of_superseded_steps_do_not_count() {
        let rows = [attempt(1, 0, 1.0, None), attempt(2, 5, 2.0, None)];
        let event = |step, attempt_id| EventRow {
            id: 1,
            job: "j".into(),
            run: None,
            attempt: None,
            attempt_id: Some(attempt_id),
            time: 0.0,
            kind: "NonFinite".into(),
            severity: "error".into(),
            step: Some(step),
            message: String::new(),
        };
        assert!(is_superseded(&event(7, 1), &rows));
        assert!(!is_superseded(&event(5, 1), &rows));
        assert!(!is_superseded(&event(7, 2), &rows));
    }
}
