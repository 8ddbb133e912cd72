//! DeepSeek-V3 (arXiv 2412.19437, section 2), written once against [`Kernels`]: a flat list of calls forward, and its mirror backward.
//!
//! No device is named here, nothing is allocated after construction, and there is no I/O. Memory rule: parameter gradients accumulate
//! until [`Model::zero_gradients`]; activations are overwritten by each pass.
//!
//! Shape suffixes: T rows (B sequences of S positions), d model width, V vocabulary.

// Tensors carry their shape as a suffix (`x_Td`), because most bugs are shape bugs; a backward pass needs its forward pass's operands.
#![allow(non_snake_case, clippy::too_many_arguments)]

mod block;
mod cached;
mod dims;
mod ffn;
pub mod layout;
mod linear;
mod mla;
mod mtp;
mod numerics;
mod rope;
mod weights;

pub use dims::{BalanceScope, BatchDims, ModelDims};
pub use numerics::{Numerics, TensorClass};
pub use weights::{Parameters, Storage, Weights};

use block::{BlockActivations, BlockScratch};
use dims::OpDims;
use fathom_kernels::dims::{EmbeddingDims, HeadDims, LinearDims};
use fathom_kernels::formats::DataType;
use fathom_kernels::{Kernels, Matrix, Write};
use fathom_spec::architecture::Architecture;
use fathom_spec::manifest::Precision;
use layout::Layout;
use linear::Pass;
use mtp::MtpActivations;
use std::marker::PhantomData;

/// Factors of the loss terms in `total = sum main * nll + sum mtp * nll_k + sum balance * L_bal`, already divided by what each term is a
/// mean over (targets or sequences of the global batch).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossScales {
    /// Per target of the main model.
    pub main: f32,
    /// Per target of each MTP depth.
    pub mtp: [f32; MAX_MTP_DEPTH],
    /// Per sequence of the balance loss.
    pub balance: f32,
}

/// Largest number of MTP modules; the paper trains one.
pub const MAX_MTP_DEPTH: usize = 8;

/// Tokens and targets of a batch, on the device.
pub struct Batch<K: Kernels> {
    /// Its shape.
    pub dims: BatchDims,
    /// `t_i` of each position, `[B S]`.
    pub tokens: K::Buffer<u32>,
    /// `t_{i+1}`, `[B S]`.
    pub targets: K::Buffer<i32>,
    /// Per MTP depth k: `t_{i+k}` and `t_{i+k+1}`, `[B (S - k)]`.
    pub shifted: Vec<(K::Buffer<u32>, K::Buffer<i32>)>,
}

impl<K: Kernels> Batch<K> {
    /// Memory for batches of one shape.
    pub fn new(k: &K, dims: BatchDims, mtp_depth: usize) -> Self {
        let shifted = (1..=mtp_depth)
            .map(|depth| dims.without_last(depth).rows())
            .map(|rows| (k.zeros(rows), k.zeros(rows)))
            .collect();
        Self {
            dims,
            tokens: k.zeros(dims.rows()),
            targets: k.zeros(dims.rows()),
            shifted,
        }
    }
}

/// All activations of one batch shape, and the scratch of its passes.
pub struct Activations<K: Kernels, A: Storage> {
    dims: BatchDims,
    /// Embedded tokens, `[T, d]`.
    h0: K::Buffer<A>,
    blocks: Vec<BlockActivations<K, A>>,
    /// Output state after the final norm, `[T, d]`.
    pub hidden: K::Buffer<A>,
    hidden_rstd: K::Buffer<f32>,
    /// Negative log-likelihood of each target of the main model, `[T]`.
    pub nll: K::Buffer<f32>,
    mtp: Vec<MtpActivations<K, A>>,
    /// Gradient of `hidden`, `[T, d]`.
    d_hidden: K::Buffer<A>,
    /// Gradient of the residual stream, `[T, d]`.
    dh: K::Buffer<A>,
    scratch: BlockScratch<K, A>,
    /// What quantisation saw.
    pub numerics: Numerics<K>,
}

impl<K: Kernels, A: Storage> Activations<K, A> {
    /// Output state of MTP module `index` (from 0), `[B (S - index - 1), d]`.
    pub fn mtp_hidden(&self, index: usize) -> &K::Buffer<A> {
        &self.mtp[index].out
    }

