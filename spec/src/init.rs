//! The manifest that `fathom init` writes.

use crate::manifest::Preset;

/// A trained tokenizer has 256 bytes, its special tokens, and some merges.
const SMALLEST_VOCABULARY: u32 = 512;

/// A commented manifest for `preset` that runs as it is, over the text files in the current directory.
#[must_use]
pub fn init_manifest(preset: Preset) -> String {
    let architecture = preset.architecture();
    let Recipe { tokens, sequences } = recipe(preset);
    let (vocab_size, replaced) = if architecture.vocab_size < SMALLEST_VOCABULARY {
        let fields = format!("architecture: {{vocab_size: {SMALLEST_VOCABULARY}}} # room for a trained tokenizer");
        (SMALLEST_VOCABULARY, fields)
    } else {
        let fields = format!("# architecture: {{num_hidden_layers: {}}}", architecture.num_hidden_layers);
        (architecture.vocab_size, fields)
    };
    format!(
        r#"# A model, the data it learns from, and the phases that make it.
# `fathom validate` checks this file, `fathom plan` says what it takes, `fathom run` does it.
# `fathom explain spec.phases.pretrain` explains a field and lists those that have defaults.
apiVersion: fathom.dev/v1alpha1
kind: DeepSeekV3Job
metadata:
  name: my-{name}
spec:
  seed: 42 # the same seed and text give the same bytes
  model:
    preset: {name} # {presets}
    # Single fields of config.json can be replaced:
    {replaced}
  phases:
    # Train a byte-level BPE tokenizer.
    - name: tokenizer
      tokenizer:
        vocabSize: {vocab_size} # not above the model's
        input: &text
          - paths: ["**/*.md", "**/*.txt"] # also .jsonl(.zst|.gz) and .parquet, with `textField: text`
            exclude: [".*/**", "target/**", "node_modules/**"]

    # Tokenise, remove duplicates, hold out a validation split, pack into rows.
    - name: corpus
      corpus:
        sequenceLength: {sequence_length} # tokens per row, at most {max_length} for this model
        input: *text
        # fim: {{rate: 0.1}}            # fill-in-the-middle
        # validationFraction: 0.01

    # Train the model.
    - name: pretrain
      pretrain:
        tokens: {tokens} # 4M, 1.5B and 10T are numbers too
        batch:
          sequences: {sequences} # rows per optimizer step
        # learningRate: {{peak: {peak}}}  # follows from the model's width
        # checkpoint: {{every: 10%, keep: 3}}
        # validation: {{every: 10%, rows: 64}}
"#,
        name = preset.name(),
        presets = Preset::ALL.map(Preset::name).join(" | "),
        sequence_length = preset.sequence_length(),
        max_length = architecture.max_position_embeddings,
        peak = crate::manifest::LearningRateForm::default().resolve(architecture.hidden_size).peak,
    )
}

/// A first training run for a preset.
struct Recipe {
    tokens: &'static str,
    sequences: u32,
}

const fn recipe(preset: Preset) -> Recipe {
    let (tokens, sequences) = match preset {
        Preset::Unit => ("200k", 16),
        Preset::Nano => ("4M", 16),
        Preset::Small => ("200M", 64),
        Preset::Proxy1b => ("20B", 256),
        Preset::V2Lite => ("1T", 1024),
        Preset::V3 => ("14.8T", 15360),
    };
    Recipe { tokens, sequences }
}
