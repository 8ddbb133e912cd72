//! From rows to [`Job`]s: what the runner reported, joined with what the workers measured.

use super::overview::{Curves, Overview};
use crate::Api;
use crate::number::Number;
use crate::problem::Problem;
use crate::view::{HealthSummary, Job, Phase, PhaseReport, Verdict, allowed_actions, time};
use fathom_spec::health::{Code, Page, Reason, Severity, Since};
use fathom_spec::plan::run_name;
use fathom_spec::record::Progress;
use fathom_store::jobs::JobRow;
use fathom_store::runs::RunRow;
use std::collections::BTreeMap;

/// A job with everything that a list shows of it.
pub(crate) async fn job(api: &Api, row: JobRow) -> Result<Job, Problem> {
    let overview = Overview::read(api, std::slice::from_ref(&row)).await?;
    Ok(assemble(api.now(), row, &overview))
}

/// Jobs with everything that a list shows of them.
pub(crate) async fn jobs(api: &Api, rows: Vec<JobRow>) -> Result<Vec<Job>, Problem> {
    let overview = Overview::read(api, &rows).await?;
    let now = api.now();
    Ok(rows.into_iter().map(|row| assemble(now, row, &overview)).collect())
}

fn assemble(now: f64, row: JobRow, overview: &Overview) -> Job {
    let runs = overview.runs(&row);
    let trained = training_run(&row, runs);
    let curves = trained.map(|run| overview.curves(run)).unwrap_or_default();
    let phases = phases(now, &row, runs, trained.map(|run| (run.name.as_str(), &curves)));
    let health = health(&row, trained, overview);
    let current = current(&row.state, &phases);
    let shown = current.map(|index| &phases[index]);
    let JobRow {
        id: _,
        project,
        name,
        uid,
        state,
        message,
        labels,
        phases: _,
        generation,
        version: _,
        created_at,
        updated_at,
        started_at,
        finished_at,
    } = row;
    Job {
        allowed_actions: allowed_actions(&state),
        phase: shown.map(|phase| phase.name.clone()),
        progress: if state == "succeeded" {
            Some(1.0)
        } else {
            shown.and_then(|phase| phase.fraction)
        },
        eta_seconds: shown.and_then(|phase| phase.eta_seconds),
        loss_sparkline: curves.loss.iter().copied().map(Number).collect(),
        loss: curves.last_loss.map(Number),
        tokens: trained.and_then(|run| run.last_tokens),
        tokens_per_second: curves.last_speed.map(Number),
        restarts: phases.iter().map(|phase| phase.restarts).sum(),
        name,
        project,
        uid,
        state,
        message,
        created_at: time(created_at),
        updated_at: time(updated_at),
        // The phases' own times, for a job that is reported after the fact.
        started_at: phases
            .iter()
            .filter_map(|phase| phase.started_at.clone())
            .min()
            .or(started_at.map(time)),
        finished_at: finished_at.map(|seen| {
            phases
                .iter()
                .filter_map(|phase| phase.finished_at.clone())
                .max()
                .unwrap_or(time(seen))
        }),
        generation,
        health,
        labels: serde_json::from_value(labels).unwrap_or_default(),
        phases,
    }
}

/// The phases of a job alone.
pub(crate) async fn job_phases(api: &Api, row: JobRow) -> Result<Vec<Phase>, Problem> {
    job(api, row).await.map(|job| job.phases)
}

/// The run that trains now or trained last: of the last phase that has steps. Runs of earlier manifests have other keys and do not count.
pub(crate) fn training_run<'a>(job: &JobRow, runs: &'a [RunRow]) -> Option<&'a RunRow> {
    let names: Vec<String> = reports(job).iter().filter_map(|phase| run_of(job, phase)).collect();
    let counts = |run: &&RunRow| run.last_step.is_some() && names.contains(&run.name);
    let position = |run: &&RunRow| names.iter().position(|name| *name == run.name);
    runs.iter()
        .filter(counts)
        .max_by_key(position)
        .or_else(|| runs.iter().rfind(|run| run.last_step.is_some()))
}

/// The phases as the runner reported them. What cannot be read, of an older version, is left out.
pub(crate) fn reports(job: &JobRow) -> Vec<PhaseReport> {
    serde_json::from_value(job.phases.clone()).unwrap_or_default()
}