    /// Negative log-likelihoods of MTP module `index`.
    pub fn mtp_nll(&self, index: usize) -> &K::Buffer<f32> {
        &self.mtp[index].nll
    }

    /// Every MoE layer of the main model.
    pub fn main_moe_layers(&self) -> impl Iterator<Item = &ffn::MoeActivations<K, A>> {
        self.blocks.iter().filter_map(|block| block.ffn.moe())
    }

    /// Every MoE layer, the MTP modules' last.
    pub fn moe_layers(&self) -> impl Iterator<Item = &ffn::MoeActivations<K, A>> {
        self.blocks
            .iter()
            .chain(self.mtp.iter().map(|module| &module.block))
            .filter_map(|block| block.ffn.moe())
    }

    /// As [`Activations::moe_layers`], mutable.
    pub fn moe_layers_mut(&mut self) -> impl Iterator<Item = &mut ffn::MoeActivations<K, A>> {
        self.blocks
            .iter_mut()
            .chain(self.mtp.iter_mut().map(|module| &mut module.block))
            .filter_map(|block| block.ffn.moe_mut())
    }
}

/// How a model is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// Arithmetic of linear layers. `f32` needs activations in FP32, the others in BF16.
    pub precision: Precision,
    /// Whether the backward pass recomputes norms, up-projections and SwiGLU outputs. It changes memory and time, not one bit of a result.
    pub recompute: bool,
    /// Whether the balance loss counts the top-K of the raw scores.
    pub balance_unbiased: bool,
    /// What the balance loss counts together.
    pub balance_scope: BalanceScope,
}

impl Recipe {
    /// Everything in FP32 and kept.
    pub const F32: Self = Self {
        precision: Precision::F32,
        recompute: false,
        balance_unbiased: true,
        balance_scope: BalanceScope::Sequence,
    };

    /// Parts that the balance loss of a batch is a mean over.
    pub const fn balance_parts(self, batch: BatchDims) -> usize {
        match self.balance_scope {
            BalanceScope::Sequence => batch.sequences,
            BalanceScope::MicroBatch => 1,
        }
    }

    const fn op_dims(self, model: &ModelDims, batch: BatchDims) -> OpDims<'_> {
        OpDims {
            model,
            batch,
            balance_unbiased: self.balance_unbiased,
            balance_scope: self.balance_scope,
            fp8: matches!(self.precision, Precision::Fp8),
            recompute: self.recompute,
        }
    }
}

/// A DeepSeek-V3 model: parameters, their gradients and the backend they live on. `A` is the type of activations.
pub struct Model<K: Kernels, A: Storage = f32> {
    /// The backend.
    pub kernels: K,
    /// The architecture.
    pub architecture: Architecture,
    /// The table of tensors.
    pub layout: Layout,
    /// Parameters and routing biases.
    pub weights: Parameters<K>,
    /// Gradients of the parameters.
    pub gradients: Weights<K>,
    /// How it is run.
    pub recipe: Recipe,
    dims: ModelDims,
    rope: K::Buffer<f32>,
    rope_length: usize,
    activation: PhantomData<A>,
}

impl<K: Kernels, A: Storage> Model<K, A> {
    /// A model of zeros for sequences of up to `length` positions.
    ///
    /// # Panics
    /// If the activations' type is not that of the precision.
    pub fn new(kernels: K, architecture: Architecture, length: usize, recipe: Recipe) -> Self {
        let activation = if recipe.precision == Precision::F32 {
            DataType::F32
        } else {
            DataType::Bf16
        };
        assert_eq!(A::DATA_TYPE, activation, "type of activations in {:?}", recipe.precision);
        let layout = Layout::new(&architecture);
        let weights = Parameters::zeros(&kernels, &layout, recipe.precision);
        let gradients = Weights::zeros_like_trainable(&kernels, &layout);
        let table = rope::table(&architecture, length);
        let mut rope = kernels.zeros(table.len());
        kernels.upload(&mut rope, 0, &table);
        let dims = ModelDims::new(&architecture);
        Self {
            kernels,
            architecture,
            layout,
            weights,
            gradients,
            dims,
            recipe,
            rope,
            rope_length: length,
            activation: PhantomData,
        }
    }

