//! Sends one run: the records of its spool, what its workers printed, and which checkpoints it has.

use super::Broken;
use super::paths::{self, Paths};
use crate::client::{Client, Refusal};
use crate::clock;
use crate::failure::Failure;
use crate::runner::directory::{self, RunDirectory};
use crate::runner::models::CHECKPOINTS;
use fathom_spec::record::{Body, EventKind, Record};
use fathom_worker::checkpoint::store;
use fathom_worker::report::{Cursor, Entry, SpoolReader};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

/// Records in a request. A record of V3's size has four matrices of 58 x 256, 300 KB of JSON.
const MAX_RECORDS: usize = 500;
/// Bytes of JSON in a request; the server takes 8 MiB.
const MAX_BYTES: usize = 4 << 20;
/// Bytes of a log in a request.
const MAX_LOG_BYTES: u64 = 256 << 10;

/// How far a run has been sent. Kept beside the run; if it is lost or wrong, the server says where to go on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Shipped {
    spool: Cursor,
    /// Writer and sequence number of the last record before the cursor.
    previous: Option<(String, u64)>,
    /// Bytes of each attempt's log.
    logs: BTreeMap<u32, u64>,
}

/// Sends one run.
#[derive(Debug)]
pub(super) struct RunShipper {
    name: String,
    directory: RunDirectory,
    paths: Paths,
    shipped: Shipped,
    reader: SpoolReader,
    /// Whether checkpoints may differ from what the server knows.
    checkpoints: bool,
    /// Whether the server has confirmed that it has what was sent before this process began.
    confirmed: bool,
}

impl RunShipper {
    pub(super) fn new(name: String, directory: RunDirectory, paths: Paths) -> Self {
        let path = cursor_file(&directory);
        let shipped: Shipped = std::fs::read(path)
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default();
        Self {
            name,
            reader: SpoolReader::new(&directory.spool(), shipped.spool),
            directory,
            paths,
            shipped,
            checkpoints: true,
            confirmed: false,
        }
    }

    /// Sends a part of what is new. Returns whether there may be more.
    pub(super) fn pass(&mut self, client: &Client) -> Result<bool, Broken> {
        let before = self.shipped.clone();
        if !self.confirmed {
            self.confirm(client)?;
            self.confirmed = true;
        }
        let records = self.records(client);
        let logs = self.logs(client);
        if self.shipped != before {
            let text = serde_json::to_vec(&self.shipped).map_err(|error| Broken::Stuck(error.to_string()))?;
            directory::replace(&cursor_file(&self.directory), &text)?;
        }
        let more = records? | logs?;
        if self.checkpoints && !more {
            self.send_checkpoints(client)?;
            self.checkpoints = false;
        }
        Ok(more)
    }

    /// Asks whether the server has what was sent: it may have another database than last time.
    fn confirm(&mut self, client: &Client) -> Result<(), Broken> {
        if let Some((writer, sequence)) = self.shipped.previous.clone() {
            let body = json!({"writer": writer, "previous": sequence, "records": []}).to_string();
            match client.post(&format!("/api/v1/runs/{}/metrics:batch", self.name), body.as_bytes()) {
                Err(Refusal::Problem(problem)) if problem.status == 409 => self.rewind(),
                answer => drop(answer?),
            }
        }
        Ok(())
    }

    fn records(&mut self, client: &Client) -> Result<bool, Broken> {
        let entries = match self.reader.poll(MAX_RECORDS) {
            Ok(entries) => entries,
            Err(error) => {
                // The spool was replaced, or cannot be read: from the beginning, the server takes each record once.
                self.rewind();
                return Err(crate::commands::worker_failure(&error).into());
            }
        };
        let more = entries.len() == MAX_RECORDS;
        // Damaged lines were records of steps that are made again.
        let mut records: Vec<Record> = entries
            .into_iter()
            .filter_map(|entry| match entry {
                Entry::Record(record) => Some(record),
                Entry::Damaged(_) => None,
            })
            .collect();
        for record in &mut records {
            if let Body::Event(event) = &mut record.body {
                event.message = self.paths.relative(&event.message);
            }
        }
        let mut request = Request::default();
        for record in records {
            if !request.takes(&record) {
                self.send(client, &std::mem::take(&mut request))?;
            }
            request.add(record)?;
        }
        self.send(client, &request)?;
        self.shipped.spool = self.reader.cursor();
        Ok(more)
    }

    /// Sends the records of one writer. After a failure the reader is back at what is known to be sent.
    fn send(&mut self, client: &Client, request: &Request) -> Result<(), Broken> {
        let (Some(writer), Some(last)) = (&request.writer, request.last) else {
            return Ok(());
        };
        let same_writer = self.shipped.previous.as_ref().filter(|(known, _)| known == writer);
        let previous = same_writer.map(|&(_, sequence)| sequence);
        let head = json!({"writer": writer, "previous": previous}).to_string();
        // The records are JSON already.
        let mut body = head.into_bytes();
        body.pop();
        body.extend_from_slice(b",\"records\":[");
        body.extend_from_slice(&request.json);
        body.extend_from_slice(b"]}");
        match client.post(&format!("/api/v1/runs/{}/metrics:batch", self.name), &body) {
            Ok(_) => {
                self.shipped.previous = Some((writer.clone(), last));
                self.checkpoints |= request.checkpoints;
                Ok(())
            }
            Err(Refusal::Problem(problem)) if problem.status == 409 => {
                // The server has less than we thought (another database, perhaps): it gets everything again.
                self.rewind();
                Err(Broken::Away("the server lacks earlier records; sending all of them again".into()))
            }
            Err(refusal) => {
                self.reader = SpoolReader::new(&self.directory.spool(), self.shipped.spool);
                self.shipped.previous = None;
                Err(refusal.into())
            }
        }
    }

