//! What the trainer holds: pushes go to a bounded queue, one thread writes them to the spool.

use super::inbox::{Inbox, Timed, Waited, Work};
use super::spool::{Pushed, SpoolWriter};
use super::{Clock, system_clock};
use crate::error::{Error, Result};
use fathom_spec::assignment::Assignment;
use fathom_spec::record::{Body, EventKind, LifecycleEvent, MetricBatch, Progress};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Lines are handed to the file in pieces of about this size.
const WRITE_BYTES: usize = 1 << 20;
/// Pause before a failed write is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How long a reporter that is dropped without [`Reporter::close`] waits for its thread.
const DROP_DEADLINE: Duration = Duration::from_secs(5);

/// Limits and clock of a [`Reporter`].
#[derive(Clone)]
pub struct Options {
    /// Limit of all spool files of the run together, in bytes.
    pub max_bytes: u64,
    /// Metric batches that may wait for the thread: 6 seconds of 10,000 steps a second.
    pub queue_records: usize,
    /// Bytes of memory that they may take.
    pub queue_bytes: usize,
    /// Pause between two progress records; only the newest in between is written.
    pub progress_interval: Duration,
    /// Records are durable after this time at the latest, without a flush.
    pub sync_interval: Duration,
    /// Gives each record its time.
    pub clock: Clock,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_bytes: 1 << 30,
            queue_records: 1 << 16,
            queue_bytes: 64 << 20,
            progress_interval: Duration::from_secs(1),
            sync_interval: Duration::from_secs(1),
            clock: system_clock(),
        }
    }
}

/// Why a flush is not known to have made everything durable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlushError {
    /// The disk did not answer in time. The records are still in line.
    #[error("the spool was not durable within {0:?}")]
    Deadline(Duration),
    /// The records could not be written. They are still in line and tried again every second.
    #[error("the spool cannot be written: {0}")]
    Failed(String),
}

/// What a reporter wrote and lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Records written to the file.
    pub written: u64,
    /// Records dropped because the queue or the spool was full.
    pub dropped: u64,
    /// Writes or syncs that failed.
    pub failures: u64,
}

#[derive(Debug, Default)]
struct Counters {
    written: AtomicU64,
    dropped: AtomicU64,
    failures: AtomicU64,
}

/// Reports one attempt of a phase. No method waits for the disk but [`Reporter::flush`] and [`Reporter::close`], which have deadlines.
/// Dropping it closes it. See the [module](super) for what it guarantees.
pub struct Reporter {
    inbox: Arc<Inbox>,
    counters: Arc<Counters>,
    clock: Clock,
    closed: bool,
}

impl Reporter {
    /// Starts reporting for rank 0 of an assignment; `resumed_from` is the step of the checkpoint that training goes on from, 0 without
    /// one.
    ///
    /// # Errors
    /// Those of [`Reporter::open`].
    pub fn for_assignment(assignment: &Assignment, resumed_from: u64, options: Options) -> Result<Self> {
        Self::open(
            Path::new(&assignment.spool),
            &assignment.run,
            assignment.attempt,
            0,
            resumed_from,
            options,
        )
    }

    /// Starts reporting. On return the event `AttemptStarted` is durable, so no step of this attempt can ever count beside the same step of
    /// an earlier one.
    ///
    /// # Errors
    /// [`Error::Io`] naming the path; [`Error::Config`] if another process reports to this file or a later attempt has begun.
    pub fn open(directory: &Path, run: &str, attempt: u32, rank: u32, resumed_from: u64, options: Options) -> Result<Self> {
        let mut spool = SpoolWriter::open(directory, attempt, format!("{run}/{attempt}/{rank}"), options.max_bytes)?;
        let message = match resumed_from {
            0 => format!("attempt {attempt} starts from the beginning"),
            step => format!("attempt {attempt} resumes after step {step}"),
        };
        let event = LifecycleEvent {
            kind: EventKind::AttemptStarted,
            step: Some(resumed_from),
            message,
        };
        spool.push((options.clock)(), Body::Event(event));
        let path = spool.path().to_path_buf();
        spool.write().and_then(|()| spool.sync()).map_err(Error::io("write", &path))?;
        Self::start(spool, options)
    }

