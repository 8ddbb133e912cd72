//! Fathom over HTTP: REST, ingest, live streams and the dashboard's files.
//!
//! A request passes, from the outside in: `envelope` (request id, problem bodies, headers, metrics), panic catcher, compression, `bounds`
//! (time, requests at once), `auth` (who, from where, with which scope), `bounds` again (requests per second), then the handler. A handler
//! reads its input with the extractors of `extract`, asks the store through `Api::timed`, and answers with a type of [`view`].
//!
//! Invariants
//! - Every answer that is no success is `application/problem+json`, whoever made it, and never holds SQL or an error's cause.
//! - What is wanted of a job goes to [`Intent`]; the store only has history.
//! - What was announced on a live stream is committed.
//! - Every list is bounded, every body is bounded, every limit is in [`Limits`] and in the error that it causes.

#![allow(unused_qualifications, reason = "the lint takes the code that utoipa's macros make for ours")]

mod api;
mod assets;
mod auth;
mod body;
mod bounds;
mod config;
mod document;
mod envelope;
mod etag;
mod extract;
mod idempotency;
mod ingest;
mod intent;
mod jobs;
mod limits;
mod live;
mod monitor;
mod number;
mod page;
mod problem;
mod rate;
mod router;
mod runs;
mod secret;
mod serve;
mod service;
mod telemetry;
pub mod view;

pub use api::Api;
pub use config::{Auth, Config};
pub use intent::{Answer, CreateJob, ForkJob, Intent, IntentError};
pub use limits::Limits;
pub use live::{Hub, LivePoint};
pub use number::Number;
pub use problem::{Problem, ProblemDetail};
pub use router::{openapi, router};
pub use serve::serve;
