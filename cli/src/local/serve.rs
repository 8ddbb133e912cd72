//! The server of a local directory: database, API, shipper and queue in one process.

use super::endpoint::{self, Endpoint, ServerLock};
use super::intent::LocalIntent;
use super::queue::Queue;
use crate::failure::{Exit, Failure, Result};
use crate::runner::directory::Directory;
use crate::ship::Shipper;
use fathom_api::{Api, Config};
use fathom_store::Store;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// Port that is tried first, so that a bookmark keeps working.
pub const DEFAULT_PORT: u16 = 7316;
/// How often the local directory is looked at for something to send.
const SHIP_INTERVAL: Duration = Duration::from_millis(250);
/// First pause after the server refused or was away, doubled each time up to the longest.
const SHIP_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_SHIP_PAUSE: Duration = Duration::from_secs(8);
/// How long the link may wait for the history to be up to date.
const CATCH_UP: Duration = Duration::from_secs(10);
/// How long what is left may take to send at the end.
const DRAIN: Duration = Duration::from_secs(20);
/// Threads of the asynchronous runtime: training needs the others.
const THREADS: usize = 2;
/// Name of the queue's thread.
const QUEUE: &str = "queue";
/// How far threads of the server stand back behind a trainer: a tenth of its share where both want a core.
const NICENESS: i32 = 10;

/// How to serve a local directory.
#[derive(Debug)]
pub struct Settings {
    /// The directory.
    pub directory: Directory,
    /// Port; nothing means the usual one, or any if it is taken.
    pub port: Option<u16>,
    /// Secret; a new one if there is none.
    pub secret: Option<String>,
    /// Whether it runs the jobs that wait. A server without the queue only answers the command that started it.
    pub queue: bool,
    /// URL of a database server; the embedded one without.
    pub database: Option<String>,
}

/// Serves a local directory until `stop` completes. `ready` is called once the link works and the history is up to date. `None` if another server has the directory.
pub fn serve(
    settings: Settings,
    ready: impl FnOnce(&Endpoint) -> Result + Send,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<Option<()>> {
    let Some(lock) = ServerLock::acquire(&settings.directory)? else {
        return Ok(None);
    };
    // Held until the process ends: so long it may hold the embedded database, whatever became of the server.
    std::mem::forget(lock);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| Failure::new(Exit::Failed, "cannot start the server").caused_by(&error))?;
    runtime.block_on(run(settings, ready, stop))?;
    // The embedded database must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(2));
    Ok(Some(()))
}

async fn run(settings: Settings, ready: impl FnOnce(&Endpoint) -> Result, stop: impl Future<Output = ()> + Send + 'static) -> Result {
    let Settings {
        directory,
        port,
        secret,
        queue,
        database,
    } = settings;
    let listener = bind(port).await?;
    let address = listener
        .local_addr()
        .map_err(|error| Failure::new(Exit::Failed, "cannot listen").caused_by(&error))?;
    let secret = secret.map_or_else(endpoint::new_secret, Ok)?;
    let store = open(&directory, database.as_deref()).await?;
    let api = Api::new(
        store.clone(),
        Config::local(secret.clone(), endpoint::random()?),
        Arc::new(LocalIntent::new(directory.clone())),
    );
    let (finish, finished) = oneshot::channel::<()>();
    let server = tokio::spawn(fathom_api::serve(listener, api, async {
        // An error means that the sender is gone, which ends the server too.
        let _ = finished.await;
    }));
    let endpoint = Endpoint {
        address: format!("http://{address}"),
        secret,
        pid: std::process::id(),
        private: !queue,
    };
    endpoint.write(&directory)?;
    let stopping = Arc::new(AtomicBool::new(false));
    let (shipping, caught_up) = spawn_shipper(&directory, &endpoint, &stopping)?;
    let queue = if queue { Some(spawn_queue(&directory, &stopping)?) } else { None };
    // A large directory catches up while it is looked at.
    let _ = tokio::time::timeout(CATCH_UP, caught_up).await;
    ready(&endpoint)?;
    give_way();
    stop.await;
    stopping.store(true, Ordering::Relaxed);
    // The queue's run stops first, then what it still reported is sent, then the server ends.
    let joined = tokio::task::spawn_blocking(move || (queue.map_or(Ok(()), std::thread::JoinHandle::join), shipping.join())).await;
    drop(finish);
    let served = server.await;
    store.close().await;
    match (joined, served) {
        (Ok((Ok(()), Ok(()))), Ok(Ok(()))) => Ok(()),
        (_, Ok(Err(error))) => Err(Failure::new(Exit::Failed, "the server failed").caused_by(&error)),
        _ => Err(Failure::new(Exit::Failed, "a thread of the server panicked")),
    }
}