/// Id of the run of a phase: as reported, or as it follows from the key.
fn run_of(job: &JobRow, phase: &PhaseReport) -> Option<String> {
    phase
        .run
        .clone()
        .or_else(|| Some(run_name(&job.name, &phase.name, phase.key.as_deref()?)))
}

fn phases(now: f64, job: &JobRow, runs: &[RunRow], trained: Option<(&str, &Curves)>) -> Vec<Phase> {
    let by_name: BTreeMap<&str, &RunRow> = runs.iter().map(|run| (run.name.as_str(), run)).collect();
    reports(job)
        .into_iter()
        .map(|report| {
            let name = run_of(job, &report);
            let run = name.as_deref().and_then(|name| by_name.get(name)).copied();
            let curves = trained
                .filter(|(trained, _)| name.as_deref() == Some(*trained))
                .map(|(_, curves)| curves);
            phase(now, report, run, curves)
        })
        .collect()
}

fn phase(now: f64, report: PhaseReport, run: Option<&RunRow>, curves: Option<&Curves>) -> Phase {
    let PhaseReport {
        name,
        kind,
        state,
        key,
        attempt,
        restarts,
        started_at,
        finished_at,
        checkpoint_step,
        total_steps,
        message,
        summary,
        run: reported_run,
    } = report;
    let progress: Option<Progress> = run.and_then(|run| serde_json::from_value(run.progress.clone()?).ok());
    let step = run.and_then(|run| run.last_step).map(i64::unsigned_abs);
    let share = |done: u64, total: u64| (total > 0).then(|| (done as f64 / total as f64).clamp(0.0, 1.0));
    let fraction = match state.as_str() {
        "succeeded" | "cached" => Some(1.0),
        _ => progress
            .as_ref()
            .and_then(|progress| share(progress.done, progress.total?))
            .or_else(|| share(step?, total_steps?)),
    };
    let speed = curves.and_then(|curves| curves.last_speed);
    let eta_seconds = match (state.as_str(), &progress, speed) {
        ("running", Some(progress), Some(speed)) if progress.unit == "tokens" && speed > 0.0 => {
            progress.total.map(|total| total.saturating_sub(progress.done) as f64 / speed)
        }
        ("running", _, _) => remaining(now, started_at.as_deref(), fraction),
        _ => None,
    };
    Phase {
        run: run.map(|run| run.name.clone()).or(reported_run),
        step,
        fraction,
        eta_seconds,
        loss: curves.and_then(|curves| curves.last_loss).map(Number),
        tokens_per_second: speed.map(Number),
        done: progress.as_ref().map(|progress| progress.done),
        total: progress.as_ref().and_then(|progress| progress.total),
        unit: progress.as_ref().map(|progress| progress.unit.clone()),
        stage: progress.map(|progress| progress.stage),
        name,
        kind,
        state,
        attempt,
        restarts,
        key,
        started_at,
        finished_at,
        checkpoint_step,
        message,
        summary,
    }
}

/// Seconds that are left if the rest goes as what is done.
fn remaining(now: f64, started_at: Option<&str>, fraction: Option<f64>) -> Option<f64> {
    let started = chrono::DateTime::parse_from_rfc3339(started_at?).ok()?.timestamp_millis() as f64 / 1e3;
    let fraction = fraction.filter(|fraction| *fraction > 0.01)?;
    Some(((now - started).max(0.0) * (1.0 - fraction) / fraction).round())
}

/// The phase that people mean: what runs, else what failed, else what stopped, else what is next.
fn current(state: &str, phases: &[Phase]) -> Option<usize> {
    if state == "succeeded" {
        return None;
    }
    ["running", "failed", "stopped", "pending"]
        .iter()
        .find_map(|word| phases.iter().position(|phase| phase.state == *word))
}

