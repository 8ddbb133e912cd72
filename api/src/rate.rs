//! A token bucket per principal. Time is an argument.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Above this many principals, those who have not been seen for a while are forgotten.
const MOST_PRINCIPALS: usize = 10_000;

/// The buckets.
pub(crate) struct Buckets {
    capacity: f64,
    per_second: f64,
    buckets: Mutex<HashMap<String, Bucket>>,
}

struct Bucket {
    tokens: f64,
    filled: Instant,
}

/// What a request found in its bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Whether it may proceed.
    pub(crate) allowed: bool,
    /// Requests left.
    pub(crate) left: u32,
    /// Seconds until there is one more request, at least 1.
    pub(crate) wait: u64,
}

impl Buckets {
    pub(crate) fn new(burst: u32, per_second: u32) -> Self {
        Self {
            capacity: f64::from(burst.max(1)),
            per_second: f64::from(per_second.max(1)),
            buckets: Mutex::default(),
        }
    }

    /// Requests that fit a full bucket.
    pub(crate) fn burst(&self) -> u32 {
        self.capacity as u32
    }

    /// Seconds in which an empty bucket fills.
    pub(crate) fn window(&self) -> u64 {
        (self.capacity / self.per_second).ceil() as u64
    }

    /// Takes one request from the bucket of `principal`.
    pub(crate) fn take(&self, principal: &str, now: Instant) -> Taken {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MOST_PRINCIPALS && !buckets.contains_key(principal) {
            let full_again = Duration::from_secs_f64(self.capacity / self.per_second);
            buckets.retain(|_, bucket| now.saturating_duration_since(bucket.filled) < full_again);
        }
        let bucket = buckets.entry(principal.to_owned()).or_insert(Bucket {
            tokens: self.capacity,
            filled: now,
        });
        let gained = now.saturating_duration_since(bucket.filled).as_secs_f64() * self.per_second;
        bucket.tokens = (bucket.tokens + gained).min(self.capacity);
        bucket.filled = now;
        let allowed = bucket.tokens >= 1.0;
        if allowed {
            bucket.tokens -= 1.0;
        }
        Taken {
            allowed,
            left: bucket.tokens as u32,
            wait: ((1.0 - bucket.tokens.fract()) / self.per_second).ceil().max(1.0) as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate() {
        let buckets = Buckets::new(3, 1);
        let start = Instant::now();
        let allowed = |who, after| buckets.take(who, start + Duration::from_millis(after)).allowed;
        assert!(allowed("a", 0) && allowed("a", 0) && allowed("a", 0));
        assert!(!allowed("a", 500));
        assert!(allowed("b", 500), "principals do not share a bucket");
        assert!(allowed("a", 1000));
        assert!(!allowed("a", 1000));
    }

    #[test]
    fn what_is_left_is_told() {
        let buckets = Buckets::new(2, 2);
        let now = Instant::now();
        let first = buckets.take("a", now);
        assert_eq!((first.allowed, first.left), (true, 1));
        let _ = buckets.take("a", now);
        let third = buckets.take("a", now);
        assert_eq!((third.allowed, third.left, third.wait), (false, 0, 1));
        assert_eq!((buckets.burst(), buckets.window()), (2, 1));
    }
}
