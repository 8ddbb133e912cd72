//! `fathom logs`: what the workers of a job printed, oldest first.

use crate::args::Context;
use crate::connect::{Connection, items, printable, segment, text};
use crate::failure::{Exit, Failure, Result};
use crate::output;
use serde_json::Value;
use std::io::Write;
use std::time::{Duration, Instant};

/// Lines of a request.
const PAGE: u64 = 500;
/// How often `--follow` looks for more.
const INTERVAL: Duration = Duration::from_millis(500);
/// How long `--follow` waits for a server that does not answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Looks without a new line after which a job that has ended is silent: its last lines may arrive after its state.
const QUIET_LOOKS: u32 = 3;
/// Lines that are shown before the first error.
const BEFORE_ERROR: u64 = 5;

/// Format of the lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum LogFormat {
    /// Text for people.
    Table,
    /// One array.
    Json,
    /// An object per line.
    Jsonl,
}

/// Weight of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Level {
    /// Something failed.
    Error,
    /// Something is suspicious.
    Warn,
    /// To know.
    Info,
    /// For developers.
    Debug,
}

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The job; may be left out if there is only one
    job: Option<String>,
    /// Go on with new lines until the job ends, and end with its result
    #[arg(short, long)]
    follow: bool,
    /// Only this phase
    #[arg(long, value_name = "PHASE")]
    phase: Option<String>,
    /// Only this attempt
    #[arg(long, value_name = "N")]
    attempt: Option<u32>,
    /// Only this rank
    #[arg(long, value_name = "N")]
    rank: Option<u32>,
    /// Only lines of this level: error, warn, info or debug
    #[arg(long, value_enum, value_name = "LEVEL", hide_possible_values = true)]
    level: Option<Level>,
    /// Only lines with this text, whatever its case
    #[arg(long, value_name = "TEXT")]
    grep: Option<String>,
    /// Only lines after the one with this id, as `-o jsonl` shows it
    #[arg(long, value_name = "ID")]
    since: Option<u64>,
    /// Begin at the first error, a few lines before it
    #[arg(long)]
    first_error: bool,
    /// The newest N lines; with `--first-error`, N lines from it on
    #[arg(short = 'n', long, value_name = "N")]
    lines: Option<u64>,
    /// Format of the output: table, json or jsonl
    #[arg(short, long, value_enum, default_value_t = LogFormat::Table, value_name = "FORMAT", hide_possible_values = true)]
    output: LogFormat,
}

/// Runs the command.
pub fn run(args: &Args, context: &Context) -> Result {
    if args.follow && args.output == LogFormat::Json {
        return Err(Failure::new(Exit::Usage, "`--follow` has no end to close an array at").help("use `-o jsonl`"));
    }
    let connection = Connection::open(&context.directory)?;
    let job = connection.job(args.job.as_deref())?;
    let log = Log::new(&connection, &job, args)?;
    let mut printer = Printer {
        format: args.output,
        lines: Vec::new(),
        gone: false,
    };
    let since = args.since.unwrap_or(0);
    let last = match args.lines {
        _ if args.first_error => match log.after_first_error(since, args.lines, &mut printer)? {
            Some(last) => last,
            None => {
                context.terminal.note("No line is an error.");
                since
            }
        },
        Some(lines) => log.newest(since, lines, &mut printer)?,
        None => log.forward(since, None, &mut printer)?,
    };
    printer.finish()?;
    if args.follow {
        log.follow(&job, last, &mut printer)
    } else {
        Ok(())
    }
}

/// The lines that the user asks for.
struct Log<'a> {
    connection: &'a Connection,
    /// Path of the list.
    path: String,
    /// Parameters that choose, without the level.
    filter: String,
    level: Option<&'static str>,
}

impl<'a> Log<'a> {
    fn new(connection: &'a Connection, job: &str, args: &Args) -> Result<Self> {
        let path = match &args.phase {
            Some(phase) => format!("/api/v1/runs/{}/logs", segment(&connection.run_of(job, Some(phase))?)),
            None => format!("/api/v1/jobs/{}/logs", segment(job)),
        };
        let attempt = args.attempt.map(|attempt| format!("&attempt={attempt}"));
        let rank = args.rank.map(|rank| format!("&rank={rank}"));
        let contains = args.grep.as_deref().map(|text| format!("&contains={}", segment(text)));
        Ok(Self {
            connection,
            path,
            filter: [attempt, rank, contains].into_iter().flatten().collect(),
            level: args.level.map(|level| match level {
                Level::Error => "error",
                Level::Warn => "warn",
                Level::Info => "info",
                Level::Debug => "debug",
            }),
        })
    }