    /// Memory for passes over one batch shape.
    ///
    /// # Panics
    /// If the sequences are longer than the model was made for, or too short for its MTP depth.
    pub fn activations(&self, batch: BatchDims) -> Activations<K, A> {
        assert!(
            batch.length <= self.rope_length,
            "{} positions, but the model was made for {}",
            batch.length,
            self.rope_length
        );
        assert!(
            batch.length > self.layout.mtp.len(),
            "{} positions are too few for MTP depth {}",
            batch.length,
            self.layout.mtp.len()
        );
        let (k, dims) = (&self.kernels, self.op_dims(batch));
        let rows = batch.rows();
        let width = self.dims.width;
        Activations {
            dims: batch,
            h0: k.zeros(rows * width),
            blocks: self.layout.blocks.iter().map(|ids| BlockActivations::new(k, ids, &dims)).collect(),
            hidden: k.zeros(rows * width),
            hidden_rstd: k.zeros(rows),
            nll: k.zeros(rows),
            mtp: (1..)
                .zip(&self.layout.mtp)
                .map(|(depth, ids)| MtpActivations::new(k, ids, &self.op_dims(batch.without_last(depth))))
                .collect(),
            d_hidden: k.zeros(rows * width),
            dh: k.zeros(rows * width),
            scratch: BlockScratch::new(k, self.layout.blocks.iter(), &dims),
            numerics: Numerics::new(k, &self.layout),
        }
    }

    /// Makes the operands of products follow the parameters, where these have changed.
    pub fn refresh(&mut self, acts: &mut Activations<K, A>) {
        let Self {
            kernels, layout, weights, ..
        } = self;
        kernels.scope(|| weights.refresh(kernels, layout, &mut acts.numerics));
    }

