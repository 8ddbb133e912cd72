//! What is known of metrics by their names: unit, meaning, direction, axes. The one table of it.

use crate::view::MetricBetter;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Description {
    pub(super) unit: Option<&'static str>,
    pub(super) text: Option<&'static str>,
    pub(super) better: Option<MetricBetter>,
    /// Rows and columns of a matrix.
    pub(super) axes: [&'static str; 2],
}

/// (name, or prefix with a dot at its end; unit; meaning; direction)
type Row = (&'static str, Option<&'static str>, &'static str, Option<MetricBetter>);

const LOWER: Option<MetricBetter> = Some(MetricBetter::Lower);
const HIGHER: Option<MetricBetter> = Some(MetricBetter::Higher);

/// More special names come first.
const KNOWN: &[Row] = &[
    ("loss.main", Some("nats/token"), "Cross-entropy of the next token", LOWER),
    (
        "loss.mtp",
        Some("nats/token"),
        "Cross-entropy of the multi-token prediction modules",
        LOWER,
    ),
    ("loss.balance", None, "Balance loss without its factor", LOWER),
    ("loss.total", Some("nats/token"), "Everything that is minimised", LOWER),
    ("loss.", Some("nats/token"), "A part of the loss", LOWER),
    (
        "validation.bits_per_byte",
        Some("bits/byte"),
        "Cross-entropy of held-out text, independent of the tokenizer",
        LOWER,
    ),
    ("validation.loss", Some("nats/token"), "Cross-entropy of held-out text", LOWER),
    (
        "validation.loss.",
        Some("nats/token"),
        "Cross-entropy of the held-out text of a source",
        LOWER,
    ),
    (
        "validation.bits_per_byte.",
        Some("bits/byte"),
        "Cross-entropy of the held-out text of a source, independent of the tokenizer",
        LOWER,
    ),
    (
        "validation.max_violation.",
        None,
        "How much busier the busiest expert is than its fair share on the held-out text of a source, mean over layers",
        LOWER,
    ),
    (
        "validation.load.",
        Some("tokens"),
        "Tokens of the held-out text of a source that each expert got",
        None,
    ),
    (
        "validation.ema.bits_per_byte",
        Some("bits/byte"),
        "Cross-entropy of held-out text with the averaged parameters, independent of the tokenizer",
        LOWER,
    ),
    (
        "validation.ema.loss",
        Some("nats/token"),
        "Cross-entropy of held-out text with the averaged parameters",
        LOWER,
    ),
    ("validation.tokens", Some("tokens"), "Held-out tokens that were scored", None),
    ("gradient_norm", None, "Norm of the gradient before clipping", None),
    ("learning_rate", None, "Learning rate of the step", None),
    ("tokens_per_second", Some("tokens/s"), "Speed of training", HIGHER),
    ("step_seconds", Some("s"), "Time of a step", LOWER),
    (
        "moe.max_violation.",
        None,
        "How much busier the busiest expert is than its fair share (0 is balanced)",
        LOWER,
    ),
    ("moe.load", Some("tokens"), "Tokens that each expert got in the step", None),
    ("moe.bias", None, "Routing bias of each expert", None),
    (
        "numerics.headroom",
        Some("powers of two"),
        "How much of its format's range a quantised tensor leaves unused",
        None,
    ),
    (
        "numerics.headroom.mean",
        Some("powers of two"),
        "How much of their format's range quantised tensors leave unused",
        None,
    ),
    (
        "numerics.saturated",
        None,
        "Share of elements that were coded as the largest value",
        LOWER,
    ),
    (
        "numerics.saturated.mean",
        None,
        "Share of all quantised elements that were coded as the largest value",
        LOWER,
    ),
    (
        "numerics.underflowed",
        None,
        "Share of elements that were not zero and were coded as zero",
        LOWER,
    ),
    (
        "numerics.underflowed.mean",
        None,
        "Share of all quantised elements that were not zero and were coded as zero",
        LOWER,
    ),
];

/// Describes a name.
pub(super) fn describe(name: &str) -> Description {
    let known = KNOWN
        .iter()
        .find(|(pattern, ..)| *pattern == name || (pattern.ends_with('.') && name.starts_with(pattern)));
    let axes = match name.split('.').next() {
        Some("moe" | "validation") => ["layer", "expert"],
        Some("numerics") => ["layer", "tensor class"],
        _ => ["row", "column"],
    };
    match known {
        Some(&(_, unit, text, better)) => Description {
            unit,
            text: Some(text),
            better,
            axes,
        },
        None => Description {
            unit: None,
            text: None,
            better: None,
            axes,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(describe("loss.main").unit, Some("nats/token"));
        assert!(
            describe("validation.ema.loss")
                .text
                .is_some_and(|text| text.contains("averaged parameters"))
        );
        assert_eq!(describe("loss.other").text, Some("A part of the loss"));
        assert_eq!(describe("tokens_per_second").better, HIGHER);
        for name in ["moe.load", "validation.load.code"] {
            let Description { unit, axes, .. } = describe(name);
            assert_eq!((unit, axes), (Some("tokens"), ["layer", "expert"]), "{name}");
        }
        assert!(
            describe("validation.loss.ema")
                .text
                .is_some_and(|text| text.contains("of a source"))
        );
        assert_eq!(describe("lossless").text, None);
    }
}
