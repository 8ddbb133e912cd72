//! `GET /jobs/{job}/lineage`: what was made from what.

use super::assemble::reports;
use super::get::find;
use crate::Api;
use crate::number::Number;
use crate::problem::Problem;
use crate::view::{Checkpoint, Lineage, LineageEdge, LineageNode, LineageNodeKind, Parent, PhaseReport, time};
use axum::Json;
use axum::extract::{Path, State};
use fathom_store::artifacts::ArtifactRow;
use fathom_store::checkpoints::CheckpointRow;
use fathom_store::jobs::JobRow;
use fathom_store::runs::RunRow;
use std::collections::BTreeMap;

/// What was made from what in a job.
#[utoipa::path(get, path = "/jobs/{job}/lineage", operation_id = "getJobLineage", tag = "jobs", params(("job" = String, Path)),
    responses((status = 200, body = Lineage)))]
pub(super) async fn lineage(State(api): State<Api>, Path(job): Path<String>) -> Result<Json<Lineage>, Problem> {
    let row = find(&api, &job).await?;
    let runs = api.timed("runs", api.store.runs(row.id)).await?;
    let checkpoints = api.timed("checkpoints", api.store.checkpoints(row.id)).await?;
    let artifacts = artifacts(&api, &row, &runs).await?;
    Ok(Json(graph(&reports(&row), &runs, &artifacts, &checkpoints)))
}

/// The artifacts of a job: of its runs and of phases that found theirs.
pub(super) async fn artifacts(api: &Api, row: &JobRow, runs: &[RunRow]) -> Result<Vec<ArtifactRow>, Problem> {
    let mut keys: Vec<String> = reports(row).into_iter().filter_map(|phase| phase.key).collect();
    keys.extend(runs.iter().map(|run| run.key.clone()));
    keys.sort();
    keys.dedup();
    api.timed("artifacts", api.store.artifacts(&row.project, &keys)).await
}

fn graph(phases: &[PhaseReport], runs: &[RunRow], artifacts: &[ArtifactRow], checkpoints: &[CheckpointRow]) -> Lineage {
    let mut graph = Lineage::default();
    let cached = |key: &str| {
        phases
            .iter()
            .any(|phase| phase.state == "cached" && phase.key.as_deref() == Some(key))
    };
    for artifact in artifacts {
        let id = format!("artifact:{}", artifact.key);
        if matches!(artifact.kind.as_str(), "tokenizer" | "corpus") {
            // These read files of the user; which ones, their statistics say.
            let input = format!("input:{}", artifact.key);
            graph
                .nodes
                .push(node(&input, LineageNodeKind::Input, format!("input of {}", artifact.phase)));
            graph.edges.push(edge(&input, &id));
        }
        for parent in parents(artifact) {
            if artifacts.iter().any(|other| other.key == parent.key) {
                graph.edges.push(edge(&format!("artifact:{}", parent.key), &id));
            }
        }
        graph.nodes.push(LineageNode {
            phase: Some(artifact.phase.clone()),
            key: Some(artifact.key.clone()),
            step: artifact.step,
            bytes: Some(artifact.bytes),
            cached: cached(&artifact.key),
            ..node(&id, LineageNodeKind::Artifact, format!("{} ({})", artifact.phase, artifact.kind))
        });
    }
    for checkpoint in checkpoints.iter().filter(|checkpoint| checkpoint.state == "committed") {
        let Some(run) = runs.iter().find(|run| run.name == checkpoint.run) else {
            continue;
        };
        let id = format!("checkpoint:{}", checkpoint.id);
        if let Some(artifact) = artifacts.iter().find(|artifact| artifact.key == run.key) {
            graph.edges.push(edge(&id, &format!("artifact:{}", artifact.key)));
        }
        graph.nodes.push(LineageNode {
            phase: Some(checkpoint.phase.clone()),
            step: Some(checkpoint.step),
            bytes: Some(checkpoint.bytes),
            ..node(
                &id,
                LineageNodeKind::Checkpoint,
                format!("{} at step {}", checkpoint.phase, checkpoint.step),
            )
        });
        if let Some(loss) = checkpoint.validation_loss {
            let score = format!("evaluation:{}", checkpoint.id);
            graph.edges.push(edge(&id, &score));
            graph.nodes.push(LineageNode {
                phase: Some(checkpoint.phase.clone()),
                step: Some(checkpoint.step),
                ..node(&score, LineageNodeKind::Evaluation, format!("validation loss {loss:.4}"))
            });
        }
    }
    graph
}

fn node(id: &str, kind: LineageNodeKind, label: String) -> LineageNode {
    LineageNode {
        id: id.to_owned(),
        kind,
        label,
        phase: None,
        key: None,
        step: None,
        bytes: None,
        cached: false,
    }
}

fn edge(from: &str, to: &str) -> LineageEdge {
    LineageEdge {
        from: from.to_owned(),
        to: to.to_owned(),
    }
}

