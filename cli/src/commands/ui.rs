//! `fathom ui`: the dashboard and the API of a local directory.

use crate::args::Context;
use crate::failure::{Exit, Failure, Result};
use crate::local::endpoint::Endpoint;
use crate::local::serve::{Settings, serve};
use crate::output::{self, Format, OutputArgs};
use crate::runner::directory::Directory;
use serde::Serialize;
use std::io::{IsTerminal, Read};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

/// How long the server of another command is waited for: most commands end within a second.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause before it is looked at again.
const PAUSE: Duration = Duration::from_millis(50);

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Port on 127.0.0.1; by default 7316, or any if that is taken
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Do not open a browser
    #[arg(long)]
    no_open: bool,
    /// End when standard input ends: the starter is gone
    #[arg(long, hide = true)]
    until_eof: bool,
    /// Answer questions only: leave jobs that wait where they are
    #[arg(long, hide = true)]
    no_queue: bool,
    /// URL of a PostgreSQL server for the history, instead of the embedded database
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, hide = true)]
    database_url: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

/// Where the dashboard is.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Link {
    /// The link, secret included.
    url: String,
    /// Process of the server.
    pid: u32,
}

/// Runs the command.
pub fn run(args: &Args, context: &Context) -> Result {
    context.terminal.start_log();
    if let Some(endpoint) = existing(&context.directory, args.no_queue)? {
        return show(&endpoint, args);
    }
    let settings = Settings {
        directory: context.directory.clone(),
        port: args.port,
        secret: None,
        queue: !args.no_queue,
        database: args.database_url.clone(),
    };
    let until_eof = args.until_eof;
    match serve(settings, |endpoint| show(endpoint, args), stopped(until_eof))? {
        Some(()) => Ok(()),
        // Another server was faster.
        None => match existing(&context.directory, args.no_queue)? {
            Some(endpoint) => show(&endpoint, args),
            None => Err(Failure::new(Exit::Conflict, "another server is starting or ending in this directory").help("try again")),
        },
    }
}

/// The server that a directory has already. One that a command started for itself ends with the command: unless `any` will
/// do, it is waited for.
fn existing(directory: &Directory, any: bool) -> Result<Option<Endpoint>> {
    let end = Instant::now() + PATIENCE;
    loop {
        match Endpoint::of(directory) {
            Some(endpoint) if endpoint.private && !any => {
                if Instant::now() > end {
                    let what = format!("a command holds the history of {} open", directory.root().display());
                    return Err(Failure::new(Exit::Conflict, what)
                        .cause(format!(
                            "process {} serves it, perhaps for `fathom top` or `fathom logs -f`",
                            endpoint.pid
                        ))
                        .help("end that command and try again"));
                }
                std::thread::sleep(PAUSE);
            }
            found => return Ok(found),
        }
    }
}

fn show(endpoint: &Endpoint, args: &Args) -> Result {
    let link = Link {
        url: endpoint.link(),
        pid: endpoint.pid,
    };
    match args.output.output {
        // One line, for programs that read lines.
        Format::Json => output::stdout_bytes(format!("{}\n", serde_json::to_string(&link).unwrap_or_default()).as_bytes())?,
        format => output::print(format, &link, |link| link.url.clone())?,
    }
    if !args.no_open && std::io::stdout().is_terminal() {
        open(&link.url);
    }
    Ok(())
}

/// Opens a browser where there is one; the link is printed anyway.
fn open(url: &str) {
    for program in ["xdg-open", "open"] {
        let started = Command::new(program)
            .arg(url)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        if started.is_ok() {
            return;
        }
    }
}

/// Completes when the server should end: a signal, or the end of standard input.
async fn stopped(until_eof: bool) {
    let (sender, eof) = tokio::sync::oneshot::channel::<()>();
    if until_eof {
        std::thread::spawn(move || {
            let mut rest = Vec::new();
            // Whatever ends it: the starter is gone.
            let _ = std::io::stdin().lock().take(1 << 20).read_to_end(&mut rest);
            drop(sender);
        });
    } else {
        // It never ends by this.
        std::mem::forget(sender);
    }
    let Ok(mut interrupt) = signal(SignalKind::interrupt()) else {
        return;
    };
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = eof => {}
    }
}
