//! Dimensions of the operations: one small struct each, with its legality check.
//!
//! A check takes the lengths of the buffers and panics, with the sizes, unless the dimensions are legal and every buffer holds the
//! elements that the operation touches. A longer buffer is fine: scratch memory is sized for the largest batch.

use crate::formats::GROUP;

/// Product of extents; panics on overflow, so that no later check compares with a wrapped size.
#[track_caller]
pub(crate) fn size(extents: &[usize]) -> usize {
    extents
        .iter()
        .try_fold(1_usize, |product, &extent| product.checked_mul(extent))
        .unwrap_or_else(|| panic!("{extents:?} overflows"))
}

/// Panics unless a buffer holds at least `needed` elements.
#[track_caller]
pub(crate) fn at_least(name: &str, len: usize, needed: usize) {
    assert!(len >= needed, "{name} has {len} elements, the dimensions need {needed}");
}

/// Rows, width and table height of an embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmbeddingDims {
    /// Tokens.
    pub rows: usize,
    /// Width of a vector.
    pub width: usize,
    /// Vectors in the table.
    pub vocabulary: usize,
}

impl EmbeddingDims {
    /// Panics on a buffer that is too short.
    #[track_caller]
    pub fn check(&self, y: usize, table: usize, tokens: usize) {
        at_least("y_TD", y, size(&[self.rows, self.width]));
        at_least("table_VD", table, size(&[self.vocabulary, self.width]));
        at_least("tokens_T", tokens, self.rows);
    }
}

/// A block of columns inside wider rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Columns {
    /// Elements from one row to the next.
    pub stride: usize,
    /// First column.
    pub offset: usize,
}

impl Columns {
    /// All of a row of `width` columns.
    #[must_use]
    pub const fn dense(width: usize) -> Self {
        Self { stride: width, offset: 0 }
    }

    /// Elements from the start of the buffer to the last column of the last row.
    #[track_caller]
    fn needed(&self, rows: usize, width: usize) -> usize {
        let end = self.offset.saturating_add(width);
        assert!(
            end <= self.stride,
            "columns {}..{end} are outside rows of {}",
            self.offset,
            self.stride
        );
        if rows == 0 { 0 } else { size(&[rows - 1, self.stride]) + end }
    }
}

/// Dimensions of an RMSNorm over a block of columns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RmsNormDims {
    /// Rows.
    pub rows: usize,
    /// Columns that are normalised.
    pub width: usize,
    /// Where they are in `x` and `dx`.
    pub x: Columns,
    /// Where they are in `y` and `dy`.
    pub y: Columns,
    /// Added to the mean square.
    pub epsilon: f32,
}

impl RmsNormDims {
    /// Dense rows in and out.
    #[must_use]
    pub const fn dense(rows: usize, width: usize, epsilon: f32) -> Self {
        Self {
            rows,
            width,
            x: Columns::dense(width),
            y: Columns::dense(width),
            epsilon,
        }
    }

    /// Panics on columns outside their rows or a buffer that is too short.
    #[track_caller]
    pub fn check(&self, x: usize, y: usize, gain: usize, rstd: usize) {
        assert!(self.width > 0 || self.rows == 0, "RMSNorm over no columns");
        at_least("x", x, self.x.needed(self.rows, self.width));
        at_least("y", y, self.y.needed(self.rows, self.width));
        at_least("gain_D", gain, self.width);
        at_least("rstd_T", rstd, self.rows);
    }
}

/// Dimensions of a linear layer: `[rows, input] x [output, input]^T`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinearDims {
    /// Rows of the input and output.
    pub rows: usize,
    /// Columns of the input.
    pub input: usize,
    /// Columns of the output.
    pub output: usize,
}

impl LinearDims {
    /// Panics on a buffer that is too short.
    #[track_caller]
    pub fn check(&self, y: usize, x: usize, w: usize) {
        at_least("y_TN", y, size(&[self.rows, self.output]));
        at_least("x_TK", x, size(&[self.rows, self.input]));
        at_least("w_NK", w, size(&[self.output, self.input]));
    }
}

