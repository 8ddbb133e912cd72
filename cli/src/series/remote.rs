//! The metrics of a run on a server, in ranges of steps that the server answers point by point.

use super::{Row, Series};
use crate::commands::matrix::Matrix as Answer;
use crate::connect::{Connection, items, number, segment, text};
use crate::failure::Result;
use fathom_spec::record::Matrix;
use serde_json::Value;
use std::collections::BTreeMap;

/// Steps of a request: so many points are not put into buckets.
const STEPS: u64 = 4_000;
/// Metrics of a request.
const METRICS: usize = 24;
/// Steps with matrices of a request.
const MATRICES: u64 = 1_000;

/// What is fetched beside the scalars.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted<'a> {
    /// All scalars.
    Scalars,
    /// One scalar.
    Scalar(&'a str),
    /// One matrix.
    Matrix(&'a str),
}

/// Fetches what is wanted of a run.
pub fn fetch(connection: &Connection, run: &str, wanted: Wanted<'_>) -> Result<Series> {
    let base = format!("/api/v1/runs/{}", segment(run));
    let listed = connection.get(&format!("{base}/metrics"))?;
    let of_kind = |kind: &'static str| items(&listed).iter().filter(move |metric| text(metric, "kind") == kind);
    let mut series = Series {
        listed: items(&listed)
            .iter()
            .map(|metric| (text(metric, "name").to_owned(), text(metric, "kind").to_owned()))
            .collect(),
        ..Series::default()
    };
    match wanted {
        Wanted::Matrix(name) => {
            if let Some(metric) = of_kind("matrix").find(|metric| text(metric, "name") == name) {
                matrices(connection, &base, metric, &mut series)?;
            }
        }
        Wanted::Scalars | Wanted::Scalar(_) => {
            let asked = |metric: &&Value| match wanted {
                Wanted::Scalar(name) => text(metric, "name") == name,
                Wanted::Scalars | Wanted::Matrix(_) => true,
            };
            let metrics: Vec<&Value> = of_kind("scalar").filter(asked).collect();
            for group in metrics.chunks(METRICS) {
                scalars(connection, &base, group, &mut series)?;
            }
        }
    }
    Ok(series)
}

fn scalars(connection: &Connection, base: &str, metrics: &[&Value], series: &mut Series) -> Result {
    let (first, last) = steps(metrics);
    let names: String = metrics
        .iter()
        .map(|metric| format!("&metric={}", segment(text(metric, "name"))))
        .collect();
    let mut from = first;
    while from <= last {
        let to = last.min(from + STEPS - 1);
        for axis in ["tokens", "time"] {
            let answer = connection.get(&format!("{base}/series?x={axis}&from={from}&to={to}&points={STEPS}{names}"))?;
            for columns in answer["series"].as_array().into_iter().flatten() {
                add(series, columns, axis);
            }
        }
        from = to + 1;
    }
    Ok(())
}

/// Adds the columns of a metric over an axis.
fn add(series: &mut Series, columns: &Value, axis: &str) {
    let column = |name: &str| columns[name].as_array().map_or(&[][..], Vec::as_slice);
    for ((step, x), value) in column("step").iter().zip(column("x")).zip(column("last")) {
        let (Some(step), Some(x), Some(value)) = (step.as_u64(), number(x), number(value)) else {
            continue;
        };
        let row = series.rows.entry(step).or_insert_with(empty);
        match axis {
            "tokens" => row.tokens = x as u64,
            _ => row.time = x,
        }
        row.scalars.insert(text(columns, "metric").to_owned(), value);
    }
}

fn matrices(connection: &Connection, base: &str, metric: &Value, series: &mut Series) -> Result {
    let name = text(metric, "name");
    let path = format!("{base}/matrices/{}", segment(name));
    let (first, last) = steps(&[metric]);
    let mut from = first;
    while from <= last {
        let to = last.min(from + MATRICES - 1);
        let covered = connection.get(&format!("{path}/steps?from={from}&to={to}&limit={MATRICES}"))?;
        for step in items(&covered).iter().filter_map(|item| item["step"].as_u64()) {
            let Answer { columns, values } = Answer::decode(&connection.get(&format!("{path}?step={step}"))?)?;
            let rows = values.len() / columns.max(1);
            let row = series.rows.entry(step).or_insert_with(empty);
            row.matrices.insert(name.to_owned(), Matrix { rows, columns, values });
        }
        from = to + 1;
    }
    Ok(())
}

const fn empty() -> Row {
    Row {
        time: f64::NAN,
        tokens: 0,
        scalars: BTreeMap::new(),
        matrices: BTreeMap::new(),
    }
}

/// First and last step of some metrics.
fn steps(metrics: &[&Value]) -> (u64, u64) {
    let bound = |member: &'static str| metrics.iter().filter_map(move |metric| metric[member].as_u64());
    (bound("firstStep").min().unwrap_or(1), bound("lastStep").max().unwrap_or(0))
}