    fn start(spool: SpoolWriter, options: Options) -> Result<Self> {
        let path = spool.path().to_path_buf();
        let inbox = Arc::new(Inbox::new(&options));
        let counters = Arc::new(Counters::default());
        let clock = Arc::clone(&options.clock);
        let thread = Thread::new(spool, Arc::clone(&inbox), Arc::clone(&counters), options);
        std::thread::Builder::new()
            .name("reporter".into())
            .spawn(move || thread.run())
            .map_err(Error::io("start the thread that writes", &path))?;
        Ok(Self {
            inbox,
            counters,
            clock,
            closed: false,
        })
    }

    /// Reports the measurements of a step. A value that just became NaN or infinite raises one `NonFinite` event, not one per step.
    pub fn metrics(&self, batch: MetricBatch) {
        self.inbox.metrics((self.clock)(), batch);
    }

    /// Reports that something happened.
    pub fn event(&self, kind: EventKind, step: Option<u64>, message: impl Into<String>) {
        self.inbox.event(
            (self.clock)(),
            LifecycleEvent {
                kind,
                step,
                message: message.into(),
            },
        );
    }

    /// Reports how far the phase is. May be called at any rate: only the newest is written, at intervals.
    pub fn progress(&self, progress: Progress) {
        self.inbox.progress((self.clock)(), progress);
    }

    /// Makes everything reported so far durable. Call it before a checkpoint is committed.
    ///
    /// # Errors
    /// [`FlushError`] if that is not known to have happened within `deadline`. Training may go on: the records stay in line.
    pub fn flush(&self, deadline: Duration) -> Result<(), FlushError> {
        outcome(self.inbox.flush(deadline), deadline)
    }

    /// What has been written and lost so far, as of the thread's last look at the queue.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let Counters {
            written,
            dropped,
            failures,
        } = &*self.counters;
        Totals {
            written: written.load(Ordering::Relaxed),
            dropped: dropped.load(Ordering::Relaxed),
            failures: failures.load(Ordering::Relaxed),
        }
    }

    /// Writes what is left, with an event if records were dropped, and ends.
    ///
    /// # Errors
    /// [`FlushError`] if not everything is known to be durable within `deadline`.
    pub fn close(mut self, deadline: Duration) -> Result<Totals, FlushError> {
        self.closed = true;
        outcome(self.inbox.close(deadline), deadline)?;
        Ok(self.totals())
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        if !self.closed {
            let _ = self.inbox.close(DROP_DEADLINE);
        }
    }
}

fn outcome(waited: Waited, deadline: Duration) -> Result<(), FlushError> {
    match waited {
        Waited::Done => Ok(()),
        Waited::Failed(problem) => Err(FlushError::Failed(problem)),
        Waited::TooLate => Err(FlushError::Deadline(deadline)),
    }
}

/// The thread that owns the file.
struct Thread {
    spool: SpoolWriter,
    inbox: Arc<Inbox>,
    counters: Arc<Counters>,
    options: Options,
    /// Taken from the queue, not yet given to the spool.
    backlog: std::collections::VecDeque<Timed>,
    /// Records in the spool's pending lines.
    in_line: u64,
    last_sync: Instant,
    last_progress: Option<Instant>,
    /// When the last try to write failed.
    failed_at: Option<Instant>,
    /// Whether an event has said that the spool is full.
    told_full: bool,
    /// Whether stderr has said that the spool cannot be written.
    said_failing: bool,
    /// Dropped records that the last `RecordsDropped` event told of.
    told: u64,
}

impl Thread {
    fn new(spool: SpoolWriter, inbox: Arc<Inbox>, counters: Arc<Counters>, options: Options) -> Self {
        Self {
            spool,
            inbox,
            counters,
            options,
            backlog: std::collections::VecDeque::new(),
            in_line: 0,
            last_sync: Instant::now(),
            last_progress: None,
            failed_at: None,
            told_full: false,
            said_failing: false,
            told: 0,
        }
    }

    fn run(mut self) {
        loop {
            if let Some(failed_at) = self.failed_at {
                if let Some(problem) = self.retry(failed_at) {
                    return self.finish(Some(problem));
                }
                continue;
            }
            let Work {
                records,
                progress,
                dropped,
                flush,
                closing,
            } = self.inbox.take(self.sync_due(), self.progress_due(), false);
            self.backlog.extend(records);
            if let Some((time, progress)) = progress {
                self.last_progress = Some(Instant::now());
                self.backlog.push_back((time, Body::Progress(progress)));
            }
            self.drop_records(dropped);
            if dropped > 0 {
                self.tell("they came faster than they could be written");
            }
            let problem = self
                .write_and_sync(flush.is_some(), closing)
                .err()
                .map(|error| self.note_failure(&error));
            if let Some(number) = flush {
                self.inbox.flushed(number, problem.clone());
            }
            if closing {
                return self.finish(problem);
            }
        }
    }

