//! The report at the end of a run: what was made, how good it is, where it is, what to try next.

use super::directory::{DEFAULT_DIRECTORY, kind_name, short};
use crate::clock;
use crate::output::{bytes, count, grouped};
use fathom_spec::artifact::{ArtifactKind, ArtifactManifest};
use serde::Serialize;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Sources whose loss is shown.
const MAX_SOURCES: usize = 8;
/// Longest generated line that is shown, in characters.
const MAX_SAMPLE: usize = 320;

/// The report of a run whose phases are all complete.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Name of the job.
    pub job: String,
    /// The manifest that was run.
    pub manifest: PathBuf,
    /// The local directory.
    pub directory: PathBuf,
    /// Seconds that this run took.
    pub seconds: f64,
    /// The phases in order.
    pub phases: Vec<PhaseReport>,
}

/// A complete phase.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PhaseReport {
    /// Name of the phase.
    pub name: String,
    /// Whether its artifact was there before this run.
    pub cached: bool,
    /// Seconds that this run spent on it.
    pub seconds: f64,
    /// Restarts of its worker in this run.
    pub restarts: u32,
    /// Where its artifact is.
    pub path: PathBuf,
    /// Its artifact.
    pub artifact: ArtifactManifest,
}

impl PhaseReport {
    /// The key figures of the phase, in one line.
    pub fn summary(&self) -> String {
        let mut parts = figures(self.artifact.kind, &self.artifact.statistics);
        if self.cached {
            parts.push(format!("cached as {}", short(&self.artifact.key)));
        } else {
            parts.push(clock::human_seconds(self.seconds));
        }
        match self.restarts {
            0 => {}
            1 => parts.push("1 restart".to_owned()),
            restarts => parts.push(format!("{restarts} restarts")),
        }
        parts.join("  ")
    }
}

/// Key figures of an artifact. What its statistics do not have is left out.
pub fn figures(kind: ArtifactKind, statistics: &Value) -> Vec<String> {
    let number = |name: &str| statistics.get(name).and_then(Value::as_f64);
    let mut parts = Vec::new();
    let mut push = |text: Option<String>| parts.extend(text);
    match kind {
        ArtifactKind::Tokenizer => {
            push(number("vocabulary_tokens").map(|size| format!("{} tokens", grouped(size as u64))));
            push(number("bytes_per_token").map(|fertility| format!("{fertility:.2} bytes/token")));
        }
        ArtifactKind::Corpus => {
            push(number("documents").map(|documents| format!("{} documents", count(documents as u64))));
            push(number("train_tokens").map(|tokens| format!("{} tokens", count(tokens as u64))));
            let duplicates = number("exact_duplicates")
                .zip(number("near_duplicates"))
                .map(|(exact, near)| exact + near);
            push(duplicates.map(|documents| format!("{} duplicates dropped", count(documents as u64))));
        }
        ArtifactKind::Checkpoint => {
            push(number("steps").map(|steps| format!("{} steps", grouped(steps as u64))));
            push(number("validation_loss").map(|loss| format!("validation loss {loss:.3}")));
            push(number("tokens_per_second").map(|speed| format!("{} tokens/s", count(speed as u64))));
        }
        ArtifactKind::Report => {}
    }
    parts
}

impl Report {
    /// The report as text for people.
    pub fn text(&self) -> String {
        let mut text = format!("{} is complete ({}).\n", self.job, clock::human_seconds(self.seconds));
        let rows = self.rows();
        let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        if !rows.is_empty() {
            text.push('\n');
        }
        for (name, value) in rows {
            text.push_str(&format!("  {name:<width$}  {value}\n"));
        }
        let samples = self.samples();
        if !samples.is_empty() {
            text.push_str("\nThe model continues a text (the prompt stands before the bar):\n\n");
            for (prompt, continuation) in samples {
                text.push_str(&format!("  {}│{}\n", line(&prompt), line(&continuation)));
            }
        }
        text.push_str("\nTry next\n\n");
        let suggestions = self.suggestions();
        let width = suggestions.iter().map(|(command, _)| command.chars().count()).max().unwrap_or(0);
        for (command, purpose) in suggestions {
            text.push_str(&format!("  {command:<width$}   {purpose}\n"));
        }
        text
    }

