//! The server that `fathom run` starts beside itself: a process of its own, so that training does not notice when it dies.

use super::endpoint::Endpoint;
use crate::failure::Result;
use crate::runner::directory::Directory;
use crate::terminal::Terminal;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often it is looked at.
const INTERVAL: Duration = Duration::from_millis(100);
/// Pause before it is started again, doubled each time up to a minute.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long it may take to send what is left at the end.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server that lives as long as this.
#[derive(Debug)]
pub struct Beside {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Beside {
    /// Starts the server of a directory unless there is one, and prints the link as soon as it works. Nothing waits for it.
    pub fn start(directory: &Directory, terminal: Terminal) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (directory, stopped) = (directory.clone(), Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name("server".into())
            .spawn(move || supervise(&directory, terminal, &stopped))
            .ok();
        Ok(Self { stop, thread })
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic there was printed there.
            let _ = thread.join();
        }
    }
}

fn supervise(directory: &Directory, terminal: Terminal, stop: &Arc<AtomicBool>) {
    let announced: Arc<Mutex<Option<String>>> = Arc::default();
    let mut pause = FIRST_PAUSE;
    while !stop.load(Ordering::Relaxed) {
        if let Some(endpoint) = Endpoint::of(directory) {
            // `fathom ui` has it, or another run's server that is about to end; that of a command ends with it.
            if !endpoint.private {
                announce(&announced, &endpoint.link(), terminal);
            }
            sleep(Duration::from_secs(1), stop);
            continue;
        }
        match start(directory) {
            Ok(child) => {
                let began = Instant::now();
                follow(child, stop, &announced, terminal);
                if began.elapsed() > LONGEST_PAUSE {
                    pause = FIRST_PAUSE;
                }
            }
            Err(error) => terminal.note(&format!("The dashboard's server cannot be started ({error}); training goes on.")),
        }
        sleep(pause, stop);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn start(directory: &Directory) -> std::io::Result<Child> {
    let log = std::fs::create_dir_all(directory.root()).and_then(|()| std::fs::File::create(directory.root().join("server.log")))?;
    Command::new(std::env::current_exe()?)
        .arg0("fathom")
        .arg("--dir")
        .arg(directory.root())
        .args(["ui", "--no-open", "--until-eof", "--output", "json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        // Ctrl-C is the run's: the server ends after it, when everything is sent.
        .process_group(0)
        .spawn()
}

/// Waits until the server ends, or ends it.
fn follow(mut child: Child, stop: &AtomicBool, announced: &Arc<Mutex<Option<String>>>, terminal: Terminal) {
    if let Some(output) = child.stdout.take() {
        let announced = Arc::clone(announced);
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let link = serde_json::from_str::<serde_json::Value>(&line).ok();
                if let Some(link) = link.as_ref().and_then(|value| value.get("url")?.as_str()) {
                    announce(&announced, link, terminal);
                }
            }
        });
    }
    let mut end = None;
    while let Ok(None) = child.try_wait() {
        if stop.load(Ordering::Relaxed) {
            // The end of its standard input tells it.
            child.stdin = None;
            if Instant::now() > *end.get_or_insert_with(|| Instant::now() + PATIENCE) {
                // It has had its time; what it did not send is sent by the next server.
                let _ = child.kill();
            }
        }
        std::thread::sleep(INTERVAL);
    }
}

fn announce(announced: &Mutex<Option<String>>, link: &str, terminal: Terminal) {
    let mut last = announced.lock().unwrap_or_else(PoisonError::into_inner);
    if last.as_deref() != Some(link) {
        terminal.note(&format!("Dashboard: {link}"));
        *last = Some(link.to_owned());
    }
}

fn sleep(pause: Duration, stop: &AtomicBool) {
    let end = Instant::now() + pause;
    while Instant::now() < end && !stop.load(Ordering::Relaxed) {
        std::thread::sleep(INTERVAL.min(end.saturating_duration_since(Instant::now())));
    }
}
