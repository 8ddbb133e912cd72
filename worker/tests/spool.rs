//! The spool against damage, kills and concurrent readers, with real files.

#![allow(clippy::unwrap_used, reason = "test helpers outside #[test] functions")]

use fathom_spec::record::{Body, EventKind, LifecycleEvent, Matrix, MetricBatch, Progress, Record};
use fathom_worker::report::{Cursor, Entry, Options, Reporter, Resolved, SpoolReader, resolve};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(60);

fn options() -> Options {
    Options {
        clock: Arc::new(|| 1.5),
        ..Options::default()
    }
}

fn batch(step: u64, loss: f64) -> MetricBatch {
    let load = Matrix {
        rows: 1,
        columns: 3,
        values: vec![0.25, step as f32, -1e-30],
    };
    MetricBatch {
        step,
        tokens: 8 * step,
        scalars: BTreeMap::from([("loss.main".to_owned(), loss), ("text \"quoted\"\n".to_owned(), 0.1)]),
        matrices: BTreeMap::from([("moe.load".to_owned(), load)]),
    }
}

/// Reports steps `from + 1..=to` in attempt `attempt`, with a loss that names the attempt.
fn attempt(directory: &Path, attempt: u32, from: u64, to: u64) {
    let reporter = Reporter::open(directory, "run", attempt, 0, from, options()).unwrap();
    for step in from + 1..=to {
        reporter.metrics(batch(step, f64::from(attempt)));
    }
    reporter.close(DEADLINE).unwrap();
}

fn read_all(directory: &Path) -> Vec<Entry> {
    SpoolReader::new(directory, Cursor::default()).poll(usize::MAX).unwrap()
}

/// (step, attempt) of each metric batch.
fn steps(records: &[Record]) -> Vec<(u64, u32)> {
    records
        .iter()
        .filter_map(|record| match &record.body {
            Body::Metrics(batch) => Some((batch.step, batch.scalars["loss.main"] as u32)),
            Body::Event(_) | Body::Progress(_) => None,
        })
        .collect()
}

#[test]
fn a_spool_cut_at_any_byte_yields_a_prefix() {
    let directory = tempfile::tempdir().unwrap();
    attempt(directory.path(), 1, 0, 4);
    let whole = read_all(directory.path());
    let path = directory.path().join("attempt-0001.spool");
    let bytes = fs::read(&path).unwrap();
    for length in 0..bytes.len() {
        fs::write(&path, &bytes[..length]).unwrap();
        let lines = bytes[..length].iter().filter(|&&byte| byte == b'\n').count();
        let mut reader = SpoolReader::new(directory.path(), Cursor::default());
        assert_eq!(reader.poll(100).unwrap(), whole[..lines], "cut at {length}");
        // The rest appears and is read from where the reader stopped.
        fs::write(&path, &bytes).unwrap();
        assert_eq!(reader.poll(100).unwrap(), whole[lines..], "continued at {length}");
    }
}

#[test]
fn any_altered_byte_is_refused_with_its_place() {
    let directory = tempfile::tempdir().unwrap();
    attempt(directory.path(), 1, 0, 3);
    let whole = read_all(directory.path());
    let path = directory.path().join("attempt-0001.spool");
    let bytes = fs::read(&path).unwrap();
    for position in 0..bytes.len() {
        for mask in [0x01, 0x20, 0xff] {
            let mut altered = bytes.clone();
            altered[position] ^= mask;
            fs::write(&path, &altered).unwrap();
            let line = bytes[..position].iter().filter(|&&byte| byte == b'\n').count();
            let line_start = bytes[..position].iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1) as u64;
            let entries = read_all(directory.path());
            // The altered record is gone (and with its line feed the next one), all others are there.
            let lost = if bytes[position] == b'\n' { 2 } else { 1 };
            let expected: Vec<_> = whole
                .iter()
                .enumerate()
                .filter(|(index, _)| !(line..line + lost).contains(index))
                .collect();
            let records: Vec<_> = entries.iter().filter(|entry| matches!(entry, Entry::Record(_))).collect();
            assert_eq!(
                records,
                expected.into_iter().map(|(_, entry)| entry).collect::<Vec<_>>(),
                "byte {position} ^ {mask:#x}"
            );
            let damage = entries.iter().find_map(|entry| match entry {
                Entry::Damaged(damage) => Some(damage),
                Entry::Record(_) => None,
            });
            // A broken last line feed looks like a record that is still being written.
            if position + 1 < bytes.len() {
                let damage = damage.unwrap();
                assert_eq!(
                    (damage.path.as_path(), damage.offset),
                    (path.as_path(), line_start),
                    "byte {position} ^ {mask:#x}"
                );
            }
        }
    }
}

