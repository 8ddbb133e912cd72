//! The store on a real server, and on the embedded database.
#![allow(clippy::unwrap_used)] // A helper that fails fails its test.

mod common;
#[path = "common/run.rs"]
mod reporting;

use fathom_spec::record::{Body, EventKind, Matrix, MetricBatch};
use fathom_store::ingest::Batch;
use fathom_store::jobs::{JobFilter, JobReport};
use fathom_store::read::{Range, View};
use fathom_store::{Error, Store};
use reporting::{Writer, loss, on_each, points, run};
use serde_json::json;
use std::collections::BTreeMap;

#[test]
fn records_are_stored_once_and_gaps_are_refused() {
    on_each(|store| async move {
        let run = run(&store).await;
        let mut writer = Writer::new(1);
        let mut records = vec![writer.event(EventKind::AttemptStarted, 0)];
        records.extend((1..=5).map(|step| writer.step(step, &[("loss.main", loss(step)), ("gradient_norm", f64::NAN)])));
        let ingested = writer.send(&store, &run, &records).await.unwrap();
        assert_eq!((ingested.durable_sequence, ingested.duplicates, ingested.points), (Some(5), 0, 10));
        assert_eq!(ingested.events.len(), 1);
        // Again, and again with one that is new.
        let again = writer.send(&store, &run, &records).await.unwrap();
        assert_eq!(
            (again.durable_sequence, again.duplicates, again.points, again.events.len()),
            (Some(5), 6, 0, 0)
        );
        records.push(writer.step(6, &[("loss.main", loss(6))]));
        let one = writer.send(&store, &run, &records).await.unwrap();
        assert_eq!((one.durable_sequence, one.duplicates, one.points), (Some(6), 6, 1));
        // A record that follows one that never came.
        writer.sequence += 1;
        let late = [writer.step(8, &[("loss.main", 1.0)])];
        assert!(matches!(writer.send(&store, &run, &late).await, Err(Error::Gap { expected: 7 })));
        let expected: Vec<_> = (1..=6).map(|step| (step, loss(step))).collect();
        assert_eq!(points(&store, &run, "loss.main", 0, 100).await, expected);
        let norms = points(&store, &run, "gradient_norm", 0, 100).await;
        assert!(norms.len() == 5 && norms.iter().all(|(_, value)| value.is_nan()));
        assert_eq!(store.next_sequence(run.id, &writer.name).await.unwrap(), 7);
    });
}

#[test]
fn what_is_not_acceptable_changes_nothing() {
    on_each(|store| async move {
        let run = run(&store).await;
        let mut writer = Writer::new(1);
        let good = writer.step(1, &[("a", 1.0)]);
        let matrix = |rows, columns, count| {
            Body::Metrics(MetricBatch {
                step: 2,
                tokens: 0,
                scalars: BTreeMap::new(),
                matrices: [(
                    "m".to_owned(),
                    Matrix {
                        rows,
                        columns,
                        values: vec![0.0; count],
                    },
                )]
                .into(),
            })
        };
        let both = || {
            let Body::Metrics(mut batch) = matrix(1, 1, 1) else {
                unreachable!("a matrix is a metric");
            };
            batch.scalars.insert("m".to_owned(), 1.0);
            Body::Metrics(batch)
        };
        let mut other = Writer::new(2);
        for (what, bad) in [
            ("needs 6 values, not 5", writer.record(matrix(2, 3, 5))),
            ("1 to 1048576 elements", writer.record(matrix(0, 3, 0))),
            ("reserved", writer.step(2, &[("$tokens", 1.0)])),
            ("is a scalar and a matrix", writer.record(both())),
            ("larger than 2^53", writer.step(u64::MAX, &[("a", 1.0)])),
            ("one writer", other.step(2, &[("a", 1.0)])),
            ("1 to 200 characters", writer.step(2, &[(&"x".repeat(201), 1.0)])),
        ] {
            let records = [good.clone(), bad];
            let refused = writer.send(&store, &run, &records).await.unwrap_err();
            assert!(matches!(&refused, Error::Invalid(text) if text.contains(what)), "{what}: {refused}");
        }
        let foreign = Batch {
            writer: "other.run/1/0",
            previous: None,
            records: &[],
        };
        assert!(matches!(store.ingest(&run, &foreign).await, Err(Error::Invalid(_))));
        assert!(store.catalogue(run.id).await.unwrap().is_empty());
        assert!(store.attempts(run.id).await.unwrap().is_empty());
    });
}

