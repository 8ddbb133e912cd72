//! `fathom generate`: continues a text with a trained model.

use super::worker_failure;
use crate::args::Context;
use crate::failure::{Exit, Failure, Result};
use crate::output;
use crate::runner::models;
use fathom_kernels::Cpu;
use fathom_worker::config;
use fathom_worker::data::encode::Encoder;
use fathom_worker::generate::{Generator, Sampling};
use fathom_worker::train::checkpoint::load_model;

/// Tokens that the model looks back on, unless it was made for fewer.
const WINDOW: u32 = 256;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A job, or a directory with config.json, model.safetensors and tokenizer.json; the only job by default
    #[arg(long, value_name = "JOB|DIR")]
    model: Option<String>,
    /// Text to continue
    #[arg(long, value_name = "TEXT")]
    prompt: String,
    /// Tokens to add at most
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    max_tokens: u32,
    /// Divisor of the logits: 0 always takes the most likely token
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    temperature: f64,
    /// Choose among this many most likely tokens only; 0 means all
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,
    /// Seed of the choices
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    seed: u64,
    /// Threads; 0 means one per core
    #[arg(long, default_value_t = 0, value_name = "N")]
    threads: usize,
}

/// Runs the command.
pub fn run(args: &Args, context: &Context) -> Result {
    if !(args.temperature >= 0.0 && args.temperature.is_finite()) {
        return Err(Failure::new(
            Exit::Usage,
            format!("--temperature {} is not a number from 0 up", args.temperature),
        ));
    }
    let directory = models::find(&context.directory, args.model.as_deref())?;
    let architecture = config::read(&directory).map_err(|error| worker_failure(&error))?;
    let window = architecture
        .max_position_embeddings
        .min(WINDOW)
        .max(architecture.num_nextn_predict_layers + 1) as usize;
    let mut encoder = Encoder::open(&directory).map_err(|error| worker_failure(&error))?;
    let vocabulary = encoder.vocabulary().clone();
    // A document begins with this token in training.
    let mut prompt = vec![vocabulary.begin()];
    encoder.encode(&args.prompt, &mut prompt).map_err(|error| worker_failure(&error))?;
    let model = load_model(Cpu::new(args.threads), &directory, window).map_err(|error| worker_failure(&error))?;
    let sampling = Sampling {
        temperature: args.temperature,
        top_k: args.top_k,
        seed: args.seed,
    };
    let continuation = Generator::new(&model, window).generate(&prompt, args.max_tokens as usize, &[vocabulary.end()], sampling);
    output::stdout(&format!("{}{}", args.prompt, vocabulary.decode(&continuation)))
}
