//! Reading a spool: from a cursor on, through all attempts, while it is being written.

use super::frame::{MAX_FRAME_BYTES, decode};
use crate::error::{Error, Result};
use fathom_spec::record::Record;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

const FILE_PREFIX: &str = "attempt-";
const FILE_SUFFIX: &str = ".spool";

/// The file of an attempt.
pub(super) fn attempt_path(directory: &Path, attempt: u32) -> PathBuf {
    directory.join(format!("{FILE_PREFIX}{attempt:04}{FILE_SUFFIX}"))
}

/// Attempts that have a file, ascending. A directory that does not exist has none.
pub(super) fn attempts(directory: &Path) -> Result<Vec<u32>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("list", directory)(error)),
    };
    let mut attempts = Vec::new();
    for entry in entries {
        let name = entry.map_err(Error::io("list", directory))?.file_name();
        let digits = name
            .to_str()
            .and_then(|name| name.strip_prefix(FILE_PREFIX)?.strip_suffix(FILE_SUFFIX));
        let number = digits.and_then(|digits| digits.parse::<u32>().ok());
        // Only names that the writer makes: `attempt-1.spool` is somebody else's file.
        attempts.extend(number.filter(|&attempt| attempt_path(directory, attempt).file_name() == Some(&name)));
    }
    attempts.sort_unstable();
    Ok(attempts)
}

/// A position in a spool: everything before it has been read. Store it to go on after a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cursor {
    /// Attempt; 0 before the first.
    pub attempt: u32,
    /// Bytes of its file that have been read: always whole lines.
    pub offset: u64,
}

/// A place in a spool that holds no record although it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// File.
    pub path: PathBuf,
    /// First byte of the damaged line.
    pub offset: u64,
    /// What is wrong.
    pub problem: String,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}, byte {}: {}", self.path.display(), self.offset, self.problem)
    }
}

/// What a spool holds at one place.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// A record.
    Record(Record),
    /// A line that is not one.
    Damaged(Damage),
}

/// Follows a spool: all attempts in order, ghosts included, each record once.
#[derive(Debug)]
pub struct SpoolReader {
    lines: Lines,
}

impl SpoolReader {
    /// A reader from `cursor` on; `Cursor::default()` is the beginning. The directory need not exist yet.
    #[must_use]
    pub fn new(directory: &Path, cursor: Cursor) -> Self {
        Self {
            lines: Lines::new(directory, cursor),
        }
    }

    /// A reader of one attempt and those after it.
    pub(super) fn at_attempt(directory: &Path, attempt: u32) -> Self {
        Self::new(directory, Cursor { attempt, offset: 0 })
    }

    /// Where the next [`SpoolReader::poll`] begins.
    #[must_use]
    pub const fn cursor(&self) -> Cursor {
        self.lines.cursor
    }

    /// Reads at most `limit` entries. Empty if there is nothing new: ask again later.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file; [`Error::Data`] if a file is shorter than the cursor says it was.
    pub fn poll(&mut self, limit: usize) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        while entries.len() < limit {
            match self.lines.next_line()? {
                Line::None => break,
                Line::Damaged(damage) => entries.push(Entry::Damaged(damage)),
                Line::Whole { attempt, offset } => entries.push(match decode(self.lines.line()) {
                    Ok(record) => Entry::Record(record),
                    Err(problem) => Entry::Damaged(Damage {
                        path: attempt_path(&self.lines.directory, attempt),
                        offset,
                        problem,
                    }),
                }),
            }
        }
        Ok(entries)
    }
}

/// What [`Lines::next_line`] found.
pub(super) enum Line {
    /// Nothing new.
    None,
    /// A line with its line feed, at [`Lines::line`].
    Whole { attempt: u32, offset: u64 },
    /// A line that is too long, or that its writer did not live to finish.
    Damaged(Damage),
}