/// Verdict and reasons of a job: those of its training run, or what its state says if it has none.
fn health(row: &JobRow, trained: Option<&RunRow>, overview: &Overview) -> HealthSummary {
    if let Some((run, health)) = trained.and_then(|run| Some((run, overview.health(run)?))) {
        // A phase after the training may have failed.
        if row.state != "failed" || run.state == "failed" {
            return HealthSummary {
                verdict: health.verdict.into(),
                reasons: health.reasons.clone(),
            };
        }
    }
    let failed = |text: &str| Reason {
        code: Code::JobFailed,
        severity: Severity::Failing,
        text: text.to_owned(),
        since: Since::default(),
        page: Page::Logs,
        metric: None,
        layer: None,
        expert: None,
    };
    match row.state.as_str() {
        "failed" => HealthSummary {
            verdict: Verdict::Failing,
            reasons: vec![failed(row.message.as_deref().unwrap_or("The job failed"))],
        },
        "succeeded" => HealthSummary {
            verdict: Verdict::Healthy,
            reasons: Vec::new(),
        },
        _ => HealthSummary {
            verdict: Verdict::NoData,
            reasons: Vec::new(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::DateTime;
    use serde_json::json;

    fn run(name: &str, last_step: Option<i64>, progress: Option<serde_json::Value>) -> RunRow {
        RunRow {
            id: 1,
            job_id: 1,
            job: "j".into(),
            name: name.into(),
            phase: "pretrain".into(),
            kind: "pretrain".into(),
            key: "k".into(),
            state: "running".into(),
            flops_per_token: None,
            created_at: DateTime::UNIX_EPOCH,
            last_step,
            last_tokens: None,
            last_time: None,
            progress,
        }
    }

    fn row(phases: serde_json::Value) -> JobRow {
        JobRow {
            id: 1,
            project: "default".into(),
            name: "j".into(),
            uid: "u".into(),
            state: "running".into(),
            message: None,
            labels: json!({}),
            phases,
            generation: 1,
            version: 1,
            created_at: DateTime::UNIX_EPOCH,
            updated_at: DateTime::UNIX_EPOCH,
            started_at: None,
            finished_at: None,
        }
    }

    #[test]
    fn a_phase_joins_report_and_records() {
        let job = row(json!([
            {"name": "tokenizer", "kind": "tokenizer", "state": "cached", "key": "0123456789abcdef"},
            {"name": "pretrain", "kind": "pretrain", "state": "running", "key": "abcdef0123456789", "attempt": 2, "restarts": 1},
            {"name": "later", "kind": "sft", "state": "pending"},
        ]));
        let progress = json!({"stage": "training", "done": 25, "total": 100, "unit": "tokens"});
        let runs = [run("j.pretrain.abcdef012345", Some(9), Some(progress))];
        let trained = training_run(&job, &runs).unwrap();
        let curves = Curves {
            loss: vec![4.0, 3.0],
            last_loss: Some(3.0),
            last_speed: Some(5.0),
        };
        let phases = phases(0.0, &job, &runs, Some((&trained.name, &curves)));
        assert_eq!(current("running", &phases), Some(1));
        let [tokenizer, pretrain, later] = phases.as_slice() else {
            panic!("three phases")
        };
        assert_eq!((tokenizer.fraction, tokenizer.loss), (Some(1.0), None));
        assert_eq!(
            (pretrain.fraction, pretrain.eta_seconds, pretrain.step),
            (Some(0.25), Some(15.0), Some(9))
        );
        assert_eq!(pretrain.run.as_deref(), Some("j.pretrain.abcdef012345"));
        assert_eq!((later.fraction, later.run.as_deref()), (None, None));
    }

    #[test]
    fn runs_of_an_older_manifest_do_not_count() {
        let job = row(json!([{"name": "pretrain", "kind": "pretrain", "state": "running", "key": "newkey0000000000"}]));
        let runs = [
            run("j.pretrain.newkey000000", Some(1), None),
            run("j.pretrain.oldkey000000", Some(99), None),
        ];
        assert_eq!(training_run(&job, &runs).unwrap().last_step, Some(1));
    }

    #[test]
    fn the_remaining_time() {
        assert_eq!(remaining(100.0, Some("1970-01-01T00:00:00Z"), Some(0.25)), Some(300.0));
        assert_eq!(remaining(100.0, Some("1970-01-01T00:00:00Z"), Some(0.0)), None);
        assert_eq!(remaining(100.0, None, Some(0.5)), None);
    }
}
