//! What users want of jobs, on its way to whatever really runs them: the local runner's queue, or Kubernetes. The API keeps no intent of
//! its own: a job that this trait has not accepted does not exist, whatever the database says.

use std::future::Future;
use std::pin::Pin;

/// A boxed future, so that the trait can be an object.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, IntentError>> + Send + 'a>>;

/// A job that someone wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateJob {
    /// Project, `default` on a laptop.
    pub project: String,
    /// Name, as in the manifest.
    pub name: String,
    /// The manifest as the user wrote it.
    pub manifest: String,
}

/// A job that should begin like another.
#[derive(Clone, Debug, PartialEq)]
pub struct ForkJob {
    /// Project of both.
    pub project: String,
    /// The job to begin like.
    pub from: String,
    /// Name of the new one.
    pub name: String,
    /// Manifest of the new one: that of the old one with the patch applied.
    pub manifest: String,
    /// Checkpoint to begin at; the newest without.
    pub at_step: Option<u64>,
}

/// Why something is not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IntentError {
    /// The request is wrong: (JSON pointer, what is wrong) each.
    #[error("invalid: {0:?}")]
    Invalid(Vec<(String, String)>),
    /// The state of the job does not allow it; one sentence.
    #[error("conflict: {0}")]
    Conflict(String),
    /// Whatever runs jobs does not answer; one sentence.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// It knows no such job.
    #[error("no such job")]
    NotFound,
}

/// Whoever runs jobs. Every method answers when the wish is recorded durably, not when it is fulfilled.
pub trait Intent: Send + Sync + 'static {
    /// Wants a job. Returns its uid, the identity behind the name.
    fn create(&self, job: CreateJob) -> Answer<'_, String>;
    /// Wants a running job to stop after a checkpoint, keeping its place.
    fn pause<'a>(&'a self, project: &'a str, name: &'a str) -> Answer<'a, ()>;
    /// Wants a paused, stopped or failed job to go on.
    fn resume<'a>(&'a self, project: &'a str, name: &'a str) -> Answer<'a, ()>;
    /// Wants a job to end for good.
    fn cancel<'a>(&'a self, project: &'a str, name: &'a str) -> Answer<'a, ()>;
    /// Wants a job that begins like another. Returns its uid.
    fn fork(&self, fork: ForkJob) -> Answer<'_, String>;
    /// What a job would do and take, as `fathom plan -o json` prints it. Wants nothing.
    fn plan<'a>(&'a self, project: &'a str, manifest: &'a str) -> Answer<'a, serde_json::Value>;
    /// Wants a job forgotten. Refused while it runs; its artifacts stay.
    fn delete<'a>(&'a self, project: &'a str, name: &'a str) -> Answer<'a, ()>;
}

impl From<IntentError> for crate::Problem {
    fn from(error: IntentError) -> Self {
        use crate::problem::Code;
        match error {
            IntentError::Invalid(parts) => parts.into_iter().fold(
                Self::new(Code::INVALID, "The request was refused by whoever runs jobs."),
                |problem, (pointer, detail)| problem.at(pointer, detail),
            ),
            IntentError::Conflict(reason) => Self::new(Code::CONFLICT, reason),
            IntentError::Unavailable(reason) => Self::new(Code::UNAVAILABLE, reason).retry_after(5),
            IntentError::NotFound => Self::new(Code::NOT_FOUND, "Whoever runs jobs knows no such job."),
        }
    }
}
