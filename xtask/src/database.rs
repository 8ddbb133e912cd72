//! A real Postgres server for what is generated from the schema: the dump of the migrations, and the descriptions of the store's queries that
//! let a build do without a database.

use crate::error::Error;
use crate::generate::settle;
use crate::process::{self, Context};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const DUMP: &str = "migrations/schema.sql";
const QUERIES: &str = "store/.sqlx";
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether the programs of a server are there; otherwise the cure.
pub fn missing() -> Option<&'static str> {
    let there = process::works(program("initdb"), "--version") && process::works(program("pg_dump"), "--version");
    (!there).then_some("PostgreSQL's programs are missing; on Debian: apt-get install --no-install-recommends postgresql")
}

/// Writes or compares the dump; writes the descriptions of queries.
pub fn generate(context: &Context, check: bool, problems: &mut Vec<String>) -> Result<(), Error> {
    if let Some(cure) = missing() {
        println!("{DUMP}: not compared: {cure}");
        return Ok(());
    }
    let server = Server::start(context, Durability::None)?;
    for migration in migrations(context)? {
        process::run(
            server
                .tool("psql")
                .args(["-q", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-f"])
                .arg(migration)
                .current_dir(&context.root),
        )?;
    }
    let dump = process::output(
        server
            .tool("pg_dump")
            .args(["-d", "postgres", "--schema-only", "--no-owner", "--no-privileges"]),
    )?;
    settle(context, DUMP, &readable(&dump), check, problems)?;
    if check { Ok(()) } else { queries(context, &server) }
}

/// The dump without what depends on the server's version or is random.
fn readable(dump: &str) -> String {
    let kept = dump.lines().filter(|line| {
        !(line.starts_with("--") || line.starts_with("SET ") || line.starts_with("SELECT pg_catalog.set_config") || line.starts_with('\\'))
    });
    let mut text = String::from("-- The schema that the migrations make. Written by `cargo xtask gen`.\n");
    let mut empty = false;
    for line in kept {
        if !(line.is_empty() && empty) {
            text.push_str(line);
            text.push('\n');
        }
        empty = line.is_empty();
    }
    format!("{}\n", text.trim_end())
}

/// Compiles the store against the server, which writes a description of each query. Whether the committed ones are true is a test of the store.
fn queries(context: &Context, server: &Server) -> Result<(), Error> {
    let folder = context.root.join(QUERIES);
    let source = context.root.join("store/src/lib.rs");
    let failed = |path: &Path| {
        let path = path.to_path_buf();
        move |source| Error::File { path, source }
    };
    if folder.is_dir() {
        std::fs::remove_dir_all(&folder).map_err(failed(&folder))?;
    }
    std::fs::create_dir_all(&folder).map_err(failed(&folder))?;
    // Its macros write when they run, so it is compiled anew.
    let text = std::fs::read(&source).map_err(failed(&source))?;
    std::fs::write(&source, text).map_err(failed(&source))?;
    let mut compile = context.cargo(&["check", "--quiet", "--workspace"]);
    compile
        .env("SQLX_OFFLINE", "false")
        .env("SQLX_OFFLINE_DIR", &folder)
        .env("DATABASE_URL", server.url());
    process::run(&mut compile)
}

fn migrations(context: &Context) -> Result<Vec<PathBuf>, Error> {
    let folder = context.root.join("migrations");
    let entries = std::fs::read_dir(&folder).map_err(|source| Error::File {
        path: folder.clone(),
        source,
    })?;
    let numbered = |path: &PathBuf| {
        path.file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.ends_with(".sql") && name.starts_with(|first: char| first.is_ascii_digit()))
    };
    let mut migrations: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(numbered).collect();
    migrations.sort();
    Ok(migrations)
}

/// Whether a server waits for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// It does not: nothing in it is kept.
    None,
    /// It does, as in production.
    Full,
}

/// A server in a temporary directory; it ends when this is dropped.
pub struct Server {
    child: Child,
    directory: PathBuf,
}

impl Server {
    /// Starts one and waits until it answers.
    pub fn start(context: &Context, durability: Durability) -> Result<Self, Error> {
        let directory = std::env::temp_dir().join(format!("fathom-postgres-{}", std::process::id()));
        std::fs::create_dir_all(&directory).map_err(|source| Error::File {
            path: directory.clone(),
            source,
        })?;
        let root = process::output(Command::new("id").arg("-u"))?.trim() == "0";
        if root {
            // initdb and postgres refuse to run as root.
            process::run(Command::new("chown").arg("postgres").arg(&directory))?;
        }
        let data = directory.join("data");
        let mut initdb = unprivileged(root, &program("initdb"));
        initdb
            .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "-D"])
            .arg(&data);
        process::run(initdb.stdout(Stdio::null()).current_dir(&directory))?;
        let mut postgres = unprivileged(root, &program("postgres"));
        postgres
            .arg("-D")
            .arg(&data)
            .arg("-k")
            .arg(&directory)
            .args(["-c", "listen_addresses="]);
        if durability == Durability::None {
            postgres.args(["-c", "fsync=off"]);
        }
        let started = postgres.stdout(Stdio::null()).stderr(Stdio::null()).current_dir(&directory).spawn();
        let child = started.map_err(|source| process::start_error(&postgres, source))?;
        let server = Self { child, directory };
        let end = Instant::now() + PATIENCE;
        while !server.tool("pg_isready").arg("-q").status().is_ok_and(|status| status.success()) {
            if Instant::now() > end {
                return Err(Error::Missing(format!(
                    "the Postgres server in {} did not start",
                    context.root.display()
                )));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(server)
    }

    /// Its `DATABASE_URL`.
    pub fn url(&self) -> String {
        format!("postgres://postgres@localhost/postgres?host={}", self.directory.display())
    }

    /// A client program, connected to this server.
    fn tool(&self, name: &str) -> Command {
        let mut command = Command::new(program(name));
        command
            .arg("-h")
            .arg(&self.directory)
            .args(if name == "pg_isready" { &[][..] } else { &["-U", "postgres"] });
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A fast shutdown, then its directory; both are temporary.
        let _ = Command::new("kill").arg("-INT").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn unprivileged(root: bool, program: &Path) -> Command {
    if !root {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"])
        .arg(program);
    command
}

/// A program of the server. Debian keeps them by version.
fn program(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions
        .map(|version| version.path().join("bin").join(name))
        .filter(|path| path.exists())
        .max();
    newest.unwrap_or_else(|| PathBuf::from(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_is_made_readable() {
        let dump = "--\n-- PostgreSQL database dump\n--\n\n\\restrict x\n\nSET a = 1;\n\nCREATE TABLE t (\n    a int\n);\n\n\n\n-- done\n";
        assert_eq!(
            readable(dump),
            "-- The schema that the migrations make. Written by `cargo xtask gen`.\n\nCREATE TABLE t (\n    a int\n);\n"
        );
    }
}
