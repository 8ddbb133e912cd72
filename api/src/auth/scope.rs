//! Scopes, and the one table that says which request needs which.

use axum::http::Method;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub enum Scope {
    /// Create, pause, resume, cancel, fork and delete jobs.
    #[serde(rename = "jobs:write")]
    JobsWrite,
    /// Read everything but tokens.
    #[serde(rename = "runs:read")]
    RunsRead,
    /// Report metrics, logs, checkpoints and status.
    #[serde(rename = "metrics:write")]
    MetricsWrite,
    /// Everything, tokens included.
    #[serde(rename = "admin")]
    Admin,
}

impl Scope {
    pub(crate) const ALL: [Self; 4] = [Self::JobsWrite, Self::RunsRead, Self::MetricsWrite, Self::Admin];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::JobsWrite => "jobs:write",
            Self::RunsRead => "runs:read",
            Self::MetricsWrite => "metrics:write",
            Self::Admin => "admin",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.name() == name)
    }
}

/// The scope that a request needs; none if any credential will do.
pub(crate) fn required(method: &Method, path: &str) -> Option<Scope> {
    let Some(path) = path.strip_prefix("/api/v1") else {
        // The dashboard's files, /docs, /openapi.json: no data. /metrics is data.
        return (path == "/metrics").then_some(Scope::RunsRead);
    };
    let reads = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    if path == "/whoami" || path == "/version" {
        None
    } else if path == "/tokens" || path.starts_with("/tokens/") {
        Some(Scope::Admin)
    } else if reads || matches!(path, "/series:query" | "/jobs:validate" | "/jobs:plan") {
        Some(Scope::RunsRead)
    } else if path.ends_with(":batch") || (*method == Method::PUT && (path.ends_with("/status") || path.ends_with("/checkpoints"))) {
        Some(Scope::MetricsWrite)
    } else {
        Some(Scope::JobsWrite)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table() {
        for (method, path, scope) in [
            (Method::GET, "/", None),
            (Method::GET, "/assets/app.js", None),
            (Method::GET, "/metrics", Some(Scope::RunsRead)),
            (Method::GET, "/api/v1/whoami", None),
            (Method::GET, "/api/v1/tokens", Some(Scope::Admin)),
            (Method::DELETE, "/api/v1/tokens/3", Some(Scope::Admin)),
            (Method::GET, "/api/v1/jobs", Some(Scope::RunsRead)),
            (Method::GET, "/api/v1/runs/a.b.c/events", Some(Scope::RunsRead)),
            (Method::POST, "/api/v1/jobs", Some(Scope::JobsWrite)),
            (Method::POST, "/api/v1/jobs/a:pause", Some(Scope::JobsWrite)),
            (Method::POST, "/api/v1/jobs:plan", Some(Scope::RunsRead)),
            (Method::DELETE, "/api/v1/jobs/a", Some(Scope::JobsWrite)),
            (Method::POST, "/api/v1/runs/a/metrics:batch", Some(Scope::MetricsWrite)),
            (Method::PUT, "/api/v1/jobs/a/status", Some(Scope::MetricsWrite)),
            (Method::PUT, "/api/v1/runs/a/checkpoints", Some(Scope::MetricsWrite)),
            (Method::POST, "/api/v1/anything/new", Some(Scope::JobsWrite)),
        ] {
            assert_eq!(required(&method, path), scope, "{method} {path}");
        }
    }

    #[test]
    fn names_are_read_back() {
        for scope in Scope::ALL {
            assert_eq!(Scope::parse(scope.name()), Some(scope));
            assert_eq!(serde_json::to_value(scope).unwrap(), scope.name());
        }
        assert_eq!(Scope::parse("root"), None);
    }
}
