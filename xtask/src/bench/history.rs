//! `cargo xtask bench history`: the history over REST in both databases, its cost in the trainer, and `MLflow` and Trackio beside it.

use super::positive;
use crate::database::{self, Durability, Server};
use crate::error::Error;
use crate::foreign;
use crate::process::{self, Context};
use std::path::Path;

/// Pairs of runs that the cost in the trainer is measured with.
const PAIRS: u32 = 2;
/// Tokens of such a run: about a minute.
const TOKENS: u32 = 80 * 1024;
/// Steps at the start of a run that are not counted: memory is touched for the first time.
const WARM_UP: usize = 5;

/// What to measure.
#[derive(Debug, PartialEq)]
struct Options {
    seconds: String,
    trainer: bool,
    compare: bool,
}

pub(super) fn run(context: &Context, arguments: &[String]) -> Result<(), Error> {
    let options = parse(arguments)?;
    process::run(&mut context.cargo(&["build", "--release", "--locked", "-p", "fathom"]))?;
    let bench = || {
        let mut command = context.command(context.fathom("release"), &["bench", "history", "--seconds", &options.seconds]);
        command.env_remove("DATABASE_URL");
        command
    };
    process::run(&mut bench())?;
    match database::missing() {
        Some(cure) => println!("server database: not measured: {cure}"),
        None => {
            let server = Server::start(context, Durability::Full)?;
            process::run(bench().env("DATABASE_URL", server.url()))?;
        }
    }
    if options.trainer {
        trainer(context)?;
    }
    if options.compare {
        let folder = context.root.join("xtask/bench/trackers");
        let python = foreign::environment(context, "trackers", &folder.join("requirements.txt"))?;
        let script = folder.join("measure.py");
        process::run(context.command(python, &[]).arg(script).args(["--seconds", &options.seconds]))?;
    }
    Ok(())
}

fn parse(arguments: &[String]) -> Result<Options, Error> {
    let mut options = Options {
        seconds: "10".into(),
        trainer: false,
        compare: false,
    };
    let mut words = arguments.iter().map(String::as_str);
    while let Some(name) = words.next() {
        match name {
            "--seconds" => {
                let value = words.next().ok_or_else(|| Error::Usage(format!("{name} needs a value")))?;
                options.seconds = positive(name, value)?.to_string();
            }
            "--trainer" => options.trainer = true,
            "--compare" => options.compare = true,
            other => return Err(Error::Usage(format!("unknown option `{other}` of bench history"))),
        }
    }
    Ok(options)
}

/// Step times of the quickstart's model without and with a server beside it, in turns, so that a slow minute of the machine meets both.
fn trainer(context: &Context) -> Result<(), Error> {
    let directory = std::env::temp_dir().join(format!("fathom-bench-trainer-{}", std::process::id()));
    let measured = (|| {
        std::fs::create_dir_all(&directory).map_err(|source| Error::File {
            path: directory.clone(),
            source,
        })?;
        let mut times = [Vec::new(), Vec::new()];
        for turn in 0..2 * PAIRS {
            let with_server = turn % 2 == 1;
            times[usize::from(with_server)].extend(steps(context, &directory, turn, with_server)?);
        }
        Ok(times)
    })();
    // It is temporary, whatever has happened.
    let _ = std::fs::remove_dir_all(&directory);
    let [without, with] = measured?.map(median);
    println!(
        "{{\"bench\":\"trainer\",\"runs\":{},\"step_ms_without_server\":{:.2},\"step_ms_with_server\":{:.2},\"cost\":{:.4}}}",
        2 * PAIRS,
        without * 1e3,
        with * 1e3,
        with / without - 1.0
    );
    Ok(())
}

/// Trains once and returns the seconds of its steps. Each run has another number of tokens: the same would be found in the cache.
fn steps(context: &Context, directory: &Path, turn: u32, with_server: bool) -> Result<Vec<f64>, Error> {
    let file = |path: &Path| {
        let path = path.to_path_buf();
        move |source| Error::File { path, source }
    };
    let example = context.root.join("examples/quickstart.yaml");
    let text = std::fs::read_to_string(&example).map_err(file(&example))?;
    let manifest = directory.join("job.yaml");
    let tokens = TOKENS + turn * 1024;
    let shortened = text.replace("tokens: 800k", &format!("tokens: {tokens}"));
    std::fs::write(&manifest, shortened).map_err(file(&manifest))?;
    let fathom = |arguments: &[&str]| {
        let mut command = context.command(context.fathom("release"), arguments);
        command.current_dir(directory).env_remove("DATABASE_URL");
        command
    };
    let mut training = fathom(&["run", "job.yaml"]);
    if !with_server {
        training.arg("--no-ui");
    }
    process::run(training.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()))?;
    let mut reading = fathom(&["metrics", "get", "step_seconds", "--phase", "pretrain", "--output", "json"]);
    let text = process::output(&mut reading)?;
    let points: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let times: Vec<f64> = points
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|point| point["value"].as_f64())
        .collect();
    if times.len() <= WARM_UP {
        return Err(Error::Output {
            command: process::display(&reading),
            problem: format!("has {} steps, which is too few", times.len()),
        });
    }
    Ok(times[WARM_UP..].to_vec())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read() {
        let parsed = |line: &str| parse(&line.split_whitespace().map(String::from).collect::<Vec<_>>());
        let options = parsed("--seconds 3 --trainer").unwrap();
        assert_eq!((options.seconds.as_str(), options.trainer, options.compare), ("3", true, false));
        for line in ["--seconds", "--seconds 0", "--fast"] {
            assert!(matches!(parsed(line), Err(Error::Usage(_))), "{line}");
        }
    }

    #[test]
    fn the_middle_is_the_median() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
    }

    /// What [`steps`] replaces.
    #[test]
    fn the_quickstart_has_the_tokens_that_are_replaced() {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/quickstart.yaml");
        assert_eq!(std::fs::read_to_string(example).unwrap().matches("tokens: 800k").count(), 1);
    }
}
