//! Health detectors on synthetic curves: how often they cry wolf, and how soon they see what was seeded.
//!
//! The curves are shaped after a recorded run of `examples/quickstart.yaml` (782 steps of 4 sequences): the loss varies by 10% from step
//! to step, gradient norms by 25% with single steps of 3 to 7 times the median, MaxVio starts near 3 and settles near 0.6.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use fathom_spec::health::{Code, Detection, Detector, Load, Severity, Situation, StepView, Thresholds, Verdict, assess};
use std::collections::BTreeMap;

/// `SplitMix64`: deterministic, and good enough for noise.
struct Noise(u64);

impl Noise {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Normal, but one value in twenty has twice the spread: beyond 5 sigma it has a thousand times the mass.
    fn heavy(&mut self) -> f64 {
        let scale = if self.uniform() < 0.05 { 2.0 } else { 1.0 };
        scale * self.normal()
    }
}

/// What a run looks like when nothing is wrong.
#[derive(Clone, Copy)]
struct Shape {
    /// Loss at the start and at the end, and the steps of the fall between them.
    loss: [f64; 2],
    fall: f64,
    /// Standard deviation of the loss, as a share of it, from the time that the model has learnt something.
    noise: f64,
    gradient: f64,
    seconds: f64,
    tokens: u64,
    layers: usize,
    experts: usize,
    active: u64,
    /// MaxVio once routing is balanced.
    violation: f64,
}

const QUICKSTART: Shape = Shape {
    loss: [8.38, 3.8],
    fall: 150.0,
    noise: 0.10,
    gradient: 1.4,
    seconds: 0.77,
    tokens: 1024,
    layers: 4,
    experts: 16,
    active: 4,
    violation: 0.6,
};
const MEDIUM: Shape = Shape {
    loss: [10.4, 3.0],
    fall: 1200.0,
    noise: 0.02,
    gradient: 0.6,
    seconds: 2.0,
    tokens: 131_072,
    layers: 6,
    experts: 32,
    active: 6,
    violation: 0.4,
};
const LARGE: Shape = Shape {
    loss: [11.8, 1.9],
    fall: 4000.0,
    noise: 0.004,
    gradient: 0.2,
    seconds: 25.0,
    tokens: 16_000_000,
    layers: 3,
    experts: 64,
    active: 8,
    violation: 0.2,
};

/// A run that is made step by step.
struct Run {
    shape: Shape,
    noise: Noise,
    step: u64,
    time: f64,
    scalars: BTreeMap<String, f64>,
    load: Vec<f32>,
    /// Each expert's lasting share of uneven load.
    bias: Vec<f64>,
}

const START: f64 = 1.8e9;
/// Steps between validations, more often than people validate: each is a chance of a false alarm.
const VALIDATION: u64 = 30;
/// Standard deviation of a validation loss, as a share.
const VALIDATION_NOISE: f64 = 0.005;

impl Run {
    fn new(shape: Shape, seed: u64) -> Self {
        let mut noise = Noise(seed);
        let bias = (0..shape.layers * shape.experts).map(|_| noise.uniform() * 2.0 - 1.0).collect();
        Self {
            shape,
            noise,
            step: 0,
            time: START,
            scalars: BTreeMap::new(),
            load: Vec::new(),
            bias,
        }
    }

