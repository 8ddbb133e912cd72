//! PostgreSQL inside this process (pglite-oxide), for `fathom run` and `fathom ui` without a server. See docs/adr/0008-embedded-postgres.md for
//! what that risks. Nothing outside this file knows the library.

use crate::{Error, Result};
use pglite_oxide::PgliteServer;
use sqlx::postgres::PgConnectOptions;
use std::path::Path;
use tempfile::TempDir;

/// A running database. It stops when this is dropped.
pub struct Embedded {
    server: Option<PgliteServer>,
    /// Where its socket is: the path of a Unix socket may have 107 bytes only, so it is not beside the data.
    socket: TempDir,
}

impl Embedded {
    /// Starts the database in `directory`, which is created if needed. One process may hold it.
    pub async fn start(directory: &Path) -> Result<Self> {
        let failed = |error: &dyn std::fmt::Display| Error::Embedded(error.to_string());
        std::fs::create_dir_all(directory).map_err(|error| failed(&error))?;
        let socket = tempfile::Builder::new()
            .prefix("fathom-")
            .tempdir()
            .map_err(|error| failed(&error))?;
        let builder = PgliteServer::builder()
            .path(directory)
            // TCP costs 40 ms a statement: the proxy sends answers in small pieces.
            .unix(socket.path().join(".s.PGSQL.5432"));
        let started = tokio::task::spawn_blocking(move || builder.start())
            .await
            .map_err(|error| failed(&error))?;
        let server = started.map_err(|error| Error::Embedded(format!("{error:#}")))?;
        Ok(Self {
            server: Some(server),
            socket,
        })
    }

    /// How to connect to it.
    pub fn options(&self) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .socket(self.socket.path())
            .username("postgres")
            .database("template1")
            .application_name("fathom")
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        // Its own drop waits for the last client to leave, which may be a connection that is dropped after this.
        if let Some(server) = self.server.take() {
            std::thread::spawn(move || drop(server));
        }
    }
}
