//! What happens to a history when its run ends: points are folded, events and checkpoints are told by what happened.
#![allow(clippy::unwrap_used)] // A helper that fails fails its test.

mod common;
#[path = "common/run.rs"]
mod reporting;

use fathom_spec::record::EventKind;
use fathom_store::Store;
use fathom_store::checkpoints::{CheckpointRow, SeenCheckpoint};
use fathom_store::events::{EventFilter, NewEvent};
use fathom_store::read::{Range, View};
use fathom_store::runs::{RunReport, RunRow};
use reporting::{RUN, Writer, loss, on_each, points, run};

/// Waits until all points of a run's attempts are in pages.
async fn folded(store: &Store, run: &RunRow) {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(30);
    loop {
        let attempts = store.attempts(run.id).await.unwrap();
        if attempts.iter().all(|row| row.last_step.is_none_or(|last| row.sealed_steps > last)) {
            return;
        }
        assert!(std::time::Instant::now() < end, "not folded: {attempts:?}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[test]
fn what_has_ended_is_folded_whole_and_takes_what_comes_late() {
    on_each(|store| async move {
        let run = run(&store).await;
        // Killed: nothing says that it ended but the attempt after it.
        let mut first = Writer::new(1);
        let mut records = vec![first.event(EventKind::AttemptStarted, 0)];
        records.extend((1..=1_500).map(|step| first.step(step, &[("loss.main", loss(step))])));
        first.send(&store, &run, &records).await.unwrap();
        let mut second = Writer::new(2);
        let mut records = vec![second.event(EventKind::AttemptStarted, 1_200)];
        records.extend((1_201..=1_300).map(|step| second.step(step, &[("loss.main", loss(step))])));
        records.push(second.event(EventKind::AttemptStopped, 1_300));
        second.send(&store, &run, &records).await.unwrap();
        folded(&store, &run).await;
        let expected = |last: u64| (1..=last).map(|step| (step, loss(step))).collect::<Vec<_>>();
        assert_eq!(points(&store, &run, "loss.main", 0, 4_000).await, expected(1_300));

        // A page that is folded takes what comes late, in chunks and after they are folded.
        let late: Vec<_> = (1_301..=1_400)
            .map(|step| second.step(step, &[("loss.main", loss(step))]))
            .collect();
        second.send(&store, &run, &late).await.unwrap();
        assert_eq!(points(&store, &run, "loss.main", 0, 4_000).await, expected(1_400));
        store.seal_all(store.attempts(run.id).await.unwrap()[1].id).await.unwrap();
        assert_eq!(points(&store, &run, "loss.main", 0, 4_000).await, expected(1_400));
        let series = store.series_by_name(run.id, "loss.main").await.unwrap().id;
        for buckets in [1, 7, 100] {
            let range = Range {
                from: 0,
                to: 4_000,
                buckets,
            };
            let window = store.window(run.id, &[series], range, View::Resolved).await.unwrap();
            assert_eq!(
                window.series[&series].iter().map(|bucket| bucket.count).sum::<u64>(),
                1_400,
                "{buckets}"
            );
        }

        // Killed and given up: the runner says so.
        let mut third = Writer::new(3);
        let mut records = vec![third.event(EventKind::AttemptStarted, 1_400)];
        records.extend((1_401..=2_100).map(|step| third.step(step, &[("loss.main", loss(step))])));
        third.send(&store, &run, &records).await.unwrap();
        let report = RunReport {
            name: RUN,
            phase: "pretrain",
            kind: "pretrain",
            key: "0123456789abcdef",
            state: "failed",
            flops_per_token: None,
        };
        store.report_run(run.job_id, &report).await.unwrap();
        folded(&store, &run).await;
        assert_eq!(points(&store, &run, "loss.main", 0, 4_000).await, expected(2_100));
    });
}

#[test]
fn a_read_beside_the_folding_sees_each_point_once() {
    on_each(|store| async move {
        let run = run(&store).await;
        let mut writer = Writer::new(1);
        let start = [writer.event(EventKind::AttemptStarted, 0)];
        writer.send(&store, &run, &start).await.unwrap();
        for part in 0..20 {
            let steps = part * 100 + 1..=part * 100 + 100;
            let records: Vec<_> = steps.map(|step| writer.step(step, &[("loss.main", loss(step))])).collect();
            writer.send(&store, &run, &records).await.unwrap();
            let attempt = store.attempts(run.id).await.unwrap()[0].clone();
            let series = store.series_by_name(run.id, "loss.main").await.unwrap().id;
            let range = Range {
                from: 0,
                to: 4_000,
                buckets: 4_000,
            };
            // The attempts were read before; the folding may come anywhere between that and the end of the read.
            let (attempts, wanted) = ([attempt.clone()], [series]);
            let (folded, window) = tokio::join!(
                store.seal_all(attempt.id),
                store.window_of(&attempts, &wanted, range, View::Resolved)
            );
            folded.unwrap();
            let after = store.window_of(&attempts, &wanted, range, View::Resolved).await.unwrap();
            for window in [window.unwrap(), after] {
                assert_eq!(
                    window.series[&series].iter().map(|bucket| bucket.count).sum::<u64>(),
                    part * 100 + 100
                );
            }
        }
    });
}

#[test]
fn events_are_listed_by_when_they_happened() {
    on_each(|store| async move {
        let run = run(&store).await;
        let event = |key: u64, time: f64| NewEvent {
            job: run.job_id,
            run: Some(run.id),
            attempt: None,
            key: key.to_string(),
            time,
            kind: "PhaseChanged".into(),
            severity: "info",
            step: None,
            message: key.to_string(),
        };
        // Two at one time, and the order of arrival is another than that of the times.
        let times = [5.25, 1.0, 3.0, 3.0, 4.1];
        let events: Vec<NewEvent> = (0..).zip(times).map(|(key, time)| event(key, time)).collect();
        store.add_events(&events).await.unwrap();
        let filter = EventFilter::default();
        let (mut listed, mut before) = (Vec::new(), None);
        loop {
            let page = store.events(run.job_id, &filter, before, 2).await.unwrap();
            listed.extend(page.items.into_iter().map(|row| row.message));
            before = page.next;
            if before.is_none() {
                break;
            }
        }
        assert_eq!(listed, ["0", "4", "3", "2", "1"]);
        // Whoever follows gets them in the order of arrival, each once.
        let first = store.events_stored_after(run.job_id, &filter, 0, 3).await.unwrap();
        let rest = store
            .events_stored_after(run.job_id, &filter, first.next.unwrap(), 3)
            .await
            .unwrap();
        let arrived: Vec<String> = first.items.into_iter().chain(rest.items).map(|row| row.message).collect();
        assert_eq!((arrived, rest.next), (["0", "1", "2", "3", "4"].map(str::to_owned).into(), None));
    });
}

#[test]
fn a_checkpoint_knows_its_attempt_and_whether_it_was_verified() {
    on_each(|store| async move {
        let run = run(&store).await;
        let seen = |step: u64, verified: bool| SeenCheckpoint {
            step,
            tokens: None,
            bytes: 1,
            files: 1,
            path: "/a".into(),
            verified,
        };
        let mut first = Writer::new(1);
        let records = [
            first.event(EventKind::AttemptStarted, 0),
            first.event(EventKind::CheckpointCommitted, 10),
            first.event(EventKind::CheckpointCommitted, 20),
        ];
        first.send(&store, &run, &records).await.unwrap();
        store.report_checkpoints(run.id, &[seen(10, true), seen(20, false)]).await.unwrap();
        let known = |rows: Vec<CheckpointRow>| -> Vec<(i64, Option<i32>, bool)> {
            rows.into_iter()
                .map(|row| (row.step, row.attempt, row.verified_at.is_some()))
                .collect()
        };
        let rows = store.checkpoints(run.job_id).await.unwrap();
        assert_eq!(known(rows), [(20, Some(1), false), (10, Some(1), true)]);
        // A second attempt goes on from one, which compares its digests, and writes another. What was verified stays so.
        let mut second = Writer::new(2);
        let records = [
            second.event(EventKind::AttemptStarted, 20),
            second.event(EventKind::CheckpointCommitted, 30),
        ];
        second.send(&store, &run, &records).await.unwrap();
        store
            .report_checkpoints(run.id, &[seen(10, false), seen(20, false), seen(30, false)])
            .await
            .unwrap();
        let rows = store.checkpoints(run.job_id).await.unwrap();
        assert_eq!(known(rows), [(30, Some(2), false), (20, Some(1), true), (10, Some(1), true)]);
    });
}
