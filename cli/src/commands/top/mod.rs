//! `fathom top`: jobs, and one job's verdict, vital signs, expert map, events and log, on a screen that follows them.
//!
//! A thread takes a [`Snapshot`] each second; the screen is a pure function of the newest one and of the [`View`], which keys change.

mod draw;
mod map;
mod snapshot;
mod view;

use crate::args::Context;
use crate::connect::Connection;
use crate::failure::{Exit, Failure, Result};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use signal_hook::consts::{SIGHUP, SIGTERM};
use snapshot::Snapshot;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};
use view::{Next, View};

/// How often the server is asked.
const REFRESH: Duration = Duration::from_secs(1);
/// How long a key may wait, and how soon a signal is obeyed.
const TICK: Duration = Duration::from_millis(100);
/// How long the end may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The job to begin with; without it, all jobs
    job: Option<String>,
}

/// Runs the command.
pub fn run(args: &Args, context: &Context) -> Result {
    let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() || dumb {
        return Err(
            Failure::new(Exit::Usage, "`fathom top` needs a terminal").help("use `fathom status` or `fathom health`, both with `-o json`")
        );
    }
    // Before the screen is taken: what goes wrong here is said in the ordinary way.
    let connection = Connection::open(&context.directory)?;
    let first = snapshot::take(&connection, args.job.as_deref())?;
    let cannot = |error: std::io::Error| Failure::new(Exit::Failed, "cannot use the terminal").caused_by(&error);
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&ended)).map_err(cannot)?;
    }
    let view = View::new(args.job.clone(), context.terminal.colour);
    let watch = Watch::start(connection, args.job.clone())?;
    let shown = {
        // A panic restores the terminal before it is printed.
        let mut terminal = ratatui::try_init().map_err(cannot)?;
        let _restore = Restore;
        show(&mut terminal, first, view, &watch, &ended)
    };
    drop(watch);
    shown.map_err(cannot)
}

/// Gives the terminal back however the screen ends.
struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

fn show(terminal: &mut DefaultTerminal, mut snapshot: Snapshot, mut view: View, watch: &Watch, ended: &AtomicBool) -> std::io::Result<()> {
    let mut changed = true;
    while !ended.load(Ordering::Relaxed) {
        if changed {
            terminal.draw(|frame| draw::draw(frame, &snapshot, &view))?;
        }
        changed = false;
        if event::poll(TICK)? {
            changed = true;
            match event::read()? {
                Event::Key(key) if key.kind != KeyEventKind::Release => {
                    let interrupted = key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c');
                    match view.press(key.code, &snapshot) {
                        Next::Quit => return Ok(()),
                        _ if interrupted => return Ok(()),
                        Next::Watch(job) => watch.choose(job),
                        Next::Stay => {}
                    }
                }
                // A new size, the focus: drawn again.
                _ => {}
            }
        }
        for newer in watch.snapshots.try_iter() {
            changed = true;
            match newer {
                // One of a job that was left in the meantime says nothing.
                Ok(newer) if newer.job() == view.job.as_deref() || newer.detail.is_none() => snapshot = newer,
                Ok(_) => {}
                Err(problem) => snapshot.problem = Some(problem),
            }
            view.fit(&snapshot);
        }
    }
    Ok(())
}

/// The thread that asks the server.
struct Watch {
    snapshots: mpsc::Receiver<Result<Snapshot, String>>,
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    wanted: Mutex<Wanted>,
    changed: Condvar,
}

#[derive(Default)]
struct Wanted {
    job: Option<String>,
    end: bool,
    /// It is asked for at once.
    now: bool,
}

impl Watch {
    fn start(connection: Connection, job: Option<String>) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        shared.wanted.lock().unwrap_or_else(PoisonError::into_inner).job = job;
        let (sender, snapshots) = mpsc::channel();
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("watch".into())
            .spawn(move || watch(&connection, &for_thread, &sender))
            .map_err(|error| Failure::new(Exit::Failed, "cannot start a thread").caused_by(&error))?;
        Ok(Self {
            snapshots,
            shared,
            thread: Some(thread),
        })
    }

    fn choose(&self, job: Option<String>) {
        let mut wanted = self.shared.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        (wanted.job, wanted.now) = (job, true);
        self.shared.changed.notify_all();
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.wanted.lock().unwrap_or_else(PoisonError::into_inner).end = true;
        self.shared.changed.notify_all();
        // A server of our own ends with the thread. One that does not answer must not keep the user: it ends with this process.
        let end = Instant::now() + PATIENCE;
        while self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn watch(connection: &Connection, shared: &Shared, sender: &mpsc::Sender<Result<Snapshot, String>>) {
    loop {
        let job = {
            let wanted = shared.wanted.lock().unwrap_or_else(PoisonError::into_inner);
            let waited = shared
                .changed
                .wait_timeout_while(wanted, REFRESH, |wanted| !wanted.end && !wanted.now);
            let (mut wanted, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if wanted.end {
                return;
            }
            wanted.now = false;
            wanted.job.clone()
        };
        let taken = snapshot::take(connection, job.as_deref()).map_err(|failure| said(&failure));
        if sender.send(taken).is_err() {
            return;
        }
    }
}

/// A failure in one line.
fn said(failure: &Failure) -> String {
    let mut text = Vec::new();
    // Writing to memory does not fail.
    let _ = failure.print(&mut text, false);
    let text = String::from_utf8_lossy(&text).into_owned();
    let lines: Vec<&str> = text.lines().map(|line| line.trim().trim_start_matches("error: ")).collect();
    lines.join("; ")
}
