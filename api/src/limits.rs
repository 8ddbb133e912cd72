//! Every limit of the API in one place. `GET /api/v1/version` lists them.

use serde::Serialize;
use utoipa::ToSchema;

/// Limits of a server. Each has an error that names it.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Largest body of an ordinary request, in bytes.
    pub body_bytes: usize,
    /// Largest body of an ingest request after decompression, in bytes.
    pub ingest_bytes: usize,
    /// Most points (scalars and matrices) of one ingest request.
    pub ingest_points: usize,
    /// Most lines of one log request.
    pub ingest_lines: usize,
    /// Most buckets of a series.
    pub series_points: usize,
    /// Most metrics, or runs times metrics, of one series request.
    pub series_count: usize,
    /// Longest page.
    pub page_items: u32,
    /// How long a cursor can be used.
    pub cursor_seconds: u64,
    /// How long an `Idempotency-Key` is remembered.
    pub idempotency_seconds: u64,
    /// How long the server works on a request.
    pub request_seconds: u64,
    /// How long a body may take to arrive.
    pub body_seconds: u64,
    /// Most requests at a time.
    pub concurrent_requests: usize,
    /// Most live streams at a time.
    pub live_readers: usize,
    /// Requests that a principal may make at once.
    pub burst_requests: u32,
    /// Requests per second that a principal may make in the long run.
    pub requests_per_second: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 1 << 20,
            ingest_bytes: 8 << 20,
            ingest_points: 100_000,
            ingest_lines: 10_000,
            series_points: 4000,
            series_count: 200,
            page_items: 500,
            cursor_seconds: 24 * 3600,
            idempotency_seconds: 24 * 3600,
            request_seconds: 30,
            body_seconds: 15,
            concurrent_requests: 256,
            live_readers: 2000,
            // A dashboard opens with some dozens of requests; eight writers send a few batches a second.
            burst_requests: 600,
            requests_per_second: 200,
        }
    }
}
