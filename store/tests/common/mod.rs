//! A real Postgres server for tests, and a database of its own for each of them.
#![allow(clippy::unwrap_used)] // A helper that fails fails its test.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A server that lives as long as the test process.
struct Server {
    socket: PathBuf,
}

static SERVER: OnceLock<Server> = OnceLock::new();
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// URL of a new, empty database.
pub fn database() -> String {
    let server = SERVER.get_or_init(Server::start);
    let name = format!("test_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
    let created = tool("createdb")
        .args(["-U", "postgres", "-h"])
        .arg(&server.socket)
        .arg(&name)
        .status()
        .unwrap();
    assert!(created.success(), "createdb {name}: {created}");
    format!("postgres://postgres@localhost/{name}?host={}", server.socket.display())
}

impl Server {
    fn start() -> Self {
        let directory = tempfile::Builder::new().prefix("fathom-postgres-").tempdir().unwrap().keep();
        let (data, socket) = (directory.join("data"), directory.clone());
        let root = Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
        if root {
            // initdb and postgres refuse to run as root.
            let owned = Command::new("chown").arg("postgres").arg(&directory).status().unwrap();
            assert!(owned.success(), "there is no user postgres: install Debian's package postgresql");
        }
        let initialised = as_postgres(root, &binary("initdb"))
            .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "-D"])
            .arg(&data)
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(initialised.success(), "initdb: {initialised}");
        let (data_of_child, socket_of_child) = (data, socket.clone());
        // The server gets a signal when the thread that started it ends, so this one never does.
        std::thread::spawn(move || {
            let mut child = as_postgres(root, &binary("postgres"))
                .arg("-D")
                .arg(&data_of_child)
                .arg("-k")
                .arg(&socket_of_child)
                .args(["-c", "listen_addresses=", "-c", "fsync=off"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            child.wait().unwrap();
        });
        let end = Instant::now() + Duration::from_secs(30);
        while !tool("pg_isready").arg("-q").arg("-h").arg(&socket).status().unwrap().success() {
            assert!(Instant::now() < end, "the server did not start within 30 s");
            std::thread::sleep(Duration::from_millis(50));
        }
        Self { socket }
    }
}

fn as_postgres(root: bool, program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "INT"]);
    if root {
        command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]);
    }
    command.arg(program);
    command
}

/// A program of the server. Debian keeps them by version.
fn binary(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions
        .map(|version| version.path().join("bin").join(name))
        .filter(|path| path.exists())
        .max();
    newest.unwrap_or_else(|| PathBuf::from(name))
}

fn tool(name: &str) -> Command {
    Command::new(binary(name))
}
