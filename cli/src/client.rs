//! A client of the API: what ships a worker's reports, and what the commands ask with.

use crate::failure::{Exit, Failure};
use serde_json::Value;
use std::io::Read;
use std::time::Duration;
use ureq::Agent;

/// How long a request may take. Ingest answers within milliseconds; a database that is starting may take seconds.
const TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Largest answer that is read.
const MAX_ANSWER_BYTES: u64 = 64 << 20;
/// zstd level of request bodies: what is sent goes over loopback or a data centre's network.
const COMPRESSION: i32 = 1;

/// A server and what opens it.
#[derive(Clone, Debug)]
pub struct Client {
    agent: Agent,
    base: String,
    secret: Secret,
}

/// A secret that is never printed.
#[derive(Clone)]
pub struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Secret")
    }
}

/// Why a request has no answer.
#[derive(Debug)]
pub enum Refusal {
    /// The server cannot be reached, or broke off: try again later.
    Unreachable(String),
    /// The server said no.
    Problem(Problem),
}

/// A problem as the server describes it (RFC 9457).
#[derive(Clone, Debug, Default)]
pub struct Problem {
    /// HTTP status.
    pub status: u16,
    /// All of it.
    pub body: Value,
}

impl Problem {
    /// A text member, empty if it is missing.
    pub fn text(&self, member: &str) -> &str {
        self.body.get(member).and_then(Value::as_str).unwrap_or_default()
    }

    /// Whether the same request may succeed later.
    pub fn passes(&self) -> bool {
        matches!(self.status, 408 | 425 | 429 | 500..)
    }
}

/// Result of a request.
pub type Answer<T = Value> = Result<T, Refusal>;

impl Client {
    /// A client of the server at `base` (`http://127.0.0.1:7316`).
    pub fn new(base: &str, secret: &str) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_global(Some(TIMEOUT))
            .user_agent(concat!("fathom/", env!("CARGO_PKG_VERSION")))
            .build();
        Self {
            agent: Agent::new_with_config(config),
            base: base.trim_end_matches('/').to_owned(),
            secret: Secret(secret.to_owned()),
        }
    }

    /// Asks for `path`, which begins with a slash.
    pub fn get(&self, path: &str) -> Answer {
        let request = self
            .agent
            .get(format!("{}{path}", self.base))
            .header("Authorization", self.authorization());
        answer(request.call())
    }

    /// Sends JSON with PUT.
    pub fn put(&self, path: &str, body: &Value) -> Answer {
        let request = self
            .agent
            .put(format!("{}{path}", self.base))
            .header("Authorization", self.authorization());
        answer(request.header("Content-Type", "application/json").send(body.to_string()))
    }

    /// Sends JSON with POST, compressed.
    pub fn post(&self, path: &str, body: &[u8]) -> Answer {
        let compressed = zstd::bulk::compress(body, COMPRESSION).map_err(|error| Refusal::Unreachable(error.to_string()))?;
        let request = self
            .agent
            .post(format!("{}{path}", self.base))
            .header("Authorization", self.authorization());
        let request = request
            .header("Content-Type", "application/json")
            .header("Content-Encoding", "zstd");
        answer(request.send(&compressed[..]))
    }

    fn authorization(&self) -> String {
        format!("Bearer {}", self.secret.0)
    }
}

fn answer(result: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Answer {
    let unreachable = |error: &dyn std::fmt::Display| Refusal::Unreachable(error.to_string());
    let response = result.map_err(|error| unreachable(&error))?;
    let status = response.status().as_u16();
    let mut text = String::new();
    let mut body = response.into_body().into_reader().take(MAX_ANSWER_BYTES);
    body.read_to_string(&mut text).map_err(|error| unreachable(&error))?;
    let body = if text.is_empty() {
        Ok(Value::Null)
    } else {
        serde_json::from_str(&text)
    };
    match (status, body) {
        (200..300, Ok(body)) => Ok(body),
        (200..300, Err(error)) => Err(unreachable(&error)),
        (_, body) => Err(Refusal::Problem(Problem {
            status,
            body: body.unwrap_or_default(),
        })),
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Unreachable(reason) => Self::new(Exit::Unreachable, "the server does not answer")
                .cause(reason)
                .help("start one with `fathom ui`"),
            Refusal::Problem(problem) => {
                let exit = match problem.status {
                    401 | 403 => Exit::Auth,
                    404 | 410 => Exit::NotFound,
                    409 | 412 => Exit::Conflict,
                    _ => Exit::Failed,
                };
                let title = problem.text("title");
                let failure = Self::new(
                    exit,
                    if title.is_empty() {
                        "the server refused the request"
                    } else {
                        title
                    },
                );
                let failure = [problem.text("detail")]
                    .iter()
                    .filter(|text| !text.is_empty())
                    .fold(failure, Self::cause);
                match problem.text("hint") {
                    "" => failure,
                    hint => failure.help(hint),
                }
            }
        }
    }
}
