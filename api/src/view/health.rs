//! Health. The JSON is written by `fathom_spec::health`; these types describe it for the document, and a test compares the two.

use crate::number::Number;
use serde::Serialize;
use utoipa::ToSchema;

/// The answer to "is it healthy?".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
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

impl From<fathom_spec::health::Verdict> for Verdict {
    fn from(verdict: fathom_spec::health::Verdict) -> Self {
        use fathom_spec::health::Verdict as Spec;
        match verdict {
            Spec::Healthy => Self::Healthy,
            Spec::Watch => Self::Watch,
            Spec::Failing => Self::Failing,
            Spec::Stalled => Self::Stalled,
            Spec::NoData => Self::NoData,
        }
    }
}

impl Verdict {
    /// The verdict as it is in JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Watch => "watch",
            Self::Failing => "failing",
            Self::Stalled => "stalled",
            Self::NoData => "noData",
        }
    }
}

/// Verdict and reasons, in a list of jobs.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HealthSummary {
    /// The answer.
    pub verdict: Verdict,
    /// Why, the most important first.
    #[schema(value_type = Vec<Reason>)]
    pub reasons: Vec<fathom_spec::health::Reason>,
}

/// The health of a run at one time.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct Health {
    /// The answer.
    pub verdict: Verdict,
    /// Since when, RFC 3339.
    pub since: Option<String>,
    /// Why, the most important first; a page shows three.
    pub reasons: Vec<Reason>,
    /// What to do.
    pub next_action: NextAction,
    /// The six vital signs.
    pub tiles: Vec<Tile>,
    /// When this was judged, RFC 3339.
    pub evaluated_at: String,
    /// Last step that it takes into account.
    pub step: Option<u64>,
    /// Id of the run.
    pub run: Option<String>,
}

/// How bad something is.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub enum ReasonSeverity {
    /// Worth a look; it may pass.
    Watch,
    /// The run is being spoilt.
    Failing,
    /// The run does not go on.
    Stalled,
}

/// The page that shows what a reason is about.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub enum ReasonPage {
    /// Scalars over steps.
    Curves,
    /// The map of layers and experts.
    Experts,
    /// Checkpoints and lineage.
    Checkpoints,
    /// Logs and events.
    Logs,
}

/// Where something began.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct Since {
    /// Optimizer step.
    pub step: Option<u64>,
    /// RFC 3339.
    pub time: Option<String>,
}

/// Why a run is not simply healthy.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct Reason {
    /// What is wrong, for programs.
    pub code: String,
    /// How bad it is.
    pub severity: ReasonSeverity,
    /// One sentence with numbers.
    pub text: String,
    /// Where it began.
    pub since: Since,
    /// Where to look.
    pub page: ReasonPage,
    /// The metric to look at.
    pub metric: Option<String>,
    /// MoE layer, from 0.
    pub layer: Option<u32>,
    /// Expert within the layer, from 0.
    pub expert: Option<u32>,
}

/// Kinds of next actions.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub enum NextActionKind {
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

/// What to do next.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct NextAction {
    /// What kind of thing.
    pub kind: NextActionKind,
    /// One sentence.
    pub text: String,
    /// Path of a page of the dashboard.
    pub href: Option<String>,
}

/// The six vital signs.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
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
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct Tile {
    /// Which.
    pub id: TileId,
    /// Its name.
    pub title: String,
    /// The newest value, in `unit`.
    pub value: Option<Number>,
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
    /// Where the next value is expected, in `unit`: low and high.
    #[schema(value_type = Option<Vec<Number>>, min_items = 2, max_items = 2)]
    pub band: Option<[Number; 2]>,
    /// Change against the run's own trailing window, in percent.
    pub change_percent: Option<Number>,
    /// The whole run in at most 64 values.
    pub sparkline: Vec<Number>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use fathom_spec::health::{Detector, Finished, Situation, Thresholds, assess};
    use utoipa::PartialSchema;

    /// Names of the properties that a schema describes.
    fn described<T: PartialSchema>() -> Vec<String> {
        let schema = serde_json::to_value(T::schema()).unwrap();
        schema["properties"].as_object().unwrap().keys().cloned().collect()
    }

    fn written(value: &serde_json::Value) -> Vec<String> {
        let mut names: Vec<String> = value.as_object().unwrap().keys().cloned().collect();
        names.sort();
        names
    }

    #[test]
    fn the_description_is_what_is_written() {
        let situation = Situation {
            phase_state: "failed".into(),
            finished: Some(Finished {
                succeeded: false,
                message: Some("it broke".into()),
                time: Some(1.0),
            }),
            ..Situation::default()
        };
        let health = serde_json::to_value(assess(&Detector::new(Thresholds::default()), &situation)).unwrap();
        let sorted = |mut names: Vec<String>| {
            names.sort();
            names
        };
        assert_eq!(written(&health), sorted(described::<Health>()));
        assert_eq!(written(&health["reasons"][0]), sorted(described::<Reason>()));
        assert_eq!(written(&health["reasons"][0]["since"]), sorted(described::<Since>()));
        assert_eq!(written(&health["nextAction"]), sorted(described::<NextAction>()));
        assert_eq!(written(&health["tiles"][0]), sorted(described::<Tile>()));
    }
}