    fn newest(&self, kind: ArtifactKind) -> Option<&PhaseReport> {
        self.phases.iter().rev().find(|phase| phase.artifact.kind == kind)
    }

    fn figure(&self, kind: ArtifactKind, name: &str) -> Option<f64> {
        self.newest(kind)?.artifact.statistics.get(name)?.as_f64()
    }

    fn rows(&self) -> Vec<(&'static str, String)> {
        use ArtifactKind::{Checkpoint, Corpus};
        let figure = |name| self.figure(Checkpoint, name);
        let mut rows = Vec::new();
        let mut push = |name, text: Option<String>| rows.extend(text.map(|text| (name, text)));
        push(
            "trained",
            figure("tokens").zip(figure("steps")).map(|(tokens, steps)| {
                let parameters = figure("parameters").map_or(String::new(), |count| format!("{} parameters on ", grouped(count as u64)));
                format!("{parameters}{} tokens in {} steps", count(tokens as u64), grouped(steps as u64))
            }),
        );
        push(
            "validation loss",
            figure("validation_loss").map(|loss| format!("{loss:.4} nats per token")),
        );
        push("by source", self.losses_of_sources());
        push(
            "averaged model",
            figure("validation_ema_loss").map(|loss| format!("{loss:.4} nats per token (in ema/)")),
        );
        let zstd = self.figure(Corpus, "validation_zstd_19_bits_per_byte");
        let beside = zstd.map_or(String::new(), |zstd| {
            format!(" (zstd -19 needs {zstd:.3} for the same held-out text)")
        });
        push(
            "bits per byte",
            figure("validation_bits_per_byte").map(|bits| format!("{bits:.3}{beside}")),
        );
        push(
            "speed",
            figure("tokens_per_second").map(|speed| format!("{} tokens/s", grouped(speed as u64))),
        );
        let balance = |violation: f64| format!("MaxVio {violation:.2} (busiest expert over the mean, less one; 0 is even)");
        push("experts' balance", figure("max_violation").map(balance));
        if let Some(phase) = self.phases.last() {
            let size = phase.artifact.files.values().map(|file| file.bytes).sum();
            push(
                kind_name(phase.artifact.kind),
                Some(format!("{} ({})", phase.path.display(), bytes(size))),
            );
        }
        rows
    }

    /// Validation loss of each source, where they are told apart.
    fn losses_of_sources(&self) -> Option<String> {
        let statistics = &self.newest(ArtifactKind::Checkpoint)?.artifact.statistics;
        let sources = statistics.get("validation_sources")?.as_object()?;
        let mut parts: Vec<String> = sources
            .iter()
            .filter_map(|(name, source)| Some(format!("{} {:.4}", line(name), source["loss"].as_f64()?)))
            .collect();
        let more = parts.len().saturating_sub(MAX_SOURCES);
        parts.truncate(MAX_SOURCES);
        if more > 0 {
            parts.push(format!("{more} more"));
        }
        (!parts.is_empty()).then(|| parts.join(", "))
    }

    /// Prompts and what the model made of them.
    fn samples(&self) -> Vec<(String, String)> {
        let samples = self
            .newest(ArtifactKind::Checkpoint)
            .and_then(|phase| phase.artifact.statistics.get("samples"));
        let pair = |sample: &Value| Some((sample.get("prompt")?.as_str()?.to_owned(), sample.get("text")?.as_str()?.to_owned()));
        samples
            .and_then(Value::as_array)
            .map(|samples| samples.iter().filter_map(pair).collect())
            .unwrap_or_default()
    }

