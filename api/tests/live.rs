//! Live streams on a real database.

#![allow(clippy::unwrap_used, reason = "test helpers outside #[test] functions")]

mod common;
#[path = "common/database.rs"]
mod database;

use axum::body::Body;
use axum::http::{Method, StatusCode};
use common::request;
use database::{RUN, event, ingest, on_server, step, trained};
use serde_json::{Value, json};
use std::time::Duration;
use tokio_stream::StreamExt;
use tower::ServiceExt;

#[test]
fn live_readers_see_what_is_committed_and_resume() {
    on_server(|server| async move {
        trained(&server).await;
        let open = |last: Option<String>| {
            let mut request = request(Method::GET, &format!("/api/v1/runs/{RUN}/events"));
            if let Some(last) = last {
                request = request.header("last-event-id", last);
            }
            server.router.clone().oneshot(request.body(Body::empty()).unwrap())
        };
        let response = open(None).await.unwrap();
        assert_eq!(
            (response.status(), response.headers()["content-type"].to_str().unwrap()),
            (StatusCode::OK, "text/event-stream")
        );
        assert_eq!(response.headers()["x-accel-buffering"], "no");
        let mut stream = response.into_body().into_data_stream();
        let first = next(&mut stream).await;
        assert!(first.starts_with("id: ") && first.lines().count() == 2, "{first}");
        let place = first.lines().next().unwrap().trim_start_matches("id: ").to_owned();
        assert_eq!(
            ingest(&server, &[step(12, 11, json!(0.5)), event(13, "CheckpointCommitted", 11)])
                .await
                .status,
            StatusCode::OK
        );
        let mut seen = Vec::new();
        while !(seen.iter().any(|text: &String| text.contains("event: metrics"))
            && seen.iter().any(|text: &String| text.contains("event: event")))
        {
            seen.push(next(&mut stream).await);
        }
        let metrics = seen.iter().find(|text| text.contains("event: metrics")).unwrap();
        let data: Value = serde_json::from_str(metrics.lines().find_map(|line| line.strip_prefix("data: ")).unwrap()).unwrap();
        assert_eq!(
            (&data["run"], &data["points"][0]["scalars"]["loss.main"], &data["matrices"]),
            (&RUN.into(), &0.5.into(), &json!(["moe.load"]))
        );
        drop(stream);
        let mut again = open(Some(place)).await.unwrap().into_body().into_data_stream();
        assert_eq!(next(&mut again).await, seen[0], "what was missed comes again");
        let mut restarted = open(Some("1.00000000.5".into())).await.unwrap().into_body().into_data_stream();
        let _place = next(&mut restarted).await;
        assert_eq!(next(&mut restarted).await, "event: gap\ndata: {}\n\n");
        assert!(
            next(&mut restarted).await.starts_with("event: event\n"),
            "events after the last one come from the database"
        );
        server.api.hub().close();
        while tokio::time::timeout(Duration::from_secs(5), restarted.next())
            .await
            .expect("the stream ends")
            .is_some()
        {}
    });
}

#[test]
fn a_server_that_is_told_to_stop_ends_its_streams() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    on_server(|server| async move {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let serving = tokio::spawn(fathom_api::serve(listener, server.api, async {
            stopped.await.unwrap();
        }));
        let mut reader = tokio::net::TcpStream::connect(address).await.unwrap();
        let head = format!(
            "GET /api/v1/events HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\n\r\n",
            common::SECRET
        );
        reader.write_all(head.as_bytes()).await.unwrap();
        let mut buffer = [0; 4096];
        let count = reader.read(&mut buffer).await.unwrap();
        assert!(buffer[..count].starts_with(b"HTTP/1.1 200"));
        stop.send(()).unwrap();
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(5), async {
            serving.await.unwrap().unwrap();
            reader.read_to_end(&mut rest).await.unwrap();
        });
        ended.await.expect("the server stops although a reader is connected");
    });
}
async fn next(stream: &mut axum::body::BodyDataStream) -> String {
    let frame = tokio::time::timeout(Duration::from_secs(5), stream.next())
        .await
        .expect("a message comes");
    String::from_utf8(frame.unwrap().unwrap().to_vec()).unwrap()
}
