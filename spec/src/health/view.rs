//! The health of a run as the API shows it.

use super::detection::{Code, Page, Severity};
use super::words::{non_finite, rfc3339};
use serde::{Serialize, Serializer};

/// The answer to "is it healthy?".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// Nothing is wrong.
    Healthy,
    /// Something deserves a look.
    Watch,
    /// The run is being spoilt, or has failed.
    Failing,
    /// The run does not go on.
    Stalled,
    /// Nothing was measured.
    NoData,
}

impl From<Severity> for Verdict {
    fn from(severity: Severity) -> Self {
        match severity {
            Severity::Watch => Self::Watch,
            Severity::Failing => Self::Failing,
            Severity::Stalled => Self::Stalled,
        }
    }
}

/// The health of a run at one time.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// The answer.
    pub verdict: Verdict,
    /// Since when, in seconds since the Unix epoch (RFC 3339 in JSON).
    #[serde(serialize_with = "time")]
    pub since: Option<f64>,
    /// Why, the most important first.
    pub reasons: Vec<Reason>,
    /// What to do.
    pub next_action: NextAction,
    /// The six vital signs.
    pub tiles: Vec<Tile>,
    /// When this was judged, in seconds since the Unix epoch (RFC 3339 in JSON).
    #[serde(serialize_with = "instant")]
    pub evaluated_at: f64,
    /// Last step that it takes into account.
    pub step: Option<u64>,
    /// The run. Left empty by [`super::assess`], which does not know it.
    pub run: Option<String>,
}

/// Why a run is not simply healthy.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reason {
    /// What is wrong.
    pub code: Code,
    /// How bad it is.
    pub severity: Severity,
    /// One sentence with numbers.
    pub text: String,
    /// Where it began.
    pub since: Since,
    /// Where to look.
    pub page: Page,
    /// The metric to look at.
    pub metric: Option<String>,
    /// MoE layer, from 0.
    pub layer: Option<usize>,
    /// Expert within the layer, from 0.
    pub expert: Option<usize>,
}

/// Where something began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Since {
    /// Optimizer step.
    pub step: Option<u64>,
    /// Seconds since the Unix epoch (RFC 3339 in JSON).
    #[serde(serialize_with = "time")]
    pub time: Option<f64>,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NextAction {
    /// What kind of thing.
    pub kind: ActionKind,
    /// One sentence.
    pub text: String,
    /// Where. Left empty by [`super::assess`]: routes are the API's.
    pub href: Option<String>,
}

/// Kinds of next actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ActionKind {
    /// Look at a page.
    Open,
    /// Give it time.
    Wait,
    /// Run it again from where it is.
    Resume,
    /// Run it again from an earlier checkpoint.
    Rollback,
    /// Nothing.
    None,
}

/// The six vital signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum TileId {
    /// Loss of the main model.
    Loss,
    /// Gradient norm.
    Gradient,
    /// Tokens per second.
    Throughput,
    /// Load of the experts.
    Balance,
    /// Numbers that are none.
    Numerics,
    /// Process, checkpoints, restarts.
    Infrastructure,
}

/// A vital sign.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tile {
    /// Which.
    pub id: TileId,
    /// Its name.
    pub title: String,
    /// The newest value, in `unit`.
    #[serde(serialize_with = "number")]
    pub value: Option<f64>,
    /// The value as people read it.
    pub text: String,
    /// Unit of `value`.
    pub unit: Option<String>,
    /// How it is.
    pub state: Verdict,
    /// The rule that it is judged by, with the numbers in force.
    pub rule: String,
    /// What else is known.
    pub detail: String,
    /// Where the next value is expected, in `unit`.
    #[serde(serialize_with = "band")]
    pub band: Option<[f64; 2]>,
    /// Change against the run's own trailing window, in percent.
    #[serde(serialize_with = "number")]
    pub change_percent: Option<f64>,
    /// The whole run in at most 64 values.
    #[serde(serialize_with = "numbers")]
    pub sparkline: Vec<f64>,
}

/// A number, or the name of a non-finite one.
struct Number(f64);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_finite() {
            serializer.serialize_f64(self.0)
        } else {
            serializer.serialize_str(non_finite(self.0))
        }
    }
}

#[allow(clippy::ref_option, reason = "serde hands over a reference to the field")]
fn number<S: Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    value.map(Number).serialize(serializer)
}

fn numbers<S: Serializer>(values: &[f64], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(values.iter().copied().map(Number))
}

#[allow(clippy::ref_option, reason = "serde hands over a reference to the field")]
fn band<S: Serializer>(band: &Option<[f64; 2]>, serializer: S) -> Result<S::Ok, S::Error> {
    band.map(|ends| ends.map(Number)).serialize(serializer)
}

#[allow(clippy::ref_option, reason = "serde hands over a reference to the field")]
fn time<S: Serializer>(time: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(rfc3339).serialize(serializer)
}

fn instant<S: Serializer>(time: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&rfc3339(*time))
}