    const fn op_dims(&self, batch: BatchDims) -> OpDims<'_> {
        self.recipe.op_dims(&self.dims, batch)
    }

    const fn pass(&self, batch: BatchDims, layer: usize) -> Pass<'_, K> {
        Pass {
            k: &self.kernels,
            w: &self.weights,
            rope: &self.rope,
            dims: self.op_dims(batch),
            layer,
        }
    }

    const fn head_dims(&self, batch: BatchDims) -> HeadDims {
        HeadDims {
            rows: batch.rows(),
            width: self.dims.width,
            vocabulary: self.dims.vocabulary,
        }
    }

    const fn embedding_dims(&self, batch: BatchDims) -> EmbeddingDims {
        EmbeddingDims {
            rows: batch.rows(),
            width: self.dims.width,
            vocabulary: self.dims.vocabulary,
        }
    }

    /// Forward through the main model, and through the MTP modules if `mtp`.
    pub fn forward(&self, acts: &mut Activations<K, A>, batch: &Batch<K>, mtp: bool) {
        assert_eq!(acts.dims, batch.dims, "activations and batch have one shape");
        let (k, w, layout) = (&self.kernels, &self.weights, &self.layout);
        let n = &mut acts.numerics;
        let embedding_dims = self.embedding_dims(batch.dims);
        k.embedding_forward(&mut acts.h0, w.table(layout.embedding), &batch.tokens, embedding_dims);
        for (layer, ids) in layout.blocks.iter().enumerate() {
            let (before, this) = acts.blocks.split_at_mut(layer);
            let h = before.last().map_or(&acts.h0, |block| &block.out);
            block::forward(&self.pass(batch.dims, layer), n, &mut this[0], &mut acts.scratch, h, ids);
        }
        let h = acts.blocks.last().map_or(&acts.h0, |block| &block.out);
        let norm_dims = self.op_dims(batch.dims).norm(self.dims.width);
        k.rmsnorm_forward(&mut acts.hidden, &mut acts.hidden_rstd, h, &w[layout.norm], norm_dims);
        if !mtp {
            return;
        }
        for (index, ids) in layout.mtp.iter().enumerate() {
            let pass = self.pass(batch.dims.without_last(index + 1), layout.blocks.len() + index);
            let (before, this) = acts.mtp.split_at_mut(index);
            let previous = before.last().map_or(&acts.hidden, |module| &module.out);
            mtp::forward(&pass, n, &mut this[0], previous, &batch.shifted[index].0, ids, layout.embedding);
        }
    }

    /// Losses without gradients: `acts.nll` after a forward pass.
    pub fn evaluate(&self, acts: &mut Activations<K, A>, batch: &Batch<K>) {
        let head = self.weights.table::<A>(self.layout.head);
        self.kernels
            .head_loss_forward(&mut acts.nll, &acts.hidden, head, &batch.targets, self.head_dims(batch.dims));
    }

    /// Losses (`nll` of the main model and of each MTP module) and, added to `g`, the gradient of the total loss. `g` is `self.gradients`, taken
    /// out, so that all else can be read by others at the same time.
    pub fn backward(&self, g: &mut Weights<K>, acts: &mut Activations<K, A>, batch: &Batch<K>, scales: LossScales) {
        let (k, w, layout) = (&self.kernels, &self.weights, &self.layout);
        let n = &mut acts.numerics;
        let head = w.table::<A>(layout.head);
        // nll = head_loss(hidden), nll_k = head_loss(h^k)
        let head_gradient = &mut g[layout.head];
        k.head_loss_backward(
            &mut acts.nll,
            &mut acts.d_hidden,
            head_gradient,
            &acts.hidden,
            head,
            &batch.targets,
            scales.main,
            self.head_dims(batch.dims),
        );
        for (index, (module, (_, targets))) in acts.mtp.iter_mut().zip(&batch.shifted).enumerate() {
            k.head_loss_backward(
                &mut module.nll,
                &mut module.d_out,
                head_gradient,
                &module.out,
                head,
                targets,
                scales.mtp[index],
                self.head_dims(batch.dims.without_last(index + 1)),
            );
        }
        // h^k = MTP_k(h^{k-1}, Emb(t_{i+k})), deepest first
        for (index, ids) in layout.mtp.iter().enumerate().rev() {
            let pass = self.pass(batch.dims.without_last(index + 1), layout.blocks.len() + index);
            let (before, this) = acts.mtp.split_at_mut(index);
            let d_previous = before.last_mut().map_or(&mut acts.d_hidden, |module| &mut module.d_out);
            let tokens = &batch.shifted[index].0;
            mtp::backward(&pass, n, d_previous, g, &mut this[0], tokens, ids, layout.embedding, scales.balance);
        }
        // hidden = RMSNorm(h_L)
        let h = acts.blocks.last().map_or(&acts.h0, |block| &block.out);
        k.rmsnorm_backward(
            &mut acts.dh,
            &mut g[layout.norm],
            &acts.d_hidden,
            h,
            &w[layout.norm],
            &acts.hidden_rstd,
            self.op_dims(batch.dims).norm(self.dims.width),
            Write::Overwrite,
        );
        // h_{l+1} = Block_l(h_l)
        for (layer, ids) in layout.blocks.iter().enumerate().rev() {
            let (before, this) = acts.blocks.split_at_mut(layer);
            let h = before.last().map_or(&acts.h0, |block| &block.out);
            let pass = self.pass(batch.dims, layer);
            block::backward(&pass, n, &mut acts.dh, g, &mut this[0], &mut acts.scratch, h, ids, scales.balance);
        }
        // h_0 = Emb[tokens]
        k.embedding_backward(&mut g[layout.embedding], &acts.dh, &batch.tokens, self.embedding_dims(batch.dims));
    }

    /// `logits_TV` of output states (of the main model or of an MTP module).
    pub fn logits(&self, logits_TV: &mut K::Buffer<f32>, hidden_Td: &K::Buffer<A>, rows: usize) {
        let dims = LinearDims {
            rows,
            input: self.dims.width,
            output: self.dims.vocabulary,
        };
        let head = self.weights.operand(self.layout.head);
        self.kernels
            .linear_forward(logits_TV, Matrix::of(hidden_Td), head, dims, Write::Overwrite);
    }

    /// Clears the gradients.
    pub fn zero_gradients(&mut self) {
        for id in self.layout.ids() {
            self.kernels.fill(&mut self.gradients[id], 0.0);
        }
    }

    /// Norm of all gradients together.
    pub fn gradient_norm(&self) -> f64 {
        let squares = self.kernels.scope(|| {
            let ids = self.layout.trainable();
            ids.map(|id| self.kernels.sum_squares(&self.gradients[id])).sum::<f64>()
        });
        squares.sqrt()
    }
}
