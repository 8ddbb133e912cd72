//! The reporter on a disk that fails, and with queues and spools that are too small.

use super::super::spool::Medium;
use super::super::{Cursor, Entry, SpoolReader};
use super::*;
use fathom_spec::record::Record;
use std::collections::BTreeMap;
use std::io;
use std::sync::Mutex;

const LONG: Duration = Duration::from_secs(60);

/// A disk in memory that can be full, tear writes, and be slow to sync.
#[derive(Clone, Default)]
struct Disk(Arc<Mutex<DiskState>>);

#[derive(Default)]
struct DiskState {
    bytes: Vec<u8>,
    /// Bytes that may still be written; `None` without limit.
    space: Option<usize>,
    truncate_fails: bool,
    /// Bytes that survive a power cut.
    synced: usize,
    /// While true, writes do not return.
    stuck: bool,
}

impl Disk {
    fn set(&self, change: impl FnOnce(&mut DiskState)) {
        change(&mut self.0.lock().unwrap());
    }

    fn records(&self) -> Vec<Record> {
        let bytes = self.0.lock().unwrap().bytes.clone();
        bytes
            .split_inclusive(|&byte| byte == b'\n')
            .map(|line| super::super::frame::decode(line.strip_suffix(b"\n").unwrap()).unwrap())
            .collect()
    }
}

impl Medium for Disk {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        while self.0.lock().unwrap().stuck {
            std::thread::yield_now();
        }
        let mut state = self.0.lock().unwrap();
        let fits = state.space.map_or(bytes.len(), |space| space.min(bytes.len()));
        state.bytes.extend_from_slice(&bytes[..fits]);
        state.space = state.space.map(|space| space - fits);
        if fits < bytes.len() {
            Err(io::ErrorKind::StorageFull.into())
        } else {
            Ok(())
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.synced = state.bytes.len();
        Ok(())
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        if state.truncate_fails {
            return Err(io::ErrorKind::Other.into());
        }
        state.bytes.truncate(length as usize);
        Ok(())
    }
}

fn options() -> Options {
    Options {
        clock: Arc::new(|| 5.0),
        ..Options::default()
    }
}

fn batch(step: u64) -> MetricBatch {
    let scalars = BTreeMap::from([("loss.main".to_owned(), 1.0 / step as f64)]);
    MetricBatch {
        step,
        tokens: 10 * step,
        scalars,
        matrices: BTreeMap::new(),
    }
}

fn steps(records: &[Record]) -> Vec<u64> {
    records
        .iter()
        .filter_map(|record| match &record.body {
            Body::Metrics(batch) => Some(batch.step),
            Body::Event(_) | Body::Progress(_) => None,
        })
        .collect()
}

fn events(records: &[Record]) -> Vec<(EventKind, String)> {
    records
        .iter()
        .filter_map(|record| match &record.body {
            Body::Event(event) => Some((event.kind, event.message.clone())),
            Body::Metrics(_) | Body::Progress(_) => None,
        })
        .collect()
}

#[test]
fn a_flush_waits_until_everything_before_it_is_durable_but_not_past_its_deadline() {
    let disk = Disk::default();
    let lazy = Options {
        sync_interval: Duration::from_secs(3600),
        ..options()
    };
    let reporter = Reporter::start(SpoolWriter::with_medium(Box::new(disk.clone()), 1 << 20), lazy).unwrap();
    disk.set(|state| state.stuck = true);
    for step in 1..=20 {
        reporter.metrics(batch(step));
    }
    let short = Duration::from_millis(20);
    assert_eq!(reporter.flush(short), Err(FlushError::Deadline(short)));
    reporter.metrics(batch(21));
    disk.set(|state| state.stuck = false);
    reporter.flush(LONG).unwrap();
    disk.set(|state| state.bytes.truncate(state.synced));
    assert_eq!(steps(&disk.records()), (1..=21).collect::<Vec<_>>());
}

