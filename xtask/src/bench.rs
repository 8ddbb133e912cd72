//! `cargo xtask bench`: the release binary measured, and others beside it in the same run.

mod history;

use crate::error::Error;
use crate::foreign;
use crate::process::{self, Context};

const HELP: &str = "\
Measure the release binary; one JSON line per figure goes to standard output.

Usage: cargo xtask bench train [OPTIONS]
       cargo xtask bench history [OPTIONS]

train: training speed on random tokens: forward, backward, clip, AdamW, bias update
  --config FILE         config.json of the model (default: xtask/bench/nano-bench.config.json)
  --sequence-length N   Tokens per sequence (default: 256)
  --batch N             Sequences per step (default: 8)
  --steps N             Measured steps (default: 20)
  --compare             Also run transformers + torch, installed once under $FATHOM_CACHE/venv/bench (several GB)

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
    compare: bool,
}

/// Runs the benchmark that the arguments name.
pub fn run(context: &Context, arguments: &[String]) -> Result<(), Error> {
    if arguments.iter().any(|argument| matches!(argument.as_str(), "-h" | "--help")) {
        print!("{HELP}");
        return Ok(());
    }
    match arguments.split_first() {
        Some((what, rest)) if what == "train" => train(context, rest),
        Some((what, rest)) if what == "history" => history::run(context, rest),
        Some((other, _)) => Err(Error::Usage(format!("unknown benchmark `{other}`; expected train or history"))),
        None => Err(Error::Usage(
            "which benchmark? expected `cargo xtask bench train` or `history`".into(),
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
    process::run(&mut context.cargo(&["build", "--release", "--locked", "-p", "fathom"]))?;
    process::run(context.command(context.fathom("release"), &["bench", "train"]).args(common))?;
    if options.compare {
        let python = foreign::environment(context, "bench", &context.root.join("xtask/bench/requirements.txt"))?;
        process::run(context.command(python, &["xtask/bench/hf_train.py"]).args(common))?;
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
        compare: false,
    };
    while let Some(name) = words.next() {
        let mut value = || words.next().ok_or_else(|| Error::Usage(format!("{name} needs a value")));
        match name {
            "--config" => options.config = value()?.into(),
            "--sequence-length" => options.sequence_length = positive(name, value()?)?,
            "--batch" => options.batch = positive(name, value()?)?,
            "--steps" => options.steps = positive(name, value()?)?,
            "--compare" => options.compare = true,
            other => return Err(Error::Usage(format!("unknown option `{other}` of bench train"))),
        }
    }
    Ok(options)
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
        assert_eq!(options.config, "c.json");
    }

    #[test]
    fn wrong_command_lines_are_refused() {
        for line in ["--steps", "--steps 0", "--steps -1", "--speed 3"] {
            assert!(matches!(parsed(line), Err(Error::Usage(_))), "{line}");
        }
    }
}
