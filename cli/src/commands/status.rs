//! `fathom status`.

use crate::args::Context;
use crate::clock;
use crate::commands::worker_failure;
use crate::connect::{self, Connection, items, printable, segment};
use crate::export::json_number;
use crate::failure::{Exit, Failure, Result};
use crate::output::{self, Align, Format, OutputArgs, Table, count};
use crate::runner::directory::{JobDirectory, short};
use crate::runner::lock::{Holder, Lock};
use crate::runner::status;
use crate::runner::tracker::Tracker;
use fathom_spec::state::{JobState, JobStatus, PhaseState, PhaseStatus};
use fathom_worker::report::{Cursor, Entry, SpoolReader};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often `--watch` looks.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
const READ_RECORDS: usize = 4096;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The job; without it, all jobs are listed if there are several
    job: Option<String>,
    /// Show it again every second until the job ends
    #[arg(short, long)]
    watch: bool,
    #[command(flatten)]
    output: OutputArgs,
}

/// A job as it is shown, in the words of REST.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct JobView {
    name: String,
    /// `running`, `stopped`, ...; `lost` if its runner died.
    state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", skip_deserializing)]
    runner: Option<Holder>,
    phases: Vec<PhaseView>,
}

/// A phase as it is shown.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PhaseView {
    name: String,
    kind: String,
    state: String,
    key: Option<String>,
    attempt: Option<u32>,
    step: Option<u64>,
    fraction: Option<f64>,
    /// As [`connect::number`] reads it.
    loss: Option<Value>,
    /// The same.
    tokens_per_second: Option<Value>,
    eta_seconds: Option<f64>,
    checkpoint_step: Option<u64>,
}

/// Runs the command.
pub fn run(args: &Args, context: &Context) -> Result {
    if connect::is_named() {
        return remote(args, &Connection::open(&context.directory)?);
    }
    let jobs = context.directory.jobs()?;
    if args.job.is_none() && jobs.len() > 1 {
        return list(&jobs, args, context);
    }
    let name = context.directory.choose_job(args.job.as_deref())?;
    let directory = context.directory.job(&name);
    let mut followed = Followed::default();
    loop {
        let status = status::read(&directory.status())?
            .ok_or_else(|| Failure::new(Exit::NotFound, format!("job `{name}` has no status")).help("start it with `fathom run FILE`"))?;
        let view = view(&status, &directory, Lock::holder(&context.directory), &mut followed)?;
        redraw(args);
        output::print(args.output.output, &view, text)?;
        if !args.watch || view.state != "running" {
            return ended(&view.state, args.watch);
        }
        let _ = std::io::stdout().flush();
        std::thread::sleep(WATCH_INTERVAL);
    }
}

/// The table of a watch is drawn in place: home and clear.
fn redraw(args: &Args) {
    if args.watch && args.output.output == Format::Table && std::io::stdout().is_terminal() {
        print!("\x1b[H\x1b[2J");
    }
}

/// What the server that `FATHOM_SERVER` names says; as JSON, its own answer.
fn remote(args: &Args, connection: &Connection) -> Result {
    let broken = |error: serde_json::Error| Failure::new(Exit::Failed, "the server's job cannot be read").caused_by(&error);
    if args.job.is_none() {
        let jobs = connection.get("/api/v1/jobs?limit=500")?;
        if items(&jobs).len() > 1 {
            let views = Vec::<JobView>::deserialize(&jobs["items"]).map_err(broken)?;
            return output::print(args.output.output, &jobs["items"], |_| several(&views));
        }
    }
    let name = connection.job(args.job.as_deref())?;
    loop {
        let job = connection.get(&format!("/api/v1/jobs/{}", segment(&name)))?;
        let view = JobView::deserialize(&job).map_err(broken)?;
        redraw(args);
        output::print(args.output.output, &job, |_| text(&view))?;
        if !args.watch || !matches!(view.state.as_str(), "pending" | "queued" | "running") {
            return ended(&view.state, args.watch);
        }
        let _ = std::io::stdout().flush();
        std::thread::sleep(WATCH_INTERVAL);
    }
}

/// One line per job.
fn list(jobs: &[String], args: &Args, context: &Context) -> Result {
    let holder = Lock::holder(&context.directory);
    let mut views = Vec::with_capacity(jobs.len());
    for job in jobs {
        let directory = context.directory.job(job);
        if let Some(status) = status::read(&directory.status())? {
            views.push(view(&status, &directory, holder.clone(), &mut Followed::default())?);
        }
    }
    output::print(args.output.output, &views, |views| several(views))
}

fn several(views: &[JobView]) -> String {
    let mut table = Table::new([
        ("JOB", Align::Left),
        ("STATE", Align::Left),
        ("PHASES", Align::Right),
        ("NOTE", Align::Left),
    ]);
    for JobView {
        name,
        state,
        message,
        phases,
        runner: _,
    } in views
    {
        let done = phases
            .iter()
            .filter(|phase| matches!(phase.state.as_str(), "cached" | "succeeded"))
            .count();
        let share = format!("{done}/{}", phases.len());
        let note = printable(message.as_deref().unwrap_or_default()).into_owned();
        table.row([printable(name).into_owned(), printable(state).into_owned(), share, note]);
    }
    table.to_string()
}

/// A watch ends with the job's result.
fn ended(state: &str, watch: bool) -> Result {
    match (watch, state) {
        (true, "failed" | "lost") => Err(Failure::shown(Exit::Failed)),
        _ => Ok(()),
    }
}

