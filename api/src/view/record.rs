//! Records. Their JSON is that of `fathom_spec::record`; these types describe it for the document, and a test compares the two.

use crate::number::Number;
use serde::Deserialize;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// A numbered record of a worker. Writer and sequence are its identity.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Record {
    /// Who wrote it: `<run>/<attempt>/<rank>`.
    pub writer: String,
    /// Position in the writer's stream, from 0 without gaps.
    pub sequence: u64,
    /// When, in seconds since the Unix epoch.
    pub time: f64,
    /// What.
    pub body: RecordBody,
}

/// The content of a record.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum RecordBody {
    /// Measurements of one step.
    Metrics(StepMetrics),
    /// Something happened.
    Event(LifecycleEvent),
    /// How far the phase is; only the newest matters.
    Progress(Progress),
}

/// All measurements of one optimizer step, or of one validation at a step.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StepMetrics {
    /// Optimizer step, from 1.
    pub step: u64,
    /// Tokens seen after this step.
    pub tokens: u64,
    /// Scalars by name.
    #[schema(value_type = BTreeMap<String, Number>)]
    pub scalars: BTreeMap<String, f64>,
    /// Matrices by name.
    pub matrices: BTreeMap<String, StepMatrix>,
}

/// A matrix of measurements.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StepMatrix {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// `rows * columns` values, row by row, little-endian f32 in base64.
    pub values: String,
}

/// How far a phase is.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Progress {
    /// What the phase is doing, in the present participle.
    pub stage: String,
    /// Units done.
    pub done: u64,
    /// Units in all, if known.
    pub total: Option<u64>,
    /// Name of the unit.
    pub unit: String,
}

/// Something that happened to a run.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LifecycleEvent {
    /// What.
    pub kind: LifecycleEventKind,
    /// Optimizer step, where there is one.
    pub step: Option<u64>,
    /// One sentence for people.
    pub message: String,
}

/// Kinds of events that workers report.
#[derive(Deserialize, ToSchema)]
pub enum LifecycleEventKind {
    /// An attempt began; `step` is the step that it resumes after. It supersedes all later steps of earlier attempts.
    AttemptStarted,
    /// A checkpoint was committed.
    CheckpointCommitted,
    /// A checkpoint could not be used and an older one was.
    CheckpointRejected,
    /// A loss, gradient norm or weight is NaN or infinite.
    NonFinite,
    /// Records were dropped.
    RecordsDropped,
    /// Input was skipped or repaired.
    DataWarning,
    /// The attempt stopped on request after a checkpoint.
    AttemptStopped,
    /// The phase is complete.
    PhaseCompleted,
    /// The attempt failed.
    AttemptFailed,
}

#[cfg(test)]
mod tests {
    use super::*;
    use fathom_spec::record as spec;
    use serde_json::{Value, json};
    use utoipa::PartialSchema;

    fn described<T: PartialSchema>() -> Vec<String> {
        let schema = serde_json::to_value(T::schema()).unwrap();
        assert_eq!(schema["additionalProperties"], json!(false), "{schema}");
        sorted(&schema["properties"])
    }

    fn sorted(object: &Value) -> Vec<String> {
        let mut names: Vec<String> = object.as_object().unwrap().keys().cloned().collect();
        names.sort();
        names
    }

    fn written(body: spec::Body) -> Value {
        let record = spec::Record {
            writer: "w".into(),
            sequence: 1,
            time: 2.0,
            body,
        };
        serde_json::to_value(record).unwrap()
    }

    #[test]
    fn the_description_is_what_is_written() {
        let matrix = spec::Matrix {
            rows: 1,
            columns: 1,
            values: vec![1.0],
        };
        let metrics = written(spec::Body::Metrics(spec::MetricBatch {
            step: 1,
            tokens: 1,
            scalars: BTreeMap::new(),
            matrices: [("m".to_owned(), matrix)].into(),
        }));
        assert_eq!(sorted(&metrics), described::<Record>());
        assert_eq!(sorted(&metrics["body"]["metrics"]), described::<StepMetrics>());
        assert_eq!(sorted(&metrics["body"]["metrics"]["matrices"]["m"]), described::<StepMatrix>());
        let progress = written(spec::Body::Progress(spec::Progress {
            stage: "s".into(),
            done: 1,
            total: None,
            unit: "u".into(),
        }));
        assert_eq!(sorted(&progress["body"]["progress"]), described::<Progress>());
        let event = written(spec::Body::Event(spec::LifecycleEvent {
            kind: spec::EventKind::NonFinite,
            step: None,
            message: "m".into(),
        }));
        assert_eq!(sorted(&event["body"]["event"]), described::<LifecycleEvent>());
        let kinds = serde_json::to_value(LifecycleEventKind::schema()).unwrap();
        for kind in kinds["enum"].as_array().unwrap() {
            assert!(serde_json::from_value::<spec::EventKind>(kind.clone()).is_ok(), "{kind}");
        }
        assert_eq!(kinds["enum"].as_array().unwrap().len(), 9, "one for each kind of `EventKind`");
    }
}
