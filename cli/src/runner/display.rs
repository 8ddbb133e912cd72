//! Progress on standard error: one line per phase with a bar on a terminal, a plain line now and then otherwise.

use super::tracker::Tracker;
use crate::clock;
use crate::output::{bytes, count};
use crate::terminal::{ControlEchoOff, Terminal, Verbosity};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::time::{Duration, Instant};

/// Without a terminal, a line this often.
const LINE_INTERVAL: Duration = Duration::from_secs(10);
/// The first line comes sooner; a phase that ends before it needs none.
const FIRST_LINE: Duration = Duration::from_secs(2);
/// Bars count to this, so that unknown units need no length of their own.
const BAR_LENGTH: u64 = 1000;

/// Shows the phases of a run.
pub struct Display {
    terminal: Terminal,
    bars: MultiProgress,
    name_width: usize,
    _echo: Option<ControlEchoOff>,
}

/// Shows one phase that is being executed.
pub struct PhaseDisplay {
    terminal: Terminal,
    name: String,
    bar: ProgressBar,
    style: Style,
    next_line: Instant,
}

#[derive(PartialEq, Eq)]
enum Style {
    Bar,
    Spinner,
}

impl Display {
    /// A display for phases whose longest name has `name_width` characters.
    pub fn new(terminal: Terminal, name_width: usize) -> Self {
        let visible = terminal.interactive && terminal.verbosity > Verbosity::Quiet;
        let target = if visible {
            ProgressDrawTarget::stderr_with_hz(8)
        } else {
            ProgressDrawTarget::hidden()
        };
        Self {
            terminal,
            bars: MultiProgress::with_draw_target(target),
            name_width,
            _echo: visible.then(ControlEchoOff::new).flatten(),
        }
    }

    /// A sentence above the bars, unless quiet.
    pub fn note(&self, text: &str) {
        self.bars.suspend(|| self.terminal.note(text));
    }

    /// A sentence that only `-v` shows.
    pub fn detail(&self, text: &str) {
        if self.terminal.verbosity == Verbosity::Verbose {
            self.note(text);
        }
    }

    /// Starts the line of a phase.
    pub fn start(&self, name: &str) -> PhaseDisplay {
        let bar = self.bars.add(ProgressBar::new(BAR_LENGTH));
        bar.set_prefix(format!("{name:<width$}", width = self.name_width));
        bar.set_style(style(&Style::Spinner, self.terminal.colour));
        bar.enable_steady_tick(Duration::from_millis(125));
        PhaseDisplay {
            terminal: self.terminal,
            name: name.to_owned(),
            bar,
            style: Style::Spinner,
            next_line: Instant::now() + FIRST_LINE,
        }
    }

    /// The one line that stays of a phase.
    pub fn summary(&self, mark: Mark, name: &str, text: &str) {
        let (colour, reset) = match (self.terminal.colour, mark) {
            (false, _) => ("", ""),
            (true, Mark::Done) => ("\x1b[32m", "\x1b[0m"),
            (true, Mark::Cached) => ("\x1b[36m", "\x1b[0m"),
            (true, Mark::Failed) => ("\x1b[1;31m", "\x1b[0m"),
            (true, Mark::Stopped) => ("\x1b[33m", "\x1b[0m"),
        };
        let symbol = match mark {
            Mark::Done => "✓",
            Mark::Cached => "=",
            Mark::Failed => "✗",
            Mark::Stopped => "‖",
        };
        self.note(&format!("{colour}{symbol}{reset} {name:<width$}  {text}", width = self.name_width));
    }
}

/// How a phase ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Executed to its end.
    Done,
    /// Its artifact was there already.
    Cached,
    /// Failed.
    Failed,
    /// Stopped by the user.
    Stopped,
}

impl PhaseDisplay {
    /// Shows where the phase is.
    pub fn update(&mut self, tracker: &Tracker) {
        let text = describe(tracker);
        if let Some(fraction) = tracker.fraction() {
            self.set_style(Style::Bar);
            self.bar.set_position((fraction * BAR_LENGTH as f64) as u64);
        } else {
            self.set_style(Style::Spinner);
        }
        self.bar.set_message(text.clone());
        if self.bar.is_hidden() && Instant::now() >= self.next_line {
            let percent = tracker
                .fraction()
                .map_or(String::new(), |fraction| format!("{:3.0}%  ", fraction * 100.0));
            self.terminal.note(&format!("{}: {percent}{text}", self.name));
            self.next_line = Instant::now() + LINE_INTERVAL;
        }
    }