/// What an artifact was made from.
fn parents(artifact: &ArtifactRow) -> Vec<Parent> {
    let keys: BTreeMap<String, String> = serde_json::from_value(artifact.lineage.clone()).unwrap_or_default();
    keys.into_iter().map(|(kind, key)| Parent { kind, key }).collect()
}

/// The view of a checkpoint.
pub(super) fn checkpoint(job: &JobRow, run: &RunRow, row: CheckpointRow) -> Checkpoint {
    let CheckpointRow {
        id,
        run: run_name,
        phase,
        attempt,
        step,
        tokens,
        bytes,
        files,
        path,
        state,
        verified_at,
        created_at,
        validation_loss,
    } = row;
    let pinned = reports(job).iter().any(|report| {
        // The newest checkpoint of a phase that goes on is what it goes on from: retention never takes it.
        report.name == phase && report.key.as_deref() == Some(run.key.as_str()) && report.checkpoint_step == Some(step.unsigned_abs())
    });
    Checkpoint {
        id: format!("ckpt_{id}"),
        job: job.name.clone(),
        run: run_name,
        phase,
        attempt,
        step,
        tokens,
        bytes,
        files,
        path,
        state,
        verified: verified_at.is_some(),
        verified_at: verified_at.map(time),
        created_at: time(created_at),
        validation_loss: validation_loss.map(Number),
        key: None,
        lineage: Vec::new(),
        pinned,
    }
}

/// Checkpoints that are artifacts.
pub(super) async fn artifact_checkpoints(api: &Api, job: &JobRow, runs: &[RunRow]) -> Result<Vec<Checkpoint>, Problem> {
    let artifacts = artifacts(api, job, runs).await?;
    let mut views = Vec::new();
    for artifact in artifacts.iter().filter(|artifact| artifact.kind == "checkpoint") {
        let run = runs.iter().find(|run| run.key == artifact.key);
        let attempts = match run {
            Some(run) => api.timed("attempts", api.store.attempts(run.id)).await?,
            None => Vec::new(),
        };
        views.push(Checkpoint {
            id: format!("art_{}", artifact.id),
            job: job.name.clone(),
            run: run.map_or_else(
                || fathom_spec::plan::run_name(&job.name, &artifact.phase, &artifact.key),
                |run| run.name.clone(),
            ),
            phase: artifact.phase.clone(),
            attempt: attempts.last().map(|attempt| attempt.attempt),
            step: artifact.step.unwrap_or(0),
            tokens: run.and_then(|run| run.last_tokens),
            bytes: artifact.bytes,
            files: artifact.files,
            path: artifact.path.clone(),
            state: "artifact".into(),
            // An artifact's digests are compared when it is committed.
            verified: true,
            verified_at: Some(time(artifact.created_at)),
            created_at: time(artifact.created_at),
            validation_loss: artifact.statistics["validation_loss"].as_f64().map(Number),
            key: Some(artifact.key.clone()),
            lineage: parents(artifact),
            pinned: true,
        });
    }
    views.reverse();
    Ok(views)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::DateTime;
    use serde_json::json;

    fn artifact(kind: &str, key: &str, lineage: serde_json::Value) -> ArtifactRow {
        ArtifactRow {
            id: 1,
            kind: kind.into(),
            key: key.into(),
            phase: kind.into(),
            step: None,
            bytes: 1,
            files: 1,
            path: String::new(),
            lineage,
            statistics: json!({}),
            created_at: DateTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn artifacts_hang_together() {
        let artifacts = [
            artifact("tokenizer", "t", json!({})),
            artifact("corpus", "c", json!({"tokenizer": "t"})),
            artifact(
                "checkpoint",
                "p",
                json!({"corpus": "c", "tokenizer": "t", "checkpoint": "elsewhere"}),
            ),
        ];
        let phases = [PhaseReport {
            key: Some("t".into()),
            state: "cached".into(),
            ..PhaseReport::default()
        }];
        let graph = graph(&phases, &[], &artifacts, &[]);
        let edges: Vec<String> = graph.edges.iter().map(|edge| format!("{} {}", edge.from, edge.to)).collect();
        assert_eq!(
            edges,
            [
                "input:t artifact:t",
                "input:c artifact:c",
                "artifact:t artifact:c",
                "artifact:c artifact:p",
                "artifact:t artifact:p"
            ]
        );
        let cached: Vec<&str> = graph.nodes.iter().filter(|node| node.cached).map(|node| node.id.as_str()).collect();
        assert_eq!(cached, ["artifact:t"]);
        let ids: Vec<&str> = graph.nodes.iter().map(|node| node.id.as_str()).collect();
        assert!(
            graph
                .edges
                .iter()
                .all(|edge| ids.contains(&edge.from.as_str()) && ids.contains(&edge.to.as_str()))
        );
    }
}
