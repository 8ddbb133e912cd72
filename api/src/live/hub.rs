//! The hub. Whoever has committed something announces it here: ingest handlers, the local runner, and, with several replicas, a bridge that
//! listens to the database's notifications of the others.

use super::coalesce::{Coalescer, Due, LivePoint, Pending};
use super::offset::Offset;
use super::topic::{Subscription, Topic};
use crate::view::Event;
use serde_json::json;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Topics of runs that are kept without readers.
const MOST_TOPICS: usize = 512;

/// Where live streams come from. Clones share it.
#[derive(Clone)]
pub struct Hub {
    shared: Arc<Mutex<Shared>>,
    epoch: u32,
}

struct Shared {
    all: Topic,
    runs: HashMap<String, Topic>,
    coalescer: Coalescer,
    closed: bool,
}

impl Hub {
    /// A hub. `epoch` must differ between processes: a few random bits, or the time.
    #[must_use]
    pub fn new(epoch: u32) -> Self {
        let shared = Shared {
            all: Topic::new(epoch, 0),
            runs: HashMap::new(),
            coalescer: Coalescer::default(),
            closed: false,
        };
        Self {
            shared: Arc::new(Mutex::new(shared)),
            epoch,
        }
    }

    /// Steps of a run are committed. Needs a Tokio runtime.
    pub fn metrics(&self, run: &str, points: Vec<LivePoint>, matrices: BTreeSet<String>) {
        let pending = Pending {
            points,
            matrices,
            ..Pending::default()
        };
        self.coalesce(run, pending);
    }

    /// Log lines of a run up to this id are committed. Needs a Tokio runtime.
    pub fn log(&self, run: &str, last_id: i64) {
        let pending = Pending {
            last_log: Some(last_id),
            ..Pending::default()
        };
        self.coalesce(run, pending);
    }

    /// An event is committed.
    pub fn event(&self, event: &Event) {
        if let Ok(data) = serde_json::to_string(event) {
            self.lock().send("event", &data, event.run.as_deref(), Some(event.id));
        }
    }

    /// A job has changed.
    pub fn job(&self, job: &str, state: &str, phase: Option<&str>) {
        let data = json!({ "job": job, "state": state, "phase": phase }).to_string();
        self.lock().send("job", &data, None, None);
    }

    /// The verdict on a job has changed.
    pub fn health(&self, job: &str, run: Option<&str>, verdict: &str) {
        let data = json!({ "job": job, "verdict": verdict }).to_string();
        self.lock().send("health", &data, run, None);
    }

    /// Ends all streams: the server stops.
    pub fn close(&self) {
        let mut shared = self.lock();
        shared.closed = true;
        // Readers see the end when the senders are gone.
        shared.all = Topic::new(self.epoch, 0);
        shared.runs.clear();
    }

    /// Whether the hub knows which events are older than itself.
    pub(super) fn has_begun(&self) -> bool {
        self.lock().all.newest_event() > 0
    }

    /// Events up to this one are older than the hub.
    pub(super) fn begin_after(&self, event: i64) {
        self.lock().all.begin_after(event);
    }

    /// A new reader of everything, or of one run; none once the hub is closed.
    pub(super) fn subscribe(&self, run: Option<&str>, last: Option<Offset>) -> Option<Subscription> {
        let epoch = self.epoch;
        let mut shared = self.lock();
        if shared.closed {
            return None;
        }
        match run {
            None => Some(shared.all.subscribe(last)),
            Some(run) => {
                let newest = shared.all.newest_event();
                let topic = shared.runs.entry(run.to_owned()).or_insert_with(|| Topic::new(epoch, newest));
                Some(topic.subscribe(last))
            }
        }
    }

    fn coalesce(&self, run: &str, pending: Pending) {
        let now = Instant::now();
        let mut shared = self.lock();
        match shared.coalescer.add(run, pending, now) {
            Due::Now => shared.flush(run, now),
            Due::Scheduled => {}
            Due::At(time) => {
                let (hub, run) = (self.clone(), run.to_owned());
                tokio::spawn(async move {
                    tokio::time::sleep_until(time.into()).await;
                    hub.lock().flush(&run, Instant::now());
                });
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn flush(&mut self, run: &str, now: Instant) {
        let Some(Pending {
            points,
            matrices,
            last_log,
            overflow,
        }) = self.coalescer.take(run, now)
        else {
            return;
        };
        if overflow {
            self.send("gap", "{}", Some(run), None);
        } else if !points.is_empty() || !matrices.is_empty() {
            let data = json!({ "run": run, "points": points, "matrices": matrices }).to_string();
            self.send("metrics", &data, Some(run), None);
        }
        if let Some(id) = last_log {
            self.send("log", &json!({ "run": run, "lastId": id }).to_string(), Some(run), None);
        }
    }

    /// Sends to the readers of everything and to those of the run. A topic is only made for a reader.
    fn send(&mut self, name: &str, data: &str, run: Option<&str>, event: Option<i64>) {
        if self.closed {
            return;
        }
        self.all.send(name, data, event);
        if let Some(topic) = run.and_then(|run| self.runs.get_mut(run)) {
            topic.send(name, data, event);
        }
        if self.runs.len() > MOST_TOPICS {
            self.runs.retain(|_, topic| topic.readers() > 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(subscription: &mut Subscription) -> Vec<String> {
        std::iter::from_fn(|| subscription.then.try_recv().ok())
            .filter_map(|frame| String::from_utf8(frame.to_vec()).ok())
            .filter_map(|text| text.lines().nth(1).map(str::to_owned))
            .collect()
    }

    #[tokio::test]
    async fn readers_of_a_run_see_that_run_only() {
        let hub = Hub::new(1);
        let mut all = hub.subscribe(None, None).unwrap();
        let mut one = hub.subscribe(Some("a"), None).unwrap();
        hub.log("a", 1);
        hub.log("b", 1);
        hub.job("j", "running", None);
        hub.health("j", Some("a"), "watch");
        assert_eq!(received(&mut all), ["event: log", "event: log", "event: job", "event: health"]);
        assert_eq!(received(&mut one), ["event: log", "event: health"]);
    }

    #[tokio::test]
    async fn what_waits_is_sent_later() {
        let hub = Hub::new(1);
        let mut all = hub.subscribe(None, None).unwrap();
        hub.log("a", 1);
        hub.log("a", 2);
        hub.log("a", 3);
        assert_eq!(received(&mut all).len(), 1);
        tokio::time::sleep(std::time::Duration::from_millis(400)).await;
        assert_eq!(received(&mut all).len(), 1);
    }

    #[test]
    fn a_closed_hub_ends_its_streams() {
        let hub = Hub::new(1);
        let mut all = hub.subscribe(None, None).unwrap();
        hub.close();
        assert!(matches!(
            all.then.try_recv(),
            Err(tokio::sync::broadcast::error::TryRecvError::Closed)
        ));
        assert!(hub.subscribe(None, None).is_none());
    }
}