/// The lines of a spool.
#[derive(Debug)]
pub(super) struct Lines {
    directory: PathBuf,
    cursor: Cursor,
    file: Option<BufReader<File>>,
    line: Vec<u8>,
    /// The attempt after the current one, once it is known. It is looked for *before* the last read of the current file: an attempt
    /// begins when its predecessor is dead, so a read that begins after it appeared sees everything.
    later: Option<u32>,
}

impl Lines {
    pub(super) fn new(directory: &Path, cursor: Cursor) -> Self {
        Self {
            directory: directory.to_path_buf(),
            cursor,
            file: None,
            line: Vec::new(),
            later: None,
        }
    }

    pub(super) const fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// The line that was found last, without its line feed.
    pub(super) fn line(&self) -> &[u8] {
        self.line.strip_suffix(b"\n").unwrap_or(&self.line)
    }

    /// Finds the next line and moves past it.
    pub(super) fn next_line(&mut self) -> Result<Line> {
        loop {
            let (length, whole) = if self.cursor.attempt == 0 { (0, false) } else { self.read_line()? };
            let place = self.cursor;
            if whole {
                self.cursor.offset += length;
                if length > MAX_FRAME_BYTES as u64 {
                    return Ok(Line::Damaged(self.damage(place.offset, "the line is longer than a record may be")));
                }
                return Ok(Line::Whole {
                    attempt: place.attempt,
                    offset: place.offset,
                });
            }
            // The unfinished line is read again from its beginning, from the file and not from the buffer.
            self.file = None;
            match self.later.take() {
                Some(later) => {
                    let damage = self.damage(place.offset, "the record was cut off when its writer died");
                    self.cursor = Cursor { attempt: later, offset: 0 };
                    if length > 0 {
                        return Ok(Line::Damaged(damage));
                    }
                }
                None => {
                    self.later = attempts(&self.directory)?.into_iter().find(|&attempt| attempt > place.attempt);
                    if self.later.is_none() {
                        return Ok(Line::None);
                    }
                }
            }
        }
    }

    /// Reads up to and including the next line feed: the number of bytes, and whether there was one. At most [`MAX_FRAME_BYTES`] + 1 bytes
    /// are kept.
    fn read_line(&mut self) -> Result<(u64, bool)> {
        let path = attempt_path(&self.directory, self.cursor.attempt);
        if self.file.is_none() {
            self.file = Some(open_at(&path, self.cursor.offset)?);
        }
        let Some(file) = &mut self.file else { return Ok((0, false)) };
        self.line.clear();
        let limit = MAX_FRAME_BYTES as u64 + 1;
        let mut length = file
            .take(limit)
            .read_until(b'\n', &mut self.line)
            .map_err(Error::io("read", &path))? as u64;
        if self.line.ends_with(b"\n") {
            return Ok((length, true));
        }
        while length >= limit {
            let mut rest = Vec::new();
            let more = file.take(limit).read_until(b'\n', &mut rest).map_err(Error::io("read", &path))? as u64;
            length += more;
            if rest.ends_with(b"\n") || more == 0 {
                return Ok((length, more != 0));
            }
        }
        Ok((length, false))
    }

    fn damage(&self, offset: u64, problem: &str) -> Damage {
        Damage {
            path: attempt_path(&self.directory, self.cursor.attempt),
            offset,
            problem: problem.to_owned(),
        }
    }
}

fn open_at(path: &Path, offset: u64) -> Result<BufReader<File>> {
    let mut file = File::open(path).map_err(Error::io("open the spool file", path))?;
    let length = file.metadata().map_err(Error::io("read the size of", path))?.len();
    if length < offset {
        return Err(Error::Data {
            place: path.display().to_string(),
            problem: format!("has {length} bytes, fewer than the {offset} that were read before"),
            cure: "the file was replaced: read the spool from the beginning".into(),
        });
    }
    file.seek(SeekFrom::Start(offset)).map_err(Error::io("read", path))?;
    Ok(BufReader::with_capacity(256 << 10, file))
}
