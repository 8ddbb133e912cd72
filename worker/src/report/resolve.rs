//! The resolved view of a run: every step exactly once.

use super::frame::payload;
use super::reader::{Cursor, Damage, Line, Lines, attempt_path};
use crate::error::Result;
use fathom_spec::record::{Body, EventKind, Record};
use std::path::{Path, PathBuf};

/// A stretch of records by one process: it ends where another attempt begins.
#[derive(Clone, Copy, Debug)]
struct Epoch {
    begin: Cursor,
    /// Last step whose metrics are not superseded by a later epoch.
    last: u64,
}

/// Streams the metrics and events of a run without the steps that a later attempt made anew. It covers what the spool held when it was
/// opened; a writer may go on meanwhile.
#[derive(Debug)]
pub struct Resolved {
    directory: PathBuf,
    lines: Lines,
    end: Cursor,
    epochs: Vec<Epoch>,
    /// Index of the epoch that the next line belongs to, or before it.
    epoch: usize,
    progress: Option<Record>,
    damages: Vec<Damage>,
    ghosts: u64,
}

impl Resolved {
    /// Reads the whole spool once to find where attempts begin. A directory that does not exist is an empty run.
    ///
    /// # Errors
    /// [`crate::error::Error::Io`] naming the file.
    pub fn open(directory: &Path) -> Result<Self> {
        let Scan { starts, progress, end } = scan(directory)?;
        let mut last = u64::MAX;
        let mut epochs: Vec<Epoch> = Vec::with_capacity(starts.len());
        for (begin, step) in starts.into_iter().rev() {
            epochs.push(Epoch { begin, last });
            last = last.min(step.unwrap_or(u64::MAX));
        }
        epochs.reverse();
        let lines = Lines::new(directory, Cursor::default());
        Ok(Self {
            directory: directory.to_path_buf(),
            lines,
            end,
            epochs,
            epoch: 0,
            progress,
            damages: Vec::new(),
            ghosts: 0,
        })
    }

    /// The newest progress record. The iterator leaves progress out.
    #[must_use]
    pub const fn progress(&self) -> Option<&Record> {
        self.progress.as_ref()
    }

    /// Lines that were not records, so far.
    #[must_use]
    pub fn damages(&self) -> &[Damage] {
        &self.damages
    }

    /// Metric batches that were left out because a later attempt superseded them, so far.
    #[must_use]
    pub const fn ghosts(&self) -> u64 {
        self.ghosts
    }

    fn advance(&mut self) -> Result<Option<Record>> {
        while self.lines.cursor() < self.end {
            match self.lines.next_line()? {
                Line::None => break,
                Line::Damaged(damage) => self.damages.push(damage),
                Line::Whole { attempt, offset } => {
                    let record = match super::frame::decode(self.lines.line()) {
                        Ok(record) => record,
                        Err(problem) => {
                            self.damages.push(Damage {
                                path: attempt_path(&self.directory, attempt),
                                offset,
                                problem,
                            });
                            continue;
                        }
                    };
                    match &record.body {
                        Body::Progress(_) => {}
                        Body::Metrics(batch) if batch.step > self.last_step_at(Cursor { attempt, offset }) => self.ghosts += 1,
                        Body::Metrics(_) | Body::Event(_) => return Ok(Some(record)),
                    }
                }
            }
        }
        Ok(None)
    }

    fn last_step_at(&mut self, place: Cursor) -> u64 {
        while self.epochs.get(self.epoch + 1).is_some_and(|next| next.begin <= place) {
            self.epoch += 1;
        }
        self.epochs.get(self.epoch).map_or(u64::MAX, |epoch| epoch.last)
    }
}

impl Iterator for Resolved {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance().transpose()
    }
}

/// The metrics and events of a run, every step exactly once, in the order in which they were written. [`Resolved`] does the same in
/// constant memory.
///
/// # Errors
/// [`crate::error::Error::Io`] naming the file.
pub fn resolve(directory: &Path) -> Result<Vec<Record>> {
    Resolved::open(directory)?.collect()
}

struct Scan {
    /// Where each epoch begins, and the step it resumed after, if that can be known.
    starts: Vec<(Cursor, Option<u64>)>,
    progress: Option<Record>,
    end: Cursor,
}

/// One pass over the spool that parses only the lines that can matter.
fn scan(directory: &Path) -> Result<Scan> {
    let mut lines = Lines::new(directory, Cursor::default());
    let mut scan = Scan {
        starts: Vec::new(),
        progress: None,
        end: Cursor::default(),
    };
    let mut newest_progress = Vec::new();
    loop {
        let Line::Whole { attempt, offset } = (match lines.next_line()? {
            Line::None => break,
            Line::Damaged(_) => continue,
            whole @ Line::Whole { .. } => whole,
        }) else {
            continue;
        };
        let place = Cursor { attempt, offset };
        let Ok(json) = payload(lines.line()) else { continue };
        let new_file = scan.starts.last().is_none_or(|(begin, _)| begin.attempt != attempt);
        if new_file {
            scan.starts.push((Cursor { attempt, offset: 0 }, None));
        }
        let unknown = scan.starts.last().is_some_and(|(_, step)| step.is_none());
        match body_of(json) {
            body if body.starts_with(b"\"progress\":") => {
                newest_progress.clear();
                newest_progress.extend_from_slice(json);
                continue;
            }
            body if body.starts_with(b"\"metrics\":") && !unknown => continue,
            _ => {}
        }
        match serde_json::from_slice(json).map(|record: Record| record.body) {
            Ok(Body::Event(event)) if event.kind == EventKind::AttemptStarted => {
                if !unknown {
                    scan.starts.push((place, None));
                }
                scan.set_step(event.step.unwrap_or(0));
            }
            // The attempt's first record is damaged: its first batch tells the same.
            Ok(Body::Metrics(batch)) if unknown => scan.set_step(batch.step.saturating_sub(1)),
            _ => {}
        }
    }
    scan.end = lines.cursor();
    scan.progress = serde_json::from_slice(&newest_progress)
        .ok()
        .filter(|record: &Record| matches!(record.body, Body::Progress(_)));
    Ok(scan)
}

impl Scan {
    fn set_step(&mut self, step: u64) {
        if let Some((_, known)) = self.starts.last_mut() {
            *known = Some(step);
        }
    }
}

/// The JSON of a record from the kind of its body on, found without parsing (quotes inside JSON strings are escaped, so the key is the
/// key).
fn body_of(json: &[u8]) -> &[u8] {
    const KEY: &[u8] = b"\"body\":{";
    json.windows(KEY.len())
        .position(|window| window == KEY)
        .map_or(&[], |position| &json[position + KEY.len()..])
}