    /// Makes the next step.
    fn advance(&mut self) {
        self.step += 1;
        let (s, noise) = (self.shape, &mut self.noise);
        let step = self.step as f64;
        // Half of the fall is exponential, half the slow power law of every language model; nothing is learnt in the first steps, and
        // noise grows with what is learnt.
        let left = 0.5 * (-step / s.fall).exp() + 0.5 / (1.0 + step / s.fall).powf(0.8);
        let learnt = (step / 30.0).min(1.0);
        let loss = s.loss[1] + (s.loss[0] - s.loss[1]) * left;
        let expected = loss;
        let spread = s.noise * (0.1 + 0.9 * (1.0 - left)) * learnt;
        let loss = loss * (1.0 + spread * noise.heavy());
        let burst = if noise.uniform() < 0.01 { 0.5 + 1.5 * noise.uniform() } else { 0.0 };
        let gradient = s.gradient * (1.0 + 1.5 * left) * (0.2 * noise.heavy() + burst).exp();
        // The first step starts cold; one in 300 steps waits for something; each 150th is followed by a validation.
        let slow = if step < 3.0 {
            6.0
        } else if noise.uniform() < 0.003 {
            3.0
        } else {
            1.0
        };
        let seconds = s.seconds * slow * (1.0 + 0.06 * noise.normal().abs());
        let pause = if self.step.is_multiple_of(150) { 5.0 * s.seconds } else { 0.0 };
        self.time += seconds + pause + 0.002;

        let mean = (s.tokens * s.active) as f64 / s.experts as f64;
        let uneven = s.violation + 2.5 * (-step / 40.0).exp();
        let chance = mean.sqrt();
        self.load.clear();
        for bias in &self.bias {
            let count = mean * (1.0 + 0.8 * uneven * bias) + chance * noise.normal();
            self.load.push(count.max(1.0).round() as f32);
        }
        let values = [
            ("loss.main", loss),
            ("loss.mtp.1", loss * 1.1),
            ("loss.total", loss * 1.33),
            ("gradient_norm", gradient),
            ("learning_rate", 1e-3 * (step / 50.0).min(1.0)),
            ("step_seconds", seconds),
            ("tokens_per_second", s.tokens as f64 / seconds),
            ("moe.max_violation.worst", uneven),
        ];
        self.scalars = values.map(|(name, value)| (name.to_owned(), value)).into();
        if self.step.is_multiple_of(VALIDATION) {
            // The same rows each time: what varies is the model. Noise of its own, so that the other curves are as they are without.
            let mut apart = Noise(self.time.to_bits());
            let validation = 1.02 * expected * (1.0 + VALIDATION_NOISE * apart.heavy());
            self.scalars.insert("validation.loss".into(), validation);
        }
    }

    fn view(&self) -> StepView<'_> {
        StepView {
            step: self.step,
            tokens: self.step * self.shape.tokens,
            time: self.time,
            scalars: &self.scalars,
            load: Some(Load {
                rows: self.shape.layers,
                columns: self.shape.experts,
                values: &self.load,
            }),
        }
    }

    /// Makes steps up to `last` after `change` has had its way with each, and returns what the detector says.
    fn feed(&mut self, detector: &mut Detector, last: u64, mut change: impl FnMut(&mut Self)) -> Vec<Detection> {
        let mut found = Vec::new();
        while self.step < last {
            self.advance();
            change(self);
            found.extend(detector.observe(&self.view()));
        }
        found
    }

    fn scale(&mut self, name: &str, factor: f64) {
        *self.scalars.get_mut(name).unwrap() *= factor;
    }
}

fn clip_at_1() -> Thresholds {
    let mut thresholds = Thresholds::default();
    thresholds.gradient.clip_norm = Some(1.0);
    thresholds
}

/// A detector that has seen `steps` clean steps.
fn settled(shape: Shape, seed: u64, steps: u64) -> (Run, Detector) {
    let (mut run, mut detector) = (Run::new(shape, seed), Detector::new(Thresholds::default()));
    let found = run.feed(&mut detector, steps, |_| {});
    assert!(found.is_empty(), "seed {seed}: {found:?}");
    (run, detector)
}

fn running(run: &Run, after: f64) -> Situation {
    Situation {
        now: run.time + after,
        running: true,
        phase_state: "running".into(),
        started: Some(START),
        ..Situation::default()
    }
}