#[test]
fn a_full_disk_stops_nothing_and_loses_nothing_once_it_has_space_again() {
    for truncate_fails in [false, true] {
        let disk = Disk::default();
        disk.set(|state| (state.space, state.truncate_fails) = (Some(500), truncate_fails));
        let reporter = Reporter::start(SpoolWriter::with_medium(Box::new(disk.clone()), 1 << 20), options()).unwrap();
        for step in 1..=50 {
            reporter.metrics(batch(step));
        }
        assert!(matches!(reporter.flush(LONG), Err(FlushError::Failed(_))));
        assert!(reporter.totals().failures >= 1);
        disk.set(|state| (state.space, state.truncate_fails) = (None, false));
        for step in 51..=60 {
            reporter.metrics(batch(step));
        }
        reporter.flush(LONG).unwrap();
        let records = disk.records();
        assert_eq!(steps(&records), (1..=60).collect::<Vec<_>>());
        assert!(records.iter().enumerate().all(|(index, record)| record.sequence == index as u64));
    }
}

#[test]
fn a_disk_that_stays_full_leaves_whole_records_and_close_says_so() {
    let disk = Disk::default();
    disk.set(|state| state.space = Some(700));
    let reporter = Reporter::start(SpoolWriter::with_medium(Box::new(disk.clone()), 1 << 20), options()).unwrap();
    reporter.metrics(batch(1));
    reporter.flush(LONG).unwrap();
    for step in 2..=50 {
        reporter.metrics(batch(step));
    }
    assert!(matches!(reporter.close(LONG), Err(FlushError::Failed(_))));
    // How many fit depends on how the thread's writes divide them; what is there is a prefix of whole records.
    let kept = steps(&disk.records());
    assert!(
        (1..50).contains(&kept.len()) && kept.iter().zip(1..).all(|(&step, expected)| step == expected),
        "{kept:?}"
    );
}

#[test]
fn a_full_queue_drops_metrics_counts_them_and_says_so_but_keeps_events() {
    let disk = Disk::default();
    disk.set(|state| state.space = Some(0));
    let small = Options {
        queue_records: 10,
        ..options()
    };
    let reporter = Reporter::start(SpoolWriter::with_medium(Box::new(disk.clone()), 1 << 20), small).unwrap();
    reporter.metrics(batch(1));
    // From this failure on the thread leaves the queue alone but for one look per flush or second.
    assert!(reporter.flush(LONG).is_err());
    for step in 2..=100 {
        reporter.metrics(batch(step));
    }
    reporter.event(EventKind::CheckpointCommitted, Some(100), "step 100");
    disk.set(|state| state.space = None);
    let totals = reporter.close(LONG).unwrap();
    let records = disk.records();
    let kept = steps(&records);
    assert_eq!(totals.dropped + kept.len() as u64, 100);
    assert!(kept.iter().zip(1..).all(|(&step, expected)| step == expected), "{kept:?}");
    let events = events(&records);
    assert_eq!(events.iter().filter(|(kind, _)| *kind == EventKind::CheckpointCommitted).count(), 1);
    let (_, message) = events.iter().rfind(|(kind, _)| *kind == EventKind::RecordsDropped).unwrap();
    assert!(
        message.starts_with(&format!("{} records were dropped", totals.dropped)),
        "{message}"
    );
}

#[test]
fn a_full_spool_drops_later_metrics_and_stays_below_its_limit() {
    let disk = Disk::default();
    let limit = 40_000;
    let reporter = Reporter::start(SpoolWriter::with_medium(Box::new(disk.clone()), limit), options()).unwrap();
    for step in 1..=1000 {
        reporter.metrics(batch(step));
    }
    reporter.event(EventKind::PhaseCompleted, None, "done");
    let totals = reporter.close(LONG).unwrap();
    assert!(disk.0.lock().unwrap().bytes.len() as u64 <= limit);
    let records = disk.records();
    let kept = steps(&records);
    assert!(kept.len() > 200 && kept.iter().zip(1..).all(|(&step, expected)| step == expected));
    assert_eq!(totals.dropped + kept.len() as u64, 1000);
    assert_eq!(totals.written, records.len() as u64);
    let events = events(&records);
    let dropped: Vec<_> = events.iter().filter(|(kind, _)| *kind == EventKind::RecordsDropped).collect();
    assert!(dropped[0].1.contains("limit of 40000 bytes"), "{dropped:?}");
    assert!(
        dropped.last().unwrap().1.starts_with(&format!("{} records", totals.dropped)),
        "{dropped:?}"
    );
    assert!(events.iter().any(|(kind, _)| *kind == EventKind::PhaseCompleted));
}

