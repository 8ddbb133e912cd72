//! The writer of one attempt's file. Used by the reporter's thread only.

use super::frame::{MAX_FRAME_BYTES, encode};
use super::reader::{Entry, SpoolReader, attempt_path, attempts};
use crate::checkpoint::durable;
use crate::error::{Error, Result};
use fathom_spec::record::{Body, EventKind, Record};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// What the writer needs of a file; tests put a failing one in its place.
pub(super) trait Medium: Send {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    fn sync(&mut self) -> io::Result<()>;
    fn truncate(&mut self, length: u64) -> io::Result<()>;
}

impl Medium for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }
}

/// What became of a record that was pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    /// It will be written.
    Kept,
    /// There is no space left for its kind, or it is larger than a line may be.
    Dropped,
}

/// Numbers records and appends them to a file in whole lines.
pub(super) struct SpoolWriter {
    path: PathBuf,
    medium: Box<dyn Medium>,
    writer: String,
    next_sequence: u64,
    /// Bytes of whole lines in the file.
    written: u64,
    /// Bytes of the run's other attempts.
    others: u64,
    limit: u64,
    /// A metric found no space: later ones are refused even if they are smaller, so that what is kept is a prefix.
    full: bool,
    /// Lines that are not in the file yet.
    pending: Vec<u8>,
    /// A failed write may have left a part of a line.
    torn: bool,
    unsynced: bool,
}

impl SpoolWriter {
    /// Opens the file of `attempt` in `directory`, after cutting off a line that an earlier process did not finish.
    ///
    /// # Errors
    /// [`Error::Io`] naming the path; [`Error::Config`] if another process writes this file, a later attempt exists, or the file belongs to
    /// another writer.
    pub(super) fn open(directory: &Path, attempt: u32, writer: String, limit: u64) -> Result<Self> {
        fs::create_dir_all(directory).map_err(Error::io("create the directory", directory))?;
        let present = attempts(directory)?;
        if let Some(later) = present.iter().find(|&&other| other > attempt) {
            return Err(Error::Config {
                problem: format!("attempt {attempt} would report to {} after attempt {later}", directory.display()),
                cure: "number attempts upwards, or use a new spool directory".into(),
            });
        }
        let mut others = 0;
        for &other in present.iter().filter(|&&other| other != attempt) {
            let path = attempt_path(directory, other);
            others += fs::metadata(&path).map_err(Error::io("read the size of", &path))?.len();
        }
        let path = attempt_path(directory, attempt);
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(&path)
            .map_err(Error::io("open the spool file", &path))?;
        lock(&file, &path)?;
        let written = cut_torn_tail(&mut file, &path)?;
        let next_sequence = if written == 0 {
            0
        } else {
            next_sequence(directory, attempt, &path, &writer)?
        };
        durable::sync_directory(directory)?;
        Ok(Self {
            path,
            medium: Box::new(file),
            writer,
            next_sequence,
            written,
            others,
            limit,
            full: false,
            pending: Vec::new(),
            torn: false,
            unsynced: written > 0,
        })
    }

