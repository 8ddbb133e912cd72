//! `fathom matrix`: a matrix of one step, as a heat map, JSON or CSV.

use super::health::compact;
use crate::args::Context;
use crate::connect::{Connection, items, printable, segment, text};
use crate::failure::{Exit, Failure, Result};
use crate::output;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::io::IsTerminal;

/// Columns of text where there is no terminal.
const WIDTH: usize = 120;
/// Characters of a cell, low to high.
const SHADES: [char; 5] = ['·', '░', '▒', '▓', '█'];
/// A cell that is no number.
const BROKEN: char = '!';

/// Format of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum MatrixFormat {
    /// A heat map.
    Table,
    /// As the API writes it, with `values` as rows of numbers.
    Json,
    /// A line per row.
    Csv,
}

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The metric, as in `moe.load`
    name: String,
    /// The job; may be left out if there is only one
    job: Option<String>,
    /// The phase; by default the last one that pre-trains
    #[arg(long, value_name = "PHASE")]
    phase: Option<String>,
    /// The step; by default the newest
    #[arg(long, value_name = "STEP")]
    step: Option<u64>,
    /// Format of the output: table, json or csv
    #[arg(short, long, value_enum, default_value_t = MatrixFormat::Table, value_name = "FORMAT", hide_possible_values = true)]
    output: MatrixFormat,
}

/// Runs the command.
pub fn run(args: &Args, context: &Context) -> Result {
    let connection = Connection::open(&context.directory)?;
    let job = connection.job(args.job.as_deref())?;
    let run = connection.run_of(&job, args.phase.as_deref())?;
    let step = args.step.map(|step| format!("?step={step}")).unwrap_or_default();
    let path = format!("/api/v1/runs/{}/matrices/{}{step}", segment(&run), segment(&args.name));
    let metrics = || connection.get(&format!("/api/v1/runs/{}/metrics", segment(&run)));
    let Some(mut view) = connection.find(&path)? else {
        return Err(missing(args, &run, &metrics()?));
    };
    let matrix = Matrix::decode(&view)?;
    let shown = match args.output {
        MatrixFormat::Json => {
            view["values"] = matrix.json();
            output::json(&view)?
        }
        MatrixFormat::Csv => matrix.csv(&axes(&metrics()?, &args.name)),
        MatrixFormat::Table => {
            let axes = axes(&metrics()?, &args.name);
            let title = format!("{} of {}, {}", printable(&args.name), printable(&run), steps(&view));
            format!("{title}\n\n{}", matrix.map(&axes, width()))
        }
    };
    output::stdout(&shown)
}

/// There is no such matrix, or none at this step.
fn missing(args: &Args, run: &str, metrics: &Value) -> Failure {
    let matrices = || items(metrics).iter().filter(|metric| text(metric, "kind") == "matrix");
    if let Some(metric) = matrices().find(|metric| text(metric, "name") == args.name) {
        let what = format!("`{}` has no value at that step", printable(&args.name));
        return Failure::new(Exit::NotFound, what).help(format!("it has steps {} to {}", metric["firstStep"], metric["lastStep"]));
    }
    let failure = Failure::new(
        Exit::NotFound,
        format!("run {} has no matrix `{}`", printable(run), printable(&args.name)),
    );
    let names: Vec<&str> = matrices().map(|metric| text(metric, "name")).collect();
    match names.as_slice() {
        [] => failure.help("this run has measured no matrices; `fathom metrics ls` lists its scalars"),
        names => failure.help(format!("it has: {}", printable(&names.join(", ")))),
    }
}

/// Names of rows and columns.
fn axes(metrics: &Value, name: &str) -> [String; 2] {
    let metric = items(metrics).iter().find(|metric| text(metric, "name") == name);
    let axis = |index: usize| {
        metric
            .and_then(|metric| metric["axes"][index].as_str())
            .map(|axis| printable(axis).into_owned())
    };
    [axis(0).unwrap_or_else(|| "row".into()), axis(1).unwrap_or_else(|| "column".into())]
}