/// The spool of the running phase, read on from where the last look ended.
#[derive(Default)]
struct Followed {
    spool: Option<(PathBuf, SpoolReader, Tracker)>,
}

impl Followed {
    fn tracker(&mut self, spool: &Path) -> Result<&Tracker> {
        if self.spool.as_ref().is_none_or(|(path, ..)| path != spool) {
            self.spool = None;
        }
        let (_, reader, tracker) = self
            .spool
            .get_or_insert_with(|| (spool.to_path_buf(), SpoolReader::new(spool, Cursor::default()), Tracker::default()));
        loop {
            let entries = reader.poll(READ_RECORDS).map_err(|error| worker_failure(&error))?;
            for entry in &entries {
                if let Entry::Record(record) = entry {
                    tracker.apply(record);
                }
            }
            if entries.len() < READ_RECORDS {
                return Ok(tracker);
            }
        }
    }
}

fn view(status: &JobStatus, directory: &JobDirectory, holder: Option<Holder>, followed: &mut Followed) -> Result<JobView> {
    let holder = holder.filter(|holder| holder.job == status.job);
    let (state, message) = match (status.state(), &holder) {
        // Between two phases none is running.
        (JobState::Pending | JobState::Running { .. } | JobState::Stopped, Some(_)) => ("running", None),
        (JobState::Pending, None) => ("pending", None),
        (JobState::Running { phase }, None) => (
            "lost",
            Some(format!(
                "phase `{phase}` was running when its runner died; run the job again to go on"
            )),
        ),
        (JobState::Stopped, None) => ("stopped", Some("run the job again to go on".to_owned())),
        (JobState::Succeeded, _) => ("succeeded", None),
        (JobState::Failed { phase, message }, _) => ("failed", Some(format!("phase `{phase}`: {message}"))),
    };
    let phases = status
        .phases
        .iter()
        .map(|phase| phase_view(phase, directory, state == "running", followed));
    Ok(JobView {
        name: status.job.clone(),
        state: state.to_owned(),
        message,
        runner: holder.filter(|_| state == "running"),
        phases: phases.collect::<Result<_>>()?,
    })
}

fn phase_view(phase: &PhaseStatus, directory: &JobDirectory, alive: bool, followed: &mut Followed) -> Result<PhaseView> {
    let PhaseStatus { name, kind, state } = phase;
    let mut view = PhaseView {
        name: name.clone(),
        kind: kind.name().to_owned(),
        state: state.word().to_owned(),
        key: None,
        attempt: None,
        step: None,
        fraction: None,
        loss: None,
        tokens_per_second: None,
        eta_seconds: None,
        checkpoint_step: None,
    };
    match state {
        PhaseState::Pending => {}
        PhaseState::Cached { key } => view.key = Some(key.clone()),
        PhaseState::Succeeded { key, attempts, .. } => {
            view.key = Some(key.clone());
            view.attempt = Some(*attempts);
        }
        PhaseState::Running { key, attempt, .. } | PhaseState::Stopped { key, attempt, .. } | PhaseState::Failed { key, attempt, .. } => {
            view.key = Some(key.clone());
            view.attempt = Some(*attempt);
            let tracker = followed.tracker(&directory.run(name, key).spool())?;
            view.step = tracker.step();
            view.fraction = tracker.fraction();
            view.loss = tracker.loss().map(json_number);
            view.checkpoint_step = tracker.checkpoint();
            if matches!(state, PhaseState::Running { .. }) && alive {
                view.tokens_per_second = tracker.tokens_per_second().map(json_number);
                view.eta_seconds = tracker.remaining_seconds();
            }
        }
    }
    Ok(view)
}

fn text(view: &JobView) -> String {
    let JobView {
        name,
        state,
        message,
        runner,
        phases,
    } = view;
    let mut text = format!("{}: {}", printable(name), printable(state));
    if let Some(Holder { pid, since, .. }) = runner {
        text.push_str(&format!(" (process {pid} since {})", clock::rfc3339(*since)));
    }
    if let Some(message) = message {
        text.push_str(&format!("\n{}", printable(message)));
    }
    text.push_str("\n\n");
    let mut table = Table::new([
        ("PHASE", Align::Left),
        ("STATE", Align::Left),
        ("KEY", Align::Left),
        ("ATTEMPT", Align::Right),
        ("DONE", Align::Right),
        ("STEP", Align::Right),
        ("LOSS", Align::Right),
        ("TOKENS/S", Align::Right),
        ("LEFT", Align::Right),
        ("CHECKPOINT", Align::Right),
    ]);
    let dash = || "-".to_owned();
    let value = |number: &Option<Value>| number.as_ref().and_then(connect::number);
    for phase in phases {
        table.row([
            printable(&phase.name).into_owned(),
            printable(&phase.state).into_owned(),
            phase.key.as_deref().map_or("-", short).to_owned(),
            phase.attempt.map_or_else(dash, |attempt| attempt.to_string()),
            phase.fraction.map_or_else(dash, |fraction| format!("{:.0}%", fraction * 100.0)),
            phase.step.map_or_else(dash, |step| step.to_string()),
            value(&phase.loss).map_or_else(dash, |loss| format!("{loss:.3}")),
            value(&phase.tokens_per_second).map_or_else(dash, |speed| count(speed as u64)),
            phase.eta_seconds.map_or_else(dash, clock::human_seconds),
            phase.checkpoint_step.map_or_else(dash, |step| step.to_string()),
        ]);
    }
    text.push_str(&table.to_string());
    text
}