#[test]
fn a_later_attempt_supersedes_and_the_old_steps_stay_as_ghosts() {
    on_each(|store| async move {
        let run = run(&store).await;
        let mut first = Writer::new(1);
        let mut records = vec![first.event(EventKind::AttemptStarted, 0)];
        records.extend((1..=3_000).map(|step| first.step(step, &[("loss.main", 1.0)])));
        first.send(&store, &run, &records).await.unwrap();
        store.seal(store.attempts(run.id).await.unwrap()[0].id).await.unwrap();
        let mut second = Writer::new(2);
        let mut records = vec![second.event(EventKind::AttemptStarted, 1_500)];
        records.extend((1_501..=2_000).map(|step| second.step(step, &[("loss.main", 2.0)])));
        records.push(second.event(EventKind::AttemptStopped, 2_000));
        second.send(&store, &run, &records).await.unwrap();
        let expected: Vec<_> = (1..=2_000).map(|step| (step, if step <= 1_500 { 1.0 } else { 2.0 })).collect();
        assert_eq!(points(&store, &run, "loss.main", 0, 4_000).await, expected);
        let attempts = store.attempts(run.id).await.unwrap();
        assert_eq!(fathom_store::attempts::superseded(&attempts, 0), Some((1_501, 3_000)));
        assert_eq!(attempts[1].outcome.as_deref(), Some("stopped"));
        // The ghost, and the same in wide buckets: those across the border hold the right part of each.
        let series = store.series_by_name(run.id, "loss.main").await.unwrap().id;
        let range = Range {
            from: 0,
            to: 4_000,
            buckets: 100,
        };
        let ghost = store.window(run.id, &[series], range, View::Attempt(attempts[0].id)).await.unwrap();
        assert_eq!(ghost.series[&series].iter().map(|bucket| bucket.count).sum::<u64>(), 3_000);
        let resolved = store.window(run.id, &[series], range, View::Resolved).await.unwrap();
        assert_eq!(resolved.series[&series].iter().map(|bucket| bucket.count).sum::<u64>(), 2_000);
        let sum: f64 = resolved.series[&series]
            .iter()
            .map(|bucket| bucket.mean * bucket.count as f64)
            .sum();
        assert!((sum - 2_500.0).abs() < 1e-6, "{sum}");
    });
}

#[test]
fn every_spike_is_visible_at_every_zoom() {
    on_each(|store| async move {
        let run = run(&store).await;
        let mut writer = Writer::new(1);
        let steps = 70_000u64;
        let spikes = [1u64, 777, 1_024, 32_767, 32_768, 50_001, 69_999];
        let value = |step| if spikes.contains(&step) { 1e6 } else { loss(step) };
        let mut records = vec![writer.event(EventKind::AttemptStarted, 0)];
        for step in 1..=steps {
            let mut scalars = vec![("loss.main", value(step))];
            if step % 1_000 == 0 {
                scalars.push(("validation.loss", loss(step)));
            }
            records.push(writer.step(step, &scalars));
            if records.len() == 7_000 || step == steps {
                writer.send(&store, &run, &records).await.unwrap();
                store.seal(store.attempts(run.id).await.unwrap()[0].id).await.unwrap();
                records.clear();
            }
        }
        let series = store.series_by_name(run.id, "loss.main").await.unwrap().id;
        let sparse = store.series_by_name(run.id, "validation.loss").await.unwrap().id;
        for (from, to) in [
            (0, steps),
            (1, 40_000),
            (500, 33_000),
            (32_760, 32_775),
            (69_000, 70_000),
            (0, 1 << 40),
        ] {
            for buckets in [1, 10, 333, 1_000, 4_000] {
                let range = Range { from, to, buckets };
                let window = store.window(run.id, &[series, sparse], range, View::Resolved).await.unwrap();
                let list = &window.series[&series];
                assert!(list.len() <= buckets as usize);
                assert!(list.windows(2).all(|pair| pair[0].index < pair[1].index));
                let inside = |step: &&u64| (from..=to).contains(*step);
                for spike in spikes.iter().filter(inside) {
                    let bucket = list.iter().find(|bucket| bucket.index == spike >> window.bucket_bits).unwrap();
                    assert_eq!(bucket.max, 1e6, "step {spike} in {range:?}");
                }
                let count: u64 = list.iter().map(|bucket| bucket.count).sum();
                assert_eq!(count, to.min(steps) - from.max(1) + 1, "{range:?}");
                let sparse: u64 = window.series[&sparse].iter().map(|bucket| bucket.count).sum();
                assert_eq!(sparse, to.min(steps) / 1_000 + 1 - from.max(1).div_ceil(1_000), "{range:?}");
            }
        }
        let expected: Vec<_> = (1..=steps).map(|step| (step, value(step))).collect();
        assert_eq!(points(&store, &run, "loss.main", 0, steps).await, expected);
    });
}