#[test]
fn an_attempt_that_opens_its_file_again_cuts_the_torn_record_and_counts_on() {
    let directory = tempfile::tempdir().unwrap();
    attempt(directory.path(), 1, 0, 4);
    let path = directory.path().join("attempt-0001.spool");
    let bytes = fs::read(&path).unwrap();
    for cut in [1, 30, 200] {
        fs::write(&path, &bytes[..bytes.len() - cut]).unwrap();
        attempt(directory.path(), 1, 2, 5);
        let records: Vec<_> = read_all(directory.path())
            .into_iter()
            .map(|entry| match entry {
                Entry::Record(record) => record,
                Entry::Damaged(damage) => panic!("{damage}"),
            })
            .collect();
        assert!(records.iter().enumerate().all(|(index, record)| record.sequence == index as u64));
        assert_eq!(steps(&records).len(), 3 + 3, "steps 1 to 3 and 3 to 5");
        // The second start in the same file supersedes step 3 of the first.
        assert_eq!(steps(&resolve(directory.path()).unwrap()), [1, 2, 3, 4, 5].map(|step| (step, 1)));
    }
}

#[test]
fn a_later_attempt_supersedes_and_ghosts_stay_in_the_files() {
    let directory = tempfile::tempdir().unwrap();
    attempt(directory.path(), 1, 0, 9);
    attempt(directory.path(), 2, 6, 8);
    attempt(directory.path(), 3, 4, 7);
    let mut resolved = Resolved::open(directory.path()).unwrap();
    let records: Vec<_> = resolved.by_ref().map(Result::unwrap).collect();
    assert_eq!(steps(&records), [(1, 1), (2, 1), (3, 1), (4, 1), (5, 3), (6, 3), (7, 3)]);
    assert_eq!(resolved.ghosts(), 5 + 2);
    let starts = records
        .iter()
        .filter(|record| matches!(&record.body, Body::Event(event) if event.kind == EventKind::AttemptStarted));
    assert_eq!(starts.count(), 3, "events are history and stay");
    assert_eq!(read_all(directory.path()).len(), 9 + 2 + 3 + 3);
}

#[test]
fn an_attempt_whose_first_record_is_damaged_still_supersedes() {
    let directory = tempfile::tempdir().unwrap();
    attempt(directory.path(), 1, 0, 9);
    attempt(directory.path(), 2, 6, 8);
    let path = directory.path().join("attempt-0002.spool");
    let mut bytes = fs::read(&path).unwrap();
    bytes[20] ^= 1;
    fs::write(&path, bytes).unwrap();
    let mut resolved = Resolved::open(directory.path()).unwrap();
    let records: Vec<_> = resolved.by_ref().map(Result::unwrap).collect();
    assert_eq!(steps(&records), [(1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (6, 1), (7, 2), (8, 2)]);
    assert_eq!(resolved.damages().len(), 1);
}

#[test]
fn the_newest_progress_is_found_and_not_mixed_with_history() {
    let directory = tempfile::tempdir().unwrap();
    for number in 1..=2 {
        let reporter = Reporter::open(directory.path(), "run \"body\":{\"progress\":", number, 0, 0, options()).unwrap();
        reporter.progress(Progress {
            stage: "training".into(),
            done: number.into(),
            total: None,
            unit: "tokens".into(),
        });
        reporter.close(DEADLINE).unwrap();
    }
    let mut resolved = Resolved::open(directory.path()).unwrap();
    assert!(matches!(&resolved.progress().unwrap().body, Body::Progress(progress) if progress.done == 2));
    assert!(resolved.all(|record| matches!(record.unwrap().body, Body::Event(_))));
}

#[test]
fn an_absent_spool_is_an_empty_run_and_a_replaced_one_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let spool = directory.path().join("spool");
    assert_eq!(resolve(&spool).unwrap(), []);
    let mut reader = SpoolReader::new(&spool, Cursor::default());
    assert_eq!(reader.poll(10).unwrap(), []);
    attempt(&spool, 1, 0, 3);
    fs::write(spool.join("attempt-2.spool"), "not ours\n").unwrap();
    assert_eq!(reader.poll(10).unwrap().len(), 4);
    fs::write(spool.join("attempt-0001.spool"), "").unwrap();
    let error = SpoolReader::new(&spool, reader.cursor()).poll(10).unwrap_err().to_string();
    assert!(
        error.contains("attempt-0001.spool") && error.contains("read the spool from the beginning"),
        "{error}"
    );
}

