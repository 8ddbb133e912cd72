//! `fathom plan`: what a job will do and what it takes, before anything is done.

use crate::args::Context;
use crate::estimate::{Estimates, Rates, estimate};
use crate::failure::{Exit, Failure, Result};
use crate::manifest::{self, ManifestArg};
use crate::output::{self, Align, OutputArgs, Table, bytes, count, grouped, scaled};
use crate::runner::directory::{Directory, short};
use crate::runner::job::observe;
use crate::runner::storage::ArtifactStore;
use crate::{clock, estimate};
use fathom_spec::plan::{Plan, PlannedState, WaitingOn, plan, unsupported};
use fathom_spec::{PhaseKind, ValidatedJob, parse_manifest};
use serde::Serialize;
use serde_json::Value;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    manifest: ManifestArg,
    #[command(flatten)]
    rates: RateArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// What estimates of time and cost are based on.
#[derive(Debug, clap::Args)]
struct RateArgs {
    /// Floating-point operations per second that one device sustains, for the time estimate. By default that of a CPU is a third of what its
    /// cores reach on registers, measured now; that of a GPU is an H800's as in the report (437e12 in linear layers, 211.6e12 in attention)
    #[arg(long, value_name = "FLOP/S", value_parser = positive)]
    flops: Option<f64>,
    /// Dollars per hour of a device; by default 2 for a GPU, as in the report, and 0 for a CPU
    #[arg(long, value_name = "DOLLARS", value_parser = not_negative)]
    price: Option<f64>,
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value > 0.0 => Ok(value),
        _ => Err("expected a positive number such as 2e11".into()),
    }
}

fn not_negative(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value >= 0.0 => Ok(value),
        _ => Err("expected a number such as 2.5".into()),
    }
}

/// What `plan` prints.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PlanReport {
    job: String,
    preset: Option<&'static str>,
    phases: Vec<PhaseRow>,
    /// What this version cannot execute.
    unsupported: Vec<String>,
    /// Inputs that could not be read.
    missing: Vec<String>,
    estimates: Estimates,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PhaseRow {
    name: String,
    kind: PhaseKind,
    /// In one word.
    state: &'static str,
    /// Why it is not cached, or what it waits for.
    why: String,
    key: Option<String>,
    tokens: Option<f64>,
    seconds: Option<f64>,
    dollars: Option<f64>,
}

/// Runs the command.
pub fn run(args: &Args, context: &Context) -> Result {
    let loaded = manifest::load(&args.manifest.file, context)?;
    let rates = Rates::new(&loaded.job, args.rates.flops, args.rates.price);
    let report = report(&loaded.job, rates, &context.directory)?;
    output::print(args.output.output, &report, text)
}

/// What the command prints with `-o json`, for a manifest as text.
pub fn as_json(manifest: &str, directory: &Directory) -> Result<Value> {
    let job = parse_manifest(manifest).map_err(|problems| {
        let failure = Failure::new(Exit::InvalidManifest, "the manifest is not valid");
        problems.iter().fold(failure, |failure, problem| {
            failure.cause(format!("{}: {}", problem.path, problem.message))
        })
    })?;
    let report = report(&job, Rates::new(&job, None, None), directory)?;
    serde_json::to_value(report).map_err(|error| Failure::new(Exit::Failed, "cannot write JSON").caused_by(&error))
}

fn report(job: &ValidatedJob, rates: Rates, directory: &Directory) -> Result<PlanReport> {
    let estimates = estimate(job, rates);
    let unsupported = unsupported(job);
    let mut missing = Vec::new();
    let phases = if unsupported.is_empty() {
        let storage = ArtifactStore::new(&job.storage, directory)?;
        let observed = observe(job, directory, &storage, &mut missing)?;
        let plan = plan(job, &observed).ok();
        rows(job, plan.as_ref(), &estimates)
    } else {
        rows(job, None, &estimates)
    };
    Ok(PlanReport {
        job: job.name().to_owned(),
        preset: job.preset.map(fathom_spec::manifest::Preset::name),
        phases,
        unsupported,
        missing,
        estimates,
    })
}

fn rows(job: &ValidatedJob, plan: Option<&Plan>, estimates: &Estimates) -> Vec<PhaseRow> {
    job.phases
        .iter()
        .map(|phase| {
            let planned = plan.and_then(|plan| plan.phase(&phase.name));
            let (state, why) = planned.map_or(("unplanned", String::new()), |planned| describe(&planned.state));
            let estimate = estimates.phase(&phase.name);
            let cached = state == "cached";
            PhaseRow {
                name: phase.name.clone(),
                kind: phase.work.kind(),
                state,
                why,
                key: planned.and_then(|planned| planned.key.clone()),
                tokens: estimate.map(|estimate| estimate.tokens),
                seconds: estimate.map(|estimate| if cached { 0.0 } else { estimate.seconds }),
                dollars: estimate.map(|estimate| if cached { 0.0 } else { estimate.dollars }),
            }
        })
        .collect()
}