    /// A page, and whether there are more. `place` is `after=ID`, oldest first, or `before=ID`, newest first.
    fn page(&self, place: &str, level: Option<&str>, limit: u64) -> Result<(Vec<Value>, bool)> {
        let level = level.map(|level| format!("&level={level}")).unwrap_or_default();
        let page = self
            .connection
            .get(&format!("{}?{place}&limit={limit}{level}{}", self.path, self.filter))?;
        Ok((items(&page).to_vec(), !page["nextCursor"].is_null()))
    }

    /// Prints what follows a line, at most `most` lines. Returns the last id.
    fn forward(&self, after: u64, most: Option<u64>, printer: &mut Printer) -> Result<u64> {
        let (mut last, mut left) = (after, most.unwrap_or(u64::MAX));
        while left > 0 && !printer.gone {
            let (page, more) = self.page(&format!("after={last}"), self.level, PAGE.min(left))?;
            left -= (page.len() as u64).min(left);
            last = page.last().map_or(last, id);
            printer.print(page)?;
            if !more {
                break;
            }
        }
        Ok(last)
    }

    /// Prints the newest lines. Returns the last id.
    fn newest(&self, since: u64, most: u64, printer: &mut Printer) -> Result<u64> {
        let mut lines: Vec<Value> = Vec::new();
        let mut place = String::new();
        while (lines.len() as u64) < most {
            let (page, more) = self.page(&place, self.level, PAGE.min(most - lines.len() as u64))?;
            let found = page.len();
            lines.extend(page.into_iter().filter(|line| id(line) > since));
            let Some(oldest) = lines.last().filter(|_| more && found > 0).map(id) else {
                break;
            };
            if oldest <= since + 1 {
                break;
            }
            place = format!("before={oldest}");
        }
        lines.reverse();
        let last = match lines.last() {
            Some(line) => id(line),
            // Nothing was asked for: what is there already is not new to `--follow`.
            None => self.page("", self.level, 1)?.0.first().map_or(since, id).max(since),
        };
        printer.print(lines)?;
        Ok(last)
    }

    /// Prints from some lines before the first error on. Returns the last id; nothing if there is no error.
    fn after_first_error(&self, since: u64, most: Option<u64>, printer: &mut Printer) -> Result<Option<u64>> {
        let (found, _) = self.page(&format!("after={since}"), Some("error"), 1)?;
        let Some(error) = found.first().map(id) else { return Ok(None) };
        let (mut before, _) = self.page(&format!("before={error}"), self.level, BEFORE_ERROR)?;
        before.retain(|line| id(line) > since);
        before.reverse();
        printer.print(before)?;
        self.forward(error - 1, most, printer).map(Some)
    }

    /// Prints new lines until the job ends.
    fn follow(&self, job: &str, mut last: u64, printer: &mut Printer) -> Result {
        let (mut answered, mut quiet) = (Instant::now(), 0);
        while !printer.gone {
            // First the state, then the lines: those of its end are among them.
            let look = self.connection.get(&format!("/api/v1/jobs/{}", segment(job))).and_then(|state| {
                let newest = self.forward(last, None, printer)?;
                Ok((state, newest))
            });
            match look {
                Ok((state, newest)) => {
                    answered = Instant::now();
                    quiet = if newest == last { quiet + 1 } else { 0 };
                    last = newest;
                    if quiet >= QUIET_LOOKS
                        && let Some(result) = result(&state)
                    {
                        return result;
                    }
                }
                // A server that is started again goes on where it was.
                Err(failure) if failure.exit() == Exit::Unreachable && answered.elapsed() < PATIENCE => {}
                Err(failure) => return Err(failure),
            }
            std::thread::sleep(INTERVAL);
        }
        Ok(())
    }
}

/// How a job has ended; nothing while it goes on.
fn result(job: &Value) -> Option<Result> {
    let name = printable(text(job, "name"));
    let because = |failure: Failure| match text(job, "message") {
        "" => failure,
        message => failure.cause(printable(message)),
    };
    match text(job, "state") {
        "succeeded" => Some(Ok(())),
        "failed" => Some(Err(because(Failure::new(Exit::Failed, format!("job `{name}` has failed"))))),
        "cancelled" => Some(Err(Failure::new(Exit::Cancelled, format!("job `{name}` was cancelled")))),
        state @ ("paused" | "stopped") => {
            let failure = Failure::new(Exit::Cancelled, format!("job `{name}` is {state}"));
            Some(Err(because(failure).help("`fathom run` with its manifest goes on where it was")))
        }
        _ => None,
    }
}

