//! `cargo xtask bench proxy`: one model trained in several ways that differ in a line of the manifest, their losses, and their experts' load on each
//! source, compared and drawn.

mod loads;

use super::{build, positive};
use crate::error::Error;
use crate::process::{self, Context};
use loads::SourceLoad;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// The manifest that variants change.
const BASE: &str = "xtask/bench/proxy.yaml";
/// Steps of the moving average that smooths a loss.
const WINDOW: usize = 100;
/// Share of the steps at the start that are not compared: the loss falls so fast there that its smoothing lags.
const START: f64 = 0.05;

/// A way to train: its name, and what becomes of the base's lines.
struct Variant {
    name: &'static str,
    changes: &'static [(&'static str, &'static str)],
    /// Colour of its curve.
    colour: &'static str,
}

/// The first is what others are compared with. Its twin differs in the order of sums alone: how far the two come apart is chance.
const VARIANTS: [Variant; 6] = [
    Variant {
        name: "bf16",
        changes: &[],
        colour: "#1f77b4",
    },
    Variant {
        name: "twin",
        changes: &[("batch: ", "{sequences: 16, microBatch: 4}")],
        colour: "#999999",
    },
    Variant {
        name: "fp8",
        changes: &[("precision: ", "fp8")],
        colour: "#d62728",
    },
    Variant {
        name: "no-mtp",
        changes: &[("num_nextn_predict_layers: ", "0")],
        colour: "#2ca02c",
    },
    Variant {
        name: "sequence",
        changes: &[("method: ", "sequence")],
        colour: "#9467bd",
    },
    Variant {
        name: "batch",
        changes: &[("method: ", "batch")],
        colour: "#ff7f0e",
    },
];

/// What to run.
#[derive(Debug, PartialEq)]
struct Options {
    tokens: String,
    variants: Vec<String>,
    directory: PathBuf,
    picture: Option<PathBuf>,
    load_picture: Option<PathBuf>,
}

pub(super) fn run(context: &Context, arguments: &[String]) -> Result<(), Error> {
    let options = parse(arguments)?;
    build(context)?;
    let base = read(&context.root.join(BASE))?;
    let directory = context.root.join(&options.directory);
    fs::create_dir_all(&directory).map_err(file(&directory))?;
    let mut curves = Vec::new();
    for variant in VARIANTS
        .iter()
        .filter(|variant| options.variants.iter().any(|name| name == variant.name))
    {
        curves.push(train(context, &directory, variant, &manifest(&base, variant, &options.tokens)?)?);
    }
    for curve in &curves {
        println!("{}", figures(curve, &curves[0]));
    }
    if let Some(picture) = &options.picture {
        let path = context.root.join(picture);
        fs::write(&path, draw(&curves)).map_err(file(&path))?;
    }
    if let Some(picture) = &options.load_picture {
        let variants: Vec<_> = curves.iter().map(|curve| (curve.variant.name, curve.sources.as_slice())).collect();
        let path = context.root.join(picture);
        fs::write(&path, loads::draw(&variants)).map_err(file(&path))?;
    }
    Ok(())
}

fn parse(arguments: &[String]) -> Result<Options, Error> {
    let mut options = Options {
        tokens: "20M".into(),
        variants: vec!["bf16".into(), "fp8".into()],
        directory: "target/proxy".into(),
        picture: None,
        load_picture: None,
    };
    let mut words = arguments.iter().map(String::as_str);
    while let Some(name) = words.next() {
        let mut value = || words.next().ok_or_else(|| Error::Usage(format!("{name} needs a value")));
        match name {
            "--tokens" => {
                let tokens = value()?;
                positive(name, tokens.trim_end_matches(['k', 'M']))?;
                options.tokens = tokens.into();
            }
            "--variants" => options.variants = value()?.split(',').map(variant).collect::<Result<_, _>>()?,
            "--dir" => options.directory = value()?.into(),
            "--picture" => options.picture = Some(value()?.into()),
            "--load-picture" => options.load_picture = Some(value()?.into()),
            other => return Err(Error::Usage(format!("unknown option `{other}` of bench proxy"))),
        }
    }
    Ok(options)
}

