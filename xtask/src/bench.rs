//! `cargo xtask bench`: the release binary measured, and others beside it in the same run.

mod history;
mod proxy;

use crate::error::Error;
use crate::foreign;
use crate::process::{self, Context};
use serde_json::Value;
use std::process::Command;

const HELP: &str = "\
Measure the release binary; one JSON line per figure goes to standard output.

Usage: cargo xtask bench train [OPTIONS]
       cargo xtask bench operations
       cargo xtask bench proxy [OPTIONS]
       cargo xtask bench history [OPTIONS]

train: training speed on random tokens: forward, backward, clip, AdamW, bias update
  --config FILE         config.json of the model (default: xtask/bench/nano-bench.config.json)
  --sequence-length N   Tokens per sequence (default: 256)
  --batch N             Sequences per step (default: 8)
  --steps N             Measured steps (default: 20)
  --precision P         f32, bf16 or fp8 (default: each in turn)
  --compare             Also run transformers + torch, installed once under $FATHOM_CACHE/venv/bench (several GB), and print
                        the ratio of the fastest of each

proxy: the manifest xtask/bench/proxy.yaml trained in several ways; the smoothed losses of each beside the first, and the experts'
load on each source
  --tokens N            Tokens of each run (default: 20M)
  --variants A,B,...    Of bf16, twin, fp8, no-mtp, sequence and batch (default: bf16,fp8)
  --dir DIR             Where the jobs are; finished ones are not run again (default: target/proxy)
  --picture FILE        Draw the curves, as SVG
  --load-picture FILE   Draw the load of every expert of the first and the last MoE layer on each source, as SVG

operations: time, GFLOP/s, GB/s and share of the measured peak of each operation and product of a training step

history: ingest, reads and live readers over REST, in the embedded database and in a Postgres server of its own
  --seconds N           Seconds of ingest (default: 10)
  --trainer             Also run the quickstart, with its server halted and released in turns
  --compare             Also run MLflow and Trackio, installed once under $FATHOM_CACHE/venv/trackers
";

/// What to train.
#[derive(Debug, PartialEq)]
struct Options {
    config: String,
    sequence_length: u32,
    batch: u32,
    steps: u32,
    precisions: Vec<&'static str>,
    compare: bool,
}

/// Huge pages for torch too, as `cli/src/huge_pages.rs` has them: its steps are then about a tenth faster.
const TUNABLES: &str = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=1073741824";

const PRECISIONS: [&str; 3] = ["f32", "bf16", "fp8"];

/// Runs the benchmark that the arguments name.
pub fn run(context: &Context, arguments: &[String]) -> Result<(), Error> {
    if arguments.iter().any(|argument| matches!(argument.as_str(), "-h" | "--help")) {
        print!("{HELP}");
        return Ok(());
    }
    match arguments.split_first() {
        Some((what, rest)) if what == "train" => train(context, rest),
        Some((what, rest)) if what == "operations" => operations(context, rest),
        Some((what, rest)) if what == "proxy" => proxy::run(context, rest),
        Some((what, rest)) if what == "history" => history::run(context, rest),
        Some((other, _)) => Err(Error::Usage(format!(
            "unknown benchmark `{other}`; expected train, operations, proxy or history"
        ))),
        None => Err(Error::Usage(
            "which benchmark? expected `cargo xtask bench train`, `operations`, `proxy` or `history`".into(),
        )),
    }
}