async fn bind(port: Option<u16>) -> Result<TcpListener> {
    let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    match port {
        Some(port) => TcpListener::bind(at(port)).await.map_err(|error| {
            Failure::new(Exit::Conflict, format!("cannot listen on port {port}"))
                .caused_by(&error)
                .help("choose another with `--port`, or leave it out")
        }),
        None => match TcpListener::bind(at(DEFAULT_PORT)).await {
            Ok(listener) => Ok(listener),
            Err(_) => TcpListener::bind(at(0))
                .await
                .map_err(|error| Failure::new(Exit::Failed, "cannot listen on any port").caused_by(&error)),
        },
    }
}

/// The database: a server if one is named, else the embedded one.
async fn open(directory: &Directory, database: Option<&str>) -> Result<Store> {
    if let Some(url) = database {
        return Store::connect(url).await.map_err(|error| {
            Failure::new(Exit::Failed, "cannot open the database that DATABASE_URL names")
                .caused_by(&error)
                .help("check the URL and that the server runs, or unset DATABASE_URL to use the embedded database")
        });
    }
    #[cfg(feature = "embedded")]
    return Store::embedded(&directory.root().join("postgres")).await.map_err(|error| {
        Failure::new(Exit::Failed, "cannot open the embedded database")
            .caused_by(&error)
            .help(format!(
                "the history is made of the files in {} and can be made again: move {} aside and start again",
                directory.root().display(),
                directory.root().join("postgres").display()
            ))
    });
    #[cfg(not(feature = "embedded"))]
    Err(
        Failure::new(Exit::Usage, "this program was built without the embedded database").help(format!(
            "set DATABASE_URL to a PostgreSQL server for the history of {}",
            directory.root().display()
        )),
    )
}

fn spawn_queue(directory: &Directory, stopping: &Arc<AtomicBool>) -> Result<std::thread::JoinHandle<()>> {
    let (queue, stopping) = (Queue::new(directory.clone()), Arc::clone(stopping));
    spawn(QUEUE, move || queue.run(&stopping))
}

/// The receiver completes when everything that was there has been sent.
fn spawn_shipper(
    directory: &Directory,
    endpoint: &Endpoint,
    stopping: &Arc<AtomicBool>,
) -> Result<(std::thread::JoinHandle<()>, oneshot::Receiver<()>)> {
    let (directory, client, stopping) = (directory.clone(), endpoint.client(), Arc::clone(stopping));
    let (sender, caught_up) = oneshot::channel();
    let thread = spawn("shipper", move || {
        ship(&mut Shipper::new(directory, client), &stopping, Some(sender));
    })?;
    Ok((thread, caught_up))
}

/// Lowers the priority of all threads but the queue's, whose children train: a trainer beside us uses every core, and what it leaves idle is enough
/// once the database is open. Threads to come inherit it.
fn give_way() {
    // Nobody is worse off where threads are not listed or the change is refused.
    for task in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        let id = task
            .file_name()
            .to_str()
            .and_then(|id| rustix::process::Pid::from_raw(id.parse().ok()?));
        if name.trim_end() != QUEUE && id.is_some() {
            let _ = rustix::process::setpriority_process(id, NICENESS);
        }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(work)
        .map_err(|error| Failure::new(Exit::Failed, "cannot start a thread").caused_by(&error))
}

/// Sends what there is until everything is sent after `stopping` was set, or that takes too long.
fn ship(shipper: &mut Shipper, stopping: &AtomicBool, mut caught_up: Option<oneshot::Sender<()>>) {
    let mut last_words = Vec::new();
    let mut last_reason = String::new();
    let mut waiting = SHIP_PAUSE;
    let mut end = None;
    loop {
        // Read before the pass: what was there when stopping began is sent.
        let stop = stopping.load(Ordering::Relaxed);
        let mut stuck = Vec::new();
        let passed = shipper.pass(&mut stuck);
        if passed.is_ok() {
            waiting = SHIP_PAUSE;
            last_reason.clear();
        }
        let pause = match passed {
            Ok(true) => Duration::ZERO,
            Ok(false) if stop => return,
            Ok(false) => {
                if let Some(sender) = caught_up.take() {
                    // Nobody may be waiting any more.
                    let _ = sender.send(());
                }
                SHIP_INTERVAL
            }
            Err(reason) => {
                if reason != last_reason {
                    tracing::warn!(reason, "reports wait to be sent");
                    last_reason = reason;
                }
                let pause = waiting;
                waiting = (waiting * 2).min(LONGEST_SHIP_PAUSE);
                pause
            }
        };
        if stuck != last_words {
            stuck.iter().for_each(|problem| tracing::error!(problem, "reports cannot be sent"));
            last_words = stuck;
        }
        if stop && Instant::now() > *end.get_or_insert_with(|| Instant::now() + DRAIN) {
            return;
        }
        // A long pause must not keep the server from its end.
        let until = Instant::now() + pause;
        while Instant::now() < until && stopping.load(Ordering::Relaxed) == stop {
            std::thread::sleep(SHIP_INTERVAL.min(until.saturating_duration_since(Instant::now())));
        }
    }
}