fn variant(name: &str) -> Result<String, Error> {
    if VARIANTS.iter().any(|variant| variant.name == name) {
        return Ok(name.into());
    }
    let names: Vec<_> = VARIANTS.iter().map(|variant| variant.name).collect();
    Err(Error::Usage(format!("unknown variant `{name}`; expected {}", names.join(", "))))
}

/// The base with a variant's lines. Only lines marked `# [variant]` may change, and every change needs one.
fn manifest(base: &str, variant: &Variant, tokens: &str) -> Result<String, Error> {
    let name = format!("proxy-{}", variant.name);
    let mut changes: Vec<(&str, &str)> = vec![("name: proxy-", &name), ("tokens: ", tokens)];
    changes.extend(variant.changes);
    let mut unused = changes.len();
    let mut text = String::new();
    for line in base.lines() {
        let change = changes
            .iter()
            .find(|(key, _)| line.ends_with("# [variant]") && line.trim_start().starts_with(key));
        match change {
            Some((key, value)) => {
                unused -= 1;
                let indent = &line[..line.len() - line.trim_start().len()];
                let key = key.split_once(": ").map_or(*key, |(key, _)| key);
                text += &format!("{indent}{key}: {value}\n");
            }
            None => text += &format!("{line}\n"),
        }
    }
    if unused > 0 {
        return Err(Error::Missing(format!(
            "{BASE} lacks {unused} line(s) of the variant {}",
            variant.name
        )));
    }
    Ok(text)
}

/// The losses of a variant, by step.
struct Curve {
    variant: &'static Variant,
    tokens: Vec<f64>,
    smoothed: Vec<f64>,
    sources: Vec<SourceLoad>,
    /// What the run said at its end, and its last values.
    result: Value,
}

fn train(context: &Context, directory: &Path, variant: &'static Variant, manifest: &str) -> Result<Curve, Error> {
    let path = directory.join(format!("{}.yaml", variant.name));
    fs::write(&path, manifest).map_err(file(&path))?;
    let fathom = |arguments: &[&str]| {
        let mut command = context.command(context.fathom("release"), arguments);
        command.arg("--dir").arg(directory.join("fathom"));
        command
    };
    process::run(fathom(&["run", "--no-ui"]).arg(&path))?;
    let job = format!("proxy-{}", variant.name);
    let export = |more: &[&str]| process::output(fathom(&["metrics", "export", "--format", "csv", &job]).args(more));
    let table = export(&[])?;
    let table = Table::new(&table);
    let column = |name: &str| {
        table.column(name).ok_or_else(|| Error::Output {
            command: "fathom metrics export".into(),
            problem: format!("there is no column {name}"),
        })
    };
    let (tokens, losses) = (column("tokens")?, column("loss.main")?);
    Ok(Curve {
        variant,
        smoothed: smooth(&losses),
        tokens,
        sources: loads::read(&table, |matrix| export(&["--matrix", matrix]))?,
        result: json!({
            "validation_loss": table.last("validation.loss"),
            "max_violation_mean": table.column("moe.max_violation.mean").map(|values| tail_mean(&values)),
            "max_violation_worst": table.column("moe.max_violation.worst").map(|values| tail_mean(&values)),
        }),
    })
}

/// A table of numbers with a heading; what is no number is NaN.
struct Table<'a> {
    heading: Vec<&'a str>,
    rows: Vec<Vec<f64>>,
}

impl<'a> Table<'a> {
    fn new(text: &'a str) -> Self {
        let mut lines = text.lines();
        let heading = lines.next().unwrap_or_default().split(',').collect();
        let number = |cell: &str| cell.parse().unwrap_or(f64::NAN);
        let rows = lines.map(|line| line.split(',').map(number).collect()).collect();
        Self { heading, rows }
    }

    fn column(&self, name: &str) -> Option<Vec<f64>> {
        let index = self.heading.iter().position(|&heading| heading == name)?;
        Some(self.rows.iter().map(|row| row.get(index).copied().unwrap_or(f64::NAN)).collect())
    }

