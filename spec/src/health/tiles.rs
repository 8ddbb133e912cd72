//! The six vital signs: what they show and the rules that they are judged by.

use super::detector::Detector;
use super::reasons::{Situation, checkpoint_rule, last_move, recent_restarts};
use super::throughput::MIN_REFERENCE_SECONDS;
use super::view::{Reason, Tile, TileId, Verdict};
use super::vitals::Vital;
use super::words::{count, number, percent, plain, span};

pub(super) fn tiles(detector: &Detector, situation: &Situation, reasons: &[Reason]) -> Vec<Tile> {
    let mut tiles = vec![
        loss(detector),
        gradient(detector),
        throughput(detector),
        balance(detector),
        numerics(detector),
        infrastructure(detector, situation),
    ];
    for tile in &mut tiles {
        // Reasons are sorted by severity.
        let worst = reasons.iter().find(|reason| concerns(reason, tile.id));
        tile.state = match worst {
            Some(reason) => reason.severity.into(),
            None if tile.value.is_none() => Verdict::NoData,
            None => Verdict::Healthy,
        };
    }
    tiles
}

/// A loss that is NaN is a matter of numerics and of the loss.
fn concerns(reason: &Reason, tile: TileId) -> bool {
    let by_metric = reason.metric.as_deref().and_then(|metric| match metric {
        "gradient_norm" => Some(TileId::Gradient),
        metric if metric.starts_with("loss.") => Some(TileId::Loss),
        _ => None,
    });
    reason.code.tile() == tile || by_metric == Some(tile)
}

fn tile(id: TileId, title: &str, unit: Option<&str>, value: Option<f64>, rule: String) -> Tile {
    Tile {
        id,
        title: title.to_owned(),
        value,
        text: value.map_or_else(|| "no data".to_owned(), number),
        unit: unit.map(str::to_owned),
        state: Verdict::NoData,
        rule,
        detail: String::new(),
        band: None,
        change_percent: None,
        sparkline: Vec::new(),
    }
}

fn last(detector: &Detector, of: impl Fn(&Vital) -> Option<f64>) -> Option<f64> {
    detector.vitals.steps.newest(usize::MAX).find_map(|(_, vital)| of(vital))
}

fn loss(detector: &Detector) -> Tile {
    let t = &detector.thresholds().loss;
    let rule = format!(
        "Watch: above z = {} on 3 of 5 steps or z = {} on one, or the mean over {} steps {} above that over {} for {} steps, or the \
         last {} validation losses {} above the {} before while the training loss falls. Failing: not finite, z > {} for {} steps, or {} above for {} steps. z counts robust standard deviations over {} steps.",
        plain(t.watch_z),
        plain(t.single_z),
        t.fast_steps,
        percent(t.watch_rise),
        t.slow_steps,
        t.watch_rise_steps,
        t.overfit_validations,
        percent(t.overfit_rise),
        t.overfit_validations,
        plain(t.failing_z),
        t.failing_steps,
        percent(t.failing_rise),
        t.failing_rise_steps,
        t.window,
    );
    let value = last(detector, |vital| vital.loss);
    let mut tile = tile(TileId::Loss, "Loss", Some("nats/token"), value, rule);
    if let Some(value) = value.filter(|value| value.is_finite()) {
        tile.text = format!("{value:.3}");
    }
    tile.detail = match (detector.loss.latest(), detector.vitals.validation.last()) {
        (_, Some(loss)) if loss.is_finite() => format!("Last validation loss {loss:.3}"),
        (None, _) => format!("Not judged before {} steps", t.warmup_steps),
        (Some(score), _) => format!("z = {:.1} at the last step, one standard deviation is {:.3}", score.z, score.sigma),
    };
    tile.band = detector.loss.latest().map(|score| {
        let reach = t.watch_z * score.sigma;
        [score.expected - reach, score.expected + reach]
    });
    tile.change_percent = detector.loss.change(|loss| loss).map(|share| share * 100.0);
    tile.sparkline = detector.vitals.loss.values();
    tile
}

fn gradient(detector: &Detector) -> Tile {
    let t = &detector.thresholds().gradient;
    let clipping = match t.clip_norm {
        Some(clip_norm) => format!(
            ", or more than {} of {} steps clipped at {} after a time with at most {}",
            percent(t.clipped_share),
            t.clipped_steps,
            plain(clip_norm),
            percent(t.clipped_share / 2.0)
        ),
        None => String::new(),
    };
    let rule = format!(
        "Watch: its logarithm above z = {} on 3 of 5 steps or z = {} on one. Failing: not finite{clipping}. z counts robust standard \
         deviations over {} steps.",
        plain(t.watch_z),
        plain(t.single_z),
        t.window
    );
    let value = last(detector, |vital| vital.gradient_norm);
    let mut tile = tile(TileId::Gradient, "Gradient norm", None, value, rule);
    tile.detail = match detector.clipping.share() {
        Some(share) if share.judged => format!("{} of the last {} steps clipped", percent(share.share), t.clipped_steps),
        Some(share) => format!(
            "{} of the last {} steps clipped; not judged, because it was never rare",
            percent(share.share),
            t.clipped_steps
        ),
        None if detector.gradient.latest().is_none() => format!("Not judged before {} steps", t.warmup_steps),
        None => "Before clipping".to_owned(),
    };
    tile.band = detector.gradient.latest().map(|score| {
        let reach = t.watch_z * score.sigma;
        [(score.expected - reach).exp(), (score.expected + reach).exp()]
    });
    tile.change_percent = detector.gradient.change(f64::exp).map(|share| share * 100.0);
    tile.sparkline = detector.vitals.gradient_norm.values();
    tile
}