/// The steps that a matrix covers.
pub fn steps(view: &Value) -> String {
    match (view["firstStep"].as_u64(), view["lastStep"].as_u64()) {
        (Some(first), Some(last)) if first != last => format!("mean of steps {first} to {last}"),
        (_, Some(last)) => format!("step {last}"),
        (_, None) => "no step".to_owned(),
    }
}

fn width() -> usize {
    let out = std::io::stdout();
    let size = out.is_terminal().then(|| rustix::termios::tcgetwinsize(&out).ok()).flatten();
    size.map(|size| usize::from(size.ws_col))
        .filter(|&columns| columns >= 20)
        .unwrap_or(WIDTH)
}

/// A matrix.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Matrix {
    /// Columns.
    pub columns: usize,
    /// Values, row by row.
    pub values: Vec<f32>,
}

impl Matrix {
    /// The matrix in an answer of the API.
    pub fn decode(view: &Value) -> Result<Self> {
        let broken = || Failure::new(Exit::Failed, "the server's matrix cannot be read").help("use a `fathom` of the server's version");
        let shape = |member: &str| view[member].as_u64().and_then(|count| usize::try_from(count).ok());
        let (rows, columns) = shape("rows").zip(shape("columns")).ok_or_else(broken)?;
        let bytes = STANDARD.decode(text(view, "values")).map_err(|error| broken().caused_by(&error))?;
        let (quads, rest) = bytes.as_chunks::<4>();
        if !rest.is_empty() || rows.checked_mul(columns) != Some(quads.len()) {
            return Err(broken().cause(format!("{} bytes for {rows} x {columns} values", bytes.len())));
        }
        let values = quads.iter().map(|quad| f32::from_le_bytes(*quad)).collect();
        Ok(Self { columns, values })
    }

    /// The rows.
    pub fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks(self.columns.max(1))
    }

    fn json(&self) -> Value {
        let number = |value: &f32| {
            if value.is_finite() {
                json!(value)
            } else {
                json!(crate::export::number(f64::from(*value)))
            }
        };
        self.rows().map(|row| row.iter().map(number).collect::<Value>()).collect()
    }

    fn csv(&self, axes: &[String; 2]) -> String {
        let columns = (0..self.columns).map(|column| format!(",{} {column}", axes[1]));
        let mut lines = format!("{}{}\n", axes[0], columns.collect::<String>());
        for (index, row) in self.rows().enumerate() {
            let cells = row.iter().map(|&value| match value {
                value if value.is_finite() => format!(",{value:?}"),
                value => format!(",{}", crate::export::number(f64::from(value))),
            });
            lines.push_str(&format!("{index}{}\n", cells.collect::<String>()));
        }
        lines
    }

    /// A heat map, with numbers if they fit into `width` characters.
    fn map(&self, axes: &[String; 2], width: usize) -> String {
        let finite = || self.values.iter().copied().filter(|value| value.is_finite());
        let (low, high) = (finite().fold(f32::INFINITY, f32::min), finite().fold(f32::NEG_INFINITY, f32::max));
        let shade = |value: f32| match value {
            value if !value.is_finite() => BROKEN,
            _ if high <= low => SHADES[2],
            value => SHADES[((value - low) / (high - low) * 4.999) as usize],
        };
        let rows = self.rows().count();
        let digits = rows.saturating_sub(1).to_string().len();
        let label = |index: usize| format!("{} {index:>digits$}  ", axes[0]);
        let room = width.saturating_sub(label(0).chars().count()).max(1);
        let texts: Vec<String> = self.values.iter().map(|&value| compact(f64::from(value))).collect();
        let longest = texts.iter().map(|text| text.chars().count()).max().unwrap_or(0);
        let longest = longest.max(self.columns.saturating_sub(1).to_string().len());
        let numbered = self.columns * (longest + 2) <= room;
        let mut map = String::new();
        if numbered {
            let heads: String = (0..self.columns).map(|column| format!("{column:>longest$}  ")).collect();
            map.push_str(&format!("{}  {}\n", " ".repeat(label(0).chars().count() - 1), heads.trim_end()));
        }
        for (index, row) in self.rows().enumerate() {
            map.push_str(&label(index));
            if numbered {
                let texts = &texts[index * self.columns..];
                let cells: Vec<String> = row
                    .iter()
                    .zip(texts)
                    .map(|(&value, text)| format!("{}{text:>longest$}", shade(value)))
                    .collect();
                map.push_str(&cells.join(" "));
            } else {
                map.extend(squeezed(row, room).into_iter().map(shade));
            }
            map.push('\n');
        }
        map.push_str(&format!("\n{rows} x {} ({} x {})", self.columns, axes[0], axes[1]));
        if low <= high {
            let [low_text, high_text] = [low, high].map(|value| compact(f64::from(value)));
            map.push_str(&format!("; {} is {low_text}, {} is {high_text}", SHADES[0], SHADES[4]));
        }
        let grouped = self.columns.div_ceil(room);
        if !numbered && grouped > 1 {
            map.push_str(&format!(
                "; a character is {grouped} of {}: the one farthest from the mean",
                axes[1]
            ));
        }
        map.push('\n');
        map
    }
}

