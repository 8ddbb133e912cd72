//! Reading a manifest: the file, its problems, the validated job.

use crate::args::Context;
use crate::failure::{Exit, Failure, Result};
use crate::problems;
use crate::terminal::Verbosity;
use fathom_spec::{ValidatedJob, parse_manifest};
use std::io::Read;
use std::path::{Path, PathBuf};

/// The parser refuses manifests above 1 MiB; reading stops a little later, so that it is the one to say so.
const MAX_BYTES: u64 = 2 << 20;

/// The manifest argument of several commands.
#[derive(Debug, clap::Args)]
pub struct ManifestArg {
    /// The manifest; `-` reads standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// A manifest and the job that it declares.
#[derive(Debug)]
pub struct Loaded {
    /// The text.
    pub text: String,
    /// The job.
    pub job: ValidatedJob,
}

/// Reads and checks a manifest. All problems are shown on standard error.
///
/// # Errors
/// [`Exit::NotFound`] without the file, [`Exit::InvalidManifest`] if there are errors, which have then been shown.
pub fn load(file: &Path, context: &Context) -> Result<Loaded> {
    let text = read(file)?;
    let name = name(file);
    match parse_manifest(&text) {
        Ok(job) => {
            if !job.warnings.is_empty() && context.terminal.verbosity > Verbosity::Quiet {
                eprint!("{}", problems::render(&job.warnings, &name, &text, context.terminal.colour));
            }
            Ok(Loaded { text, job })
        }
        Err(problems) => {
            eprint!("{}", problems::render(&problems, &name, &text, context.terminal.colour));
            Err(Failure::shown(Exit::InvalidManifest))
        }
    }
}

/// The text of a manifest.
pub fn read(file: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    let read = if file == Path::new("-") {
        std::io::stdin().lock().take(MAX_BYTES).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(file).and_then(|opened| opened.take(MAX_BYTES).read_to_end(&mut bytes))
    };
    read.map_err(|error| {
        let failure = Failure::io("read the manifest", file, &error);
        match error.kind() {
            std::io::ErrorKind::NotFound => failure.help(format!("write one with `fathom init {}`", file.display())),
            _ => failure,
        }
    })?;
    String::from_utf8(bytes).map_err(|error| {
        Failure::new(Exit::InvalidManifest, format!("{} is not UTF-8 text", name(file)))
            .cause(format!("byte {} is not part of a character", error.utf8_error().valid_up_to()))
            .help("save the manifest as UTF-8")
    })
}

/// The file's name in messages.
pub fn name(file: &Path) -> String {
    if file == Path::new("-") {
        "standard input".into()
    } else {
        file.display().to_string()
    }
}
