//! `POST /jobs:validate` and `POST /jobs:plan`: what would be said of a manifest, and what it would do.

use crate::Api;
use crate::extract::Command;
use crate::problem::{Code, Problem};
use axum::Json;
use axum::extract::State;
use fathom_spec::{Severity, ValidatedJob, parse_manifest};
use serde::Serialize;
use utoipa::ToSchema;

/// Something that is wrong or suspicious in a manifest.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ManifestProblem {
    /// Path of the field (`spec.phases[2].pretrain.tokens`); empty for the document.
    path: String,
    /// Line, from 1; 0 if the place is not known.
    line: u64,
    /// Column, from 1; 0 if the place is not known.
    column: u64,
    /// What is wrong.
    message: String,
    /// What was expected instead.
    expected: Option<String>,
    /// What was probably meant.
    suggestion: Option<String>,
    /// `error`, or `warning`: accepted, but the result may surprise.
    severity: String,
}

/// What is wrong with a manifest.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Validation {
    /// Whether it would be accepted.
    valid: bool,
    /// Every problem, in the order of the text.
    problems: Vec<ManifestProblem>,
}

impl From<fathom_spec::Problem> for ManifestProblem {
    fn from(problem: fathom_spec::Problem) -> Self {
        let fathom_spec::Problem {
            line,
            column,
            path,
            message,
            expected,
            suggestion,
            severity,
        } = problem;
        Self {
            path,
            line,
            column,
            message,
            expected,
            suggestion,
            severity: severity.to_string(),
        }
    }
}

/// What is wrong with a manifest, with lines and columns. Nothing is created.
#[utoipa::path(post, path = "/jobs:validate", operation_id = "validateJob", tag = "jobs",
    request_body(content((String = "application/yaml"), (Object = "application/json"))),
    responses((status = 200, body = Validation)))]
pub(crate) async fn validate(command: Command) -> Result<Json<Validation>, Problem> {
    let text = manifest_text(&command)?;
    let problems = match parse(text).await? {
        Ok(job) => job.warnings,
        Err(problems) => problems,
    };
    Ok(Json(Validation {
        valid: problems.iter().all(|problem| problem.severity == Severity::Warning),
        problems: problems.into_iter().map(ManifestProblem::from).collect(),
    }))
}

/// What a job would do, need and cost, as `fathom plan -o json` prints it. Nothing is created.
#[utoipa::path(post, path = "/jobs:plan", operation_id = "planJob", tag = "jobs",
    request_body(content((String = "application/yaml"), (Object = "application/json"))),
    responses((status = 200, body = Object), (status = 422)))]
pub(crate) async fn plan(State(api): State<Api>, command: Command) -> Result<Json<serde_json::Value>, Problem> {
    let text = manifest_text(&command)?;
    parse(text.clone()).await?.map_err(|problems| invalid(&problems))?;
    Ok(Json(api.intent.plan(&api.config.project, &text).await?))
}

/// The text of a manifest in a request: YAML, or JSON, which is YAML too.
pub(super) fn manifest_text(command: &Command) -> Result<String, Problem> {
    const KNOWN: &str = "application/yaml, application/json";
    match crate::body::media_type(&command.headers).as_str() {
        "application/yaml" | "application/x-yaml" | "text/yaml" | "text/x-yaml" | "application/json" | "text/plain" | "" => {}
        other => return Err(crate::body::unsupported(other, KNOWN)),
    }
    String::from_utf8(command.body.clone()).map_err(|_| Problem::new(Code::INVALID_BODY, "The manifest is not UTF-8 text."))
}

/// Reads a manifest off the threads that serve requests: a large one takes a while.
pub(super) async fn parse(text: String) -> Result<Result<ValidatedJob, Vec<fathom_spec::Problem>>, Problem> {
    let parsed = tokio::task::spawn_blocking(move || parse_manifest(&text)).await;
    parsed.map_err(|error| Problem::internal("a manifest could not be read", &error))
}

/// The answer to a manifest that is refused.
pub(super) fn invalid(problems: &[fathom_spec::Problem]) -> Problem {
    let errors = problems.iter().filter(|problem| problem.severity == Severity::Error);
    let count = errors.clone().count();
    let detail = format!("The manifest has {count} {}.", if count == 1 { "error" } else { "errors" });
    errors
        .fold(Problem::new(Code::INVALID_MANIFEST, detail), |answer, problem| {
            let text = problem.to_string();
            answer.at(pointer(&problem.path), text)
        })
        .hint("POST /api/v1/jobs:validate gives lines and columns as numbers.")
}

/// `spec.phases[2].pretrain` as a JSON pointer.
fn pointer(path: &str) -> String {
    let parts = path.split(['.', '[']).map(|part| part.trim_end_matches(']'));
    parts.filter(|part| !part.is_empty()).fold(String::new(), |pointer, part| {
        let part = part.replace('~', "~0").replace('/', "~1");
        pointer + "/" + &part
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_pointers() {
        for (path, expected) in [
            ("", ""),
            ("spec", "/spec"),
            ("spec.phases[2].pretrain.tokens", "/spec/phases/2/pretrain/tokens"),
        ] {
            assert_eq!(pointer(path), expected);
        }
    }

    #[test]
    fn every_error_is_told() {
        let problems = parse_manifest("kind: DeepSeekV3Job\nspec: {sed: 1}").unwrap_err();
        let answer = serde_json::to_value(invalid(&problems)).unwrap();
        assert_eq!(answer["code"], "invalidManifest");
        assert!(
            answer["errors"]
                .as_array()
                .unwrap()
                .iter()
                .any(|error| error["pointer"] == "/spec/sed"),
            "{answer}"
        );
    }
}