/// Detections on clean runs, in all; the assessment of every 50th step must agree.
fn false_alarms(name: &str, shape: Shape, seeds: std::ops::Range<u64>, steps: u64) -> usize {
    let mut alarms = Vec::new();
    let total = (seeds.end - seeds.start) * steps;
    for seed in seeds {
        let (mut run, mut detector) = (Run::new(shape, seed), Detector::new(clip_at_1()));
        while run.step < steps {
            run.advance();
            alarms.extend(detector.observe(&run.view()));
            if run.step.is_multiple_of(50) {
                let health = assess(&detector, &running(&run, shape.seconds));
                assert_eq!(health.verdict == Verdict::Healthy, detector.active().next().is_none(), "{health:?}");
            }
        }
    }
    println!("{name}: {} false alarms in {total} clean steps", alarms.len());
    for alarm in &alarms {
        println!("  {:?} {:?} at {}: {}", alarm.code, alarm.severity, alarm.step, alarm.text);
    }
    alarms.len()
}

#[test]
fn clean_short_runs_raise_no_alarm() {
    assert!(false_alarms("quickstart", QUICKSTART, 1000..1140, 780) <= 1);
}

#[test]
fn clean_medium_runs_raise_no_alarm() {
    assert!(false_alarms("medium", MEDIUM, 2000..2007, 15_000) <= 1);
}

#[test]
fn clean_long_runs_raise_no_alarm() {
    assert!(false_alarms("large", LARGE, 3000..3003, 35_000) <= 1);
}

/// The first detection of a code at a severity or above.
fn first(found: &[Detection], code: Code, severity: Severity) -> Option<&Detection> {
    found.iter().find(|found| found.code == code && found.severity >= severity)
}

/// Steps from `from` until the detection, over 20 seeds; the largest must not exceed `limit`.
#[track_caller]
fn check_delay(
    name: &str,
    (shape, from, until): (Shape, u64, u64),
    (code, severity, limit): (Code, Severity, u64),
    change: impl Fn(&mut Run),
) {
    let delays: Vec<u64> = (0..20)
        .map(|seed| {
            let (mut run, mut detector) = settled(shape, 7 + seed, from - 1);
            let found = run.feed(&mut detector, until, &change);
            let first = first(&found, code, severity).unwrap_or_else(|| panic!("{name}, seed {seed}: {found:?}"));
            assert!(
                first.onset <= first.step && first.onset + 110 > from,
                "{name}, seed {seed}: {first:?}"
            );
            first.step - from
        })
        .collect();
    let (least, most) = (delays.iter().min().unwrap(), delays.iter().max().unwrap());
    println!("{name}: {severity:?} {least} to {most} steps after the first changed one");
    assert!(*most <= limit, "{name}: {delays:?}");
}

#[test]
fn spikes_of_the_loss() {
    use Severity::{Failing, Watch};
    let spike = |steps: u64, factor: f64| {
        move |run: &mut Run| {
            if (400..400 + steps).contains(&run.step) {
                run.scale("loss.main", factor);
            }
        }
    };
    let medium = (MEDIUM, 400, 420);
    check_delay("spike of one step, +50%", medium, (Code::LossSpike, Watch, 0), spike(1, 1.5));
    check_delay("spike of five steps, +50%", medium, (Code::LossSpike, Failing, 4), spike(5, 1.5));
    check_delay("spike of five steps, +20%", medium, (Code::LossSpike, Watch, 4), spike(5, 1.2));
    check_delay(
        "spike of one step in the quickstart, x 3",
        (QUICKSTART, 400, 420),
        (Code::LossSpike, Watch, 0),
        spike(1, 3.0),
    );
    check_delay(
        "spike of five steps in the quickstart, x 3",
        (QUICKSTART, 400, 420),
        (Code::LossSpike, Failing, 4),
        spike(5, 3.0),
    );
    let jump = |run: &mut Run| run.scale("gradient_norm", 100.0);
    check_delay("gradient norm x 100", medium, (Code::GradientSpike, Watch, 0), jump);
    check_delay("gradient norm x 10, lasting", medium, (Code::GradientSpike, Watch, 4), |run| {
        run.scale("gradient_norm", 10.0);
    });
}