#[test]
fn a_line_longer_than_any_record_is_passed_over_in_bounded_memory() {
    let directory = tempfile::tempdir().unwrap();
    attempt(directory.path(), 1, 0, 1);
    let path = directory.path().join("attempt-0001.spool");
    let good = fs::read(&path).unwrap();
    let mut bytes = vec![b'x'; 2 * fathom_worker::report::MAX_FRAME_BYTES + 5];
    bytes.push(b'\n');
    bytes.extend_from_slice(&good);
    fs::write(&path, bytes).unwrap();
    let entries = read_all(directory.path());
    assert!(matches!(&entries[0], Entry::Damaged(damage) if damage.offset == 0));
    assert_eq!(entries.len(), 3);
}

#[test]
fn a_reader_with_restarts_follows_a_writer_through_attempts_without_loss_or_repetition() {
    let directory = tempfile::tempdir().unwrap();
    let written = AtomicBool::new(false);
    let mut seen = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 1..=5 {
                let from = 300 * u64::from(number - 1);
                let reporter = Reporter::open(directory.path(), "run", number, 0, from, options()).unwrap();
                for step in from + 1..=from + 400 {
                    reporter.metrics(batch(step, f64::from(number)));
                    if step % 50 == 0 {
                        reporter.flush(DEADLINE).unwrap();
                    }
                }
                reporter.close(DEADLINE).unwrap();
                // A death in the middle of a write.
                let path = directory.path().join(format!("attempt-{number:04}.spool"));
                fs::OpenOptions::new()
                    .append(true)
                    .open(path)
                    .map(|mut file| std::io::Write::write_all(&mut file, b"0123"))
                    .unwrap()
                    .unwrap();
            }
            written.store(true, Ordering::Release);
        });
        let mut cursor = Cursor::default();
        loop {
            let last_round = written.load(Ordering::Acquire);
            // A new reader each time: the cursor alone carries the position, through JSON as a consumer would store it.
            let mut reader = SpoolReader::new(directory.path(), cursor);
            let entries = reader.poll(37).unwrap();
            let text = serde_json::to_string(&reader.cursor()).unwrap();
            cursor = serde_json::from_str(&text).unwrap();
            let idle = entries.is_empty();
            seen.extend(entries);
            if idle && last_round {
                break;
            }
        }
    });
    let damaged = seen.iter().filter(|entry| matches!(entry, Entry::Damaged(_))).count();
    assert_eq!(damaged, 4, "the torn tails of all attempts but the last, which may still grow");
    let identities: Vec<_> = seen
        .iter()
        .filter_map(|entry| match entry {
            Entry::Record(record) => Some((record.writer.clone(), record.sequence)),
            Entry::Damaged(_) => None,
        })
        .collect();
    let expected: Vec<_> = (1..=5)
        .flat_map(|number| (0..=400).map(move |sequence| (format!("run/{number}/0"), sequence)))
        .collect();
    assert!(identities == expected, "{} records instead of {}", identities.len(), expected.len());
}

