//! From the text of a manifest to a [`ValidatedJob`], collecting every problem: YAML, then shape, then meaning.

mod health;
mod phases;
mod wiring;

use crate::architecture::{Architecture, ModelError};
use crate::job::ValidatedJob;
use crate::manifest::{JobSpec, Metadata, Model, Parallelism, Schedule};
use crate::problem::{Problem, Severity};
use crate::report::{Draft, Report};
use crate::tree::{self, Node, Path, Value};
use crate::{schema, shape};
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

/// Reads and checks a manifest.
///
/// # Errors
/// Every problem, in the order of the text, if one of them is an error. Warnings alone are in [`ValidatedJob::warnings`].
pub fn parse_manifest(text: &str) -> Result<ValidatedJob, Vec<Problem>> {
    let root = tree::parse(text).map_err(|problem| vec![*problem])?;
    let mut report = Report::new(&root);
    if root.value == Value::Null {
        let draft = Draft::error("the manifest is empty").expected("a `DeepSeekV3Job`; `fathom init` writes one to start from");
        report.push(&Path::default(), root.position, draft);
        return Err(report.finish());
    }
    let shape = shape::check(schema::schema(), &root, &mut report).unwrap_or(Json::Null);
    let job = Reader {
        shape: &shape,
        root: &root,
    }
    .job(&mut report);
    if job.is_none() && !report.is_wrong(&Path::default()) {
        // A manifest is never refused in silence, even if a check forgot to say why.
        report.error(&Path::default(), "the manifest cannot be read, for a reason that is not known");
    }
    let problems = report.finish();
    match job {
        Some(job) if problems.iter().all(|problem| problem.severity == Severity::Warning) => Ok(ValidatedJob { warnings: problems, ..job }),
        Some(_) | None => Err(problems),
    }
}

/// Reads typed parts out of the checked shape.
struct Reader<'a> {
    shape: &'a Json,
    root: &'a Node,
}

impl Reader<'_> {
    /// Checks everything that can be checked; `None` if a part of the job could not be read.
    fn job(&self, report: &mut Report<'_>) -> Option<ValidatedJob> {
        let spec = Path::default().field("spec");
        let metadata: Option<Metadata> = self.part("/metadata", &Path::default().field("metadata"), report);
        let model: Option<Model> = self.part("/spec/model", &spec.field("model"), report);
        let architecture = model.as_ref().and_then(|model| check_model(model, &spec.field("model"), report));
        let phases = phases::check(self.shape, self.root, &spec.field("phases"), architecture.as_ref(), report);
        // Everything but the phases, which are read one by one so that one unreadable phase does not hide the problems of others.
        let mut rest = self.shape.get("spec").cloned().unwrap_or(Json::Null);
        rest["phases"] = Json::Array(Vec::new());
        let rest: Option<JobSpec> = read(&rest, &spec, report);
        if let Some(rest) = &rest {
            check_parallelism(&rest.parallelism, &spec.field("parallelism"), report);
            check_storage(&rest.storage.uri, &spec.field("storage").field("uri"), report);
            health::check(&rest.health, &spec.field("health"), report);
        }
        let JobSpec {
            suspend,
            seed,
            model: Model { preset, .. },
            precision,
            parallelism,
            worker,
            storage,
            restart,
            health,
            phases: _,
        } = rest?;
        Some(ValidatedJob {
            metadata: metadata?,
            suspend,
            seed,
            preset,
            architecture: architecture?,
            precision,
            parallelism,
            worker,
            storage,
            restart,
            health,
            phases: phases?,
            warnings: Vec::new(),
        })
    }

    fn part<T: DeserializeOwned>(&self, pointer: &str, path: &Path, report: &mut Report<'_>) -> Option<T> {
        read(self.shape.pointer(pointer)?, path, report)
    }
}

/// A typed value of a checked shape. The shape is stricter than the types, so a failure means that a part was wrong, which is reported
/// already; should the two ever disagree, the type's own words are reported.
fn read<T: DeserializeOwned>(value: &Json, path: &Path, report: &mut Report<'_>) -> Option<T> {
    serde_json::from_value(value.clone())
        .map_err(|error| {
            if !report.is_wrong(path) {
                report.error(path, error.to_string());
            }
        })
        .ok()
}

fn check_model(model: &Model, path: &Path, report: &mut Report<'_>) -> Option<Architecture> {
    let fields = path.field("architecture");
    let architecture = match model.resolve() {
        Ok(architecture) => architecture,
        Err(ModelError::Empty) => {
            if !report.is_wrong(path) {
                let draft = Draft::error("no model is given").expected("a `preset`, or `architecture` with the fields of a config.json");
                report.judge(path, draft);
            }
            return None;
        }
        Err(ModelError::Missing(missing)) => {
            if !report.is_wrong(path) {
                let message = format!("without a preset, every size is needed; missing: {}", missing.join(", "));
                report.error(&fields, message);
            }
            return None;
        }
        Err(ModelError::Unreadable(message)) => {
            if !report.is_wrong(path) {
                report.error(&fields, message);
            }
            return None;
        }
    };
    let findings = architecture.check();
    for finding in &findings {
        report.error(&fields.field(finding.field), finding.message.clone());
    }
    if !findings.is_empty() {
        return None;
    }
    for finding in architecture.advice() {
        report.warning(&fields.field(finding.field), finding.message);
    }
    Some(architecture)
}

fn check_parallelism(parallelism: &Parallelism, path: &Path, report: &mut Report<'_>) {
    let Parallelism {
        pipeline,
        expert: _,
        data: _,
        schedule,
        micro_batches,
    } = *parallelism;
    if pipeline < 2 {
        return;
    }
    match schedule {
        Schedule::Dualpipe => {
            if !pipeline.is_multiple_of(2) {
                report.error(
                    &path.field("pipeline"),
                    format!("DualPipe needs an even number of stages, not {pipeline}"),
                );
            }
            if !micro_batches.is_multiple_of(2) {
                let message = format!("DualPipe needs an even number of micro-batches, not {micro_batches}");
                report.error(&path.field("microBatches"), message);
            }
        }
        Schedule::DualpipeV | Schedule::OneForwardOneBackward => {}
    }
}

fn check_storage(uri: &str, path: &Path, report: &mut Report<'_>) {
    let known = ["file://", "pvc://", "s3://", "gs://", "az://"];
    match known.iter().find(|scheme| uri.starts_with(**scheme)) {
        None => {
            let draft = Draft::error(format!("`{}` has no known scheme", tree::shorten(uri)))
                .expected("file://DIRECTORY, pvc://CLAIM/PREFIX, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX");
            report.judge(path, draft);
        }
        Some(scheme) if uri.len() == scheme.len() => report.error(path, format!("nothing follows `{scheme}`")),
        Some(_) => {}
    }
}
