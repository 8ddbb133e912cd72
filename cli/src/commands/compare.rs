//! `fathom compare`: two jobs or runs side by side.

use super::health::compact;
use crate::args::Context;
use crate::connect::{Connection, number, printable, segment, text};
use crate::failure::{Exit, Failure, Result};
use crate::output::{self, Align, OutputArgs, Table};
use serde_json::Value;

/// Characters of a manifest's value; the rest is left out.
const MOST_CHARACTERS: usize = 40;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A job, which stands for its last pre-training, or the id of a run
    a: String,
    /// What it is compared with
    b: String,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs the command.
pub fn run(args: &Args, context: &Context) -> Result {
    let connection = Connection::open(&context.directory)?;
    let (a, b) = (resolve(&connection, &args.a)?, resolve(&connection, &args.b)?);
    let comparison = connection.get(&format!("/api/v1/compare?run={}&run={}", segment(&a), segment(&b)))?;
    output::print(args.output.output, &comparison, report)
}

/// The run that the user means.
fn resolve(connection: &Connection, name: &str) -> Result<String> {
    // Ids of runs have dots: `<job>.<phase>.<key>`.
    if name.contains('.')
        && let Some(run) = connection.find(&format!("/api/v1/runs/{}", segment(name)))?
    {
        return Ok(text(&run, "id").to_owned());
    }
    match connection.find(&format!("/api/v1/jobs/{}", segment(name)))? {
        Some(_) => connection.run_of(name, None),
        None => Err(
            Failure::new(Exit::NotFound, format!("there is no job or run `{}`", printable(name)))
                .help("`fathom status` lists the jobs; ids of runs look like `job.pretrain.0123456789ab`"),
        ),
    }
}

fn report(comparison: &Value) -> String {
    let list = |member: &str| comparison[member].as_array().map_or(&[][..], Vec::as_slice);
    let mut report = String::new();
    for (name, run) in ["A", "B"].iter().zip(list("runs")) {
        let step = run["lastStep"]
            .as_u64()
            .map_or_else(|| "no step".to_owned(), |step| format!("step {step}"));
        let line = format!("{name}  {}  {}, {step}", text(run, "id"), text(run, "state"));
        report.push_str(&printable(&line));
        report.push('\n');
    }
    report.push('\n');
    if list("manifest").is_empty() {
        report.push_str("The manifests are equal.\n");
    } else {
        let mut table = Table::new([("FIELD", Align::Left), ("A", Align::Left), ("B", Align::Left)]);
        for field in list("manifest") {
            table.row([
                printable(text(field, "path")).into_owned(),
                leaf(&field["values"][0]),
                leaf(&field["values"][1]),
            ]);
        }
        report.push_str(&table.to_string());
    }
    let mut table = Table::new([
        ("METRIC", Align::Left),
        ("LAST A", Align::Right),
        ("LAST B", Align::Right),
        ("B - A", Align::Right),
        ("BEST A", Align::Right),
        ("BEST B", Align::Right),
        ("B - A", Align::Right),
    ]);
    for metric in list("metrics") {
        let [last_a, last_b, last] = pair(&metric["last"]);
        let [best_a, best_b, best] = pair(&metric["best"]);
        table.row([
            printable(text(metric, "name")).into_owned(),
            last_a,
            last_b,
            last,
            best_a,
            best_b,
            best,
        ]);
    }
    report.push('\n');
    report.push_str(&if list("metrics").is_empty() {
        "Neither has measured anything.\n".to_owned()
    } else {
        table.to_string()
    });
    report
}

/// Two values and their difference.
fn pair(values: &Value) -> [String; 3] {
    let (a, b) = (number(&values[0]), number(&values[1]));
    let shown = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), compact);
    let difference = match (a, b) {
        (Some(a), Some(b)) => delta(a, b),
        (_, _) => "-".to_owned(),
    };
    [shown(a), shown(b), difference]
}

fn delta(a: f64, b: f64) -> String {
    let difference = b - a;
    if !difference.is_finite() {
        return "-".to_owned();
    }
    if difference == 0.0 {
        return "0".to_owned();
    }
    let sign = if difference > 0.0 { "+" } else { "" };
    let share = if a == 0.0 {
        String::new()
    } else {
        format!(" ({:+.1}%)", difference / a.abs() * 100.0)
    };
    format!("{sign}{}{share}", compact(difference))
}

/// A value of a manifest in few characters.
fn leaf(value: &Value) -> String {
    let text = match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    };
    let text = printable(&text);
    match text.char_indices().nth(MOST_CHARACTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn differences_have_a_sign_and_a_share() {
        assert_eq!(delta(4.0, 3.5), "-0.5 (-12.5%)");
        assert_eq!(delta(-2.0, -1.0), "+1 (+50.0%)");
        assert_eq!(delta(0.0, 1.0), "+1");
        assert_eq!(delta(1.0, 1.0), "0");
        assert_eq!(delta(1.0, f64::NAN), "-");
    }

    #[test]
    fn the_report_names_both() {
        let run = |id: &str| json!({"id": id, "state": "succeeded", "lastStep": 10});
        let report = report(&json!({
            "runs": [run("a.pretrain.1"), run("b.pretrain.2")],
            "manifest": [{"path": "seed", "values": [1, null]}],
            "metrics": [{"name": "loss.main", "last": [4.0, "NaN"], "best": [4.0, 3.0]}],
        }));
        assert_eq!(
            report,
            "A  a.pretrain.1  succeeded, step 10\nB  b.pretrain.2  succeeded, step 10\n\n\
             FIELD   A   B\nseed    1   -\n\n\
             METRIC      LAST A   LAST B   B - A   BEST A   BEST B         B - A\n\
             loss.main        4      NaN       -        4        3   -1 (-25.0%)\n"
        );
    }

    #[test]
    fn long_values_are_cut() {
        assert_eq!(leaf(&json!("é".repeat(50))), format!("{}…", "é".repeat(40)));
        assert_eq!(leaf(&json!([1, 2])), "[1,2]");
    }
}