    /// The last finite number of a column.
    fn last(&self, name: &str) -> Option<f64> {
        self.column(name)?.into_iter().rev().find(|value| value.is_finite())
    }
}

/// The mean over the last [`WINDOW`] values, or as many as there are, up to each.
fn smooth(values: &[f64]) -> Vec<f64> {
    (1..=values.len())
        .map(|end| {
            let window = &values[end.saturating_sub(WINDOW)..end];
            window.iter().sum::<f64>() / window.len() as f64
        })
        .collect()
}

/// The mean of the last tenth.
fn tail_mean(values: &[f64]) -> f64 {
    let tail = &values[values.len() - values.len().div_ceil(10)..];
    tail.iter().sum::<f64>() / tail.len() as f64
}

/// Relative differences from the first curve, where both have a step.
fn differences(curve: &[f64], first: &[f64]) -> Vec<f64> {
    let pairs = curve.iter().zip(first);
    let skip = (curve.len() as f64 * START) as usize;
    pairs.skip(skip).map(|(loss, first)| loss / first - 1.0).collect()
}

fn figures(curve: &Curve, first: &Curve) -> Value {
    let differences = differences(&curve.smoothed, &first.smoothed);
    let largest = differences
        .iter()
        .fold(0.0_f64, |largest, difference| largest.max(difference.abs()));
    let mut figures = curve.result.clone();
    figures["variant"] = json!(curve.variant.name);
    figures["steps"] = json!(curve.smoothed.len());
    figures["smoothed_loss"] = json!(curve.smoothed.last());
    figures["largest_difference_percent"] = json!(100.0 * largest);
    figures["sources"] = loads::figures(&curve.sources);
    figures["last_difference_percent"] = json!(differences.last().map(|difference| 100.0 * difference));
    figures
}

/// The smoothed losses over tokens, and below them their relative differences from the first, as SVG.
fn draw(curves: &[Curve]) -> String {
    const WIDTH: f64 = 860.0;
    const LEFT: f64 = 70.0;
    let end = curves
        .iter()
        .filter_map(|curve| curve.tokens.last())
        .fold(1.0_f64, |end, &tokens| end.max(tokens));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} 640\" font-family=\"sans-serif\" font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        WIDTH + LEFT + 40.0
    );
    let skip = |curve: &Curve| (curve.smoothed.len() as f64 * START) as usize;
    let losses: Vec<Vec<(f64, f64)>> = curves
        .iter()
        .map(|curve| {
            let points = curve.tokens.iter().copied().zip(curve.smoothed.iter().copied());
            points.skip(skip(curve)).collect()
        })
        .collect();
    let relative: Vec<Vec<(f64, f64)>> = curves
        .iter()
        .map(|curve| {
            let tokens = curve.tokens.iter().copied().skip(skip(curve));
            let differences = differences(&curve.smoothed, &curves[0].smoothed);
            tokens.zip(differences.into_iter().map(|difference| 100.0 * difference)).collect()
        })
        .collect();
    for (title, top, height, series) in [
        (
            format!("training loss, mean of {WINDOW} steps, nats per token"),
            40.0,
            340.0,
            &losses,
        ),
        (format!("difference from {}, %", curves[0].variant.name), 430.0, 160.0, &relative),
    ] {
        let all = || series.iter().flatten().map(|&(_, value)| value).filter(|value| value.is_finite());
        let (low, high) = (all().fold(f64::INFINITY, f64::min), all().fold(f64::NEG_INFINITY, f64::max));
        let margin = ((high - low) * 0.05).max(1e-6);
        let (low, high) = (low - margin, high + margin);
        let x = |tokens: f64| LEFT + WIDTH * tokens / end;
        let y = |value: f64| top + height * (high - value) / (high - low);
        // Writing to a string does not fail.
        let _ = writeln!(svg, "<text x=\"{LEFT}\" y=\"{}\">{title}</text>", top - 10.0);
        for tick in 0..=4 {
            let value = low + (high - low) * f64::from(tick) / 4.0;
            let tokens = end * f64::from(tick) / 4.0;
            let (right, y, below) = (LEFT + WIDTH, y(value), top + height + 18.0);
            let _ = writeln!(
                svg,
                "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\" stroke=\"#ddd\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{value:.2}</text>",
                LEFT - 8.0,
                y + 4.0
            );
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{below}\" text-anchor=\"middle\">{:.1}M</text>",
                x(tokens),
                tokens / 1e6
            );
        }
        for (curve, points) in curves.iter().zip(series) {
            let every = points.len().div_ceil(800).max(1);
            let points: Vec<_> = points
                .iter()
                .step_by(every)
                .map(|&(tokens, value)| format!("{:.1},{:.1}", x(tokens), y(value)))
                .collect();
            let _ = writeln!(
                svg,
                "<polyline fill=\"none\" stroke=\"{}\" stroke-width=\"1.5\" points=\"{}\"/>",
                curve.variant.colour,
                points.join(" ")
            );
        }
    }
    for (index, curve) in curves.iter().enumerate() {
        let y = 70.0 + 20.0 * index as f64;
        let x = LEFT + WIDTH - 120.0;
        let _ = writeln!(
            svg,
            "<line x1=\"{x}\" y1=\"{y}\" x2=\"{}\" y2=\"{y}\" stroke=\"{}\" stroke-width=\"3\"/><text x=\"{}\" y=\"{}\">{}</text>",
            x + 25.0,
            curve.variant.colour,
            x + 32.0,
            y + 4.0,
            curve.variant.name
        );
    }
    svg + "</svg>\n"
}

