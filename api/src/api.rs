//! What all handlers share.

use crate::config::Config;
use crate::intent::Intent;
use crate::jobs::KeptCurves;
use crate::live::Hub;
use crate::monitor::Monitors;
use crate::page::Cursors;
use crate::problem::{Code, Problem};
use crate::rate::Buckets;
use crate::secret::Secrets;
use crate::telemetry::Telemetry;
use fathom_store::Store;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::Semaphore;

/// A server's parts. Clones share them.
#[derive(Clone)]
pub struct Api {
    pub(crate) store: Store,
    pub(crate) config: Arc<Config>,
    pub(crate) intent: Arc<dyn Intent>,
    pub(crate) hub: Hub,
    pub(crate) secrets: Secrets,
    pub(crate) cursors: Cursors,
    pub(crate) telemetry: Telemetry,
    pub(crate) buckets: Arc<Buckets>,
    pub(crate) slots: Arc<Semaphore>,
    pub(crate) readers: Arc<Semaphore>,
    pub(crate) monitors: Monitors,
    pub(crate) curves: KeptCurves,
}

impl Api {
    /// The parts of a server.
    #[must_use]
    pub fn new(store: Store, config: Config, intent: Arc<dyn Intent>) -> Self {
        let secrets = Secrets::new(config.seed);
        let limits = &config.limits;
        let started = (config.clock)().timestamp_micros();
        // Replicas share the seed, so the epoch of their streams comes from the time too.
        let [a, b, c, d, ..] = secrets.fresh("epoch", started);
        Self {
            hub: Hub::new(u32::from_le_bytes([a, b, c, d])),
            cursors: Cursors::new(&secrets, limits.cursor_seconds),
            telemetry: Telemetry::new(),
            buckets: Arc::new(Buckets::new(limits.burst_requests, limits.requests_per_second)),
            slots: Arc::new(Semaphore::new(limits.concurrent_requests)),
            readers: Arc::new(Semaphore::new(limits.live_readers)),
            monitors: Monitors::default(),
            curves: KeptCurves::default(),
            secrets,
            config: Arc::new(config),
            store,
            intent,
        }
    }

    /// Where changes that are committed elsewhere in this process are announced.
    #[must_use]
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// Seconds since the Unix epoch.
    pub(crate) fn now(&self) -> f64 {
        (self.config.clock)().timestamp_micros() as f64 / 1e6
    }

    /// Awaits a database operation, measures it and turns its error into a problem.
    pub(crate) async fn timed<T>(
        &self,
        operation: &'static str,
        work: impl Future<Output = fathom_store::Result<T>>,
    ) -> Result<T, Problem> {
        let started = Instant::now();
        let result = work.await;
        self.telemetry.store(operation, started.elapsed());
        result.map_err(Problem::from)
    }
}

impl From<fathom_store::Error> for Problem {
    fn from(error: fathom_store::Error) -> Self {
        use fathom_store::Error;
        match error {
            Error::NotFound { what, name } => Self::not_found(what, &name),
            Error::Conflict(text) => Self::new(Code::CONFLICT, sentence(&text)),
            Error::Gap { expected } => {
                let detail = format!("The records from {expected} on are missing.");
                Self::new(Code::SEQUENCE_GAP, detail).expected_sequence(expected)
            }
            Error::Invalid(text) => Self::new(Code::INVALID, sentence(&text)),
            Error::Database(_) => {
                tracing::error!(error = %crate::problem::chain(&error), "the database failed");
                Self::new(
                    Code::UNAVAILABLE,
                    "The database did not answer as it should; the server's log has the cause.",
                )
                .retry_after(2)
            }
            other => Self::internal("the store failed", &other),
        }
    }
}

/// An error text of the store as a sentence.
fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(char::to_uppercase);
    let mut sentence: String = first.into_iter().flatten().chain(letters).collect();
    if !sentence.ends_with('.') {
        sentence.push('.');
    }
    sentence
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn store_errors_become_problems() {
        use fathom_store::Error;
        let code = |error: Error| Problem::from(error).code().to_owned();
        assert_eq!(code(Error::Gap { expected: 3 }), "sequenceGap");
        assert_eq!(code(Error::Conflict("a".into())), "conflict");
        assert_eq!(code(Error::Invalid("a".into())), "invalid");
        let missing = Error::NotFound {
            what: "job",
            name: "a".into(),
        };
        assert_eq!(code(missing), "notFound");
        assert_eq!(code(Error::Embedded("secret".into())), "internal");
        assert_eq!(sentence("a b"), "A b.");
    }
}
