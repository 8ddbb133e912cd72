//! `PUT /jobs/{job}/status`.

use crate::extract::Json;
use crate::problem::{Code, Problem};
use crate::view::{PhaseReport, StatusReport};
use crate::{Api, monitor};
use axum::extract::{Path, State};
use fathom_store::artifacts::SeenArtifact;
use fathom_store::events::NewEvent;
use fathom_store::jobs::{JobReport, JobRow};
use fathom_store::runs::RunReport;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

/// Phases, runs and artifacts of one job.
const MOST_PARTS: usize = 200;
const JOB_STATES: [&str; 8] = [
    "pending",
    "queued",
    "running",
    "paused",
    "stopped",
    "cancelled",
    "succeeded",
    "failed",
];
const PHASE_STATES: [&str; 6] = ["pending", "cached", "running", "stopped", "succeeded", "failed"];

/// What is known now.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct StatusAccepted {
    /// Number of the job's manifest.
    generation: i32,
}

/// Takes in what a runner or operator says about a job. Saying the same twice changes nothing.
#[utoipa::path(put, path = "/jobs/{job}/status", operation_id = "reportJobStatus", tag = "ingest", params(("job" = String, Path)), request_body = StatusReport,
    responses((status = 200, body = StatusAccepted),
              (status = 422)))]
