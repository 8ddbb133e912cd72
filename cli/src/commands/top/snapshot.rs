//! What the screen shows, taken at one time.

use crate::clock;
use crate::commands::health::{change, since, value, words};
use crate::commands::logs;
use crate::commands::matrix::{Matrix, steps};
use crate::connect::{Connection, items, number, numbers, printable, segment, text};
use crate::failure::Result;
use crate::output::count;
use serde_json::Value;

/// Jobs of the list.
const JOBS: u32 = 200;
/// Events and lines of a job.
const LINES: u32 = 200;
/// The matrix of the expert map.
const LOAD: &str = "moe.load";

/// What the screen shows. All text is printable.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// The jobs, newest first.
    pub jobs: Vec<JobRow>,
    /// The chosen job.
    pub detail: Option<Detail>,
    /// When it was taken.
    pub time: String,
    /// Why nothing newer could be taken.
    pub problem: Option<String>,
}

/// A job in one line.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JobRow {
    pub name: String,
    pub state: String,
    pub verdict: String,
    pub phase: String,
    /// 0 to 1.
    pub progress: Option<f64>,
    pub loss: String,
    pub speed: String,
    pub left: String,
    pub curve: Vec<f64>,
}

/// A job on its own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Detail {
    pub row: JobRow,
    pub since: String,
    /// Severity and text.
    pub reasons: Vec<(String, String)>,
    pub next: String,
    pub tiles: Vec<Tile>,
    pub map: Option<Map>,
    /// Severity and line, oldest first.
    pub events: Vec<(String, String)>,
    /// Level and line, oldest first.
    pub lines: Vec<(String, String)>,
}

/// A vital sign.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tile {
    pub title: String,
    pub value: String,
    pub state: String,
    pub change: String,
    pub rule: String,
    pub curve: Vec<f64>,
}

/// The load of the experts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Map {
    pub steps: String,
    pub load: Matrix,
}

impl Snapshot {
    /// The job that the detail is about.
    pub fn job(&self) -> Option<&str> {
        self.detail.as_ref().map(|detail| detail.row.name.as_str())
    }
}

/// Asks the server.
pub fn take(connection: &Connection, job: Option<&str>) -> Result<Snapshot> {
    let jobs = connection.get(&format!("/api/v1/jobs?limit={JOBS}"))?;
    Ok(Snapshot {
        jobs: items(&jobs).iter().map(row).collect(),
        detail: job.map(|job| detail(connection, job)).transpose()?,
        time: clock::rfc3339(clock::now()),
        problem: None,
    })
}

fn detail(connection: &Connection, name: &str) -> Result<Detail> {
    let path = format!("/api/v1/jobs/{}", segment(name));
    let job = connection.get(&path)?;
    let health = connection.get(&format!("{path}/health"))?;
    let events = connection.get(&format!("{path}/events?limit={LINES}"))?;
    let lines = connection.get(&format!("{path}/logs?limit={LINES}"))?;
    let map = match health["run"].as_str() {
        Some(run) => connection.find(&format!("/api/v1/runs/{}/matrices/{LOAD}", segment(run)))?,
        None => None,
    };
    Ok(Detail {
        row: row(&job),
        since: own(&health, "since"),
        reasons: array(&health, "reasons").map(reason).collect(),
        next: own(&health["nextAction"], "text"),
        tiles: array(&health, "tiles").map(tile).collect(),
        map: map
            .map(|view| Matrix::decode(&view).map(|load| Map { steps: steps(&view), load }))
            .transpose()?,
        events: items(&events).iter().rev().map(event).collect(),
        lines: items(&lines).iter().rev().map(line).collect(),
    })
}

fn row(job: &Value) -> JobRow {
    let shown = |member: &str, show: &dyn Fn(f64) -> String| number(&job[member]).map_or_else(|| "-".to_owned(), show);
    JobRow {
        name: own(job, "name"),
        state: own(job, "state"),
        verdict: printable(words(text(&job["health"], "verdict"))).into_owned(),
        phase: own(job, "phase"),
        progress: job["progress"].as_f64(),
        loss: shown("loss", &|loss| format!("{loss:.3}")),
        speed: shown("tokensPerSecond", &|speed| count(speed as u64)),
        left: shown("etaSeconds", &clock::human_seconds),
        curve: numbers(&job["lossSparkline"]),
    }
}

fn reason(reason: &Value) -> (String, String) {
    let since = since(reason);
    let since = if since.is_empty() { since } else { format!(" ({since})") };
    (own(reason, "severity"), format!("{}{since}", printable(text(reason, "text"))))
}

fn tile(tile: &Value) -> Tile {
    Tile {
        title: own(tile, "title"),
        value: value(tile),
        state: printable(words(text(tile, "state"))).into_owned(),
        change: change(tile).unwrap_or_default(),
        rule: own(tile, "rule"),
        curve: numbers(&tile["sparkline"]),
    }
}

fn event(event: &Value) -> (String, String) {
    let step = event["step"].as_u64().map(|step| format!(" step {step}:")).unwrap_or_default();
    let (time, kind) = (printable(text(event, "time")), printable(text(event, "kind")));
    (
        own(event, "severity"),
        format!("{time} {kind}{step} {}", printable(text(event, "message"))),
    )
}

fn line(line: &Value) -> (String, String) {
    let level = if text(line, "level") == "warn" {
        "warning".to_owned()
    } else {
        own(line, "level")
    };
    (level, logs::row(line).trim_end().to_owned())
}

fn own(value: &Value, member: &str) -> String {
    printable(text(value, member)).into_owned()
}

fn array<'a>(value: &'a Value, member: &str) -> impl Iterator<Item = &'a Value> {
    value[member].as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rows_show_what_is_known() {
        let job = json!({"name": "a", "state": "running", "health": {"verdict": "noData"}, "phase": null, "progress": 0.5, "loss": "NaN",
            "tokensPerSecond": 1234.5, "etaSeconds": null, "lossSparkline": [1.0, "NaN"]});
        let row = row(&job);
        assert_eq!(
            (row.verdict.as_str(), row.loss.as_str(), row.speed.as_str(), row.left.as_str()),
            ("no data", "NaN", "1.23k", "-")
        );
        assert_eq!((row.phase.as_str(), row.progress, row.curve.len()), ("", Some(0.5), 2));
    }

    #[test]
    fn events_are_lines() {
        let shown = event(&json!({"time": "T", "kind": "NonFinite", "severity": "error", "step": 7, "message": "loss\u{1b}c"}));
        assert_eq!(shown, ("error".into(), "T NonFinite step 7: loss\\x1bc".into()));
    }
}
