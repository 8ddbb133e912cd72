//! Single rules, thresholds and the JSON of a health.

use super::*;

#[test]
fn numbers_that_are_none_are_seen_at_once() {
    for (name, value) in [
        ("loss.main", f64::NAN),
        ("gradient_norm", f64::INFINITY),
        ("loss.mtp.1", f64::NEG_INFINITY),
    ] {
        for at in [1, 2, 40, 300] {
            let (mut detector, last) = steady(1.0, at - 1);
            let mut scalars = scalars(at);
            scalars.insert(name.into(), value);
            let found = detector.observe(&StepView {
                step: at,
                tokens: at,
                time: last + 1.0,
                scalars: &scalars,
                load: None,
            });
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(
                (found[0].code, found[0].severity, found[0].step),
                (Code::NonFinite, Severity::Failing, at)
            );
            let health = assess(&detector, &running(last + 1.1));
            assert_eq!((health.verdict, health.next_action.kind), (Verdict::Failing, ActionKind::Rollback));
            serde_json::to_string(&health).unwrap();
            // It stays until it has been quiet for long enough, by steps and by seconds.
            continue_steady(&mut detector, last + 1.0, 1.0, at + 1..=at + 100, |_| 0.0);
            assert_eq!(detector.active().count(), 1);
            continue_steady(&mut detector, last + 101.0, 1.0, at + 101..=at + 101, |_| 0.0);
            assert_eq!(detector.active().count(), 0);
        }
    }
}

/// Steps with three times the loss and no token for one expert.
fn ruin(detector: &mut Detector, mut time: f64, steps: std::ops::RangeInclusive<u64>) -> Vec<Detection> {
    let mut found = Vec::new();
    for step in steps {
        time += 1.0;
        let mut scalars = scalars(step);
        scalars.insert("loss.main".into(), 9.0);
        found.extend(detector.observe(&StepView {
            step,
            tokens: step,
            time,
            scalars: &scalars,
            load: Some(Load {
                rows: 2,
                columns: 4,
                values: &[0.0, 9000.0, 100.0, 100.0, 100.0, 100.0, 100.0, 100.0],
            }),
        }));
    }
    found
}

#[test]
fn superseded_steps_are_forgotten() {
    let (clean, last) = steady(1.0, 400);
    let mut detector = clean.clone();
    let found = ruin(&mut detector, last, 401..=920);
    let failing: Vec<Code> = found
        .iter()
        .filter(|found| found.severity == Severity::Failing)
        .map(|found| found.code)
        .collect();
    assert_eq!(failing, [Code::LossSpike, Code::ExpertDead, Code::LossDiverging]);
    let mut detector = broken(&detector, 921, last + 521.0);
    assert_eq!(assess(&detector, &running(last + 522.0)).verdict, Verdict::Failing);

    detector.restart(400, last + 550.0);
    assert_eq!((detector.last_step(), detector.active().count()), (Some(400), 0));
    let health = assess(&detector, &running(last + 560.0));
    assert_eq!((health.verdict, health.step), (Verdict::Healthy, Some(400)));
    assert!(
        health
            .tiles
            .iter()
            .all(|tile| tile.sparkline.iter().all(|value| value.is_finite() && *value < 9.0) || tile.id == TileId::Throughput)
    );

    // The new attempt is judged by the steps that lasted, as if the others had never been. The windows of 200 steps
    // have lost what was before the 520 superseded ones and are filled first.
    let mut never = clean;
    never.restart(400, last + 550.0);
    for detector in [&mut detector, &mut never] {
        assert_eq!(continue_steady(detector, last + 550.0, 1.0, 401..=600, |_| 0.0), []);
    }
    let again = [&mut detector, &mut never].map(|detector| ruin(detector, last + 750.0, 601..=640));
    assert_eq!(again[0], again[1]);
    assert_eq!((again[0][0].code, again[0][0].step), (Code::LossSpike, 601));

    // A short restart keeps what began before it, and a restart from nothing leaves nothing.
    detector.restart(602, last + 800.0);
    assert_eq!(
        detector.active().map(|active| active.severity).collect::<Vec<_>>(),
        [Severity::Watch]
    );
    detector.restart(0, last + 900.0);
    assert_eq!((detector.last_step(), detector.active().count()), (None, 0));
}