fn read(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(file(path))
}

fn file(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error::File { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Options, Error> {
        parse(&line.split_whitespace().map(String::from).collect::<Vec<_>>())
    }

    #[test]
    fn command_lines() {
        let options = parsed("--tokens 300k --variants bf16,batch --picture docs/p.svg --load-picture l.svg").unwrap();
        assert_eq!((options.tokens.as_str(), options.variants.len()), ("300k", 2));
        assert_eq!(options.load_picture.as_deref(), Some(Path::new("l.svg")));
        for line in ["--tokens", "--tokens 0M", "--tokens many", "--variants fp4", "--colour red"] {
            assert!(matches!(parsed(line), Err(Error::Usage(_))), "{line}");
        }
    }

    /// A variant is the base but for its lines: that and nothing else is compared.
    #[test]
    fn variants_differ_in_their_lines() {
        let base = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/bench/proxy.yaml")).unwrap();
        for variant in &VARIANTS {
            let text = manifest(&base, variant, "5M").unwrap();
            let changed: Vec<_> = text
                .lines()
                .zip(base.lines())
                .filter(|(a, b)| a != b)
                .map(|(line, _)| line.trim())
                .collect();
            assert_eq!(changed.len(), 2 + variant.changes.len(), "{}: {changed:?}", variant.name);
            for (key, value) in variant.changes {
                assert!(changed.contains(&format!("{key}{value}").as_str()), "{}: {changed:?}", variant.name);
            }
        }
        assert!(manifest("nothing", &VARIANTS[1], "5M").is_err());
    }

    #[test]
    fn curves_are_smoothed_and_compared() {
        assert_eq!(smooth(&[4.0, 2.0, 3.0]), [4.0, 3.0, 3.0]);
        let ramp: Vec<f64> = (0..300).map(f64::from).collect();
        assert_eq!(smooth(&ramp)[299], 249.5);
        assert_eq!(tail_mean(&ramp), 284.5);
        let first = vec![2.0; 100];
        let higher = vec![2.01; 100];
        let differences = differences(&higher, &first);
        assert_eq!(differences.len(), 95);
        assert!(differences.iter().all(|difference| (difference - 0.005).abs() < 1e-12));
        let table = Table::new("step,tokens,loss.main\n1,10,2.5\n2,20,\n");
        assert_eq!(table.column("tokens").unwrap(), [10.0, 20.0]);
        assert!(table.column("loss.main").unwrap()[1].is_nan());
        assert!(table.column("absent").is_none());
    }
}
