//! One topic: the newest messages, for readers that come back, and a channel to those that are there. Both are bounded; who falls behind
//! the bound gets `event: gap` and reads again what it shows.

use super::offset::Offset;
use axum::body::Bytes;
use std::collections::VecDeque;
use tokio::sync::broadcast;

/// Messages that a reader may be behind.
const QUEUE: usize = 256;
/// Messages that are kept for readers that come back.
const KEPT_MESSAGES: usize = 256;
/// Bytes that are kept for them.
const KEPT_BYTES: usize = 512 << 10;

/// A topic.
pub(super) struct Topic {
    epoch: u32,
    sequence: u64,
    event: i64,
    kept: VecDeque<(u64, Bytes)>,
    kept_bytes: usize,
    readers: broadcast::Sender<Bytes>,
}

/// How a reader begins.
pub(super) struct Subscription {
    /// What it missed, or a gap, or its place for the next time.
    pub(super) first: Vec<Bytes>,
    /// Events after this id are to be fetched from the database.
    pub(super) events_after: Option<i64>,
    /// What comes.
    pub(super) then: broadcast::Receiver<Bytes>,
}

impl Topic {
    /// A topic that begins after the event `event`.
    pub(super) fn new(epoch: u32, event: i64) -> Self {
        Self {
            epoch,
            sequence: 0,
            event,
            kept: VecDeque::new(),
            kept_bytes: 0,
            readers: broadcast::Sender::new(QUEUE),
        }
    }

    pub(super) fn newest_event(&self) -> i64 {
        self.event
    }

    /// Events up to this one are older than the topic.
    pub(super) fn begin_after(&mut self, event: i64) {
        self.event = self.event.max(event);
    }

    pub(super) fn readers(&self) -> usize {
        self.readers.receiver_count()
    }

    /// Sends a message to all readers. `event` is the id of the event that it carries.
    pub(super) fn send(&mut self, name: &str, data: &str, event: Option<i64>) {
        self.sequence += 1;
        self.event = self.event.max(event.unwrap_or(0));
        let frame = Bytes::from(format!("id: {}\nevent: {name}\ndata: {data}\n\n", self.offset()));
        self.kept_bytes += frame.len();
        self.kept.push_back((self.sequence, frame.clone()));
        while self.kept.len() > KEPT_MESSAGES || (self.kept_bytes > KEPT_BYTES && self.kept.len() > 1) {
            let Some((_, old)) = self.kept.pop_front() else { break };
            self.kept_bytes -= old.len();
        }
        // Nobody listening is no error.
        let _ = self.readers.send(frame);
    }

    /// A new reader, perhaps one that comes back.
    pub(super) fn subscribe(&self, last: Option<Offset>) -> Subscription {
        let then = self.readers.subscribe();
        // A message without data sets the id and nothing else.
        let place = Bytes::from(format!("id: {}\n\n", self.offset()));
        let Some(last) = last else {
            return Subscription {
                first: vec![place],
                events_after: None,
                then,
            };
        };
        let oldest = self.kept.front().map_or(self.sequence + 1, |(sequence, _)| *sequence);
        if last.epoch == self.epoch && last.sequence <= self.sequence && last.sequence + 1 >= oldest {
            let missed = self.kept.iter().filter(|(sequence, _)| *sequence > last.sequence);
            return Subscription {
                first: missed.map(|(_, frame)| frame.clone()).collect(),
                events_after: None,
                then,
            };
        }
        Subscription {
            first: vec![place, gap()],
            events_after: Some(last.event),
            then,
        }
    }

    fn offset(&self) -> Offset {
        Offset {
            event: self.event,
            epoch: self.epoch,
            sequence: self.sequence,
        }
    }
}

/// What a reader gets that missed something.
pub(super) fn gap() -> Bytes {
    Bytes::from_static(b"event: gap\ndata: {}\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(frames: &[Bytes]) -> Vec<String> {
        frames.iter().map(|frame| String::from_utf8(frame.to_vec()).unwrap()).collect()
    }

    #[test]
    fn who_comes_back_gets_what_it_missed() {
        let mut topic = Topic::new(1, 0);
        topic.send("job", "1", None);
        topic.send("event", "2", Some(7));
        topic.send("job", "3", None);
        let back = topic.subscribe(Some(Offset {
            event: 0,
            epoch: 1,
            sequence: 1,
        }));
        assert_eq!(
            texts(&back.first),
            [
                "id: 7.00000001.2\nevent: event\ndata: 2\n\n",
                "id: 7.00000001.3\nevent: job\ndata: 3\n\n"
            ]
        );
        assert_eq!(back.events_after, None);
    }

    #[test]
    fn who_missed_too_much_gets_a_gap() {
        let mut topic = Topic::new(1, 0);
        for _ in 0..KEPT_MESSAGES + 2 {
            topic.send("job", "{}", None);
        }
        let at = |epoch, sequence| topic.subscribe(Some(Offset { event: 4, epoch, sequence }));
        assert_eq!(at(1, 2).events_after, None);
        assert_eq!(at(1, 1).events_after, Some(4));
        assert_eq!(at(2, 2).events_after, Some(4), "another process");
        assert_eq!(at(1, 9999).events_after, Some(4), "a place that never was");
        assert_eq!(texts(&at(2, 2).first)[1], "event: gap\ndata: {}\n\n");
    }

    #[test]
    fn a_new_reader_learns_its_place() {
        let mut topic = Topic::new(1, 0);
        assert_eq!(texts(&topic.subscribe(None).first), ["id: 0.00000001.0\n\n"]);
        let mut reader = topic.subscribe(None).then;
        topic.send("job", "{}", None);
        assert_eq!(
            reader.try_recv().unwrap(),
            Bytes::from("id: 0.00000001.1\nevent: job\ndata: {}\n\n")
        );
    }

    #[test]
    fn what_is_kept_is_bounded_in_bytes() {
        let mut topic = Topic::new(1, 0);
        let large = "x".repeat(200 << 10);
        for _ in 0..10 {
            topic.send("metrics", &large, None);
        }
        assert!(topic.kept_bytes <= KEPT_BYTES && topic.kept.len() == 2);
    }
}