/// Dimensions of a linear layer per group of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupedDims {
    /// Rows of all groups together; their split is data (`offsets`).
    pub rows: usize,
    /// Groups (experts).
    pub groups: usize,
    /// Columns of the input.
    pub input: usize,
    /// Columns of the output.
    pub output: usize,
}

impl GroupedDims {
    /// Panics on a buffer that is too short.
    #[track_caller]
    pub fn check(&self, y: usize, x: usize, w: usize, offsets: usize) {
        at_least("y_RN", y, size(&[self.rows, self.output]));
        at_least("x_RK", x, size(&[self.rows, self.input]));
        at_least("w_ENK", w, size(&[self.groups, self.output, self.input]));
        at_least("offsets_E1", offsets, self.groups + 1);
    }

    /// Panics unless the groups split the rows in order; for backends that can read the offsets.
    #[track_caller]
    pub fn check_offsets(&self, offsets_E1: &[u32]) {
        let ends = &offsets_E1[..=self.groups];
        assert!(ends[0] == 0 && ends.is_sorted(), "offsets {ends:?} are not ascending from 0");
        assert_eq!(ends[self.groups] as usize, self.rows, "offsets {ends:?} do not cover the rows");
    }
}

/// Dimensions of a rotation of column blocks: `heads` blocks of `rotary` columns, `head_stride` apart, from column `offset` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RopeDims {
    /// Rows.
    pub rows: usize,
    /// Rows per sequence: the position of a row is `row % length`.
    pub length: usize,
    /// Blocks per row.
    pub heads: usize,
    /// Elements from one row to the next.
    pub row_stride: usize,
    /// Elements from one block to the next.
    pub head_stride: usize,
    /// First column of the first block.
    pub offset: usize,
    /// Columns per block; even.
    pub rotary: usize,
}

impl RopeDims {
    /// Panics on an odd number of columns, blocks that overlap or leave their row, or a buffer that is too short.
    #[track_caller]
    pub fn check(&self, x: usize, table: usize) {
        assert!(self.rotary.is_multiple_of(2), "{} rotary columns do not pair up", self.rotary);
        assert!(
            self.heads <= 1 || self.rotary <= self.head_stride,
            "blocks of {} columns overlap {} apart",
            self.rotary,
            self.head_stride
        );
        assert!(self.rows == 0 || self.length > 0, "sequences of no rows");
        if self.rows == 0 || self.heads == 0 {
            return;
        }
        let width = size(&[self.heads - 1, self.head_stride]) + self.rotary;
        let columns = Columns {
            stride: self.row_stride,
            offset: self.offset,
        };
        at_least("x", x, columns.needed(self.rows, width));
        at_least("table", table, size(&[self.length.min(self.rows), self.rotary]));
    }
}

/// Dimensions of the attention core.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionDims {
    /// Sequences `[B]`.
    pub sequences: usize,
    /// Tokens per sequence `[S]`.
    pub length: usize,
    /// Heads.
    pub heads: usize,
    /// Head dimension without position `[n]`.
    pub nope: usize,
    /// Rotary head dimension `[r]`.
    pub rope: usize,
    /// Value head dimension `[v]`.
    pub value: usize,
    /// Columns of `kv_a` before the shared rotary key `[c]`; its rows have `c + r` columns.
    pub kv_rank: usize,
    /// Factor on the logits; positive.
    pub scale: f32,
}

impl AttentionDims {
    /// Rows, over all sequences.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.sequences * self.length
    }
    /// Columns of `q`.
    #[must_use]
    pub const fn q_width(&self) -> usize {
        self.heads * (self.nope + self.rope)
    }
    /// Columns of `kv_up`.
    #[must_use]
    pub const fn kv_up_width(&self) -> usize {
        self.heads * (self.nope + self.value)
    }
    /// Columns of `kv_a`.
    #[must_use]
    pub const fn kv_a_width(&self) -> usize {
        self.kv_rank + self.rope
    }
    /// Columns of `o`.
    #[must_use]
    pub const fn o_width(&self) -> usize {
        self.heads * self.value
    }

    /// Panics on a factor that is not positive or a buffer that is too short.
    #[track_caller]
    pub fn check(&self, o: usize, lse: usize, q: usize, kv_up: usize, kv_a: usize) {
        assert!(self.scale > 0.0, "logits times {}", self.scale);
        let rows = size(&[self.sequences, self.length]);
        at_least("o_THv", o, size(&[rows, self.heads, self.value]));
        at_least("lse_HT", lse, size(&[rows, self.heads]));
        at_least("q", q, size(&[rows, self.heads, self.nope + self.rope]));
        at_least("kv_up", kv_up, size(&[rows, self.heads, self.nope + self.value]));
        at_least("kv_a", kv_a, size(&[rows, self.kv_rank + self.rope]));
    }
}