#[test]
fn slow_divergence() {
    // The fall is over, or the rise would only slow it down.
    let level = Shape { fall: 100.0, ..MEDIUM };
    let creep = |run: &mut Run| {
        let steps = (run.step - 3000) as f64;
        run.scale("loss.main", 1.0 + 2e-4 * steps);
    };
    for (severity, limit) in [(Severity::Watch, 700), (Severity::Failing, 1400)] {
        let delays: Vec<u64> = (0..5)
            .map(|seed| {
                let (mut run, mut detector) = settled(level, 50 + seed, 3000);
                let found = run.feed(&mut detector, 5000, creep);
                let first = first(&found, Code::LossDiverging, severity);
                first.unwrap_or_else(|| panic!("{found:?}")).step - 3000
            })
            .collect();
        println!("loss rising by 0.02% per step: {severity:?} after {delays:?} steps");
        assert!(delays.iter().all(|delay| *delay <= limit), "{delays:?}");
    }
}

#[test]
fn overfitting() {
    // Held-out text gets worse by half a percent a validation, from 1.5 epochs of memorising on.
    let overfit = |run: &mut Run, training: f64| {
        let steps = (run.step - 3000) as f64;
        run.scale("loss.main", (1.0f64 - training).powf(steps));
        if run.scalars.contains_key("validation.loss") {
            run.scale("validation.loss", 1.0 + 0.01 * steps / VALIDATION as f64);
        }
    };
    let level = Shape { fall: 100.0, ..MEDIUM };
    let delays: Vec<u64> = (0..20)
        .map(|seed| {
            let (mut run, mut detector) = settled(level, 90 + seed, 3000);
            let found = run.feed(&mut detector, 3600, |run| overfit(run, 3e-4));
            let first = first(&found, Code::Overfitting, Severity::Watch).unwrap_or_else(|| panic!("seed {seed}: {found:?}"));
            assert!(found.iter().all(|found| found.severity == Severity::Watch), "{found:?}");
            let health = assess(&detector, &running(&run, 1.0));
            assert_eq!(
                (health.verdict, health.reasons[0].code),
                (Verdict::Watch, Code::Overfitting),
                "{health:?}"
            );
            assert!(
                (first.step - 3000).is_multiple_of(VALIDATION) && first.onset < first.step,
                "{first:?}"
            );
            first.step - 3000
        })
        .collect();
    println!("validation rising by 1% each of {VALIDATION} steps: {delays:?} steps");
    assert!(delays.iter().all(|delay| *delay <= 12 * VALIDATION), "{delays:?}");
    // A loss that rises everywhere is no overfitting.
    let (mut run, mut detector) = settled(level, 90, 3000);
    let found = run.feed(&mut detector, 3600, |run| overfit(run, -3e-4));
    assert!(first(&found, Code::Overfitting, Severity::Watch).is_none(), "{found:?}");
    // What superseded steps showed is forgotten.
    let (mut run, mut detector) = settled(level, 91, 3000);
    assert!(!run.feed(&mut detector, 3600, |run| overfit(run, 3e-4)).is_empty());
    detector.restart(3000, run.time);
    assert_eq!(detector.active().count(), 0);
    (run.step, run.time) = (3000, run.time + 60.0);
    assert_eq!(run.feed(&mut detector, 3600, |_| {}), []);
}