    /// Tries again what failed, after a pause or when a flush or the end asks. On success they are left to the next round, which takes what
    /// waits in the queue too. Returns the problem
    /// that remains if the thread must end now.
    fn retry(&mut self, failed_at: Instant) -> Option<String> {
        let Work { flush, closing, .. } = self.inbox.take(Some(failed_at + RETRY), failed_at, true);
        let result = self.write_all().and_then(|()| self.spool.sync());
        let Err(error) = result else {
            self.failed_at = None;
            return None;
        };
        let problem = self.note_failure(&error);
        if let Some(number) = flush {
            self.inbox.flushed(number, Some(problem.clone()));
        }
        closing.then_some(problem)
    }

    /// When written records must be durable.
    fn sync_due(&self) -> Option<Instant> {
        self.spool.unsynced().then(|| self.last_sync + self.options.sync_interval)
    }

    /// From when on the next progress may be written.
    fn progress_due(&self) -> Instant {
        self.last_progress
            .map_or(self.last_sync, |last| last + self.options.progress_interval)
    }

    fn write_and_sync(&mut self, flushing: bool, closing: bool) -> std::io::Result<()> {
        self.write_all()?;
        if closing && self.counters.dropped.load(Ordering::Relaxed) > self.told {
            self.tell("there was no space for them in the queue or the spool");
            self.write_all()?;
        }
        if flushing || closing || self.last_sync.elapsed() >= self.options.sync_interval {
            self.last_sync = Instant::now();
            self.spool.sync()?;
        }
        Ok(())
    }

    /// Closes the file, which unlocks it, and only then says that the thread is done: whoever waited may open the file at once.
    fn finish(self, problem: Option<String>) {
        let path = self.spool.path().to_path_buf();
        let kept_back = self.in_line + self.backlog.len() as u64;
        drop(self.spool);
        let lost = kept_back + self.inbox.finished(problem.clone());
        if let Some(problem) = problem {
            eprintln!("{}: {lost} records are lost: {problem}", path.display());
        }
    }

    /// Numbers and writes the backlog in pieces. What could not be written stays.
    fn write_all(&mut self) -> std::io::Result<()> {
        loop {
            while self.spool.pending_bytes() < WRITE_BYTES
                && let Some((time, body)) = self.backlog.pop_front()
            {
                self.push(time, body);
            }
            self.spool.write()?;
            self.counters
                .written
                .fetch_add(std::mem::take(&mut self.in_line), Ordering::Relaxed);
            if self.backlog.is_empty() {
                return Ok(());
            }
        }
    }

    fn push(&mut self, time: f64, body: Body) {
        let is_progress = matches!(body, Body::Progress(_));
        match self.spool.push(time, body) {
            Pushed::Kept => self.in_line += 1,
            // Progress that finds no space is no loss: it is outdated a second later.
            Pushed::Dropped if is_progress => {}
            Pushed::Dropped => {
                self.drop_records(1);
                if !self.told_full {
                    self.told_full = true;
                    self.tell(&format!(
                        "the spool has reached its limit of {} bytes; later metrics are dropped too",
                        self.spool.limit()
                    ));
                }
            }
        }
    }

    fn drop_records(&self, count: u64) {
        self.counters.dropped.fetch_add(count, Ordering::Relaxed);
    }

    /// Puts an event with the number of dropped records in line.
    fn tell(&mut self, reason: &str) {
        let dropped = self.counters.dropped.load(Ordering::Relaxed);
        self.told = dropped;
        let message = format!("{dropped} records were dropped in this attempt so far: {reason}");
        let event = LifecycleEvent {
            kind: EventKind::RecordsDropped,
            step: None,
            message,
        };
        self.backlog.push_back(((self.options.clock)(), Body::Event(event)));
    }

    /// Counts a failed write, says so once, and returns the reason.
    fn note_failure(&mut self, error: &std::io::Error) -> String {
        self.failed_at = Some(Instant::now());
        self.counters.failures.fetch_add(1, Ordering::Relaxed);
        if !self.said_failing {
            self.said_failing = true;
            let path = self.spool.path().display();
            eprintln!("{path}: cannot write reports: {error}; the phase goes on, writing is tried again every second");
        }
        error.to_string()
    }
}

#[cfg(test)]
mod tests;