/// A row in at most `room` values: of those that share a place, the one farthest from the row's mean. What stands out stays visible.
pub fn squeezed(row: &[f32], room: usize) -> Vec<f32> {
    let group = row.len().div_ceil(room.max(1)).max(1);
    if group == 1 {
        return row.to_vec();
    }
    let finite: Vec<f32> = row.iter().copied().filter(|value| value.is_finite()).collect();
    let mean = finite.iter().sum::<f32>() / finite.len().max(1) as f32;
    // What is no number stands out most.
    let distance = |value: f32| if value.is_finite() { (value - mean).abs() } else { f32::INFINITY };
    let farthest = |group: &[f32]| {
        group
            .iter()
            .copied()
            .max_by(|a, b| distance(*a).total_cmp(&distance(*b)))
            .unwrap_or(f32::NAN)
    };
    row.chunks(group).map(farthest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(columns: usize, values: &[f32]) -> Matrix {
        Matrix {
            columns,
            values: values.to_vec(),
        }
    }

    #[test]
    fn answers_are_decoded_whole_or_not_at_all() {
        let view = |rows: u64, values: &[f32]| {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            json!({"rows": rows, "columns": 2, "values": STANDARD.encode(bytes)})
        };
        assert_eq!(
            Matrix::decode(&view(1, &[1.0, f32::INFINITY])).unwrap(),
            matrix(2, &[1.0, f32::INFINITY])
        );
        assert!(Matrix::decode(&view(2, &[1.0, 2.0])).is_err());
        assert!(Matrix::decode(&view(u64::MAX, &[1.0, 2.0])).is_err());
        assert!(Matrix::decode(&json!({})).is_err());
    }

    #[test]
    fn the_map_has_numbers_where_they_fit() {
        let axes = ["layer".to_owned(), "expert".to_owned()];
        let map = matrix(3, &[0.0, 1.0, 2.0, 4.0, f32::NAN, 3.0]).map(&axes, 80);
        assert_eq!(
            map,
            "            0    1    2\nlayer 0  ·  0 ░  1 ▒  2\nlayer 1  █  4 !NaN ▓  3\n\n2 x 3 (layer x expert); · is 0, █ is 4\n"
        );
        let wide: Vec<f32> = (0..64).map(|value| if value == 30 { 9.0 } else { 1.0 }).collect();
        let map = matrix(64, &wide).map(&axes, 41);
        assert!(map.starts_with("layer 0  ···············█················\n"), "{map}");
        assert!(map.contains("a character is 2 of expert"), "{map}");
    }

    #[test]
    fn csv_and_json_hold_every_value() {
        let axes = ["layer".to_owned(), "expert".to_owned()];
        let matrix = matrix(2, &[0.5, f32::NAN, 1.0, 2.0]);
        assert_eq!(matrix.csv(&axes), "layer,expert 0,expert 1\n0,0.5,NaN\n1,1.0,2.0\n");
        assert_eq!(matrix.json(), json!([[0.5, "NaN"], [1.0, 2.0]]));
    }
}