#[test]
fn throughput_and_clipping() {
    for (factor, severity, limit) in [(0.8, Severity::Watch, 310.0), (0.6, Severity::Failing, 610.0)] {
        let (mut run, mut detector) = settled(MEDIUM, 3, 1500);
        let found = run.feed(&mut detector, 2000, |run| run.scale("tokens_per_second", factor));
        let found = first(&found, Code::ThroughputDrop, severity).unwrap();
        let seconds = (found.step - 1500) as f64 * 1.1 * MEDIUM.seconds;
        println!("throughput x {factor}: {severity:?} after about {seconds:.0} s");
        assert!(seconds <= limit);
    }

    let mut run = Run::new(LARGE, 4);
    let mut detector = Detector::new(clip_at_1());
    let found = run.feed(&mut detector, 3000, |_| {});
    assert!(found.is_empty(), "{found:?}");
    let found = run.feed(&mut detector, 3300, |run| run.scale("gradient_norm", 5.0));
    assert!(
        first(&found, Code::GradientClipped, Severity::Failing).unwrap().step < 3100,
        "{found:?}"
    );
}

#[test]
fn load_of_the_experts() {
    let crowd = |layers: usize, factor: f32| {
        move |run: &mut Run| {
            for layer in 0..layers {
                run.load[layer * run.shape.experts + 3] *= factor;
            }
        }
    };
    let medium = (MEDIUM, 400, 1100);
    check_delay(
        "MaxVio above 1",
        medium,
        (Code::ExpertImbalance, Severity::Watch, 100),
        crowd(1, 4.0),
    );
    check_delay(
        "MaxVio above 4",
        medium,
        (Code::ExpertImbalance, Severity::Failing, 100),
        crowd(2, 14.0),
    );
    check_delay("dead expert", medium, (Code::ExpertDead, Severity::Failing, 499), crowd(1, 0.0));

    let (mut run, mut detector) = settled(MEDIUM, 9, 600);
    let found = run.feed(&mut detector, 1100, |run| {
        let factor = 1.0 + (run.step - 600) as f32 / 500.0;
        crowd(3, factor)(run);
    });
    let rising = first(&found, Code::ImbalanceRising, Severity::Watch).unwrap_or_else(|| panic!("{found:?}"));
    println!("step {}: {}", rising.step, rising.text);

    // With 8 tokens per expert chance alone breaks every limit.
    let mut run = Run::new(Shape { tokens: 32, ..QUICKSTART }, 1);
    let found = run.feed(&mut Detector::new(Thresholds::default()), 900, crowd(4, 0.0));
    assert!(found.is_empty(), "{found:?}");
}

/// A job's own thresholds reach the rules, and the limit of the gradient norm comes from the phase.
#[test]
fn a_job_sets_its_thresholds() {
    let manifest = |health: &str| {
        format!(
            "{{apiVersion: fathom.dev/v1alpha1, kind: DeepSeekV3Job, metadata: {{name: job}}, spec: {{model: {{preset: nano}}, health: {health}, phases: [
            {{name: tokenizer, tokenizer: {{vocabSize: 1000, input: [{{paths: [a]}}]}}}},
            {{name: corpus, corpus: {{sequenceLength: 256, input: [{{paths: [a]}}]}}}},
            {{name: pretrain, pretrain: {{tokens: 4M, batch: {{sequences: 8}}, learningRate: {{peak: 1e-3}}, optimizer: {{clipNorm: 0.5}}}}}}]}}}}"
        )
    };
    let job = fathom_spec::parse_manifest(&manifest("{}")).unwrap();
    assert_eq!(job.thresholds("corpus"), Thresholds::default());
    assert_eq!(job.thresholds("pretrain").gradient.clip_norm, Some(0.5));

    let strict = fathom_spec::parse_manifest(&manifest("{loss: {singleZ: 5}}"))
        .unwrap()
        .thresholds("pretrain");
    let spike = |thresholds: Thresholds| {
        let (mut run, mut detector) = (Run::new(MEDIUM, 3), Detector::new(thresholds));
        run.feed(&mut detector, 4000, |_| {});
        run.feed(&mut detector, 4001, |run| run.scale("loss.main", 1.12))
    };
    assert_eq!(spike(strict).len(), 1);
    assert_eq!(spike(Thresholds::default()), []);
}
