//! Data on standard output: tables for people, JSON and YAML for programs.

use crate::failure::{Exit, Failure, Result};
use serde::Serialize;
use std::fmt;
use std::io::Write;

/// Format of what a command prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Text for people.
    Table,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

/// The `-o` option.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct OutputArgs {
    /// Format of the output: table, json or yaml
    #[arg(short, long, value_enum, default_value_t = Format::Table, value_name = "FORMAT", hide_possible_values = true)]
    pub output: Format,
}

/// Prints `value` as JSON or YAML, or what `table` makes of it.
pub fn print<T: Serialize>(format: Format, value: &T, table: impl FnOnce(&T) -> String) -> Result {
    let text = match format {
        Format::Table => table(value),
        Format::Json => json(value)?,
        Format::Yaml => {
            serde_saphyr::to_string(value).map_err(|error| Failure::new(Exit::Failed, "cannot write YAML").caused_by(&error))?
        }
    };
    stdout(&text)
}

/// `value` as indented JSON.
pub fn json<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string_pretty(value).map_err(|error| Failure::new(Exit::Failed, "cannot write JSON").caused_by(&error))
}

/// Prints text to standard output with a line break at its end.
pub fn stdout(text: &str) -> Result {
    if text.is_empty() || text.ends_with('\n') {
        return stdout_bytes(text.as_bytes());
    }
    stdout_bytes(format!("{text}\n").as_bytes())
}

/// Writes bytes to standard output. A reader that went away (`fathom ... | head`) is no failure.
pub fn stdout_bytes(bytes: &[u8]) -> Result {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Exit::Failed, "cannot write to standard output").caused_by(&error))
        }
        _ => Ok(()),
    }
}

/// Side on which the cells of a column are flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// A table in kubectl's manner: upper-case headings, columns three spaces apart, no lines.
#[derive(Debug)]
pub struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns.
    pub fn new<const N: usize>(columns: [(&'static str, Align); N]) -> Self {
        Self {
            columns: columns.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row with a cell for each column.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.columns.len(), "a row has a cell for each column");
        self.rows.push(cells.into());
    }
}

/// A line break follows each row.
impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|column| {
                let cells = self.rows.iter().map(|row| row[column].chars().count());
                cells.chain([self.columns[column].0.chars().count()]).max().unwrap_or(0)
            })
            .collect();
        let headings: Vec<String> = self.columns.iter().map(|(heading, _)| (*heading).to_owned()).collect();
        for row in std::iter::once(&headings).chain(&self.rows) {
            let mut line = String::new();
            for ((cell, width), (_, align)) in row.iter().zip(&widths).zip(&self.columns) {
                let padding = " ".repeat(width - cell.chars().count());
                match align {
                    Align::Left => line.extend([cell, padding.as_str(), "   "]),
                    Align::Right => line.extend([padding.as_str(), cell, "   "]),
                }
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// A count with thousands separators: `7,969,664`.
pub fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count in three significant digits with a decimal suffix: `7.97M`, `671B`, `14.8T`.
pub fn count(count: u64) -> String {
    scaled(count as f64, 1000.0, &["", "k", "M", "B", "T", "P", "E"], "")
}

/// Bytes in three significant digits with a binary suffix: `30.4 MiB`.
pub fn bytes(bytes: u64) -> String {
    scaled(bytes as f64, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"], " ")
}

/// Three significant digits of `value` in the largest unit that it reaches.
pub fn scaled(value: f64, base: f64, units: &[&str], space: &str) -> String {
    let mut scaled = value;
    let mut unit = 0;
    // 999.5 would be shown as 1000 in three digits: it belongs to the next unit.
    while scaled.abs() >= base - base / 2000.0 && unit + 1 < units.len() {
        scaled /= base;
        unit += 1;
    }
    let digits = match scaled.abs() {
        _ if unit == 0 && value.fract() == 0.0 => 0,
        magnitude if magnitude < 9.995 => 2,
        magnitude if magnitude < 99.95 => 1,
        _ => 0,
    };
    format!("{scaled:.digits$}{space}{}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_have_no_trailing_space() {
        let mut table = Table::new([("PHASE", Align::Left), ("TOKENS", Align::Right), ("STATE", Align::Left)]);
        table.row(["tokenizer".into(), "1".into(), "Done".into()]);
        table.row(["x".into(), "1,000,000".into(), String::new()]);
        assert_eq!(
            table.to_string(),
            "PHASE          TOKENS   STATE\ntokenizer           1   Done\nx           1,000,000\n"
        );
    }

    #[test]
    fn numbers() {
        assert_eq!([0, 999, 1000, 7_969_664].map(grouped), ["0", "999", "1,000", "7,969,664"]);
        assert_eq!(
            [0, 999, 1000, 9999, 7_969_664, 671_026_404_352, 14_800_000_000_000].map(count),
            ["0", "999", "1.00k", "10.0k", "7.97M", "671B", "14.8T"]
        );
        assert_eq!([0, 1023, 1024, 31_876_710].map(bytes), ["0 B", "1023 B", "1.00 KiB", "30.4 MiB"]);
    }
}