fn describe(state: &PlannedState) -> (&'static str, String) {
    match state {
        PlannedState::Cached => ("cached", "its artifact exists".to_owned()),
        PlannedState::Ready { attempt: 1 } => ("ready", "no artifact for these fields and inputs".to_owned()),
        PlannedState::Ready { attempt } => ("ready", format!("goes on with attempt {attempt}")),
        PlannedState::Running { attempt } => ("running", format!("attempt {attempt}")),
        PlannedState::Waiting { on } => {
            let reasons: Vec<String> = on
                .iter()
                .map(|waiting| match waiting {
                    WaitingOn::Artifact { phase, kind: _ } => format!("`{phase}`"),
                    WaitingOn::InputDigest => "its input".to_owned(),
                })
                .collect();
            ("waiting", format!("for {}", reasons.join(" and ")))
        }
        PlannedState::Failed { attempt, message } => ("failed", format!("in attempt {attempt}: {message}")),
    }
}

fn text(report: &PlanReport) -> String {
    let PlanReport {
        job,
        preset,
        phases,
        unsupported,
        missing,
        estimates,
    } = report;
    let mut text = format!("{job}{}\n\n", preset.map_or(String::new(), |preset| format!(" (preset {preset})")));
    for (name, value) in model(estimates, phases) {
        text.push_str(&format!("  {name:<12}{value}\n"));
    }
    text.push('\n');
    text.push_str(&phase_table(phases, !unsupported.is_empty()));
    if let Some(costs) = &estimates.table1 {
        text.push_str(&format!(
            "\nGPU hours and dollars, as in table 1 of the report (MTP not counted)\n\n{}",
            cost_table(costs)
        ));
    }
    let mut list = |title: &str, lines: &[String]| {
        if !lines.is_empty() {
            text.push_str(&format!("\n{title}\n"));
            lines.iter().for_each(|line| text.push_str(&format!("  {line}\n")));
        }
    };
    list("This version cannot execute the job", unsupported);
    list("Inputs that cannot be read", missing);
    text
}

fn model(estimates: &Estimates, phases: &[PhaseRow]) -> Vec<(&'static str, String)> {
    let Estimates {
        parameters,
        sequence_length,
        training_flops_per_token,
        mtp_flops_per_token,
        memory,
        memory_of,
        devices,
        rates,
        phases: _,
        table1: _,
    } = estimates;
    let seconds: f64 = phases.iter().filter_map(|phase| phase.seconds).sum();
    let dollars: f64 = phases.iter().filter_map(|phase| phase.dollars).sum();
    let mut rows = vec![
        (
            "parameters",
            format!(
                "{} in all, {} active per token",
                grouped(parameters.total),
                grouped(parameters.active)
            ),
        ),
        (
            "MTP",
            format!(
                "{} more, {} of them active",
                grouped(parameters.mtp),
                grouped(parameters.mtp_active)
            ),
        ),
    ];
    if let Some(length) = sequence_length {
        let flops = |count: f64| scaled(count, 1000.0, &["FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP"], " ");
        let (main, mtp) = (flops(*training_flops_per_token), flops(*mtp_flops_per_token));
        rows.push((
            "work",
            format!("{main} per trained token at {length} tokens per row, and {mtp} for MTP"),
        ));
    }
    if let Some(memory) = memory {
        rows.push(("memory", format!("{} {memory_of}", bytes(*memory as u64))));
    }
    if seconds > 0.0 {
        let on = if *devices == 1 {
            "1 device".to_owned()
        } else {
            format!("{devices} devices")
        };
        rows.push((
            "time",
            format!("{} of training on {on} at {}", clock::human_seconds(seconds), rates.describe()),
        ));
    }
    if dollars > 0.0 {
        rows.push((
            "cost",
            format!(
                "${} at ${} per device and hour",
                grouped(dollars.round() as u64),
                rates.dollars_per_hour()
            ),
        ));
    }
    rows
}

fn phase_table(phases: &[PhaseRow], unplanned: bool) -> String {
    let mut table = Table::new([
        ("PHASE", Align::Left),
        ("KIND", Align::Left),
        ("STATE", Align::Left),
        ("KEY", Align::Left),
        ("TOKENS", Align::Right),
        ("TIME", Align::Right),
        ("WHY", Align::Left),
    ]);
    for phase in phases {
        table.row([
            phase.name.clone(),
            phase.kind.to_string(),
            if unplanned { "-" } else { phase.state }.to_owned(),
            phase.key.as_deref().map_or("-", short).to_owned(),
            phase.tokens.map_or("-".into(), |tokens| count(tokens as u64)),
            phase.seconds.map_or("-".into(), clock::human_seconds),
            phase.why.clone(),
        ]);
    }
    table.to_string()
}

fn cost_table(costs: &estimate::Table1) -> String {
    let mut table = Table::new([("TRAINING", Align::Left), ("GPU HOURS", Align::Right), ("DOLLARS", Align::Right)]);
    for (name, cost) in costs.rows() {
        let hours = format!("{}K", grouped((cost.device_hours / 1e3).round() as u64));
        table.row([name.to_owned(), hours, format!("{:.3}M", cost.dollars / 1e6)]);
    }
    table.to_string()
}
