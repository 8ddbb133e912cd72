//! `fathom metrics`: what the phases of a job measured, every step exactly once.

use crate::args::Context;
use crate::connect::{self, Connection, printable, segment};
use crate::export::{ExportFormat, number};
use crate::failure::{Exit, Failure, Result};
use crate::output::{self, Align, Format, OutputArgs, Table};
use crate::runner::directory::RunDirectory;
use crate::runner::status;
use crate::series::{self, Series, Wanted};
use fathom_spec::state::PhaseState;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write};
use std::path::PathBuf;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: MetricsCommand,
}

/// What to do with the metrics.
#[derive(Debug, clap::Subcommand)]
enum MetricsCommand {
    /// List the metrics
    Ls(LsArgs),
    /// Print one metric
    Get(GetArgs),
    /// Write all of them as a table
    Export(ExportArgs),
}

/// Which run.
#[derive(Debug, clap::Args)]
struct RunArgs {
    /// The job; may be left out if there is only one
    #[arg(value_name = "JOB")]
    job: Option<String>,
    /// The phase; by default the last one that measured something
    #[arg(long, value_name = "PHASE")]
    phase: Option<String>,
}

#[derive(Debug, clap::Args)]
struct LsArgs {
    #[command(flatten)]
    run: RunArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, clap::Args)]
struct GetArgs {
    /// The metric, as in `loss.main`
    metric: String,
    #[command(flatten)]
    run: RunArgs,
    /// First step
    #[arg(long, default_value_t = 0, value_name = "STEP")]
    from: u64,
    /// Last step
    #[arg(long, default_value_t = u64::MAX, hide_default_value = true, value_name = "STEP")]
    to: u64,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, clap::Args)]
struct ExportArgs {
    #[command(flatten)]
    run: RunArgs,
    /// Format of the file: csv, parquet or json
    #[arg(long, value_enum, default_value_t = ExportFormat::Csv, value_name = "FORMAT", hide_possible_values = true)]
    format: ExportFormat,
    /// Write this matrix, an element per row, instead of the scalars
    #[arg(long, value_name = "METRIC")]
    matrix: Option<String>,
    /// File to write, instead of standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Runs the command.
pub fn run(args: &Args, context: &Context) -> Result {
    match &args.command {
        MetricsCommand::Ls(args) => ls(args, context),
        MetricsCommand::Get(args) => get(args, context),
        MetricsCommand::Export(args) => export(args, context),
    }
}

/// A metric of a run, in the words of REST.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metric {
    name: String,
    kind: String,
    /// Rows and columns of a matrix.
    shape: Option<[usize; 2]>,
    points: u64,
    first_step: u64,
    last_step: u64,
    /// The newest value of a scalar.
    last: Option<Value>,
}

fn ls(args: &LsArgs, context: &Context) -> Result {
    let metrics = match remote(&args.run, context)? {
        Some((connection, run)) => {
            let listed = connection.get(&format!("/api/v1/runs/{}/metrics", segment(&run)))?;
            if args.output.output != Format::Table {
                return output::print(args.output.output, &listed["items"], ToString::to_string);
            }
            let broken = |error: serde_json::Error| Failure::new(Exit::Failed, "the server's metrics cannot be read").caused_by(&error);
            Vec::<Metric>::deserialize(&listed["items"]).map_err(broken)?
        }
        None => measured(&local(&args.run, context)?),
    };
    output::print(args.output.output, &metrics, |metrics| {
        let mut table = Table::new([
            ("METRIC", Align::Left),
            ("KIND", Align::Left),
            ("POINTS", Align::Right),
            ("STEPS", Align::Left),
            ("LAST", Align::Right),
        ]);
        for Metric {
            name,
            kind,
            shape,
            points,
            first_step,
            last_step,
            last,
        } in metrics
        {
            let steps = format!("{first_step}..{last_step}");
            let last = match (shape, last.as_ref().and_then(connect::number)) {
                (Some([rows, columns]), _) => format!("{rows} x {columns}"),
                (None, value) => value.map(number).unwrap_or_default(),
            };
            table.row([printable(name).into_owned(), kind.clone(), points.to_string(), steps, last]);
        }
        table.to_string()
    })
}

