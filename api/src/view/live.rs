//! Messages of the live streams. The hub writes them; these types describe them for the document, and the check of `api/tests/schemathesis`
//! compares the two.

use super::{JobState, Verdict};
use crate::live::LivePoint;
use utoipa::openapi::schema::{Object, ObjectBuilder, OneOfBuilder, Schema, Type};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{PartialSchema, ToSchema};

/// Data of `metrics`: new steps of a run.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct MetricsMessage {
    /// Id of the run.
    pub run: String,
    /// The steps.
    pub points: Vec<LivePoint>,
    /// Names of the matrices that have new steps.
    pub matrices: Vec<String>,
}

/// Data of `job`: read the job again.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct JobMessage {
    /// Name of the job.
    pub job: String,
    /// What it is now.
    pub state: JobMessageState,
    /// Name of the phase that is executed.
    pub phase: Option<String>,
}

/// State of a job, or that it is no more.
pub struct JobMessageState;

/// Data of `health`: the verdict on a job has changed.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct HealthMessage {
    /// Name of the job.
    pub job: String,
    /// The verdict.
    pub verdict: Verdict,
}

/// Data of `log`: read the lines after the last you have.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct LogMessage {
    /// Id of the run.
    pub run: String,
    /// Id of its newest line.
    pub last_id: i64,
}

/// Data of `gap`: messages are missing; read everything again.
#[derive(ToSchema)]
pub struct GapMessage {}

/// A message of a live stream.
pub struct LiveMessage;

/// Names of messages, and the schemas of their data.
const MESSAGES: [(&str, &str); 6] = [
    ("metrics", "MetricsMessage"),
    ("event", "Event"),
    ("job", "JobMessage"),
    ("health", "HealthMessage"),
    ("log", "LogMessage"),
    ("gap", "GapMessage"),
];

impl PartialSchema for JobMessageState {
    fn schema() -> RefOr<Schema> {
        let deleted = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(["deleted"]));
        OneOfBuilder::new()
            .description(Some("State of a job, or that it is no more."))
            .item(Ref::from_schema_name(JobState::name()))
            .item(deleted)
            .into()
    }
}

impl ToSchema for JobMessageState {}

impl PartialSchema for LiveMessage {
    fn schema() -> RefOr<Schema> {
        let description = "A message as server-sent events carry it: the fields `id`, `event` and `data`, which is JSON.";
        MESSAGES
            .iter()
            .fold(OneOfBuilder::new().description(Some(description)), |all, (event, data)| {
                all.item(message(event, data))
            })
            .into()
    }
}

impl ToSchema for LiveMessage {}

fn message(event: &str, data: &str) -> Object {
    let text = || ObjectBuilder::new().schema_type(Type::String);
    let place = text().description(Some(
        "The place after this message, for `Last-Event-ID`. It stays in force until another comes.",
    ));
    let content = text()
        .content_media_type("application/json")
        .content_schema(Some(Ref::from_schema_name(data)));
    ObjectBuilder::new()
        .property("event", text().enum_values(Some([event])))
        .required("event")
        .property("data", content)
        .required("data")
        .property("id", place)
        .build()
}