/// Dimensions of a SwiGLU: `[rows, 2 width] -> [rows, width]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SwigluDims {
    /// Rows.
    pub rows: usize,
    /// Columns of the output.
    pub width: usize,
}

impl SwigluDims {
    /// Panics on a buffer that is too short.
    #[track_caller]
    pub fn check(&self, a: usize, gate_up: usize) {
        at_least("a_RF", a, size(&[self.rows, self.width]));
        at_least("gate_up_R2F", gate_up, size(&[self.rows, 2, self.width]));
    }

    /// Panics on a buffer that is too short: a slot per row, and weights and their gradient per slot.
    #[track_caller]
    pub fn check_routed(&self, slot_of_row: usize, weights: usize, dweights: usize) {
        at_least("slot_of_row_R", slot_of_row, self.rows);
        at_least("weights_TK", weights, self.rows);
        at_least("dweights_TK", dweights, self.rows);
    }
}

/// Dimensions of the gate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RouteDims {
    /// Sequences `[B]`; the balance loss is per sequence.
    pub sequences: usize,
    /// Tokens per sequence `[S]`.
    pub length: usize,
    /// Routed experts `[E]`.
    pub experts: usize,
    /// Experts per token `[K]`.
    pub top_k: usize,
    /// Groups, which divide the experts evenly; at least two experts each unless there is one group.
    pub groups: usize,
    /// Groups that a token may go to.
    pub kept_groups: usize,
    /// Whether weights are normalised over the selected experts.
    pub normalise: bool,
    /// Factor on the weights.
    pub scaling: f32,
    /// Whether the balance loss counts the top-K of the raw scores instead of the dispatched experts.
    pub balance_unbiased: bool,
}

impl RouteDims {
    /// Tokens.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.sequences * self.length
    }

    /// Panics on a split of the experts that the gate cannot use or a buffer that is too short.
    #[track_caller]
    pub fn check(&self, scores: usize, indices: usize) {
        let Self {
            experts,
            top_k,
            groups,
            kept_groups,
            ..
        } = *self;
        assert!(
            groups > 0 && experts.is_multiple_of(groups),
            "{experts} experts do not divide into {groups} groups"
        );
        assert!(
            groups == 1 || experts / groups >= 2,
            "{experts} experts in {groups} groups: each needs two"
        );
        assert!((1..=groups).contains(&kept_groups), "{kept_groups} of {groups} groups kept");
        assert!(
            (1..=experts / groups * kept_groups).contains(&top_k),
            "top {top_k} of {experts} experts in {kept_groups}/{groups} groups"
        );
        let rows = size(&[self.sequences, self.length]);
        at_least("scores_TE", scores, size(&[rows, experts]));
        at_least("indices_TK", indices, size(&[rows, top_k]));
    }

    /// Panics on a buffer that is too short.
    #[track_caller]
    pub fn check_weights(&self, weights: usize) {
        at_least("weights_TK", weights, size(&[self.sequences, self.length, self.top_k]));
    }

    /// Panics on a buffer that is too short.
    #[track_caller]
    pub fn check_experts(&self, bias: usize, counts: usize) {
        at_least("bias_E", bias, self.experts);
        at_least("counts_E", counts, self.experts);
    }

    /// Panics on a buffer that is too short.
    #[track_caller]
    pub fn check_balance(&self, loss: usize, frequency: usize) {
        at_least("loss_B", loss, self.sequences);
        at_least("frequency_BE", frequency, size(&[self.sequences, self.experts]));
    }
}

