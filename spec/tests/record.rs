//! Records survive the spool, numbers that JSON does not have included.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use fathom_spec::record::{Body, EventKind, LifecycleEvent, Matrix, MetricBatch, Progress, Record};
use proptest::prelude::*;
use std::collections::BTreeMap;

fn record(body: Body) -> Record {
    Record {
        writer: "job.pretrain.0123/1/0".into(),
        sequence: 7,
        time: 1.75e9,
        body,
    }
}

fn metrics(scalars: &[(&str, f64)], values: Vec<f32>) -> Record {
    let matrix = Matrix {
        rows: 1,
        columns: values.len(),
        values,
    };
    record(Body::Metrics(MetricBatch {
        step: 3,
        tokens: 4096,
        scalars: scalars.iter().map(|&(name, value)| (name.to_owned(), value)).collect(),
        matrices: BTreeMap::from([("moe.load".to_owned(), matrix)]),
    }))
}

/// Equality by bits, under which NaN equals itself.
fn bits(record: &Record) -> (Vec<(String, u64)>, Vec<u32>) {
    match &record.body {
        Body::Metrics(batch) => (
            batch.scalars.iter().map(|(name, value)| (name.clone(), value.to_bits())).collect(),
            batch.matrices["moe.load"].values.iter().map(|value| value.to_bits()).collect(),
        ),
        Body::Event(_) | Body::Progress(_) => panic!("not metrics"),
    }
}

#[test]
fn non_finite_values_have_names() {
    let scalars = [
        ("a", f64::NAN),
        ("b", f64::INFINITY),
        ("c", f64::NEG_INFINITY),
        ("d", -0.0),
        ("e", f64::MIN_POSITIVE / 2.0),
    ];
    let record = metrics(&scalars, vec![f32::NAN, f32::INFINITY, -0.0]);
    let text = serde_json::to_string(&record).unwrap();
    assert!(text.contains(r#""a":"NaN","b":"Infinity","c":"-Infinity","d":-0.0"#), "{text}");
    let back: Record = serde_json::from_str(&text).unwrap();
    assert_eq!(bits(&back), bits(&record));
}

#[test]
fn other_words_are_refused() {
    let text = serde_json::to_string(&metrics(&[("a", f64::NAN)], vec![])).unwrap();
    let error = serde_json::from_str::<Record>(&text.replace("NaN", "nan")).unwrap_err().to_string();
    assert!(
        error.starts_with("`nan` is not a number; expected NaN, Infinity or -Infinity"),
        "{error}"
    );
    let cut = serde_json::to_string(&metrics(&[], vec![1.0])).unwrap().replace("AACAPw==", "AACA");
    let error = serde_json::from_str::<Record>(&cut).unwrap_err().to_string();
    assert!(
        error.starts_with("the length of a packed f32 array must be a multiple of 4 bytes"),
        "{error}"
    );
}

#[test]
fn events_and_progress() {
    let kinds = [
        EventKind::AttemptStarted,
        EventKind::CheckpointCommitted,
        EventKind::CheckpointRejected,
        EventKind::NonFinite,
        EventKind::RecordsDropped,
        EventKind::DataWarning,
        EventKind::AttemptStopped,
        EventKind::PhaseCompleted,
        EventKind::AttemptFailed,
    ];
    let events = kinds.map(|kind| {
        Body::Event(LifecycleEvent {
            kind,
            step: None,
            message: "what happened".into(),
        })
    });
    let progress = Body::Progress(Progress {
        stage: "training".into(),
        done: 1,
        total: Some(2),
        unit: "tokens".into(),
    });
    for body in events.into_iter().chain([progress]) {
        let record = record(body);
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record, "{text}");
    }
}

proptest! {
    #[test]
    fn metrics_round_trip(values in prop::collection::vec(any::<u32>(), 0..50), scalar in any::<u64>()) {
        // NaNs with other payloads come back as the one NaN of JSON.
        let scalar = f64::from_bits(scalar);
        let scalar = if scalar.is_nan() { f64::NAN } else { scalar };
        let record = metrics(&[("loss", scalar)], values.into_iter().map(f32::from_bits).collect());
        let back: Record = serde_json::from_str(&serde_json::to_string(&record).unwrap()).unwrap();
        prop_assert_eq!(bits(&back), bits(&record));
    }
}