fn train(context: &Context, arguments: &[String]) -> Result<(), Error> {
    let options = parse(arguments)?;
    let numbers = [options.sequence_length, options.batch, options.steps].map(|number| number.to_string());
    let [sequence_length, batch, steps] = numbers.each_ref().map(String::as_str);
    let common = [
        "--config",
        &options.config,
        "--sequence-length",
        sequence_length,
        "--batch",
        batch,
        "--steps",
        steps,
    ];
    build(context)?;
    let mut ours = 0.0_f64;
    for precision in &options.precisions {
        let mut command = context.command(context.fathom("release"), &["bench", "train", "--precision", precision]);
        ours = ours.max(tokens_per_second(command.args(common))?);
    }
    if options.compare {
        let python = foreign::environment(context, "bench", &context.root.join("xtask/bench/requirements.txt"))?;
        let mut command = context.command(python, &["xtask/bench/hf_train.py"]);
        let theirs = tokens_per_second(command.args(common).env("GLIBC_TUNABLES", TUNABLES))?;
        println!(
            "{}",
            serde_json::json!({ "fathom": ours, "transformers": theirs, "ratio": ours / theirs })
        );
    }
    Ok(())
}

fn build(context: &Context) -> Result<(), Error> {
    process::run(&mut context.cargo(&["build", "--release", "--locked", "-p", "fathom"]))
}

/// Runs a benchmark of training, prints its line and returns the speed it names.
fn tokens_per_second(command: &mut Command) -> Result<f64, Error> {
    let output = process::output(command)?;
    print!("{output}");
    let line: Option<Value> = output.lines().last().and_then(|line| serde_json::from_str(line).ok());
    line.and_then(|line| line["tokens_per_second"].as_f64())
        .ok_or_else(|| Error::Output {
            command: process::display(command),
            problem: "the last line names no tokens_per_second".into(),
        })
}

fn operations(context: &Context, arguments: &[String]) -> Result<(), Error> {
    if let Some(argument) = arguments.first() {
        return Err(Error::Usage(format!("`bench operations` takes no argument `{argument}`")));
    }
    build(context)?;
    for what in ["ops", "gemm"] {
        process::run(&mut context.command(context.fathom("release"), &["bench", what]))?;
    }
    Ok(())
}

fn parse(arguments: &[String]) -> Result<Options, Error> {
    let mut words = arguments.iter().map(String::as_str);
    let mut options = Options {
        config: "xtask/bench/nano-bench.config.json".into(),
        sequence_length: 256,
        batch: 8,
        steps: 20,
        precisions: PRECISIONS.to_vec(),
        compare: false,
    };
    while let Some(name) = words.next() {
        let mut value = || words.next().ok_or_else(|| Error::Usage(format!("{name} needs a value")));
        match name {
            "--config" => options.config = value()?.into(),
            "--sequence-length" => options.sequence_length = positive(name, value()?)?,
            "--batch" => options.batch = positive(name, value()?)?,
            "--steps" => options.steps = positive(name, value()?)?,
            "--precision" => options.precisions = vec![precision(value()?)?],
            "--compare" => options.compare = true,
            other => return Err(Error::Usage(format!("unknown option `{other}` of bench train"))),
        }
    }
    Ok(options)
}

fn precision(text: &str) -> Result<&'static str, Error> {
    PRECISIONS
        .into_iter()
        .find(|&precision| precision == text)
        .ok_or_else(|| Error::Usage(format!("--precision expects one of {}, got `{text}`", PRECISIONS.join(", "))))
}

fn positive(name: &str, text: &str) -> Result<u32, Error> {
    text.parse()
        .ok()
        .filter(|&number| number > 0)
        .ok_or_else(|| Error::Usage(format!("{name} expects a positive whole number, got `{text}`")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Options, Error> {
        parse(&line.split_whitespace().map(String::from).collect::<Vec<_>>())
    }

    #[test]
    fn options_override_the_defaults() {
        let options = parsed("--steps 3 --compare --config c.json").unwrap();
        assert_eq!((options.steps, options.batch, options.compare), (3, 8, true));
        assert_eq!((options.config.as_str(), options.precisions), ("c.json", PRECISIONS.to_vec()));
        assert_eq!(parsed("--precision fp8").unwrap().precisions, ["fp8"]);
    }

    #[test]
    fn wrong_command_lines_are_refused() {
        for line in ["--steps", "--steps 0", "--steps -1", "--speed 3", "--precision fp4"] {
            assert!(matches!(parsed(line), Err(Error::Usage(_))), "{line}");
        }
    }
}
