//! The queue between the trainer and the reporter's thread. The lock is held for a push or a swap, never during I/O.

use super::Options;
use fathom_spec::record::{Body, EventKind, LifecycleEvent, MetricBatch, Progress};
use std::collections::{BTreeSet, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A body with the time at which it was reported.
pub(super) type Timed = (f64, Body);

/// The two sides' shared state.
#[derive(Debug)]
pub(super) struct Inbox {
    state: Mutex<State>,
    /// Signalled to the thread: there is work.
    work: Condvar,
    /// Signalled to those who wait: a flush is over, or the thread is.
    done: Condvar,
    records_limit: usize,
    bytes_limit: usize,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Timed>,
    bytes: usize,
    /// Only the newest matters, so there is one place for it and not a queue.
    progress: Option<(f64, Progress)>,
    /// Records that found the queue full since the thread last looked.
    dropped: u64,
    /// Metrics whose last value was NaN or infinite: an event is due only when one enters this set.
    non_finite: BTreeSet<String>,
    flushes_wanted: u64,
    flushes_done: u64,
    flush_problem: Option<String>,
    closing: bool,
    finished: bool,
}

/// What the thread takes at once.
#[derive(Debug, Default)]
pub(super) struct Work {
    pub(super) records: VecDeque<Timed>,
    pub(super) progress: Option<(f64, Progress)>,
    pub(super) dropped: u64,
    /// Number of the newest flush that is waited for, if any is.
    pub(super) flush: Option<u64>,
    pub(super) closing: bool,
}

/// How a wait ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Waited {
    Done,
    Failed(String),
    TooLate,
}

impl Inbox {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            state: Mutex::default(),
            work: Condvar::new(),
            done: Condvar::new(),
            records_limit: options.queue_records,
            bytes_limit: options.queue_bytes,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics between two steps of an update, so the state is whole even if a thread died elsewhere with the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn metrics(&self, time: f64, batch: MetricBatch) {
        let mut state = self.lock();
        let became_non_finite = state.note_non_finite(&batch);
        let step = batch.step;
        self.push(&mut state, (time, Body::Metrics(batch)), 1);
        for message in became_non_finite {
            let event = LifecycleEvent {
                kind: EventKind::NonFinite,
                step: Some(step),
                message,
            };
            self.push(&mut state, (time, Body::Event(event)), 2);
        }
    }

    pub(super) fn event(&self, time: f64, event: LifecycleEvent) {
        self.push(&mut self.lock(), (time, Body::Event(event)), 2);
    }

    pub(super) fn progress(&self, time: f64, progress: Progress) {
        let mut state = self.lock();
        let wake = state.progress.is_none();
        state.progress = Some((time, progress));
        if wake {
            self.work.notify_one();
        }
    }

    /// Events may use twice the space of metrics, so that a flood of metrics drops none of them.
    fn push(&self, state: &mut State, record: Timed, share: usize) {
        let bytes = size_of_body(&record.1);
        if state.queue.len() >= share * self.records_limit || state.bytes + bytes > share * self.bytes_limit {
            state.dropped += 1;
            return;
        }
        state.bytes += bytes;
        state.queue.push_back(record);
        // The thread sleeps only on an empty queue.
        if state.queue.len() == 1 {
            self.work.notify_one();
        }
    }

    /// Asks for a flush of everything pushed so far and waits for it.
    pub(super) fn flush(&self, deadline: Duration) -> Waited {
        let mut state = self.lock();
        state.flushes_wanted += 1;
        let number = state.flushes_wanted;
        self.work.notify_one();
        let waiting = |state: &mut State| state.flushes_done < number && !state.finished;
        let (state, timeout) = self
            .done
            .wait_timeout_while(state, deadline, waiting)
            .unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() {
            return Waited::TooLate;
        }
        state.flush_problem.clone().map_or(Waited::Done, Waited::Failed)
    }

