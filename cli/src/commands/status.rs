//! `fathom status`.

use crate::args::Context;
use crate::clock;
use crate::commands::worker_failure;
use crate::failure::{Exit, Failure, Result};
use crate::output::{self, Align, Format, OutputArgs, Table, count};
use crate::runner::directory::{JobDirectory, short};
use crate::runner::lock::{Holder, Lock};
use crate::runner::status;
use crate::runner::tracker::Tracker;
use fathom_spec::PhaseKind;
use fathom_spec::state::{JobState, JobStatus, PhaseState, PhaseStatus};
use fathom_worker::report::{Cursor, Entry, SpoolReader};
use serde::Serialize;
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

/// A job as it is shown.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct JobView {
    job: String,
    /// `running`, `stopped`, ...; `lost` if its runner died.
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    runner: Option<Holder>,
    phases: Vec<PhaseView>,
}

/// A phase as it is shown.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PhaseView {
    name: String,
    kind: PhaseKind,
    state: &'static str,
    key: Option<String>,
    attempt: Option<u32>,
    step: Option<u64>,
    fraction: Option<f64>,
    loss: Option<f64>,
    tokens_per_second: Option<f64>,
    remaining_seconds: Option<f64>,
    checkpoint: Option<u64>,
}

/// Runs the command.
pub fn run(args: &Args, context: &Context) -> Result {
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
        if args.watch && args.output.output == Format::Table && std::io::stdout().is_terminal() {
            // Home and clear: the table is drawn in place.
            print!("\x1b[H\x1b[2J");
        }
        output::print(args.output.output, &view, text)?;
        if !args.watch || view.state != "running" {
            return ended(&view, args.watch);
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
    output::print(args.output.output, &views, |views| {
        let mut table = Table::new([
            ("JOB", Align::Left),
            ("STATE", Align::Left),
            ("PHASES", Align::Right),
            ("NOTE", Align::Left),
        ]);
        for JobView {
            job,
            state,
            message,
            phases,
            runner: _,
        } in views
        {
            let done = phases.iter().filter(|phase| matches!(phase.state, "cached" | "succeeded")).count();
            let share = format!("{done}/{}", phases.len());
            table.row([job.clone(), (*state).to_owned(), share, message.clone().unwrap_or_default()]);
        }
        table.to_string()
    })
}

/// A watch ends with the job's result.
fn ended(view: &JobView, watch: bool) -> Result {
    match (watch, view.state) {
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
        job: status.job.clone(),
        state,
        message,
        runner: holder.filter(|_| state == "running"),
        phases: phases.collect::<Result<_>>()?,
    })
}

fn phase_view(phase: &PhaseStatus, directory: &JobDirectory, alive: bool, followed: &mut Followed) -> Result<PhaseView> {
    let PhaseStatus { name, kind, state } = phase;
    let mut view = PhaseView {
        name: name.clone(),
        kind: *kind,
        state: state.word(),
        key: None,
        attempt: None,
        step: None,
        fraction: None,
        loss: None,
        tokens_per_second: None,
        remaining_seconds: None,
        checkpoint: None,
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
            view.loss = tracker.loss();
            view.checkpoint = tracker.checkpoint();
            if matches!(state, PhaseState::Running { .. }) && alive {
                view.tokens_per_second = tracker.tokens_per_second();
                view.remaining_seconds = tracker.remaining_seconds();
            }
        }
    }
    Ok(view)
}

fn text(view: &JobView) -> String {
    let JobView {
        job,
        state,
        message,
        runner,
        phases,
    } = view;
    let mut text = format!("{job}: {state}");
    if let Some(Holder { pid, since, .. }) = runner {
        text.push_str(&format!(" (process {pid} since {})", clock::rfc3339(*since)));
    }
    if let Some(message) = message {
        text.push_str(&format!("\n{message}"));
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
    for phase in phases {
        table.row([
            phase.name.clone(),
            phase.state.to_owned(),
            phase.key.as_deref().map_or("-", short).to_owned(),
            phase.attempt.map_or_else(dash, |attempt| attempt.to_string()),
            phase.fraction.map_or_else(dash, |fraction| format!("{:.0}%", fraction * 100.0)),
            phase.step.map_or_else(dash, |step| step.to_string()),
            phase.loss.map_or_else(dash, |loss| format!("{loss:.3}")),
            phase.tokens_per_second.map_or_else(dash, |speed| count(speed as u64)),
            phase.remaining_seconds.map_or_else(dash, clock::human_seconds),
            phase.checkpoint.map_or_else(dash, |step| step.to_string()),
        ]);
    }
    text.push_str(&table.to_string());
    text
}
