//! `fathom ckpt`: the checkpoints of a job, and models from and to the Hugging Face layout.

use super::worker_failure;
use crate::args::Context;
use crate::failure::{Exit, Failure, Result};
use crate::output::{self, Align, OutputArgs, Table};
use crate::runner::models::{self, JobCheckpoint};
use fathom_spec::artifact::ARTIFACT_MANIFEST;
use fathom_spec::quantity::Bytes;
use fathom_worker::artifact::{self, Depth};
use fathom_worker::checkpoint::{Corruption, store};
use fathom_worker::hf::{self, Format, Imported};
use fathom_worker::train::checkpoint::EMA;
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
    /// Write a model in the Hugging Face layout (config.json, safetensors, tokenizer), without the trainer's state
    ///
    /// Names and types are those of the released DeepSeek-V3. An MTP module is layer `num_hidden_layers`, with its copies of the embedding
    /// and the head.
    Export {
        /// A job (its newest checkpoint) or the directory of a checkpoint; the only job by default
        #[arg(value_name = "JOB|DIR")]
        target: Option<String>,
        /// Directory to make
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
        /// Type of the weights
        #[arg(long, value_enum, default_value_t = FormatArg::F32)]
        format: FormatArg,
        /// Size above which the weights are split into several files: 5GB, 500MiB
        #[arg(long, value_name = "SIZE", default_value = "5GB")]
        max_shard_size: Bytes,
        /// The moving average of the parameters (`pretrain.ema`) instead of the parameters
        #[arg(long)]
        ema: bool,
    },
    /// Make a checkpoint of a DeepSeek-V3 model in the Hugging Face layout, for `generate` and `ckpt export`
    ///
    /// Reads FP32, BF16, FP16 and FP8 (E4M3 with `weight_scale_inv` in blocks of 128 x 128), in one file or several, and both spellings of
    /// config.json. An MTP module may be left out; copies of the embedding and the head in it must be equal to the main model's.
    Import {
        /// Directory with config.json and model.safetensors or its index
        #[arg(value_name = "DIR")]
        from: PathBuf,
        /// Directory to make
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
    },
}

/// `--format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum FormatArg {
    /// 32-bit floating point, as trained.
    F32,
    /// BF16; routing biases stay in FP32.
    Bf16,
    /// E4M3 for attention, feed-forward networks and experts, BF16 elsewhere.
    Fp8,
}

impl From<FormatArg> for Format {
    fn from(argument: FormatArg) -> Self {
        match argument {
            FormatArg::F32 => Self::F32,
            FormatArg::Bf16 => Self::Bf16,
            FormatArg::Fp8 => Self::Fp8,
        }
    }
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
        CkptCommand::Export {
            target,
            to,
            format,
            max_shard_size,
            ema,
        } => {
            let from = models::find(&context.directory, target.as_deref())?;
            export(&from, *ema, to, (*format).into(), max_shard_size.0)
        }
        CkptCommand::Import { from, to } => import(from, to, context),
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
        match verify_one(&path) {
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

/// Reads every byte of an artifact or a checkpoint.
fn verify_one(path: &Path) -> Result<(), Corruption> {
    if path.join(ARTIFACT_MANIFEST).exists() {
        artifact::open(path, Depth::Digests).map(|_| ())
    } else {
        store::verify(path).map(|_| ())
    }
}

fn export(from: &Path, ema: bool, to: &Path, format: Format, shard_bytes: u64) -> Result {
    refuse_existing(to)?;
    let model = if ema { from.join(EMA) } else { from.to_path_buf() };
    if !model.is_dir() {
        let problem = format!("{} has no moving average of its parameters", from.display());
        return Err(Failure::new(Exit::NotFound, problem).help("a phase keeps one if its manifest says so: `pretrain: {ema: {}}`"));
    }
    verify_one(from).map_err(|damage| {
        worker_failure(
            &damage.into_error("export another checkpoint (`fathom ckpt ls`); `fathom ckpt import` takes a model of another origin"),
        )
    })?;
    hf::export(&model, to, format, shard_bytes).map_err(|error| worker_failure(&error))?;
    output::stdout(&format!("{}", to.display()))
}

fn import(from: &Path, to: &Path, context: &Context) -> Result {
    refuse_existing(to)?;
    let Imported { parameters, missing_mtp } = hf::import(from, to).map_err(|error| worker_failure(&error))?;
    let terminal = &context.terminal;
    terminal.note(&format!("Imported {} parameters.", output::grouped(parameters as u64)));
    if missing_mtp > 0 {
        terminal.note(&format!(
            "MTP modules that config.json names but that have no weights, left out: {missing_mtp}."
        ));
    }
    output::stdout(&format!("{}", to.display()))
}

fn refuse_existing(to: &Path) -> Result {
    if to.exists() {
        return Err(Failure::new(Exit::Conflict, format!("{} exists", to.display())).help("name a directory that does not"));
    }
    Ok(())
}