fn throughput(detector: &Detector) -> Tile {
    let t = &detector.thresholds().throughput;
    let rule = format!(
        "Watch: the median of {} is {} below that of the hour before. Failing: the median of {} is {} below. A drop must exceed the usual \
         noise.",
        span(t.watch_seconds),
        percent(t.watch_drop),
        span(t.failing_seconds),
        percent(t.failing_drop)
    );
    let value = last(detector, |vital| vital.tokens_per_second);
    let mut tile = tile(TileId::Throughput, "Throughput", Some("tokens/s"), value, rule);
    if let Some(drop) = detector.throughput.watch() {
        tile.detail = format!(
            "{} over the last {}, {} before",
            number(drop.now),
            span(t.watch_seconds),
            number(drop.before)
        );
        let reach = drop.before * t.watch_drop.max(drop.noise);
        tile.band = Some([drop.before - reach, drop.before + reach]);
        tile.change_percent = Some(-drop.share * 100.0);
    } else {
        tile.detail = format!("Not judged before {} of steps", span(t.watch_seconds + MIN_REFERENCE_SECONDS));
    }
    tile.sparkline = detector.vitals.tokens_per_second.values();
    tile
}

fn balance(detector: &Detector) -> Tile {
    let t = &detector.thresholds().balance;
    let rule = format!(
        "MaxVio is (max - mean) / mean of the tokens per expert. Watch: a layer above {} on 9 of 10 of {} steps, or rising by {} over {} \
         steps in {} layers. Failing: above {}, or an expert without a token for {} steps. Judged from step {} on, with {} tokens per \
         expert or more.",
        plain(t.watch_max_violation),
        t.window,
        plain(t.rise),
        4 * u64::from(t.window),
        t.rise_layers,
        plain(t.failing_max_violation),
        t.dead_steps,
        t.warmup_steps,
        plain(t.min_tokens_per_expert)
    );
    let worst = detector.balance.worst();
    let value = worst
        .map(|(_, mean, _)| mean)
        .or_else(|| last(detector, |vital| vital.max_violation));
    let mut tile = tile(TileId::Balance, "Expert balance", Some("MaxVio"), value, rule);
    tile.detail = match worst {
        Some((layer, _, steps)) => format!("MoE layer {layer}, the worst, on average over {steps} steps"),
        None if value.is_some() => "Worst layer of the last step; not judged: too early, or too few tokens per expert".to_owned(),
        None => "No expert load was reported".to_owned(),
    };
    tile.band = worst.map(|_| [0.0, t.watch_max_violation]);
    tile.sparkline = detector.vitals.max_violation.values();
    tile
}

fn numerics(detector: &Detector) -> Tile {
    let broken = &detector.vitals.non_finite;
    let value = detector.last_step().map(|_| broken.len() as f64);
    let rule = "Failing: a loss or the gradient norm is NaN or infinite on any step.".to_owned();
    let mut tile = tile(TileId::Numerics, "Numerics", Some("steps"), value, rule);
    tile.text = match (value, broken.len()) {
        (None, _) => "no data".to_owned(),
        (Some(_), 0) => "all finite".to_owned(),
        (Some(_), steps) => format!("not finite on {}", count(steps, "step")),
    };
    tile.detail = match broken.last() {
        Some(text) => format!("Last: {text}"),
        None => "Losses and gradient norm are checked on every step".to_owned(),
    };
    tile
}

fn infrastructure(detector: &Detector, s: &Situation) -> Tile {
    let t = detector.thresholds();
    let moved = last_move(detector, s);
    let limits = detector.pace.limits(moved.is_some_and(|(_, starting)| starting), &t.progress);
    let heartbeat = match s.heartbeat {
        Some(_) => format!(" or no heartbeat for {}", span(t.progress.heartbeat_seconds)),
        None => String::new(),
    };
    let rule = format!(
        "Progress: watch without a step for {}, stalled for {}{heartbeat}; {}; restarts: watch from {} per hour, failing from {} or {} \
         without a step.",
        span(limits.watch),
        span(limits.stalled),
        checkpoint_rule(detector, s),
        t.restarts.watch_per_hour,
        t.restarts.failing_per_hour,
        t.restarts.without_step
    );
    let silence = moved.map(|(moved, _)| (s.now - moved).max(0.0));
    let mut tile = tile(TileId::Infrastructure, "Infrastructure", Some("s"), silence, rule);
    tile.text = match (silence, &s.finished) {
        (_, Some(finished)) if finished.succeeded => "finished".to_owned(),
        (_, Some(_)) => "failed".to_owned(),
        (Some(_), None) if !s.running => "not running".to_owned(),
        (Some(silence), None) => format!("moved {} ago", span(silence)),
        (None, None) => "no data".to_owned(),
    };
    let checkpoint = match s.checkpoint {
        Some(checkpoint) => format!("Checkpoint of step {}, {} old", checkpoint.step, span(s.now - checkpoint.time)),
        None => "No checkpoint yet".to_owned(),
    };
    tile.detail = format!("{checkpoint}; {} in the last hour", count(recent_restarts(s).len(), "restart"));
    tile.band = s.running.then_some([0.0, limits.watch]);
    tile
}