    /// Commands to try next, and what they do.
    fn suggestions(&self) -> Vec<(String, &'static str)> {
        let job = &self.job;
        let fathom = if self.directory == Path::new(DEFAULT_DIRECTORY) {
            "fathom".to_owned()
        } else {
            format!("fathom --dir {}", self.directory.display())
        };
        let mut lines = Vec::new();
        if self.newest(ArtifactKind::Checkpoint).is_some() {
            lines.push((format!("{fathom} generate --model {job} --prompt 'fn main() {{'"), "let it write"));
            lines.push((
                format!("{fathom} metrics export {job} > {job}.csv"),
                "loss, balance and speed of every step",
            ));
            lines.push((
                format!("{fathom} ckpt export {job} --to model"),
                "for transformers and inference engines",
            ));
        }
        if self.manifest != Path::new("-") {
            let edit = format!("edit {}, then {fathom} run it again", self.manifest.display());
            lines.push((edit, "only what the edit touches is executed"));
        }
        lines
    }
}

/// Text on one line, of bounded length.
fn line(text: &str) -> String {
    let mut shown: String = text.chars().take(MAX_SAMPLE).flat_map(visible).collect();
    if text.chars().count() > MAX_SAMPLE {
        shown.push('…');
    }
    shown
}

/// Line breaks and control characters as a terminal may show them without harm.
fn visible(character: char) -> Vec<char> {
    match character {
        '\n' => vec!['⏎'],
        '\t' => vec![' '],
        c if c.is_control() => c.escape_unicode().collect(),
        c => vec![c],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn phase(kind: ArtifactKind, statistics: Value) -> PhaseReport {
        PhaseReport {
            name: "pretrain".into(),
            cached: false,
            seconds: 61.0,
            restarts: 1,
            path: "artifacts/x".into(),
            artifact: ArtifactManifest {
                version: 1,
                kind,
                phase: "pretrain".into(),
                key: "0123456789abcdef".into(),
                files: [].into(),
                lineage: [].into(),
                step: None,
                statistics,
            },
        }
    }

    fn report(statistics: Value) -> Report {
        Report {
            job: "job".into(),
            manifest: "-".into(),
            directory: "elsewhere".into(),
            seconds: 75.0,
            phases: vec![
                phase(ArtifactKind::Corpus, json!({"validation_zstd_19_bits_per_byte": 2.5})),
                phase(ArtifactKind::Checkpoint, statistics),
            ],
        }
    }

    #[test]
    fn the_report_has_every_figure_that_there_is() {
        let text = report(json!({
            "steps": 250, "tokens": 1_000_000, "parameters": 9_890_080, "validation_loss": 3.25, "validation_bits_per_byte": 1.75,
            "validation_ema_loss": 3.125, "validation_sources": {"code": {"loss": 3.0, "rows": 2}, "documents": {"loss": 3.5}}, "tokens_per_second": 5120.4, "max_violation": 0.25, "samples": [{"prompt": "fn\tmain", "text": "() {\n\u{1b}[31m"}],
        }))
        .text();
        for line in [
            "job is complete (1 min 15 s).",
            "  trained           9,890,080 parameters on 1.00M tokens in 250 steps",
            "  validation loss   3.2500 nats per token",
            "  by source         code 3.0000, documents 3.5000",
            "  averaged model    3.1250 nats per token (in ema/)",
            "  bits per byte     1.750 (zstd -19 needs 2.500 for the same held-out text)",
            "  speed             5,120 tokens/s",
            "  experts' balance  MaxVio 0.25 (busiest expert over the mean, less one; 0 is even)",
            "  checkpoint        artifacts/x (0 B)",
            "  fn main│() {⏎\\u{1b}[31m",
            "  fathom --dir elsewhere ckpt export job --to model                    for transformers and inference engines",
        ] {
            assert!(text.lines().any(|found| found == line), "no `{line}` in\n{text}");
        }
    }

    #[test]
    fn missing_and_null_figures_are_left_out() {
        let text = report(json!({"validation_loss": null})).text();
        assert!(!text.contains("validation") && !text.contains("continues"), "{text}");
    }

    #[test]
    fn a_summary_is_one_line() {
        let phase = phase(ArtifactKind::Checkpoint, json!({"steps": 1250, "validation_loss": 3.25}));
        assert_eq!(phase.summary(), "1,250 steps  validation loss 3.250  1 min 01 s  1 restart");
    }
}