/// The metrics of a spool.
fn measured(series: &Series) -> Vec<Metric> {
    let mut metrics: BTreeMap<(&str, &'static str), Metric> = BTreeMap::new();
    for (step, row) in series.rows() {
        let scalars = row
            .scalars
            .iter()
            .map(|(name, &value)| ("scalar", name, None, Some(crate::export::json_number(value))));
        let matrices = row
            .matrices
            .iter()
            .map(|(name, matrix)| ("matrix", name, Some([matrix.rows, matrix.columns]), None));
        for (kind, name, shape, last) in scalars.chain(matrices) {
            let metric = metrics.entry((name, kind)).or_insert_with(|| Metric {
                name: name.clone(),
                kind: kind.to_owned(),
                shape,
                points: 0,
                first_step: step,
                last_step: step,
                last: None,
            });
            metric.points += 1;
            metric.last_step = step;
            (metric.shape, metric.last) = (shape, last);
        }
    }
    metrics.into_values().collect()
}

/// A point of a scalar.
#[derive(Debug, Serialize)]
struct Point {
    step: u64,
    tokens: u64,
    value: Value,
}

fn get(args: &GetArgs, context: &Context) -> Result {
    let name = args.metric.as_str();
    let series = read(&args.run, Wanted::Scalar(name), context)?;
    if series.matrix_names().contains(name) {
        return Err(Failure::new(Exit::Usage, format!("`{name}` is a matrix"))
            .help(format!("write its elements with `fathom metrics export --matrix {name}`")));
    }
    if !series.scalar_names().contains(name) {
        let names: Vec<&str> = series.scalar_names().into_iter().collect();
        return Err(Failure::new(Exit::NotFound, format!("there is no metric `{name}`")).help(format!("name one of: {}", names.join(", "))));
    }
    let points: Vec<Point> = series
        .rows()
        .filter(|&(step, _)| (args.from..=args.to).contains(&step))
        .filter_map(|(step, row)| {
            let value = crate::export::json_number(*row.scalars.get(name)?);
            let tokens = row.tokens;
            Some(Point { step, tokens, value })
        })
        .collect();
    output::print(args.output.output, &points, |points| {
        let mut table = Table::new([("STEP", Align::Right), ("TOKENS", Align::Right), ("VALUE", Align::Right)]);
        for Point { step, tokens, value } in points {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            table.row([step.to_string(), tokens.to_string(), value]);
        }
        table.to_string()
    })
}

fn export(args: &ExportArgs, context: &Context) -> Result {
    let wanted = args.matrix.as_deref().map_or(Wanted::Scalars, Wanted::Matrix);
    let series = read(&args.run, wanted, context)?;
    let columns = match &args.matrix {
        None => series.scalars(),
        Some(name) if series.matrix_names().contains(name.as_str()) => series.matrix(name),
        Some(name) => {
            let names: Vec<&str> = series.matrix_names().into_iter().collect();
            return Err(
                Failure::new(Exit::NotFound, format!("there is no matrix `{name}`")).help(format!("name one of: {}", names.join(", ")))
            );
        }
    };
    match &args.out {
        Some(path) => {
            let file = File::create(path).map_err(|error| Failure::io("create", path, &error))?;
            let mut file = BufWriter::new(file);
            columns.write(args.format, &mut file)?;
            file.flush().map_err(|error| Failure::io("write", path, &error))?;
            context.terminal.note(&format!("Wrote {}.", path.display()));
            Ok(())
        }
        None if args.format == ExportFormat::Parquet && std::io::stdout().is_terminal() => {
            Err(Failure::new(Exit::Usage, "Parquet is not for terminals").help("name a file with --out"))
        }
        None => {
            let mut table = Vec::new();
            columns.write(args.format, &mut table)?;
            output::stdout_bytes(&table)
        }
    }
}

/// What is wanted of the run that the user names.
fn read(args: &RunArgs, wanted: Wanted<'_>, context: &Context) -> Result<Series> {
    match remote(args, context)? {
        Some((connection, run)) => series::fetch(&connection, &run, wanted),
        None => local(args, context),
    }
}

/// The server that `FATHOM_SERVER` names, and the run that the user names; nothing if it names none. The spools of the local directory are
/// read without a server: they are there even if its history is not.
fn remote(args: &RunArgs, context: &Context) -> Result<Option<(Connection, String)>> {
    if !connect::is_named() {
        return Ok(None);
    }
    let connection = Connection::open(&context.directory)?;
    let job = connection.job(args.job.as_deref())?;
    let run = connection.run_of(&job, args.phase.as_deref())?;
    Ok(Some((connection, run)))
}

/// The metrics of a run of the local directory.
fn local(args: &RunArgs, context: &Context) -> Result<Series> {
    let job = context.directory.choose_job(args.job.as_deref())?;
    let directory = context.directory.job(&job);
    let status = status::read(&directory.status())?
        .ok_or_else(|| Failure::new(Exit::NotFound, format!("job `{job}` has no status")).help("start it with `fathom run FILE`"))?;
    let mut phases: Vec<(&str, RunDirectory)> = Vec::new();
    for phase in &status.phases {
        if let Some(key) = key(&phase.state) {
            phases.push((&phase.name, directory.run(&phase.name, key)));
        }
    }
    let series = match &args.phase {
        Some(name) => {
            let (_, run) = phases.iter().find(|(known, _)| known == name).ok_or_else(|| {
                let known: Vec<&str> = phases.iter().map(|(name, _)| *name).collect();
                Failure::new(Exit::NotFound, format!("job `{job}` has not started a phase `{name}`"))
                    .help(format!("its phases so far are: {}", known.join(", ")))
            })?;
            Series::read(&run.spool())?
        }
        None => {
            let mut newest = Series::default();
            for (_, run) in phases.iter().rev() {
                newest = Series::read(&run.spool())?;
                if newest.rows().next().is_some() {
                    break;
                }
            }
            newest
        }
    };
    if series.damaged > 0 {
        context
            .terminal
            .note(&format!("{} records were cut off or damaged and are left out", series.damaged));
    }
    if series.rows().next().is_none() {
        return Err(Failure::new(Exit::NotFound, format!("job `{job}` has measured nothing here"))
            .cause("phases that train measure every step; a cached phase was measured by the job that executed it")
            .help("choose a phase with --phase, or another job"));
    }
    Ok(series)
}

/// The cache key that a phase has, once it was started or found.
pub fn key(state: &PhaseState) -> Option<&str> {
    match state {
        PhaseState::Pending => None,
        PhaseState::Cached { key }
        | PhaseState::Running { key, .. }
        | PhaseState::Stopped { key, .. }
        | PhaseState::Succeeded { key, .. }
        | PhaseState::Failed { key, .. } => Some(key),
    }
}
