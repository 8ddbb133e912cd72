//! What a worker reports: one [`MetricBatch`] per step and [`LifecycleEvent`]s, numbered per writer, so that a consumer may see a
//! record twice but never count it twice.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A numbered record in a spool. (`writer`, `sequence`) is its identity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Record {
    /// Who wrote it: `<run>/<attempt>/<rank>`.
    pub writer: String,
    /// Position in the writer's stream, from 0 without gaps.
    pub sequence: u64,
    /// When, in seconds since the Unix epoch.
    pub time: f64,
    /// What.
    pub body: Body,
}

/// The content of a record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Body {
    /// Measurements of one step.
    Metrics(MetricBatch),
    /// Something happened.
    Event(LifecycleEvent),
    /// How far the phase is; only the newest matters.
    Progress(Progress),
}

/// All measurements of one optimizer step, or of one validation at a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MetricBatch {
    /// Optimizer step, from 1.
    pub step: u64,
    /// Tokens seen after this step.
    pub tokens: u64,
    /// Scalars by name (`loss.main`, `learning_rate`, ...). Non-finite values are kept.
    #[serde(with = "scalars")]
    pub scalars: BTreeMap<String, f64>,
    /// Matrices by name (`moe.load`, `validation.load.<source>`: layer x expert).
    pub matrices: BTreeMap<String, Matrix>,
}

/// A matrix of measurements, row-major.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Matrix {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// `rows * columns` values, little-endian f32 in base64.
    #[serde(with = "packed")]
    pub values: Vec<f32>,
}

/// How far a phase is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Progress {
    /// What the phase is doing, in the present participle (`training`, `tokenising`).
    pub stage: String,
    /// Units done.
    pub done: u64,
    /// Units in all, if known.
    pub total: Option<u64>,
    /// Name of the unit: `bytes`, `documents`, `tokens`.
    pub unit: String,
}

/// Something that happened to a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LifecycleEvent {
    /// What.
    pub kind: EventKind,
    /// Optimizer step, where there is one.
    pub step: Option<u64>,
    /// One sentence for people.
    pub message: String,
}

/// Kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum EventKind {
    /// An attempt began; `step` is the step it resumes after (0 for a fresh start). It supersedes all later steps of earlier attempts.
    AttemptStarted,
    /// A checkpoint was committed.
    CheckpointCommitted,
    /// A checkpoint could not be used and an older one was.
    CheckpointRejected,
    /// A loss, gradient norm or weight is NaN or infinite.
    NonFinite,
    /// Records were dropped because the spool or its queue was full.
    RecordsDropped,
    /// Input that was skipped or repaired (invalid UTF-8, empty documents).
    DataWarning,
    /// The attempt stopped on request after a checkpoint.
    AttemptStopped,
    /// The phase is complete.
    PhaseCompleted,
    /// The attempt failed; the message is the error with its cure.
    AttemptFailed,
}

/// JSON has no NaN or infinity: they are written as the strings `NaN`, `Infinity` and `-Infinity`.
mod scalars {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::collections::BTreeMap;

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Scalar {
        Finite(f64),
        Named(String),
    }

    pub(super) fn serialize<S: Serializer>(map: &BTreeMap<String, f64>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(map.iter().map(|(name, &value)| {
            let scalar = if value.is_finite() {
                Scalar::Finite(value)
            } else if value.is_nan() {
                Scalar::Named("NaN".into())
            } else if value > 0.0 {
                Scalar::Named("Infinity".into())
            } else {
                Scalar::Named("-Infinity".into())
            };
            (name, scalar)
        }))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, f64>, D::Error> {
        let map = BTreeMap::<String, Scalar>::deserialize(deserializer)?;
        map.into_iter()
            .map(|(name, scalar)| {
                let value = match scalar {
                    Scalar::Finite(value) => value,
                    Scalar::Named(text) => match text.as_str() {
                        "NaN" => f64::NAN,
                        "Infinity" => f64::INFINITY,
                        "-Infinity" => f64::NEG_INFINITY,
                        _ => {
                            return Err(serde::de::Error::custom(format!(
                                "`{text}` is not a number; expected NaN, Infinity or -Infinity"
                            )));
                        }
                    },
                };
                Ok((name, value))
            })
            .collect()
    }
}

/// f32 values as base64 of their little-endian bytes.
mod packed {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(values: &[f32], serializer: S) -> Result<S::Ok, S::Error> {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f32>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text).map_err(serde::de::Error::custom)?;
        if bytes.len() % 4 != 0 {
            return Err(serde::de::Error::custom(
                "the length of a packed f32 array must be a multiple of 4 bytes",
            ));
        }
        Ok(bytes
            .chunks_exact(4)
            .map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]))
            .collect())
    }
}
