//! `fathom health`: the verdict on a job, why, and what to do.

use crate::args::Context;
use crate::connect::{Connection, number, numbers, printable, segment, text};
use crate::failure::{Exit, Failure, Result};
use crate::output::{self, OutputArgs};
use serde_json::Value;

/// Columns of the text.
const WIDTH: usize = 100;
/// Characters of a curve.
const CURVE: usize = 32;
/// Characters of a curve, low to high.
const HEIGHTS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The job; may be left out if there is only one
    job: Option<String>,
    /// End with exit code 10 if the verdict is failing or stalled
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs the command.
pub fn run(args: &Args, context: &Context) -> Result {
    let connection = Connection::open(&context.directory)?;
    let job = connection.job(args.job.as_deref())?;
    let health = connection.get(&format!("/api/v1/jobs/{}/health", segment(&job)))?;
    output::print(args.output.output, &health, |health| report(&job, health))?;
    match text(&health, "verdict") {
        "failing" | "stalled" if args.check => Err(Failure::shown(Exit::Unhealthy)),
        _ => Ok(()),
    }
}

/// A verdict as people say it.
pub fn words(verdict: &str) -> &str {
    match verdict {
        "noData" => "no data",
        other => other,
    }
}

/// When something began: a step, a time, both or nothing.
pub fn since(reason: &Value) -> String {
    let since = &reason["since"];
    match (since["step"].as_u64(), since["time"].as_str()) {
        (Some(step), Some(time)) => format!("since step {step}, {}", printable(time)),
        (Some(step), None) => format!("since step {step}"),
        (None, Some(time)) => format!("since {}", printable(time)),
        (None, None) => String::new(),
    }
}

/// The value of a vital sign, with its unit where it is a number.
pub fn value(tile: &Value) -> String {
    let value = printable(text(tile, "text"));
    match tile["unit"].as_str() {
        Some(unit) if value.starts_with(|first: char| first.is_ascii_digit() || first == '-') => format!("{value} {}", printable(unit)),
        Some(_) | None => value.into_owned(),
    }
}

/// The change of a vital sign against its own trailing window.
pub fn change(tile: &Value) -> Option<String> {
    number(&tile["changePercent"]).map(|percent| format!("{percent:+.1}%"))
}

/// A curve of at most `width` characters. Values that are no numbers are `!`; of values that share a character the last is shown.
pub fn curve(values: &[f64], width: usize) -> String {
    let finite = || values.iter().copied().filter(|value| value.is_finite());
    let (low, high) = (finite().fold(f64::INFINITY, f64::min), finite().fold(f64::NEG_INFINITY, f64::max));
    let letter = |value: f64| match value {
        value if !value.is_finite() => '!',
        // A curve that never changes is in the middle.
        _ if high <= low => HEIGHTS[3],
        value => HEIGHTS[(((value - low) / (high - low)) * 7.999) as usize],
    };
    let width = width.min(values.len());
    (0..width)
        .map(|place| letter(values[(place + 1) * values.len() / width - 1]))
        .collect()
}

fn report(job: &str, health: &Value) -> String {
    let mut report = format!("{}: {}", printable(job), printable(words(text(health, "verdict"))));
    if let Some(since) = health["since"].as_str() {
        report.push_str(&format!(" since {}", printable(since)));
    }
    if let Some(run) = health["run"].as_str() {
        let step = health["step"]
            .as_u64()
            .map_or_else(|| "before its first step".to_owned(), |step| format!("step {step}"));
        report.push_str(&format!(" ({}, {step})", printable(run)));
    }
    report.push('\n');
    for reason in health["reasons"].as_array().into_iter().flatten() {
        let severity = printable(text(reason, "severity")).into_owned();
        let since = since(reason);
        let since = if since.is_empty() { since } else { format!(" ({since})") };
        report.push_str(&wrapped(
            &format!("  {severity:<8} "),
            &format!("{}{since}", printable(text(reason, "text"))),
        ));
    }
    let next = printable(text(&health["nextAction"], "text")).into_owned();
    report.push_str(&wrapped("Next: ", &next));
    for tile in health["tiles"].as_array().into_iter().flatten() {
        let title = printable(text(tile, "title")).into_owned();
        let state = printable(words(text(tile, "state"))).into_owned();
        let change = change(tile).unwrap_or_default();
        let line = format!(
            "{title:<16} {state:<8} {:<22} {change:>8}  {}",
            value(tile),
            curve(&numbers(&tile["sparkline"]), CURVE)
        );
        report.push_str(&format!("\n{}\n", line.trim_end()));
        if let [low, high] = numbers(&tile["band"])[..] {
            report.push_str(&format!("  Expected next: {} to {}\n", compact(low), compact(high)));
        }
        for (label, member) in [("  ", "detail"), ("  Rule: ", "rule")] {
            let words = text(tile, member);
            if !words.is_empty() {
                report.push_str(&wrapped(label, &printable(words)));
            }
        }
    }
    report
}

