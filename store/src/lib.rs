//! The history of Fathom's jobs, in Postgres: all SQL of the project, one module per table.
//!
//! What is *wanted* of a job is never only here: it is in the local directory or in the custom resource. The store can be lost and
//! filled again from the workers' spools.
//!
//! # Metrics
//!
//! A request of the worker's spool becomes one row of `metric_chunks`: some steps of all series, in columns. When all steps of a page (1,024
//! steps) have arrived, they move to `metric_pages`, one row per series, and pages of coarser buckets are made of every 32 pages below
//! ([`codec`], [`seal`](Store::seal)). Each point is in exactly one place; a read takes pages at the coarsest level that the picture allows
//! and the rest from finer pages and chunks ([`read`]).
//!
//! # Attempts
//!
//! A point belongs to the attempt that measured it and is never changed. Which attempt counts for a step follows from where attempts
//! began ([`attempts::segments`]).

pub mod artifacts;
pub mod attempts;
pub mod checkpoints;
pub mod codec;
#[cfg(feature = "embedded")]
mod embedded;
mod error;
pub mod evaluations;
pub mod events;
pub mod idempotency;
pub mod ingest;
pub mod jobs;
pub mod logs;
pub mod matrices;
mod overview;
pub mod page;
pub mod read;
pub mod runs;
mod seal;
pub mod series;
pub mod tokens;

pub use error::{Error, Result};
pub use page::Page;

use sqlx::PgPool;
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use std::sync::Arc;
use std::time::Duration;

static MIGRATIONS: Migrator = sqlx::migrate!("../migrations");

/// Connections to a server.
const MAX_CONNECTIONS: u32 = 16;
/// A statement that takes longer than this is a defect or an overload.
const STATEMENT_TIMEOUT: &str = "30s";
/// How long a request waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// The history.
#[derive(Clone)]
pub struct Store {
    pool: PgPool,
    shared: Arc<Shared>,
}

struct Shared {
    series: series::Cache,
    sealing: seal::Sealing,
    #[cfg(feature = "embedded")]
    _embedded: Option<embedded::Embedded>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Store").finish_non_exhaustive()
    }
}

impl Store {
    /// A store on a server that is not contacted yet. The URL is never part of an error: it may hold a password.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a URL that is none.
    pub fn lazy(url: &str) -> Result<Self> {
        let options: PgConnectOptions = url
            .parse()
            .map_err(|_| Error::Invalid("the database URL is not of the form postgres://user:password@host:port/database".into()))?;
        let options = options
            .application_name("fathom")
            .options([("statement_timeout", STATEMENT_TIMEOUT)]);
        let pool = PgPoolOptions::new()
            .max_connections(MAX_CONNECTIONS)
            .acquire_timeout(ACQUIRE_TIMEOUT);
        Ok(Self {
            pool: pool.connect_lazy_with(options),
            shared: Arc::new(Shared {
                series: series::Cache::default(),
                sealing: seal::Sealing::default(),
                #[cfg(feature = "embedded")]
                _embedded: None,
            }),
        })
    }

    /// Connects to a server and brings its schema up to this version.
    ///
    /// # Errors
    /// As [`Store::lazy`] and [`Store::migrate`].
    pub async fn connect(url: &str) -> Result<Self> {
        let store = Self::lazy(url)?;
        store.migrate().await?;
        Ok(store)
    }

    /// Brings the schema up to this version. Several processes may do so at once.
    ///
    /// # Errors
    /// [`Error::Migrate`], which includes a server that cannot be reached.
    pub async fn migrate(&self) -> Result<()> {
        Ok(MIGRATIONS.run(&self.pool).await?)
    }

    /// Opens the database in `directory`, creating it if needed. One process may hold it at a time.
    ///
    /// # Errors
    /// [`Error::Embedded`] if it cannot be opened, [`Error::Migrate`].
    #[cfg(feature = "embedded")]
    pub async fn embedded(directory: &std::path::Path) -> Result<Self> {
        let embedded = embedded::Embedded::start(directory).await?;
        // It serves one connection.
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .idle_timeout(None)
            .max_lifetime(None);
        let pool = pool.connect_with(embedded.options()).await.map_err(Error::Database)?;
        let store = Self {
            pool,
            shared: Arc::new(Shared {
                series: series::Cache::default(),
                sealing: seal::Sealing::default(),
                _embedded: Some(embedded),
            }),
        };
        store.migrate().await?;
        Ok(store)
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn ping(&self) -> Result<()> {
        sqlx::query!("SELECT 1 AS one").fetch_one(&self.pool).await?;
        Ok(())
    }

    /// Bytes that the database takes on disk, its write-ahead log left out.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn size(&self) -> Result<i64> {
        let query = sqlx::query_scalar!(r#"SELECT pg_database_size(current_database()) AS "size!""#);
        Ok(query.fetch_one(&self.pool).await?)
    }

    /// Closes the connections after what is under way.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}
