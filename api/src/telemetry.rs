//! The server's own metrics, as `OpenMetrics` text.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: String,
    method: String,
    status: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: String,
    method: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabels {
    operation: &'static str,
}

/// The metrics. Clones share them.
#[derive(Clone)]
pub(crate) struct Telemetry {
    registry: Arc<Registry>,
    requests: Family<RequestLabels, Counter>,
    durations: Family<RouteLabels, Histogram>,
    store_durations: Family<OperationLabels, Histogram>,
    points: Counter,
    batches: Counter,
    duplicates: Counter,
    log_lines: Counter,
    readers: Gauge,
    gaps: Counter,
    database: Gauge,
}

impl Telemetry {
    pub(crate) fn new() -> Self {
        // 0.5 ms to 32 s.
        let seconds = || Histogram::new(exponential_buckets(0.0005, 4.0, 9));
        let mut telemetry = Self {
            registry: Arc::default(),
            requests: Family::default(),
            durations: Family::new_with_constructor(seconds),
            store_durations: Family::new_with_constructor(seconds),
            points: Counter::default(),
            batches: Counter::default(),
            duplicates: Counter::default(),
            log_lines: Counter::default(),
            readers: Gauge::default(),
            gaps: Counter::default(),
            database: Gauge::default(),
        };
        telemetry.registry = Arc::new(telemetry.register());
        telemetry
    }

    fn register(&self) -> Registry {
        let mut registry = Registry::with_prefix("fathom");
        registry.register("http_requests", "Requests by route, method and status", self.requests.clone());
        let help = "Time to the head of the answer";
        registry.register_with_unit("http_request_duration", help, Unit::Seconds, self.durations.clone());
        let help = "Time of database operations";
        registry.register_with_unit("store_duration", help, Unit::Seconds, self.store_durations.clone());
        registry.register("ingest_points", "Scalars and matrices accepted", self.points.clone());
        registry.register("ingest_batches", "Batches of records accepted", self.batches.clone());
        registry.register("ingest_duplicates", "Records that were there already", self.duplicates.clone());
        registry.register("ingest_log_lines", "Log lines accepted", self.log_lines.clone());
        registry.register("live_readers", "Live streams that are open", self.readers.clone());
        registry.register(
            "live_gaps",
            "Times that a live stream was too slow and lost messages",
            self.gaps.clone(),
        );
        let help = "Size of the database when it last answered, without its log";
        registry.register_with_unit("database_size", help, Unit::Bytes, self.database.clone());
        registry
    }

    pub(crate) fn request(&self, route: &str, method: &str, status: u16, elapsed: Duration) {
        let (route, method) = (route.to_owned(), method.to_owned());
        let labels = RouteLabels {
            route: route.clone(),
            method: method.clone(),
        };
        self.durations.get_or_create(&labels).observe(elapsed.as_secs_f64());
        let labels = RequestLabels {
            route,
            method,
            status: u32::from(status),
        };
        self.requests.get_or_create(&labels).inc();
    }

    pub(crate) fn store(&self, operation: &'static str, elapsed: Duration) {
        let labels = OperationLabels { operation };
        self.store_durations.get_or_create(&labels).observe(elapsed.as_secs_f64());
    }

    pub(crate) fn ingested(&self, points: u64, duplicates: u64) {
        self.batches.inc();
        self.points.inc_by(points);
        self.duplicates.inc_by(duplicates);
    }

    pub(crate) fn logged(&self, lines: u64) {
        self.log_lines.inc_by(lines);
    }

    pub(crate) fn reader_opened(&self) {
        self.readers.inc();
    }

    pub(crate) fn reader_closed(&self) {
        self.readers.dec();
    }

    pub(crate) fn gap(&self) {
        self.gaps.inc();
    }

    pub(crate) fn database(&self, bytes: i64) {
        self.database.set(bytes);
    }

    /// The text that a scraper reads.
    pub(crate) fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_shown() {
        let telemetry = Telemetry::new();
        telemetry.request("/a", "GET", 200, Duration::from_millis(2));
        telemetry.ingested(300, 1);
        telemetry.store("jobs", Duration::from_micros(10));
        let text = telemetry.text().unwrap();
        for line in [
            "fathom_http_requests_total{route=\"/a\",method=\"GET\",status=\"200\"} 1",
            "fathom_ingest_points_total 300",
            "fathom_store_duration_seconds_count{operation=\"jobs\"} 1",
            "# EOF",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