fn id(line: &Value) -> u64 {
    line["id"].as_u64().unwrap_or(0)
}

/// Standard output.
struct Printer {
    format: LogFormat,
    /// The lines of the array.
    lines: Vec<Value>,
    /// Nobody reads any more (`fathom logs | head`): what follows need not be asked for.
    gone: bool,
}

impl Printer {
    fn print(&mut self, lines: Vec<Value>) -> Result {
        let shown: String = match self.format {
            LogFormat::Json => {
                self.lines.extend(lines);
                return Ok(());
            }
            LogFormat::Jsonl => lines.iter().map(|line| harmless(&line.to_string()) + "\n").collect(),
            LogFormat::Table => lines.iter().map(row).collect(),
        };
        self.write(&shown)
    }

    fn finish(&mut self) -> Result {
        if self.format != LogFormat::Json {
            return Ok(());
        }
        let array = output::json(&std::mem::take(&mut self.lines))?;
        self.write(&(harmless(&array) + "\n"))
    }

    fn write(&mut self, text: &str) -> Result {
        let mut out = std::io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                self.gone = true;
                Ok(())
            }
            Err(error) => Err(Failure::new(Exit::Failed, "cannot write to standard output").caused_by(&error)),
        }
    }
}

/// A line for people: when, phase and attempt, level, text.
pub fn row(line: &Value) -> String {
    // Ids of runs are `<job>.<phase>.<key>`, and keys have no dots.
    let phase = text(line, "run").rsplit('.').nth(1).unwrap_or_default();
    let rank = match line["rank"].as_u64() {
        None | Some(0) => String::new(),
        Some(rank) => format!(" rank {rank}"),
    };
    let (time, level) = (printable(text(line, "time")), printable(text(line, "level")));
    format!(
        "{time} {}/{}{rank} {level:<5} {}\n",
        printable(phase),
        line["attempt"],
        printable(text(line, "text"))
    )
}

/// JSON without what steers a terminal: `serde_json` escapes the controls of ASCII only, and some terminals obey others too.
fn harmless(json: &str) -> String {
    let steers = |letter: char| letter > '\u{7e}' && matches!(printable(letter.encode_utf8(&mut [0; 4])), std::borrow::Cow::Owned(_));
    let shown = json.chars().map(|letter| {
        if steers(letter) {
            format!("\\u{:04x}", u32::from(letter))
        } else {
            letter.to_string()
        }
    });
    shown.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rows_name_phase_and_attempt_and_steer_nothing() {
        let line = json!({"run": "a.b.pretrain.0123", "attempt": 2, "rank": 0, "time": "T", "level": "warn", "text": "\u{1b}[2Jx"});
        assert_eq!(row(&line), "T pretrain/2 warn  \\x1b[2Jx\n");
        let line = json!({"run": "a.pretrain.0123", "attempt": 1, "rank": 3, "time": "T", "level": "error", "text": "x"});
        assert_eq!(row(&line), "T pretrain/1 rank 3 error x\n");
    }

    #[test]
    fn json_stays_json_and_steers_nothing() {
        let line = json!({"text": "\u{9b}2J \u{1b}[0m \u{202e}é\u{7f}"});
        let shown = harmless(&line.to_string());
        assert!(shown.contains("\\u009b2J") && shown.contains("\\u202eé\\u007f"), "{shown}");
        assert_eq!(serde_json::from_str::<Value>(&shown).unwrap(), line);
    }

    #[test]
    fn a_job_ends_with_its_result() {
        let exit = |state: &str| result(&json!({"name": "a", "state": state})).map(|result| result.map_err(|failure| failure.exit()));
        assert_eq!(exit("succeeded"), Some(Ok(())));
        assert_eq!(exit("failed"), Some(Err(Exit::Failed)));
        assert_eq!(exit("cancelled"), Some(Err(Exit::Cancelled)));
        assert_eq!(exit("paused"), Some(Err(Exit::Cancelled)));
        for goes_on in ["pending", "queued", "running", "unheard-of"] {
            assert_eq!(exit(goes_on), None);
        }
    }
}
