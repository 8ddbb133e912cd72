//! What a server is told when it starts. Nothing here is read from the environment: that is the command line's business.

use crate::limits::Limits;
use chrono::{DateTime, Utc};

/// Who may use the server.
#[derive(Clone)]
pub enum Auth {
    /// One person on one machine: the secret of this launch.
    Local {
        /// The secret, at least 32 characters of it random.
        secret: String,
    },
    /// Tokens from the database.
    Tokens,
}

/// Configuration of a server.
#[derive(Clone)]
pub struct Config {
    /// Who may use it.
    pub auth: Auth,
    /// Its limits.
    pub limits: Limits,
    /// Random bytes of this process: cursors, entity tags and request ids are derived from them. Replicas that share a load balancer share
    /// them too, so that a cursor of one works at another.
    pub seed: [u8; 32],
    /// Names under which the server may be addressed besides loopback ones, without port. Only checked in local mode.
    pub hosts: Vec<String>,
    /// The project of requests that name none.
    pub project: String,
    /// Version of the program.
    pub version: String,
    /// The wall clock.
    pub clock: fn() -> DateTime<Utc>,
}

impl Config {
    /// Local mode with default limits.
    #[must_use]
    pub fn local(secret: String, seed: [u8; 32]) -> Self {
        Self {
            auth: Auth::Local { secret },
            limits: Limits::default(),
            seed,
            hosts: Vec::new(),
            project: "default".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            clock: Utc::now,
        }
    }

    /// Token mode with default limits.
    #[must_use]
    pub fn tokens(seed: [u8; 32]) -> Self {
        Self {
            auth: Auth::Tokens,
            ..Self::local(String::new(), seed)
        }
    }
}