    /// Shows a state that the worker does not report (starting, stopping, waiting).
    pub fn state(&mut self, text: &str) {
        self.bar.set_message(text.to_owned());
    }

    /// Removes the line.
    pub fn finish(self) {
        self.bar.finish_and_clear();
    }

    fn set_style(&mut self, wanted: Style) {
        if self.style != wanted {
            self.bar.set_style(style(&wanted, self.terminal.colour));
            self.style = wanted;
        }
    }
}

fn style(style: &Style, colour: bool) -> ProgressStyle {
    let template = match (style, colour) {
        (Style::Bar, true) => "{spinner:.cyan} {prefix}  {bar:20.cyan/dim} {percent:>3}%  {wide_msg}",
        (Style::Bar, false) => "{spinner} {prefix}  {bar:20} {percent:>3}%  {wide_msg}",
        (Style::Spinner, true) => "{spinner:.cyan} {prefix}  {wide_msg}",
        (Style::Spinner, false) => "{spinner} {prefix}  {wide_msg}",
    };
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("━╸─")
}

/// Stage, step, loss, speed and remaining time, as far as they are known.
pub fn describe(tracker: &Tracker) -> String {
    let Some(progress) = tracker.progress() else {
        return "starting".to_owned();
    };
    let mut parts = vec![progress.stage.clone()];
    if let Some(step) = tracker.step() {
        parts.push(format!("step {step}"));
    } else {
        parts.push(amount(progress.done, progress.total, &progress.unit));
    }
    if let Some(loss) = tracker.loss() {
        parts.push(format!("loss {loss:.3}"));
    }
    if let Some(speed) = tracker.tokens_per_second() {
        parts.push(format!("{} tokens/s", count(speed as u64)));
    } else if let Some(rate) = tracker.rate() {
        let unit = if progress.unit == "bytes" {
            bytes(rate as u64)
        } else {
            format!("{} {}", count(rate as u64), progress.unit)
        };
        parts.push(format!("{unit}/s"));
    }
    if let Some(seconds) = tracker.remaining_seconds() {
        parts.push(format!("{} left", clock::human_seconds(seconds)));
    }
    parts.join("  ")
}

fn amount(done: u64, total: Option<u64>, unit: &str) -> String {
    match (unit, total) {
        ("bytes", Some(total)) => format!("{} of {}", bytes(done), bytes(total)),
        ("bytes", None) => bytes(done),
        (_, Some(total)) => format!("{} of {} {unit}", count(done), count(total)),
        (_, None) => format!("{} {unit}", count(done)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fathom_spec::record::{Body, MetricBatch, Progress, Record};
    use std::collections::BTreeMap;

    #[test]
    fn a_line_says_what_is_known() {
        let mut tracker = Tracker::default();
        assert_eq!(describe(&tracker), "starting");
        let mut apply = |time: f64, body: Body| {
            let record = Record {
                writer: "r/1/0".into(),
                sequence: 0,
                time,
                body,
            };
            tracker.apply(&record);
            describe(&tracker)
        };
        let progress = |done, total, unit: &str| {
            let (stage, unit) = ("working".to_owned(), unit.to_owned());
            Body::Progress(Progress { stage, done, total, unit })
        };
        assert_eq!(apply(0.0, progress(0, None, "bytes")), "working  0 B");
        assert_eq!(
            apply(2.0, progress(4 << 20, Some(8 << 20), "bytes")),
            "working  4.00 MiB of 8.00 MiB  2.00 MiB/s  2.0 s left"
        );
        let batch = MetricBatch {
            step: 12,
            tokens: 49_152,
            scalars: BTreeMap::from([("loss.main".to_owned(), 5.4321), ("tokens_per_second".to_owned(), 5123.0)]),
            matrices: BTreeMap::new(),
        };
        assert_eq!(
            apply(3.0, Body::Metrics(batch)),
            "working  step 12  loss 5.432  5.12k tokens/s  2.0 s left"
        );
    }
}