    /// Asks the thread to write what is left and end, and waits for it.
    pub(super) fn close(&self, deadline: Duration) -> Waited {
        let mut state = self.lock();
        state.closing = true;
        self.work.notify_one();
        let (state, timeout) = self
            .done
            .wait_timeout_while(state, deadline, |state| !state.finished)
            .unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() {
            return Waited::TooLate;
        }
        state.flush_problem.clone().map_or(Waited::Done, Waited::Failed)
    }

    /// Thread's side: waits for records, a flush, the end or `until`, whatever is first. With `busy` (earlier records could not be written
    /// yet) records stay in the queue, so that its limits hold, and only a flush, the end or `until` wakes. Progress is taken from
    /// `progress_from` on.
    pub(super) fn take(&self, until: Option<Instant>, progress_from: Instant, busy: bool) -> Work {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            let urgent = state.closing || state.flushes_wanted > state.flushes_done;
            let progress_due = state.progress.is_some() && now >= progress_from;
            let due = until.is_some_and(|until| now >= until);
            if urgent || due || (!busy && (progress_due || !state.queue.is_empty())) {
                return state.take(busy, progress_due || urgent);
            }
            let wake_progress = (state.progress.is_some() && !busy).then_some(progress_from);
            let wake = until.into_iter().chain(wake_progress).min();
            state = match wake {
                None => self.work.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(wake) => {
                    let wait = wake.saturating_duration_since(now);
                    self.work.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Thread's side: says how a flush went.
    pub(super) fn flushed(&self, number: u64, problem: Option<String>) {
        let mut state = self.lock();
        state.flushes_done = number;
        state.flush_problem = problem;
        self.done.notify_all();
    }

    /// Thread's side: says that the thread ends, and returns how many records it leaves behind.
    pub(super) fn finished(&self, problem: Option<String>) -> u64 {
        let mut state = self.lock();
        state.finished = true;
        state.flush_problem = problem;
        self.done.notify_all();
        state.queue.len() as u64
    }
}

impl State {
    fn take(&mut self, busy: bool, with_progress: bool) -> Work {
        let flush = (self.flushes_wanted > self.flushes_done).then_some(self.flushes_wanted);
        let mut work = Work {
            flush,
            closing: self.closing,
            ..Work::default()
        };
        if !busy {
            work.records = std::mem::take(&mut self.queue);
            work.dropped = std::mem::take(&mut self.dropped);
            self.bytes = 0;
            if with_progress {
                work.progress = self.progress.take();
            }
        }
        work
    }

    /// Messages for the quantities of a batch that just became NaN or infinite.
    fn note_non_finite(&mut self, batch: &MetricBatch) -> Vec<String> {
        let mut messages = Vec::new();
        for (name, &value) in &batch.scalars {
            if self.entered(name, !value.is_finite()) {
                messages.push(format!("{name} became {value} at step {}", batch.step));
            }
        }
        for (name, matrix) in &batch.matrices {
            let bad = matrix.values.iter().position(|value| !value.is_finite());
            if self.entered(name, bad.is_some()) {
                messages.push(format!(
                    "{name} became non-finite at step {}, first at element {}",
                    batch.step,
                    bad.unwrap_or(0)
                ));
            }
        }
        messages
    }

    fn entered(&mut self, name: &str, non_finite: bool) -> bool {
        if non_finite {
            return !self.non_finite.contains(name) && self.non_finite.insert(name.to_owned());
        }
        self.non_finite.remove(name);
        false
    }
}

/// Memory that a queued body takes, roughly.
fn size_of_body(body: &Body) -> usize {
    const ENTRY: usize = 64;
    size_of::<Timed>()
        + match body {
            Body::Metrics(batch) => {
                let scalars: usize = batch.scalars.keys().map(|name| name.len() + ENTRY).sum();
                let matrices: usize = batch
                    .matrices
                    .iter()
                    .map(|(name, matrix)| name.len() + ENTRY + 4 * matrix.values.len())
                    .sum();
                scalars + matrices
            }
            Body::Event(event) => event.message.len(),
            Body::Progress(progress) => progress.stage.len() + progress.unit.len(),
        }
}