/// Dimensions of dispatch and combine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DispatchDims {
    /// Tokens `[T]`.
    pub tokens: usize,
    /// Experts per token `[K]`.
    pub top_k: usize,
    /// Routed experts `[E]`.
    pub experts: usize,
    /// Columns.
    pub width: usize,
}

impl DispatchDims {
    /// Routed rows.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.tokens * self.top_k
    }

    /// Panics on a buffer that is too short: rows per token, rows per slot, and slots.
    #[track_caller]
    pub fn check(&self, x_TD: usize, x_RD: usize, slots: usize) {
        at_least("x_TD", x_TD, size(&[self.tokens, self.width]));
        at_least("x_RD", x_RD, size(&[self.tokens, self.top_k, self.width]));
        at_least("slots", slots, size(&[self.tokens, self.top_k]));
    }

    /// As [`DispatchDims::check`], of codes with scales of tiles of 1 x 128: scales per token, scales per row.
    #[track_caller]
    pub fn check_scales(&self, scales_T: usize, scales_R: usize) {
        let tiles = self.width.div_ceil(GROUP);
        at_least("scales of x_TD", scales_T, size(&[self.tokens, tiles]));
        at_least("scales of x_RD", scales_R, size(&[self.tokens, self.top_k, tiles]));
    }

    /// Panics on a buffer that is too short.
    #[track_caller]
    pub fn check_plan(&self, offsets: usize, slot_of_row: usize, row_of_slot: usize, indices: usize) {
        let rows = size(&[self.tokens, self.top_k]);
        at_least("offsets_E1", offsets, self.experts + 1);
        at_least("slot_of_row_R", slot_of_row, rows);
        at_least("row_of_slot_R", row_of_slot, rows);
        at_least("indices_TK", indices, rows);
    }
}

/// Dimensions of a sequence prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixDims {
    /// Sequences.
    pub sequences: usize,
    /// Rows per sequence in `x`.
    pub length: usize,
    /// Rows per sequence in `y`, at most `length`.
    pub prefix: usize,
    /// Columns.
    pub width: usize,
}

impl PrefixDims {
    /// Panics on a prefix longer than the sequence or a buffer that is too short.
    #[track_caller]
    pub fn check(&self, y: usize, x: usize) {
        assert!(
            self.prefix <= self.length,
            "a prefix of {} rows of sequences of {}",
            self.prefix,
            self.length
        );
        at_least("y", y, size(&[self.sequences, self.prefix, self.width]));
        at_least("x", x, size(&[self.sequences, self.length, self.width]));
    }
}

/// Dimensions of the output head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadDims {
    /// Rows.
    pub rows: usize,
    /// Columns of the hidden state.
    pub width: usize,
    /// Vocabulary.
    pub vocabulary: usize,
}

impl HeadDims {
    /// Panics on a buffer that is too short.
    #[track_caller]
    pub fn check(&self, nll: usize, x: usize, head: usize, targets: usize) {
        at_least("nll_T", nll, self.rows);
        at_least("x_TD", x, size(&[self.rows, self.width]));
        at_least("head_VD", head, size(&[self.vocabulary, self.width]));
        at_least("targets_T", targets, self.rows);
    }
}

/// Hyperparameters of one AdamW step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate.
    pub learning_rate: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub epsilon: f32,
    /// Decoupled weight decay; 0 for gains.
    pub weight_decay: f32,
    /// Number of this step, from 1, for the bias corrections.
    pub step: u64,
    /// Factor on the gradient (clipping).
    pub gradient_scale: f32,
}

impl AdamW {
    /// Panics unless the moments and the gradient have the parameter's length and the step counts from 1.
    #[track_caller]
    pub fn check(&self, parameter: usize, first_moment: usize, second_moment: usize, gradient: usize) {
        assert!(self.step > 0, "steps count from 1");
        assert_eq!(
            [first_moment, second_moment, gradient],
            [parameter; 3],
            "moments and gradient against the parameter's length"
        );
    }

    /// Bias corrections `1 - beta1^step` and `1 - beta2^step`.
    #[must_use]
    pub fn corrections(&self) -> (f64, f64) {
        let correction = |beta: f32| 1.0 - f64::from(beta).powf(self.step as f64);
        (correction(self.beta1), correction(self.beta2))
    }
}