    /// A writer of a new file on another medium.
    #[cfg(test)]
    pub(super) fn with_medium(medium: Box<dyn Medium>, limit: u64) -> Self {
        Self {
            path: PathBuf::from("medium"),
            medium,
            writer: "run/1/0".into(),
            next_sequence: 0,
            written: 0,
            others: 0,
            limit,
            full: false,
            pending: Vec::new(),
            torn: false,
            unsynced: false,
        }
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Limit of the run's files together, in bytes.
    pub(super) const fn limit(&self) -> u64 {
        self.limit
    }

    /// Bytes that wait for [`SpoolWriter::write`].
    pub(super) const fn pending_bytes(&self) -> usize {
        self.pending.len()
    }

    /// Whether something was written since the last successful sync.
    pub(super) const fn unsynced(&self) -> bool {
        self.unsynced
    }

    /// Gives a record the next number and puts it in line for writing, if it has space.
    pub(super) fn push(&mut self, time: f64, body: Body) -> Pushed {
        // One sixteenth is for events alone, so that they can tell of the full spool. `AttemptStarted` is never refused: without it the
        // steps of earlier attempts would count twice.
        let (limit, is_event) = match &body {
            Body::Event(event) if event.kind == EventKind::AttemptStarted => (u64::MAX, true),
            Body::Event(_) => (self.limit, true),
            Body::Metrics(_) | Body::Progress(_) => (self.limit - self.limit / 16, false),
        };
        if self.full && !is_event {
            return Pushed::Dropped;
        }
        let record = Record {
            writer: self.writer.clone(),
            sequence: self.next_sequence,
            time,
            body,
        };
        let start = self.pending.len();
        let is_line = encode(&record, &mut self.pending).is_ok() && self.pending.len() - start <= MAX_FRAME_BYTES;
        let has_space = self.others + self.written + self.pending.len() as u64 <= limit;
        if !(is_line && has_space) {
            self.pending.truncate(start);
            self.full |= !has_space && !is_event;
            return Pushed::Dropped;
        }
        self.next_sequence += 1;
        Pushed::Kept
    }

    /// Writes the pending lines. On error they stay pending and the file is cut back to whole lines (at the next try if not now).
    pub(super) fn write(&mut self) -> io::Result<()> {
        if self.torn {
            self.medium.truncate(self.written)?;
            self.torn = false;
        }
        if self.pending.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.medium.append(&self.pending) {
            self.torn = self.medium.truncate(self.written).is_err();
            return Err(error);
        }
        self.written += self.pending.len() as u64;
        self.pending.clear();
        self.unsynced = true;
        Ok(())
    }

    /// Makes what was written durable.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if self.unsynced {
            self.medium.sync()?;
            self.unsynced = false;
        }
        Ok(())
    }
}

/// One process per attempt. Where the file system has no locks, the caller's own discipline has to do.
fn lock(file: &File, path: &Path) -> Result<()> {
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(Error::Config {
            problem: format!("another process reports to {}", path.display()),
            cure: "wait for it to end, or stop it".into(),
        }),
        Ok(()) | Err(TryLockError::Error(_)) => Ok(()),
    }
}

/// Cuts the file after its last line feed and returns the remaining length. Whole lines that are damaged stay, so that no reader's position
/// is ever past the end.
fn cut_torn_tail(file: &mut File, path: &Path) -> Result<u64> {
    let length = file.metadata().map_err(Error::io("read the size of", path))?.len();
    let mut end = length;
    let mut block = vec![0; 64 << 10];
    while end > 0 {
        let start = end.saturating_sub(block.len() as u64);
        let part = &mut block[..(end - start) as usize];
        file.seek(SeekFrom::Start(start))
            .and_then(|_| file.read_exact(part))
            .map_err(Error::io("read", path))?;
        if let Some(position) = part.iter().rposition(|&byte| byte == b'\n') {
            end = start + position as u64 + 1;
            break;
        }
        end = start;
    }
    if end != length {
        file.set_len(end).map_err(Error::io("cut an unfinished record off", path))?;
    }
    Ok(end)
}

/// The number after that of the last record of this attempt's file.
fn next_sequence(directory: &Path, attempt: u32, path: &Path, writer: &str) -> Result<u64> {
    let mut reader = SpoolReader::at_attempt(directory, attempt);
    let mut next = 0;
    loop {
        let entries = reader.poll(1024)?;
        if entries.is_empty() {
            return Ok(next);
        }
        for entry in entries {
            match entry {
                Entry::Record(record) if record.writer != writer => {
                    return Err(Error::Config {
                        problem: format!("{} holds records of `{}`, not of `{writer}`", path.display(), record.writer),
                        cure: "use a spool directory of the run's own".into(),
                    });
                }
                Entry::Record(record) => next = record.sequence + 1,
                // A damaged line held a record too: its number stays unused.
                Entry::Damaged(_) => next += 1,
            }
        }
    }
}