    fn rewind(&mut self) {
        self.shipped = Shipped::default();
        self.reader = SpoolReader::new(&self.directory.spool(), Cursor::default());
    }

    fn logs(&mut self, client: &Client) -> Result<bool, Broken> {
        let last = self.directory.last_attempt()?;
        let mut more = false;
        for attempt in 1..=last {
            let offset = self.shipped.logs.get(&attempt).copied().unwrap_or(0);
            let path = self.directory.log(attempt, 0);
            let mut bytes = Vec::new();
            let read = File::open(&path).and_then(|mut file| {
                file.seek(SeekFrom::Start(offset))?;
                file.take(MAX_LOG_BYTES).read_to_end(&mut bytes)
            });
            match read {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                read => read.map_err(|error| Failure::io("read", &path, &error))?,
            };
            // A line that is not finished waits, unless it is longer than a request or nothing will follow.
            let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
            let end = if whole == 0 && (bytes.len() as u64 == MAX_LOG_BYTES || attempt < last) {
                bytes.len()
            } else {
                whole
            };
            if end == 0 {
                continue;
            }
            let next = offset + end as u64;
            self.send_lines(client, attempt, offset, &bytes[..end], next)?;
            self.shipped.logs.insert(attempt, next);
            more |= bytes.len() as u64 == MAX_LOG_BYTES;
        }
        Ok(more)
    }

    fn send_lines(&mut self, client: &Client, attempt: u32, offset: u64, bytes: &[u8], next: u64) -> Result<(), Broken> {
        let now = clock::now();
        let mut position = offset;
        let mut lines = Vec::new();
        for line in bytes.split_inclusive(|&byte| byte == b'\n') {
            let text = String::from_utf8_lossy(line);
            let text = text.trim_end_matches(['\n', '\r']);
            if !text.is_empty() {
                lines.push(json!({"position": position, "time": now, "level": level(text), "text": text}));
            }
            position += line.len() as u64;
        }
        let body = json!({"attempt": attempt, "rank": 0, "offset": offset, "lines": lines, "nextOffset": next});
        match client.post(&format!("/api/v1/runs/{}/logs:batch", self.name), body.to_string().as_bytes()) {
            Ok(_) => Ok(()),
            Err(Refusal::Problem(problem)) if problem.status == 409 => {
                self.shipped.logs.insert(attempt, 0);
                Err(Broken::Away("the server lacks earlier lines; sending all of them again".into()))
            }
            Err(refusal) => Err(refusal.into()),
        }
    }

    fn send_checkpoints(&self, client: &Client) -> Result<(), Broken> {
        let directory = checkpoints(&self.directory);
        let found = store::list(&directory, |_, _| {}).map_err(|error| crate::commands::worker_failure(&error))?;
        let items: Vec<_> = found
            .iter()
            .map(|checkpoint| {
                let files = &checkpoint.manifest.files;
                json!({
                    "step": checkpoint.manifest.step,
                    "tokens": checkpoint.manifest.tokens,
                    "bytes": files.values().map(|file| file.bytes).sum::<u64>(),
                    "files": files.len(),
                    "path": paths::absolute(&checkpoint.path),
                    "verified": false,
                })
            })
            .collect();
        client.put(&format!("/api/v1/runs/{}/checkpoints", self.name), &json!({"items": items}))?;
        Ok(())
    }
}

/// Records of one writer, as JSON.
#[derive(Default)]
struct Request {
    writer: Option<String>,
    json: Vec<u8>,
    last: Option<u64>,
    checkpoints: bool,
}

impl Request {
    fn takes(&self, record: &Record) -> bool {
        self.json.len() < MAX_BYTES && self.writer.as_ref().is_none_or(|writer| *writer == record.writer)
    }

    fn add(&mut self, record: Record) -> Result<(), Broken> {
        if !self.json.is_empty() {
            self.json.push(b',');
        }
        serde_json::to_writer(&mut self.json, &record).map_err(|error| Broken::Stuck(error.to_string()))?;
        self.last = Some(record.sequence);
        if let Body::Event(event) = &record.body {
            self.checkpoints |= matches!(event.kind, EventKind::CheckpointCommitted | EventKind::PhaseCompleted);
        }
        self.writer = Some(record.writer);
        Ok(())
    }
}

/// Where the checkpoints of a run are.
fn checkpoints(directory: &RunDirectory) -> PathBuf {
    directory.work().join(CHECKPOINTS)
}

fn cursor_file(directory: &RunDirectory) -> PathBuf {
    directory.root().join("shipped.json")
}

/// The level of a line: workers print errors and notes, nothing else.
fn level(line: &str) -> &'static str {
    let line = line.trim_start();
    let begins = |words: &[&str]| {
        words
            .iter()
            .any(|word| line.get(..word.len()).is_some_and(|head| head.eq_ignore_ascii_case(word)))
    };
    if begins(&["error", "thread '", "fatal", "panicked"]) {
        "error"
    } else if begins(&["warning", "warn"]) {
        "warn"
    } else {
        "info"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_levels() {
        for (line, expected) in [
            ("error: disk full", "error"),
            ("thread 'main' panicked at x.rs:1", "error"),
            ("Warning: odd", "warn"),
            ("  because: quota", "info"),
            ("", "info"),
            ("\u{1f600}", "info"),
        ] {
            assert_eq!(level(line), expected, "{line}");
        }
    }
}
