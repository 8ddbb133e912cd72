//! `fathom ckpt`: the checkpoints of a job.

use super::worker_failure;
use crate::args::Context;
use crate::failure::{Exit, Failure, Result};
use crate::output::{self, Align, OutputArgs, Table};
use crate::runner::models::{self, JobCheckpoint};
use fathom_worker::artifact::{self, Depth};
use fathom_worker::checkpoint::store;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: CkptCommand,
}

/// What to do with checkpoints.
#[derive(Debug, clap::Subcommand)]
enum CkptCommand {
    /// List the checkpoints of a job, the newest last
    Ls {
        /// The job; the only one by default
        job: Option<String>,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Read every byte of a checkpoint, or of all of a job, and compare with the digests
    Verify {
        /// A job or the directory of a checkpoint; the only job by default
        #[arg(value_name = "JOB|DIR")]
        target: Option<String>,
    },
    /// Copy a model in the Hugging Face layout (config.json, safetensors, tokenizer), without the trainer's state
    Export {
        /// A job (its newest checkpoint) or the directory of a checkpoint; the only job by default
        #[arg(value_name = "JOB|DIR")]
        target: Option<String>,
        /// Directory to make
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
    },
}

/// A line of `ckpt ls`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    phase: String,
    step: Option<u64>,
    bytes: u64,
    finished: bool,
    path: PathBuf,
}

/// Runs the command.
pub fn run(args: &Args, context: &Context) -> Result {
    match &args.command {
        CkptCommand::Ls { job, output } => list(job.as_deref(), *output, context),
        CkptCommand::Verify { target } => verify(target.as_deref(), context),
        CkptCommand::Export { target, to } => export(&models::find(&context.directory, target.as_deref())?, to),
    }
}

fn list(job: Option<&str>, output: OutputArgs, context: &Context) -> Result {
    let job = context.directory.choose_job(job)?;
    let lines = models::checkpoints(&context.directory, &job)?
        .into_iter()
        .map(line)
        .collect::<Result<Vec<_>>>()?;
    output::print(output.output, &lines, |lines| {
        let mut table = Table::new([
            ("PHASE", Align::Left),
            ("STEP", Align::Right),
            ("MIB", Align::Right),
            ("PATH", Align::Left),
        ]);
        for line in lines {
            let step = line.step.map_or("-".into(), |step| step.to_string());
            let mebibytes = format!("{:.1}", line.bytes as f64 / f64::from(1 << 20));
            table.row([line.phase.clone(), step, mebibytes, line.path.display().to_string()]);
        }
        table.to_string()
    })
}

fn line(JobCheckpoint { phase, step, path }: JobCheckpoint) -> Result<Line> {
    let finished = step.is_none();
    let (step, bytes) = if finished {
        let manifest = artifact::open(&path, Depth::Sizes).map_err(|damage| worker_failure(&damage.into_error("run the job again")))?;
        (manifest.step, manifest.files.values().map(|file| file.bytes).sum())
    } else {
        let checkpoint = store::read(&path).map_err(|damage| worker_failure(&damage.into_error("it is skipped at a resume")))?;
        (step, checkpoint.manifest.files.values().map(|file| file.bytes).sum())
    };
    Ok(Line {
        phase,
        step,
        bytes,
        finished,
        path,
    })
}

fn verify(target: Option<&str>, context: &Context) -> Result {
    let paths = match target.map(Path::new).filter(|path| path.is_dir()) {
        Some(path) => vec![path.to_path_buf()],
        None => {
            let job = context.directory.choose_job(target)?;
            models::checkpoints(&context.directory, &job)?
                .into_iter()
                .map(|checkpoint| checkpoint.path)
                .collect()
        }
    };
    if paths.is_empty() {
        return Err(Failure::new(Exit::NotFound, "there is no checkpoint to verify").help("see `fathom status`"));
    }
    let mut damaged = 0;
    for path in paths {
        let is_artifact = path.join(fathom_spec::artifact::ARTIFACT_MANIFEST).exists();
        let outcome = if is_artifact {
            artifact::open(&path, Depth::Digests).map(|_| ())
        } else {
            store::verify(&path).map(|_| ())
        };
        match outcome {
            Ok(()) => output::stdout(&format!("whole    {}", path.display()))?,
            Err(corruption) => {
                damaged += 1;
                output::stdout(&format!("damaged  {}: {corruption}", path.display()))?;
            }
        }
    }
    if damaged > 0 {
        return Err(Failure::new(Exit::Failed, format!("{damaged} damaged"))
            .help("a resume skips damaged checkpoints; delete them when you have looked"));
    }
    Ok(())
}

/// Copies what belongs to the Hugging Face layout.
fn export(from: &Path, to: &Path) -> Result {
    if to.exists() {
        return Err(Failure::new(Exit::Conflict, format!("{} exists", to.display())).help("name a directory that does not"));
    }
    let is_artifact = from.join(fathom_spec::artifact::ARTIFACT_MANIFEST).exists();
    let whole = if is_artifact {
        artifact::open(from, Depth::Digests).map(|_| ())
    } else {
        store::verify(from).map(|_| ())
    };
    whole.map_err(|damage| worker_failure(&damage.into_error("export another checkpoint: `fathom ckpt ls`")))?;
    // Made aside and renamed: an interrupted export leaves no half model under the name asked for.
    let aside = to.with_extension("incomplete");
    std::fs::create_dir_all(&aside).map_err(|error| Failure::io("create the directory", &aside, &error))?;
    for entry in std::fs::read_dir(from).map_err(|error| Failure::io("list", from, &error))? {
        let entry = entry.map_err(|error| Failure::io("list", from, &error))?;
        let name = entry.file_name();
        if name.to_str().is_some_and(belongs) {
            let target = aside.join(&name);
            std::fs::copy(entry.path(), &target).map_err(|error| Failure::io("write", &target, &error))?;
        }
    }
    std::fs::rename(&aside, to).map_err(|error| Failure::io("create", to, &error))?;
    output::stdout(&format!("{}", to.display()))
}

/// Whether a file belongs to a model in the Hugging Face layout.
fn belongs(name: &str) -> bool {
    name == "config.json" || name.starts_with("tokenizer") || (name.starts_with("model") && name.contains(".safetensors"))
}

#[cfg(test)]
mod tests {
    use super::belongs;

    #[test]
    fn the_trainers_state_is_not_exported() {
        for name in [
            "config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "model.safetensors",
            "model-00001-of-00002.safetensors",
        ] {
            assert!(belongs(name), "{name}");
        }
        assert!(belongs("model.safetensors.index.json"));
        for name in ["optimizer.safetensors", "manifest.json", "manifest.json.b3", "artifact.json"] {
            assert!(!belongs(name), "{name}");
        }
    }
}