#[test]
fn matrices_are_thinned_with_age_except_around_events() {
    on_each(|store| async move {
        let run = run(&store).await;
        let mut writer = Writer::new(1);
        let mut records = vec![writer.event(EventKind::AttemptStarted, 0)];
        let matrix = |step: u64| Matrix {
            rows: 2,
            columns: 3,
            values: vec![step as f32, 1.0, 2.0, 0.0, 0.0, if step == 500 { 90.0 } else { 3.0 }],
        };
        for step in 1..=3_000 {
            records.push(writer.record(Body::Metrics(MetricBatch {
                step,
                tokens: step,
                scalars: BTreeMap::new(),
                matrices: [("moe.load".to_owned(), matrix(step))].into(),
            })));
            if step == 500 {
                records.push(writer.event(EventKind::NonFinite, 500));
            }
        }
        writer.send(&store, &run, &records).await.unwrap();
        store.seal(store.attempts(run.id).await.unwrap()[0].id).await.unwrap();
        let series = store.series_by_name(run.id, "moe.load").await.unwrap();
        let (steps, total) = store.matrix_steps(run.id, &series, 0, 10_000, 10_000).await.unwrap();
        assert_eq!(steps.len() as u64, total);
        assert!((1_100..1_300).contains(&total), "{total}");
        // Every step is covered once.
        assert_eq!(steps[0].0, 1);
        assert!(steps.windows(2).all(|pair| pair[0].1 + 1 == pair[1].0), "{steps:?}");
        assert!((484..=516).all(|step| steps.contains(&(step, step))), "around the event");
        assert!((2_000..=3_000).all(|step| steps.contains(&(step, step))), "the newest");
        let exact = store.matrix(run.id, &series, Some(500)).await.unwrap();
        assert_eq!((exact.step, exact.values), (500, matrix(500).values));
        let window = store.matrix(run.id, &series, Some(100)).await.unwrap();
        assert_eq!((window.first_step, window.step), (96, 111));
        assert!((window.values[0] - 103.5).abs() < 0.01, "{:?}", window.values);
        assert_eq!(store.matrix(run.id, &series, None).await.unwrap().step, 3_000);
        let violation = fathom_store::codec::matrix::RowStatistic::MaxViolation;
        let rows = store.matrix_rows(run.id, &series, violation, 0, 3_000, 100).await.unwrap();
        assert!(rows.steps.len() <= 100 && rows.values.len() == rows.steps.len() * 2);
        let worst = rows.values.chunks(2).map(|row| row[1]).fold(0.0, f32::max);
        assert_eq!(worst, 2.0);
        assert!(matches!(
            store.matrix(run.id, &store.series_by_name(run.id, "moe.load").await.unwrap(), Some(1 << 60)).await,
            Ok(value) if value.step == 3_000
        ));
    });
}