#[test]
fn layers_with_the_same_trouble_are_one_reason() {
    let mut detector = Detector::new(Thresholds::default());
    let scalars = scalars(1);
    for step in 1..=300 {
        detector.observe(&StepView {
            step,
            tokens: step,
            time: START + step as f64,
            scalars: &scalars,
            load: Some(Load {
                rows: 3,
                columns: 4,
                values: &[
                    9000.0, 100.0, 100.0, 100.0, 100.0, 100.0, 100.0, 100.0, 100.0, 100.0, 8000.0, 1000.0,
                ],
            }),
        });
    }
    assert_eq!(detector.active().count(), 2);
    let health = assess(&detector, &running(START + 300.0));
    let texts: Vec<&str> = health.reasons.iter().map(|reason| reason.text.as_str()).collect();
    assert_eq!(
        texts,
        ["Expert load of MoE layer 0: MaxVio 2.87 on average, above 1 for 100 steps; 1 other layer likewise"]
    );
    assert_eq!((health.reasons[0].layer, health.reasons[0].since.step), (Some(0), Some(201)));
    assert_eq!(health.next_action.text, "Open the expert map at MoE layer 0");
}

#[test]
fn thresholds_are_a_manifest_section() {
    let thresholds: Thresholds = serde_json::from_str(r#"{"loss": {"watchZ": 5}}"#).unwrap();
    assert_eq!((thresholds.loss.watch_z, thresholds.loss.failing_z), (5.0, 8.0));
    let text = serde_json::to_string(&thresholds).unwrap();
    assert_eq!(serde_json::from_str::<Thresholds>(&text).unwrap(), thresholds);
    let error = serde_json::from_str::<Thresholds>(r#"{"loss": {"watch": 5}}"#).unwrap_err();
    assert!(error.to_string().contains("unknown field `watch`"), "{error}");
}

/// Numbers that make no sense may switch a rule off; they must not stop the server.
#[test]
fn extreme_thresholds_do_not_panic() {
    for value in ["0", "4294967295"] {
        let mut json = serde_json::to_value(Thresholds::default()).unwrap();
        for section in json
            .as_object_mut()
            .unwrap()
            .values_mut()
            .filter_map(|section| section.as_object_mut())
        {
            for (_, field) in section.iter_mut().filter(|(name, _)| name.as_str() != "warmupSteps") {
                *field = serde_json::from_str(value).unwrap();
            }
        }
        let mut detector = Detector::new(serde_json::from_value(json).unwrap());
        continue_steady(&mut detector, START, 1.0, 1..=500, |_| 0.0);
        detector.restart(250, START);
        continue_steady(&mut detector, START, 1.0, 251..=600, |_| 0.0);
        let health = assess(&detector, &running(START + 500.0));
        assert_eq!(health.tiles.len(), 6);
    }
}

/// `FATHOM_BLESS=1` rewrites the stored JSON.
#[test]
fn json_of_a_broken_run() {
    let (detector, last) = steady(2.0, 300);
    let situation = Situation {
        checkpoint: Some(CheckpointMark {
            step: 250,
            time: last - 100.0,
        }),
        checkpoint_interval: Some(500.0),
        restarts: vec![last - 200.0],
        ..running(last + 3.0)
    };
    let health = assess(&broken(&detector, 301, last + 2.0), &situation);
    let json = serde_json::to_string_pretty(&health).unwrap() + "\n";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/health/golden/broken.json");
    if std::env::var_os("FATHOM_BLESS").is_some() {
        std::fs::write(path, &json).unwrap();
    }
    let stored = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        stored == json,
        "{path}:\n--- stored\n{stored}--- now\n{json}\nFATHOM_BLESS=1 rewrites it"
    );
}

/// The target is 20 microseconds at full size with optimisation. The limits only catch work that has become quadratic.
#[test]
fn a_step_of_full_size_is_cheap() {
    let values: Vec<f32> = (0..58 * 256).map(|expert| 4096.0 + (expert % 97) as f32).collect();
    let mut detector = Detector::new(Thresholds::default());
    let steps: Vec<_> = (1..=1000).map(scalars).collect();
    let start = std::time::Instant::now();
    for (step, scalars) in (1..).zip(&steps) {
        detector.observe(&StepView {
            step,
            tokens: step,
            time: START + step as f64,
            scalars,
            load: Some(Load {
                rows: 58,
                columns: 256,
                values: &values,
            }),
        });
    }
    let microseconds = start.elapsed().as_secs_f64() * 1e6 / steps.len() as f64;
    println!("{microseconds:.1} us per step of 58 x 256 experts");
    assert!(microseconds < if cfg!(debug_assertions) { 10_000.0 } else { 200.0 });
}
