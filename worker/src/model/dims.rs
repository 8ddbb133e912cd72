//! Sizes of a model and of the batch it is run on.

use fathom_kernels::dims::{AttentionDims, DispatchDims, LinearDims, RmsNormDims, RopeDims, RouteDims};
use fathom_spec::architecture::Architecture;

use super::rope::softmax_scale;

/// Sizes of the architecture as the kernels count them.
#[derive(Clone, Copy, Debug)]
pub struct ModelDims {
    /// Model width `[d]`.
    pub width: usize,
    /// Vocabulary `[V]`.
    pub vocabulary: usize,
    /// Attention heads.
    pub heads: usize,
    /// Head dimension without position.
    pub nope: usize,
    /// Rotary head dimension.
    pub rope: usize,
    /// Value head dimension.
    pub value: usize,
    /// Rank of the query latent; 0 for none.
    pub q_rank: usize,
    /// Rank of the key-value latent.
    pub kv_rank: usize,
    /// Width of dense feed-forward layers.
    pub ffn_width: usize,
    /// Width of an expert.
    pub expert_width: usize,
    /// Width of the shared experts together; 0 for none.
    pub shared_width: usize,
    /// Routed experts.
    pub experts: usize,
    /// Experts per token.
    pub top_k: usize,
    /// Expert groups.
    pub groups: usize,
    /// Groups a token may go to.
    pub kept_groups: usize,
    /// Whether routing weights are normalised.
    pub normalise: bool,
    /// Factor on routing weights.
    pub routed_scaling: f32,
    /// Factor on attention logits.
    pub softmax_scale: f32,
    /// Epsilon of the norms.
    pub epsilon: f32,
}

impl ModelDims {
    /// The sizes of an architecture.
    #[must_use]
    pub fn new(a: &Architecture) -> Self {
        Self {
            width: a.hidden_size as usize,
            vocabulary: a.vocab_size as usize,
            heads: a.num_attention_heads as usize,
            nope: a.qk_nope_head_dim as usize,
            rope: a.qk_rope_head_dim as usize,
            value: a.v_head_dim as usize,
            q_rank: a.q_lora_rank.unwrap_or(0) as usize,
            kv_rank: a.kv_lora_rank as usize,
            ffn_width: a.intermediate_size as usize,
            expert_width: a.moe_intermediate_size as usize,
            shared_width: (a.n_shared_experts * a.moe_intermediate_size) as usize,
            experts: a.n_routed_experts as usize,
            top_k: a.num_experts_per_tok as usize,
            groups: a.n_group as usize,
            kept_groups: a.topk_group as usize,
            normalise: a.norm_topk_prob,
            routed_scaling: a.routed_scaling_factor as f32,
            softmax_scale: softmax_scale(a) as f32,
            epsilon: a.rms_norm_eps as f32,
        }
    }
}

/// Sizes of a batch: B sequences of S tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchDims {
    /// Sequences `[B]`.
    pub sequences: usize,
    /// Positions per sequence `[S]`.
    pub length: usize,
}

impl BatchDims {
    /// Rows `[T]`.
    #[must_use]
    pub const fn rows(self) -> usize {
        self.sequences * self.length
    }

    /// The same sequences without their last `count` positions.
    #[must_use]
    pub const fn without_last(self, count: usize) -> Self {
        Self {
            sequences: self.sequences,
            length: self.length - count,
        }
    }
}

/// What the balance loss counts together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BalanceScope {
    /// The tokens of each sequence.
    Sequence,
    /// All tokens of a micro-batch.
    MicroBatch,
}

/// Dimensions of every operation of a block on one batch shape.
#[derive(Clone, Copy, Debug)]
pub struct OpDims<'a> {
    /// The model.
    pub model: &'a ModelDims,
    /// The batch.
    pub batch: BatchDims,
    /// Which selection the balance loss counts.
    pub balance_unbiased: bool,
    /// What the balance loss is a mean over.
    pub balance_scope: BalanceScope,
    /// Whether operands of linear layers, and what waits for the backward pass, are quantised.
    pub fp8: bool,
    /// Whether the backward pass recomputes norms, up-projections and SwiGLU outputs.
    pub recompute: bool,
}

impl OpDims<'_> {
    /// A linear layer over all rows.
    #[must_use]
    pub const fn linear(&self, input: usize, output: usize) -> LinearDims {
        LinearDims {
            rows: self.batch.rows(),
            input,
            output,
        }
    }

    /// A norm over dense rows.
    #[must_use]
    pub const fn norm(&self, width: usize) -> RmsNormDims {
        RmsNormDims::dense(self.batch.rows(), width, self.model.epsilon)
    }

    /// The attention core.
    #[must_use]
    pub const fn attention(&self) -> AttentionDims {
        AttentionDims {
            sequences: self.batch.sequences,
            length: self.batch.length,
            heads: self.model.heads,
            nope: self.model.nope,
            rope: self.model.rope,
            value: self.model.value,
            kv_rank: self.model.kv_rank,
            scale: self.model.softmax_scale,
        }
    }

    /// Rotation of the rotary part of every query head.
    #[must_use]
    pub const fn rope_q(&self) -> RopeDims {
        let m = self.model;
        RopeDims {
            rows: self.batch.rows(),
            length: self.batch.length,
            heads: m.heads,
            row_stride: m.heads * (m.nope + m.rope),
            head_stride: m.nope + m.rope,
            offset: m.nope,
            rotary: m.rope,
        }
    }

    /// Rotation of the shared key, which follows the latent in `kv_a`.
    #[must_use]
    pub const fn rope_k(&self) -> RopeDims {
        let m = self.model;
        RopeDims {
            rows: self.batch.rows(),
            length: self.batch.length,
            heads: 1,
            row_stride: m.kv_rank + m.rope,
            head_stride: m.rope,
            offset: m.kv_rank,
            rotary: m.rope,
        }
    }

    /// The gate.
    #[must_use]
    pub const fn route(&self) -> RouteDims {
        let m = self.model;
        RouteDims {
            sequences: self.batch.sequences,
            length: self.batch.length,
            experts: m.experts,
            top_k: m.top_k,
            groups: m.groups,
            kept_groups: m.kept_groups,
            normalise: m.normalise,
            scaling: m.routed_scaling,
            balance_unbiased: self.balance_unbiased,
        }
    }

    /// The gate, with the tokens that the balance loss counts together as sequences.
    #[must_use]
    pub const fn balance(&self) -> RouteDims {
        let route = self.route();
        match self.balance_scope {
            BalanceScope::Sequence => route,
            BalanceScope::MicroBatch => RouteDims {
                sequences: 1,
                length: self.batch.rows(),
                ..route
            },
        }
    }

    /// Dispatch to the experts and combine.
    #[must_use]
    pub const fn dispatch(&self) -> DispatchDims {
        let m = self.model;
        DispatchDims {
            tokens: self.batch.rows(),
            top_k: m.top_k,
            experts: m.experts,
            width: m.width,
        }
    }
}
