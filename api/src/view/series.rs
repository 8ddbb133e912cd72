//! Series and matrices.

use super::AnyJson;
use crate::number::Number;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a curve is drawn over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum Axis {
    /// Optimizer steps.
    #[default]
    Step,
    /// Tokens seen.
    Tokens,
    /// Floating-point operations spent.
    Flops,
    /// Seconds since the Unix epoch.
    Time,
}

impl std::str::FromStr for Axis {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "step" => Ok(Self::Step),
            "tokens" => Ok(Self::Tokens),
            "flops" => Ok(Self::Flops),
            "time" => Ok(Self::Time),
            _ => Err("expected step, tokens, flops or time"),
        }
    }
}

/// One metric in buckets. All columns have one entry per bucket.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SeriesColumns {
    /// Name of the metric.
    pub metric: String,
    /// Where the bucket's last point is on the axis.
    pub x: Vec<Number>,
    /// Last step with a point.
    pub step: Vec<u64>,
    /// Smallest finite value; `NaN` if there is none.
    pub min: Vec<Number>,
    /// Largest finite value; `NaN` if there is none.
    pub max: Vec<Number>,
    /// Value of the last point.
    pub last: Vec<Number>,
    /// Mean of the finite values; `NaN` if there is none.
    pub mean: Vec<Number>,
    /// Points.
    pub n: Vec<u64>,
    /// Points that are NaN or infinite.
    pub non_finite: Vec<u64>,
}

/// Several metrics of a run over one range of steps.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Series {
    /// The axis.
    pub x: Axis,
    /// Steps per bucket; 1 means raw points.
    pub bucket_steps: u64,
    /// First step.
    pub from: u64,
    /// Last step.
    pub to: u64,
    /// The metrics, in the order of the request.
    pub series: Vec<SeriesColumns>,
    /// Whether these steps can no longer change.
    pub complete: bool,
}

/// [`Series`] of one of several runs.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SeriesOfRun {
    /// Id of the run.
    pub run: String,
    /// Its metrics.
    #[serde(flatten)]
    pub series: Series,
}

/// A matrix of a step, or the mean of some steps.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MatrixView {
    /// Name of the metric.
    pub name: String,
    /// The step that was asked for, or the newest.
    pub step: u64,
    /// First step that the matrix covers.
    pub first_step: u64,
    /// Last step that the matrix covers.
    pub last_step: u64,
    /// Whether it covers one step only.
    pub exact: bool,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// `rows * columns` values, row by row, little-endian f32 in base64.
    pub values: String,
    /// Always true: rows follow each other.
    pub row_major: bool,
}

/// A step that has a matrix.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MatrixStep {
    /// Last step that it covers.
    pub step: u64,
    /// First step that it covers.
    pub first_step: u64,
    /// Whether it covers one step only.
    pub exact: bool,
}

/// The steps that have a matrix.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MatrixSteps {
    /// The steps, ascending; spread evenly if there are more than asked for.
    pub items: Vec<MatrixStep>,
    /// How many there are.
    pub total: u64,
}

/// A statistic of each row of a matrix over time.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MatrixRows {
    /// Last step of each bucket.
    pub step: Vec<u64>,
    /// Rows of the matrix.
    pub rows: usize,
    /// Columns of the matrix.
    pub columns: usize,
    /// The statistic: `maxViolation`, `mean`, `max` or `min`.
    pub reduce: String,
    /// One value per bucket and row, bucket by bucket, little-endian f32 in base64.
    pub values: String,
}

/// A field of the manifest that differs.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ComparedField {
    /// Path of the field.
    pub path: String,
    /// Its value in each run; null where it is absent.
    pub values: Vec<AnyJson>,
}

/// A metric side by side.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ComparedMetric {
    /// Name.
    pub name: String,
    /// Newest value of each run.
    pub last: Vec<Option<Number>>,
    /// Best value of each run, where it is known which direction is good.
    pub best: Vec<Option<Number>>,
}

/// Runs side by side.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Comparison {
    /// The runs, in the order of the request.
    pub runs: Vec<super::Run>,
    /// Fields of the effective manifests that differ.
    pub manifest: Vec<ComparedField>,
    /// Scalars that one of them has.
    pub metrics: Vec<ComparedMetric>,
}

/// Little-endian f32 in base64.
pub(crate) fn packed(values: &[f32]) -> String {
    use base64::Engine;
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
