//! Digests of the files that phases read: a part of their cache keys.

use super::display::PhaseDisplay;
use super::interrupts::Interrupts;
use super::supervise::Asked;
use crate::commands::worker_failure;
use crate::failure::{Exit, Failure, Result};
use fathom_spec::PhaseWork;
use fathom_spec::manifest::Input;
use fathom_worker::data::input;
use fathom_worker::error::Error;
use std::collections::BTreeMap;
use std::time::Duration;

const POLL: Duration = Duration::from_millis(20);

/// Fingerprints that were computed; phases often read the same files.
#[derive(Debug, Default)]
pub struct Fingerprints {
    known: BTreeMap<String, String>,
}

/// What a phase reads.
#[derive(Clone, Debug)]
enum Source {
    /// Text.
    Inputs(Vec<Input>),
    /// One file.
    File(String),
}

impl Fingerprints {
    /// The fingerprint of the files that a phase reads, `None` if the user asked to stop meanwhile.
    pub fn of(&mut self, work: &PhaseWork, interrupts: &mut Interrupts, mut line: PhaseDisplay) -> Result<Option<String>> {
        let source = source(work)?;
        let name = name(&source);
        if let Some(known) = self.known.get(&name) {
            return Ok(Some(known.clone()));
        }
        line.state("reading the input");
        // Hashing cannot be interrupted, and nothing is lost when it is left alone: the process ends soon after.
        let hashing = std::thread::spawn(move || compute(&source));
        while !hashing.is_finished() {
            if interrupts.poll().is_some_and(|asked| asked != Asked::Continue) {
                line.finish();
                return Ok(None);
            }
            std::thread::sleep(POLL);
        }
        line.finish();
        let fingerprint = hashing
            .join()
            .map_err(|_| Failure::new(Exit::Failed, "reading the input panicked").help("report this as a bug"))?
            .map_err(|error| worker_failure(&error))?;
        self.known.insert(name, fingerprint.clone());
        Ok(Some(fingerprint))
    }

    /// [`Fingerprints::of`] without a terminal.
    pub fn compute(&mut self, work: &PhaseWork) -> Result<String, String> {
        let source = source(work).map_err(|_| "it reads files that this version cannot hash".to_owned())?;
        let name = name(&source);
        if let Some(known) = self.known.get(&name) {
            return Ok(known.clone());
        }
        let fingerprint = compute(&source).map_err(|error| error.to_string())?;
        self.known.insert(name, fingerprint.clone());
        Ok(fingerprint)
    }
}

fn source(work: &PhaseWork) -> Result<Source> {
    match work {
        PhaseWork::Tokenizer(tokenizer) => Ok(match &tokenizer.file {
            Some(file) => Source::File(file.clone()),
            None => Source::Inputs(tokenizer.input.clone()),
        }),
        PhaseWork::Corpus(corpus) => Ok(Source::Inputs(corpus.input.clone())),
        PhaseWork::Pretrain(_)
        | PhaseWork::Extend(_)
        | PhaseWork::Sft(_)
        | PhaseWork::Grpo(_)
        | PhaseWork::Evaluate(_)
        | PhaseWork::Serve(_) => Err(Failure::new(
            Exit::Failed,
            format!("{} reads no files in this version", work.kind()),
        )),
    }
}

/// What identifies a source within a process.
fn name(source: &Source) -> String {
    format!("{source:?}")
}

fn compute(source: &Source) -> Result<String, Error> {
    match source {
        Source::Inputs(inputs) => input::fingerprint(inputs),
        Source::File(file) => {
            let path = input::expand_path(file)?;
            let reader = std::fs::File::open(&path).map_err(Error::io("open", &path))?;
            let mut hasher = blake3::Hasher::new();
            hasher.update_reader(reader).map_err(Error::io("read", &path))?;
            Ok(hasher.finalize().to_hex().to_string())
        }
    }
}