/// One attempt of a random history: how far it got, what of it a kill left on disk.
#[derive(Clone, Debug)]
struct Life {
    /// Steps taken before the kill.
    steps: u64,
    /// Steps between checkpoints.
    interval: u64,
    /// Whether the kill came between the flush and the commit of the last checkpoint.
    before_commit: bool,
    /// Bytes of the unflushed part of the spool that survive, as a share of 255.
    survives: u8,
    /// The newest checkpoints that turn out to be corrupt at the next start.
    corrupt: usize,
}

fn lives() -> impl Strategy<Value = Vec<Life>> {
    let life =
        (0u64..40, 1u64..8, any::<bool>(), any::<u8>(), 0usize..3).prop_map(|(steps, interval, before_commit, survives, corrupt)| Life {
            steps,
            interval,
            before_commit,
            survives,
            corrupt,
        });
    prop::collection::vec(life, 1..7)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 24,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_step_is_there_exactly_once_after_any_history(lives in lives()) {
        let directory = tempfile::tempdir().unwrap();
        let mut checkpoints = vec![0];
        for (number, life) in (1..).zip(&lives) {
            let from = *checkpoints.last().unwrap();
            let reporter = Reporter::open(directory.path(), "run", number, 0, from, options()).unwrap();
            let path = directory.path().join(format!("attempt-{number:04}.spool"));
            let mut durable = fs::metadata(&path).unwrap().len();
            let mut committed = Vec::new();
            for step in from + 1..=from + life.steps {
                reporter.metrics(batch(step, f64::from(number)));
                if step % life.interval == 0 {
                    reporter.flush(DEADLINE).unwrap();
                    durable = fs::metadata(&path).unwrap().len();
                    committed.push(step);
                }
            }
            if life.before_commit {
                committed.pop();
            }
            reporter.close(DEADLINE).unwrap();
            // The kill: what was not flushed survives in part, at any byte.
            let length = fs::metadata(&path).unwrap().len();
            let kept = durable + (length - durable) * u64::from(life.survives) / 255;
            fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(kept).unwrap();
            checkpoints.extend(committed);
            // Step 0, the beginning, is never corrupt.
            checkpoints.truncate(checkpoints.len().saturating_sub(life.corrupt).max(1));
        }
        let from = *checkpoints.last().unwrap();
        let last = lives.len() as u32 + 1;
        attempt(directory.path(), last, from, from + 10);
        let resolved = resolve(directory.path()).unwrap();
        let found: Vec<u64> = steps(&resolved).into_iter().map(|(step, _)| step).collect();
        prop_assert_eq!(found, (1..=from + 10).collect::<Vec<_>>());
        // The newest attempt that took a step on the surviving road is the one that counts.
        prop_assert!(steps(&resolved).iter().all(|&(step, number)| step <= from || number == last));
    }

    #[test]
    fn records_of_any_content_come_back_as_they_were(
        name in any::<String>(), message in any::<String>(), value in any::<f64>(), values in prop::collection::vec(any::<f32>(), 0..20),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let matrix = Matrix { rows: 1, columns: values.len(), values };
        let batch = MetricBatch {
            step: 1, tokens: u64::MAX, scalars: BTreeMap::from([(name.clone(), value)]), matrices: BTreeMap::from([(name, matrix)]),
        };
        let event = LifecycleEvent { kind: EventKind::DataWarning, step: None, message };
        let reporter = Reporter::open(directory.path(), "run", 1, 0, 0, options()).unwrap();
        reporter.event(event.kind, event.step, event.message.clone());
        reporter.metrics(batch.clone());
        reporter.close(DEADLINE).unwrap();
        let bodies: Vec<Body> = resolve(directory.path()).unwrap().into_iter().map(|record| record.body).collect();
        prop_assert_eq!(&bodies[1], &Body::Event(event));
        // NaN is unequal to itself: compare what is written.
        let text = |body: &Body| serde_json::to_string(body).unwrap();
        prop_assert_eq!(text(&bodies[2]), text(&Body::Metrics(batch)));
    }
}
