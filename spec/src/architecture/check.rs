//! Which architectures can exist: the rules that a manifest and a `config.json` share.

use super::{Architecture, RopeScaling};

/// A setting that cannot be, or should not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Name of the field in `config.json`.
    pub field: &'static str,
    /// What is wrong and what to do about it.
    pub message: String,
}

fn finding(field: &'static str, message: impl Into<String>) -> Finding {
    Finding {
        field,
        message: message.into(),
    }
}

/// Upper bounds of sizes. They keep every count of [`crate::size`] within 64 bits and are far above any model that exists.
const BOUNDS: [(&str, u32, u32); 16] = [
    ("vocab_size", 1, 1 << 24),
    ("hidden_size", 1, 1 << 17),
    ("intermediate_size", 1, 1 << 20),
    ("moe_intermediate_size", 1, 1 << 20),
    ("num_hidden_layers", 1, 1 << 10),
    ("num_attention_heads", 1, 1 << 12),
    ("n_shared_experts", 0, 1 << 8),
    ("n_routed_experts", 1, 1 << 13),
    ("num_experts_per_tok", 1, 1 << 13),
    ("n_group", 1, 1 << 13),
    ("topk_group", 1, 1 << 13),
    ("kv_lora_rank", 1, 1 << 17),
    ("qk_nope_head_dim", 1, 1 << 14),
    ("qk_rope_head_dim", 2, 1 << 14),
    ("v_head_dim", 1, 1 << 14),
    ("max_position_embeddings", 2, 1 << 24),
];

impl Architecture {
    /// Everything that makes this architecture impossible; empty for a valid one.
    #[must_use]
    pub fn check(&self) -> Vec<Finding> {
        let mut findings = self.check_bounds();
        if findings.is_empty() {
            // The relations below are meaningless, or divide by zero, when a size is out of bounds.
            findings.extend(self.check_experts());
            findings.extend(self.check_relations());
        }
        findings.extend(self.check_numbers());
        findings
    }

    /// What is possible but probably not meant.
    #[must_use]
    pub fn advice(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        if self.n_group > 1 && self.num_experts_per_tok != 2 * self.topk_group {
            findings.push(finding(
                "num_experts_per_tok",
                format!(
                    "{} experts per token from {} of {} groups: a group is scored by its 2 best experts, which fits {} experts per token",
                    self.num_experts_per_tok,
                    self.topk_group,
                    self.n_group,
                    2 * self.topk_group
                ),
            ));
        }
        if self.rms_norm_eps != 1e-6 {
            findings.push(finding(
                "rms_norm_eps",
                "other implementations fix 1e-6 in the two latent norms: exported checkpoints will compute slightly different values there",
            ));
        }
        findings
    }

    fn check_bounds(&self) -> Vec<Finding> {
        let values = [
            self.vocab_size,
            self.hidden_size,
            self.intermediate_size,
            self.moe_intermediate_size,
            self.num_hidden_layers,
            self.num_attention_heads,
            self.n_shared_experts,
            self.n_routed_experts,
            self.num_experts_per_tok,
            self.n_group,
            self.topk_group,
            self.kv_lora_rank,
            self.qk_nope_head_dim,
            self.qk_rope_head_dim,
            self.v_head_dim,
            self.max_position_embeddings,
        ];
        let mut findings: Vec<Finding> = BOUNDS
            .iter()
            .zip(values)
            .filter(|&(&(_, least, most), value)| value < least || value > most)
            .map(|(&(field, least, most), value)| finding(field, format!("must be from {least} to {most}, not {value}")))
            .collect();
        if let Some(rank) = self.q_lora_rank
            && !(1..=1 << 17).contains(&rank)
        {
            findings.push(finding(
                "q_lora_rank",
                format!("must be from 1 to {}, not {rank}; write null for no query latent", 1 << 17),
            ));
        }
        if self.num_nextn_predict_layers > 16 {
            findings.push(finding(
                "num_nextn_predict_layers",
                format!("must be from 0 to 16, not {}", self.num_nextn_predict_layers),
            ));
        }
        findings
    }