pub(super) async fn status(
    State(api): State<Api>,
    Path(job): Path<String>,
    Json(report): Json<StatusReport>,
) -> Result<axum::Json<StatusAccepted>, Problem> {
    check(&report)?;
    let project = api.config.project.clone();
    let before = match api.store.job(&project, &job).await {
        Ok(row) => Some(row),
        Err(fathom_store::Error::NotFound { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let StatusReport {
        uid,
        manifest,
        effective,
        state,
        message,
        phases,
        runs,
        artifacts,
        labels,
    } = report;
    let stored = JobReport {
        uid: &uid,
        state: &state,
        message: message.as_deref(),
        labels: &json!(labels),
        phases: &json!(phases),
        submitted: &manifest,
        effective: &effective,
    };
    let reported = api.timed("report_job", api.store.report_job(&project, &job, &stored)).await?;
    for run in &runs {
        let run = RunReport {
            name: &run.name,
            phase: &run.phase,
            kind: &run.kind,
            key: &run.key,
            state: &run.state,
            flops_per_token: run.flops_per_token,
        };
        api.timed("report_run", api.store.report_run(reported.id, &run)).await?;
    }
    for artifact in &artifacts {
        let seen = SeenArtifact {
            kind: &artifact.kind,
            key: &artifact.key,
            phase: &artifact.phase,
            step: artifact.step,
            bytes: artifact.bytes,
            files: artifact.files,
            path: &artifact.path,
            lineage: &json!(artifact.lineage),
            statistics: &artifact.statistics,
        };
        api.timed("report_artifact", api.store.report_artifact(&project, &seen)).await?;
    }
    if before.as_ref().is_some_and(|before| before.generation != reported.generation) {
        let runs = api.timed("runs", api.store.runs(reported.id)).await?;
        api.monitors.forget(&runs);
    }
    if reported.changed {
        let events = changes(&api, reported.id, &uid, before.as_ref(), &state, &phases);
        monitor::publish(&api, &events).await?;
        let current = phases
            .iter()
            .find(|phase| phase.state == "running")
            .map(|phase| phase.name.as_str());
        api.hub.job(&job, &state, current);
    }
    Ok(axum::Json(StatusAccepted {
        generation: reported.generation,
    }))
}

fn check(report: &StatusReport) -> Result<(), Problem> {
    let wrong = |pointer: &str, detail: String| Err(Problem::new(Code::INVALID, "A part of the status is not valid.").at(pointer, detail));
    if !JOB_STATES.contains(&report.state.as_str()) {
        return wrong("/state", format!("expected one of {}", JOB_STATES.join(", ")));
    }
    let parts = [
        ("/phases", report.phases.len()),
        ("/runs", report.runs.len()),
        ("/artifacts", report.artifacts.len()),
    ];
    if let Some((pointer, count)) = parts.into_iter().find(|(_, count)| *count > MOST_PARTS) {
        return wrong(pointer, format!("{count} are too many; a job may have {MOST_PARTS}"));
    }
    for (index, phase) in report.phases.iter().enumerate() {
        if phase.name.is_empty() || phase.kind.is_empty() {
            return wrong(&format!("/phases/{index}/name"), "a phase has a name and a kind".into());
        }
        if !PHASE_STATES.contains(&phase.state.as_str()) {
            return wrong(
                &format!("/phases/{index}/state"),
                format!("expected one of {}", PHASE_STATES.join(", ")),
            );
        }
    }
    for (index, run) in report.runs.iter().enumerate() {
        if !PHASE_STATES.contains(&run.state.as_str()) {
            return wrong(
                &format!("/runs/{index}/state"),
                format!("expected one of {}", PHASE_STATES.join(", ")),
            );
        }
    }
    if let Some(index) = report.artifacts.iter().position(|artifact| !artifact.statistics.is_object()) {
        return wrong(&format!("/artifacts/{index}/statistics"), "expected an object".into());
    }
    Ok(())
}

/// Events that a change of status stands for. Their keys hold what changed to what, and when it was seen: the store counts the change once.
/// Their times are those of the change, where the report has them: a job may be reported long after its end.
fn changes(api: &Api, job: i64, uid: &str, before: Option<&JobRow>, state: &str, phases: &[PhaseReport]) -> Vec<NewEvent> {
    let now = api.now();
    let before = before.filter(|row| row.uid == uid);
    let times = phases.iter().flat_map(|phase| [&phase.started_at, &phase.finished_at]);
    let first = times.filter_map(|time| unix(time.as_deref())).fold(now, f64::min);
    let event = |key: String, kind: &str, severity, time: f64, message: String| NewEvent {
        job,
        run: None,
        attempt: None,
        key,
        time: time.min(now),
        kind: kind.to_owned(),
        severity,
        step: None,
        message,
    };
    let known: Vec<PhaseReport> = before
        .and_then(|row| serde_json::from_value(row.phases.clone()).ok())
        .unwrap_or_default();
    let mut events = Vec::new();
    if before.is_none() {
        events.push(event(
            format!("created/{uid}"),
            "JobCreated",
            "info",
            first,
            format!("The job was created and is {state}"),
        ));
    }
    for phase in phases {
        let was = known
            .iter()
            .find(|known| known.name == phase.name)
            .map_or("pending", |known| known.state.as_str());
        if was == phase.state {
            continue;
        }
        let severity = match phase.state.as_str() {
            "failed" => "error",
            "stopped" => "warning",
            _ => "info",
        };
        let reason = phase.message.as_ref().map_or(String::new(), |message| format!(": {message}"));
        let message = format!("Phase `{}` went from {was} to {}{reason}", phase.name, phase.state);
        let key = format!("phase/{uid}/{}/{}/{now:.3}", phase.name, phase.state);
        let time = match (phase.state.as_str(), was) {
            // Another start of a phase that was under way is now.
            ("running", "pending") => unix(phase.started_at.as_deref()),
            ("succeeded" | "failed", _) => unix(phase.finished_at.as_deref()),
            _ => None,
        };
        // What has no time of its own was so at the beginning, as far as this server can know.
        let time = time.unwrap_or(if before.is_none() { first } else { now });
        events.push(event(key, "PhaseChanged", severity, time, message));
    }
    events
}

/// Seconds since the Unix epoch.
fn unix(time: Option<&str>) -> Option<f64> {
    let time = chrono::DateTime::parse_from_rfc3339(time?).ok()?;
    Some(time.timestamp_micros() as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(state: &str, phase_state: &str) -> StatusReport {
        let value = json!({
            "uid": "u", "manifest": "a: 1", "effective": "a: 1", "state": state,
            "phases": [{"name": "pretrain", "kind": "pretrain", "state": phase_state}]
        });
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn states_are_checked() {
        assert!(check(&report("running", "running")).is_ok());
        assert_eq!(check(&report("walking", "running")).unwrap_err().code(), "invalid");
        assert_eq!(check(&report("running", "queued")).unwrap_err().code(), "invalid");
    }

    #[test]
    fn statistics_are_objects() {
        let mut report = report("running", "running");
        let artifact = |statistics: serde_json::Value| {
            let value = json!({
                "kind": "corpus", "key": "k", "phase": "corpus", "bytes": 1, "files": 1, "path": "p", "lineage": {}, "statistics": statistics
            });
            serde_json::from_value(value).unwrap()
        };
        report.artifacts = vec![artifact(json!({"a": 1}))];
        assert!(check(&report).is_ok());
        report.artifacts = vec![artifact(json!([1]))];
        assert_eq!(check(&report).unwrap_err().code(), "invalid");
    }

    #[test]
    fn unknown_fields_are_refused() {
        let value = json!({"uid": "u", "manifest": "", "effective": "", "state": "running", "colour": 1});
        assert!(serde_json::from_value::<StatusReport>(value).is_err());
    }
}