/// A number in about four digits.
pub fn compact(value: f64) -> String {
    match value.abs() {
        _ if !value.is_finite() => crate::export::number(value),
        0.0 => "0".to_owned(),
        1e-3..1e5 => {
            let digits = (3 - value.abs().log10().floor() as i32).clamp(0, 6).unsigned_abs() as usize;
            let text = format!("{value:.digits$}");
            if text.contains('.') {
                text.trim_end_matches('0').trim_end_matches('.').to_owned()
            } else {
                text
            }
        }
        _ => format!("{value:.3e}"),
    }
}

/// Text behind a label, in lines that begin below its first word.
fn wrapped(label: &str, text: &str) -> String {
    let indent = " ".repeat(label.chars().count());
    let mut lines = label.to_owned();
    let mut column = indent.len();
    for (place, word) in text.split_whitespace().enumerate() {
        let length = word.chars().count();
        if place > 0 && column + 1 + length > WIDTH {
            lines.push('\n');
            lines.push_str(&indent);
            column = indent.len();
        } else if place > 0 {
            lines.push(' ');
            column += 1;
        }
        lines.push_str(word);
        column += length;
    }
    lines.push('\n');
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn curves() {
        assert_eq!(curve(&[0.0, 1.0, f64::NAN, 2.0], 9), "▁▄!█");
        assert_eq!(curve(&[5.0, 5.0], 9), "▄▄");
        assert_eq!(curve(&[], 9), "");
        let long: Vec<f64> = (0..100).map(f64::from).collect();
        assert_eq!(curve(&long, 4), "▂▄▆█");
    }

    #[test]
    fn numbers_in_few_digits() {
        for (value, text) in [
            (0.0, "0"),
            (4.263_738, "4.264"),
            (118.0, "118"),
            (-0.132, "-0.132"),
            (8.333e-5, "8.333e-5"),
            (60_416.0, "60416"),
            (1.3e9, "1.300e9"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(compact(value), text);
        }
    }

    #[test]
    fn a_report_says_why_and_what_next() {
        let health = json!({
            "verdict": "failing", "since": "2026-11-25T01:40:14Z", "run": "a.pretrain.1", "step": 41,
            "reasons": [{"severity": "failing", "text": "The loss is \u{1b}[1mNaN", "since": {"step": 41, "time": null}}],
            "nextAction": {"text": "Roll back"},
            "tiles": [{"title": "Loss", "state": "noData", "value": null, "text": "none", "unit": "nats", "changePercent": null, "sparkline": [], "band": [1.0, 2.5], "detail": "", "rule": "not finite"}],
        });
        let report = report("a", &health);
        assert_eq!(
            report,
            "a: failing since 2026-11-25T01:40:14Z (a.pretrain.1, step 41)\n  failing  The loss is \\x1b[1mNaN (since step 41)\nNext: Roll back\n\
             \nLoss             no data  none\n  Expected next: 1 to 2.5\n  Rule: not finite\n"
        );
    }

    #[test]
    fn long_text_is_wrapped() {
        let text = wrapped("  Rule: ", &"word ".repeat(40));
        assert!(text.lines().all(|line| line.len() <= WIDTH), "{text}");
        assert!(text.lines().nth(1).is_some_and(|line| line.starts_with("        word")), "{text}");
    }
}