    fn check_experts(&self) -> Vec<Finding> {
        let Self {
            n_routed_experts: experts,
            n_group: groups,
            topk_group: kept,
            num_experts_per_tok: chosen,
            ..
        } = *self;
        let mut findings = Vec::new();
        if kept > groups {
            findings.push(finding(
                "topk_group",
                format!("cannot keep {kept} of {groups} groups; lower topk_group or raise n_group"),
            ));
        }
        if !experts.is_multiple_of(groups) {
            findings.push(finding(
                "n_group",
                format!(
                    "{experts} routed experts do not divide into {groups} groups; use {}",
                    divisors_near(experts, groups)
                ),
            ));
        } else if groups > 1 && experts / groups < 2 {
            findings.push(finding(
                "n_group",
                format!(
                    "each group needs at least 2 experts, because a group is scored by its 2 best ones; use at most {} groups",
                    experts / 2
                ),
            ));
        } else if chosen > experts / groups * kept.min(groups) {
            let available = experts / groups * kept.min(groups);
            findings.push(finding(
                "num_experts_per_tok",
                format!("cannot choose {chosen} of the {available} experts in {kept} of {groups} groups; choose at most {available}"),
            ));
        }
        findings
    }

    fn check_relations(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        if !self.qk_rope_head_dim.is_multiple_of(2) {
            findings.push(finding(
                "qk_rope_head_dim",
                format!(
                    "must be even, because positions rotate pairs of elements; {} is odd",
                    self.qk_rope_head_dim
                ),
            ));
        }
        if self.first_k_dense_replace > self.num_hidden_layers {
            findings.push(finding(
                "first_k_dense_replace",
                format!(
                    "cannot make {} of {} layers dense; use at most {}",
                    self.first_k_dense_replace, self.num_hidden_layers, self.num_hidden_layers
                ),
            ));
        }
        findings
    }

    fn check_numbers(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut positive = |field, value: f64, most: f64| {
            if !(value > 0.0 && value <= most) {
                findings.push(finding(field, format!("must be above 0 and at most {most}, not {value}")));
            }
        };
        positive("routed_scaling_factor", self.routed_scaling_factor, 1000.0);
        positive("rms_norm_eps", self.rms_norm_eps, 0.1);
        positive("rope_theta", self.rope_theta, 1e12);
        positive("initializer_range", self.initializer_range, 10.0);
        if let Some(scaling) = &self.rope_scaling {
            findings.extend(scaling.check().into_iter().map(|message| finding("rope_scaling", message)));
        }
        findings
    }
}

impl RopeScaling {
    fn check(&self) -> Vec<String> {
        let Self {
            factor,
            beta_fast,
            beta_slow,
            mscale,
            mscale_all_dim,
            original_max_position_embeddings,
        } = *self;
        let mut messages = Vec::new();
        if !(1.0..=1e6).contains(&factor) {
            messages.push(format!("factor must be from 1 to 1000000, not {factor}"));
        }
        if !(beta_slow > 0.0 && beta_fast > beta_slow && beta_fast.is_finite()) {
            messages.push(format!(
                "beta_fast ({beta_fast}) must be above beta_slow ({beta_slow}), and both above 0"
            ));
        }
        for (name, value) in [("mscale", mscale), ("mscale_all_dim", mscale_all_dim)] {
            if !(0.0..=1e3).contains(&value) {
                messages.push(format!("{name} must be from 0 to 1000, not {value}"));
            }
        }
        if original_max_position_embeddings == 0 {
            messages.push("original_max_position_embeddings must be at least 1".into());
        }
        messages
    }
}

/// The divisors of `number` on both sides of `wanted`, as a phrase.
fn divisors_near(number: u32, wanted: u32) -> String {
    let below = (1..wanted.min(number)).rev().find(|divisor| number.is_multiple_of(*divisor));
    let above = (wanted + 1..=number).find(|divisor| number.is_multiple_of(*divisor));
    match (below, above) {
        (Some(below), Some(above)) => format!("{below} or {above}"),
        (Some(only), None) | (None, Some(only)) => only.to_string(),
        (None, None) => "1".into(),
    }
}