#[test]
fn jobs_keep_their_manifests_and_are_listed_in_pages() {
    on_each(|store| async move {
        let labels = json!({"team": "nlp"});
        let report = |submitted: &'static str, state: &'static str| (submitted, state);
        let phases = json!([]);
        let send = async |name: &str, (submitted, state): (&str, &str)| {
            let report = JobReport {
                uid: name,
                state,
                message: None,
                labels: &labels,
                phases: &phases,
                submitted,
                effective: submitted,
            };
            store.report_job("default", name, &report).await.unwrap()
        };
        let first = send("a", report("one", "queued")).await;
        assert!((first.created, first.changed, first.generation) == (true, true, 1));
        let same = send("a", report("one", "queued")).await;
        assert!((same.created, same.changed, same.generation) == (false, false, 1));
        let edited = send("a", report("two", "running")).await;
        assert!((edited.changed, edited.generation) == (true, 2));
        let job = store.job("default", "a").await.unwrap();
        assert!(job.started_at.is_some() && job.finished_at.is_none() && job.labels == labels);
        assert_eq!(store.generation(job.id, Some(1)).await.unwrap().submitted, "one");
        assert_eq!(store.generation(job.id, None).await.unwrap().submitted, "two");
        assert_eq!(store.generations(job.id).await.unwrap().len(), 2);
        for name in ["b", "c", "d", "e"] {
            send(name, report("x", "succeeded")).await;
        }
        let mut names = Vec::new();
        let mut after = None;
        loop {
            let page = store.jobs_newest("default", &JobFilter::default(), after, 2).await.unwrap();
            names.extend(page.items.into_iter().map(|job| job.name));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(names, ["e", "d", "c", "b", "a"]);
        let filter = JobFilter {
            state: Some("succeeded"),
            name_contains: None,
        };
        let page = store.jobs_by_name("default", &filter, Some("b"), 10).await.unwrap();
        assert_eq!(page.items.iter().map(|job| job.name.as_str()).collect::<Vec<_>>(), ["c", "d", "e"]);
        store.delete_job(job.id).await.unwrap();
        assert!(matches!(store.job("default", "a").await, Err(Error::NotFound { .. })));
        assert!(matches!(store.job("nowhere", "b").await, Err(Error::NotFound { .. })));
    });
}

#[test]
fn log_lines_are_kept_once_and_found() {
    use fathom_store::logs::{LogFilter, NewLine};
    on_each(|store| async move {
        let run = run(&store).await;
        let line = |position, text| NewLine {
            position,
            time: 1.0,
            level: if position == 0 { "error" } else { "info" },
            text,
        };
        let lines = [line(0, "<script>alert(1)</script>"), line(30, "nul \0 in it")];
        assert_eq!(store.add_lines(run.id, 1, 0, 0, &lines, 45).await.unwrap(), 45);
        assert_eq!(store.add_lines(run.id, 1, 0, 0, &lines, 45).await.unwrap(), 45, "again");
        assert!(matches!(
            store.add_lines(run.id, 1, 0, 50, &[], 60).await,
            Err(Error::Gap { expected: 45 })
        ));
        let all = store.lines_before(&[run.id], &LogFilter::default(), None, 10).await.unwrap();
        assert_eq!(all.items.len(), 2);
        assert_eq!(all.items[0].text, "nul \u{fffd} in it");
        let filter = LogFilter {
            contains: Some("SCRIPT"),
            level: Some("error"),
            ..LogFilter::default()
        };
        let found = store.lines_after(&[run.id], &filter, 0, 10).await.unwrap();
        assert_eq!(found.items[0].text, "<script>alert(1)</script>");
    });
}

/// Builds read `.sqlx` instead of asking a database, so what it says must be what a database of this schema says.
#[test]
fn the_committed_descriptions_of_queries_are_true() {
    use sqlx::{Executor, SqlSafeStr};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let url = common::database();
        Store::connect(&url).await.unwrap();
        let pool = sqlx::PgPool::connect(&url).await.unwrap();
        let mut count = 0;
        for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.sqlx")).unwrap() {
            let path = entry.unwrap().path();
            let committed: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            let query = committed["query"].as_str().unwrap().to_owned();
            let described = pool
                .describe(sqlx::AssertSqlSafe(query.clone()).into_sql_str())
                .await
                .unwrap_or_else(|error| panic!("{query}: {error}"));
            assert_eq!(
                serde_json::to_value(&described).unwrap(),
                committed["describe"],
                "{query}; run `cargo xtask gen`"
            );
            count += 1;
        }
        assert!(count > 50, "{count}");
    });
}
