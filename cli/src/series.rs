//! The metrics of a run, every step exactly once: gathered from its spool, or from a server.

mod remote;

pub use remote::{Wanted, fetch};

use crate::commands::worker_failure;
use crate::export::{Columns, Values};
use crate::failure::Result;
use fathom_spec::record::{Body, Matrix};
use fathom_worker::report::Resolved;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The metrics of a run.
#[derive(Debug, Default)]
pub struct Series {
    rows: BTreeMap<u64, Row>,
    /// Names and kinds of what the server has, fetched or not.
    listed: Vec<(String, String)>,
    /// Lines of the spool that could not be read.
    pub damaged: usize,
}

/// What was measured at a step.
#[derive(Debug)]
pub struct Row {
    /// Seconds since the Unix epoch.
    pub time: f64,
    /// Tokens seen after the step.
    pub tokens: u64,
    /// Scalars by name. A step has one batch for its training and may have one for a validation; names do not repeat.
    pub scalars: BTreeMap<String, f64>,
    /// Matrices by name.
    pub matrices: BTreeMap<String, Matrix>,
}

impl Series {
    /// Reads a spool; one that does not exist has no rows.
    pub fn read(spool: &Path) -> Result<Self> {
        let mut series = Self::default();
        let mut records = Resolved::open(spool).map_err(|error| worker_failure(&error))?;
        for record in &mut records {
            let record = record.map_err(|error| worker_failure(&error))?;
            let Body::Metrics(batch) = record.body else { continue };
            let row = series.rows.entry(batch.step).or_insert_with(|| Row {
                time: record.time,
                tokens: batch.tokens,
                scalars: BTreeMap::new(),
                matrices: BTreeMap::new(),
            });
            row.scalars.extend(batch.scalars);
            row.matrices.extend(batch.matrices);
        }
        series.damaged = records.damages().len();
        Ok(series)
    }

    /// Steps and what was measured at them, ascending.
    pub fn rows(&self) -> impl Iterator<Item = (u64, &Row)> {
        self.rows.iter().map(|(&step, row)| (step, row))
    }

    /// Names of the scalars.
    pub fn scalar_names(&self) -> BTreeSet<&str> {
        let measured = self.rows.values().flat_map(|row| row.scalars.keys().map(String::as_str));
        measured.chain(self.listed("scalar")).collect()
    }

    /// Names of the matrices.
    pub fn matrix_names(&self) -> BTreeSet<&str> {
        let measured = self.rows.values().flat_map(|row| row.matrices.keys().map(String::as_str));
        measured.chain(self.listed("matrix")).collect()
    }

    fn listed(&self, kind: &str) -> impl Iterator<Item = &str> {
        self.listed
            .iter()
            .filter(move |(_, listed)| listed == kind)
            .map(|(name, _)| name.as_str())
    }

    /// One row per step: `step`, `tokens`, `time` and a column per scalar.
    pub fn scalars(&self) -> Columns {
        let mut columns = Columns::new(self.rows.len());
        columns.push("step", Values::Integers(self.rows.keys().copied().collect()));
        columns.push("tokens", Values::Integers(self.rows.values().map(|row| row.tokens).collect()));
        columns.push("time", Values::Numbers(self.rows.values().map(|row| Some(row.time)).collect()));
        for name in self.scalar_names() {
            let values = self.rows.values().map(|row| row.scalars.get(name).copied()).collect();
            columns.push(name, Values::Numbers(values));
        }
        columns
    }

    /// One row per element of a matrix: `step`, `row`, `column`, `value`.
    pub fn matrix(&self, name: &str) -> Columns {
        let (mut steps, mut rows, mut columns, mut values) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (step, matrix) in self.rows().filter_map(|(step, row)| Some((step, row.matrices.get(name)?))) {
            for (index, &value) in matrix.values.iter().enumerate() {
                steps.push(step);
                rows.push((index / matrix.columns.max(1)) as u64);
                columns.push((index % matrix.columns.max(1)) as u64);
                values.push(Some(f64::from(value)));
            }
        }
        let mut table = Columns::new(steps.len());
        table.push("step", Values::Integers(steps));
        table.push("row", Values::Integers(rows));
        table.push("column", Values::Integers(columns));
        table.push("value", Values::Numbers(values));
        table
    }
}