#[test]
fn non_finite_values_are_kept_and_raise_one_event_per_transition() {
    let disk = Disk::default();
    let reporter = Reporter::start(SpoolWriter::with_medium(Box::new(disk.clone()), 1 << 20), options()).unwrap();
    let values = [1.0, f64::NAN, f64::NAN, f64::INFINITY, 2.0, f64::NEG_INFINITY];
    for (step, value) in (1..).zip(values) {
        let scalars = BTreeMap::from([("loss".to_owned(), value), ("norm".to_owned(), 1.0)]);
        reporter.metrics(MetricBatch {
            step,
            tokens: 0,
            scalars,
            matrices: BTreeMap::new(),
        });
    }
    reporter.close(LONG).unwrap();
    let records = disk.records();
    let kept = records.iter().filter_map(|record| match &record.body {
        Body::Metrics(batch) => Some(batch.scalars["loss"].to_bits()),
        Body::Event(_) | Body::Progress(_) => None,
    });
    assert_eq!(kept.collect::<Vec<_>>(), values.map(f64::to_bits));
    let expected = ["loss became NaN at step 2", "loss became -inf at step 6"].map(|message| (EventKind::NonFinite, message.to_owned()));
    assert_eq!(events(&records), expected);
}

#[test]
fn only_the_newest_progress_is_written() {
    let disk = Disk::default();
    let slow = Options {
        progress_interval: Duration::from_secs(3600),
        ..options()
    };
    let reporter = Reporter::start(SpoolWriter::with_medium(Box::new(disk.clone()), 1 << 20), slow).unwrap();
    for done in 0..10_000 {
        reporter.progress(Progress {
            stage: "training".into(),
            done,
            total: Some(10_000),
            unit: "tokens".into(),
        });
    }
    reporter.close(LONG).unwrap();
    let records = disk.records();
    assert!((1..=2).contains(&records.len()), "{}", records.len());
    assert!(matches!(&records.last().unwrap().body, Body::Progress(progress) if progress.done == 9_999));
}

#[test]
fn records_carry_the_clock_and_are_durable_without_a_flush() {
    let directory = tempfile::tempdir().unwrap();
    let quick = Options {
        sync_interval: Duration::from_millis(1),
        ..options()
    };
    let reporter = Reporter::open(directory.path(), "run", 3, 0, 7, quick).unwrap();
    reporter.metrics(batch(8));
    let mut reader = SpoolReader::new(directory.path(), Cursor::default());
    let mut found = Vec::new();
    while found.len() < 2 {
        found.extend(reader.poll(10).unwrap());
        std::thread::yield_now();
    }
    let Entry::Record(first) = &found[0] else { panic!("{found:?}") };
    assert_eq!((first.writer.as_str(), first.sequence, first.time), ("run/3/0", 0, 5.0));
    assert!(matches!(&first.body, Body::Event(event) if event.kind == EventKind::AttemptStarted && event.step == Some(7)));
    let Entry::Record(second) = &found[1] else { panic!("{found:?}") };
    assert_eq!(second.sequence, 1);
}

#[test]
fn one_attempt_has_one_writer_and_attempts_only_go_up() {
    let directory = tempfile::tempdir().unwrap();
    let first = Reporter::open(directory.path(), "run", 2, 0, 0, options()).unwrap();
    let second = Reporter::open(directory.path(), "run", 2, 0, 0, options())
        .err()
        .unwrap()
        .to_string();
    assert!(second.contains("another process reports to"), "{second}");
    first.close(LONG).unwrap();
    let older = Reporter::open(directory.path(), "run", 1, 0, 0, options())
        .err()
        .unwrap()
        .to_string();
    assert!(
        older.contains("attempt 1 would report to") && older.contains("after attempt 2"),
        "{older}"
    );
    let other = Reporter::open(directory.path(), "other", 2, 0, 0, options())
        .err()
        .unwrap()
        .to_string();
    assert!(other.contains("holds records of `run/2/0`, not of `other/2/0`"), "{other}");
}

#[test]
fn a_full_device_is_an_error_at_the_start_that_names_the_file() {
    let directory = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/dev/full", directory.path().join("attempt-0001.spool")).unwrap();
    let error = Reporter::open(directory.path(), "run", 1, 0, 0, options()).err().unwrap();
    assert!(
        matches!(&error, Error::Io { path, .. } if path.ends_with("attempt-0001.spool")),
        "{error}"
    );
}
