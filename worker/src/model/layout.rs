//! The one table of the model's tensors: names, shapes, initial values and roles. Sizes, checkpoint order, parameter counts and the
//! optimizer's groups all come from it.
//!
//! A tensor is stored as the kernels want it (gate and up projections fused, the experts of a layer stacked); its [`Part`]s are the
//! contiguous slices that carry the checkpoint's names (training-core names of the released weights).

use fathom_spec::architecture::Architecture;

/// Index of a tensor in the [`Layout`] and in every list of buffers made from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorId(usize);

impl TensorId {
    /// Position in the layout.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0
    }
}

/// What a tensor is to the optimizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A matrix: normally initialised, weight decay applies.
    Matrix,
    /// The gain of a norm: starts at 1, no weight decay.
    Gain,
    /// The routing bias: starts at 0, updated from expert counts, has no gradient.
    RoutingBias,
}

/// What a tensor's products multiply, by the manifest's `precision` (paper, section 3.3.1: embedding, head, gate and norms stay above FP8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// FP32 always: gate, gains, routing bias.
    F32,
    /// BF16 unless the precision is `f32`: embedding, head and the projection of an MTP module.
    Bf16,
    /// As the precision says: projections of attention, feed-forward networks and experts.
    Linear {
        /// Matrices in the stack.
        count: usize,
        /// Rows of each.
        rows: usize,
        /// Columns of each.
        columns: usize,
    },
}

/// A slice of a tensor with its name in a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Checkpoint name.
    pub name: String,
    /// Shape, row-major.
    pub shape: Vec<usize>,
    /// First element in the tensor.
    pub offset: usize,
}

impl Part {
    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One row of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// What it is to the optimizer.
    pub role: Role,
    /// What it is multiplied in.
    pub arithmetic: Arithmetic,
    /// Its slices; together they cover it without gaps.
    pub parts: Vec<Part>,
    /// Number of elements.
    pub len: usize,
}

/// Tensors of the query projection.
#[derive(Clone, Copy, Debug)]
pub enum QueryIds {
    /// `q = W_q x` (no query latent).
    Direct {
        /// `[heads (n + r), d]`.
        w_q: TensorId,
    },
    /// `q = W_qb RMSNorm(W_qa x)`.
    Latent {
        /// `[c_q, d]`.
        w_qa: TensorId,
        /// `[c_q]`.
        norm: TensorId,
        /// `[heads (n + r), c_q]`.
        w_qb: TensorId,
    },
}

/// Tensors of multi-head latent attention.
#[derive(Clone, Copy, Debug)]
pub struct MlaIds {
    /// The query projection.
    pub query: QueryIds,
    /// `[c_kv + r, d]`.
    pub w_kva: TensorId,
    /// `[c_kv]`.
    pub kv_norm: TensorId,
    /// `[heads (n + v), c_kv]`.
    pub w_kvb: TensorId,
    /// `[d, heads v]`.
    pub w_o: TensorId,
}

impl MlaIds {
    /// Weights of linear layers.
    pub fn linears(&self) -> Vec<TensorId> {
        let Self {
            query,
            w_kva,
            kv_norm: _,
            w_kvb,
            w_o,
        } = *self;
        let queries = match query {
            QueryIds::Direct { w_q } => vec![w_q],
            QueryIds::Latent { w_qa, norm: _, w_qb } => vec![w_qa, w_qb],
        };
        queries.into_iter().chain([w_kva, w_kvb, w_o]).collect()
    }
}

/// Tensors of a SwiGLU network, or of a stack of them.
#[derive(Clone, Copy, Debug)]
pub struct MlpIds {
    /// `[2f, d]`: gate rows, then up rows; stacked over experts.
    pub w_gate_up: TensorId,
    /// `[d, f]`; stacked over experts.
    pub w_down: TensorId,
}

/// Tensors of a mixture-of-experts layer.
#[derive(Clone, Copy, Debug)]
pub struct MoeIds {
    /// `[E, d]`.
    pub gate: TensorId,
    /// `[E]`.
    pub bias: TensorId,
    /// Routed experts, stacked.
    pub experts: MlpIds,
    /// The shared experts as one network.
    pub shared: Option<MlpIds>,
}

/// Tensors of a feed-forward layer.
#[derive(Clone, Copy, Debug)]
pub enum FfnIds {
    /// One SwiGLU network.
    Dense(MlpIds),
    /// Routed and shared experts.
    Moe(MoeIds),
}

impl FfnIds {
    /// Weights of linear layers; the gate is none.
    pub fn linears(&self) -> Vec<TensorId> {
        let both = |mlp: &MlpIds| [mlp.w_gate_up, mlp.w_down];
        match self {
            Self::Dense(mlp) => both(mlp).to_vec(),
            Self::Moe(MoeIds {
                gate: _,
                bias: _,
                experts,
                shared,
            }) => both(experts).into_iter().chain(shared.iter().flat_map(both)).collect(),
        }
    }
}

/// Tensors of a transformer block.
#[derive(Clone, Copy, Debug)]
pub struct BlockIds {
    /// Gain of the norm before attention.
    pub attention_norm: TensorId,
    /// Attention.
    pub mla: MlaIds,
    /// Gain of the norm before the feed-forward network.
    pub ffn_norm: TensorId,
    /// The feed-forward network.
    pub ffn: FfnIds,
}

/// Tensors of a multi-token-prediction module.
#[derive(Clone, Copy, Debug)]
pub struct MtpIds {
    /// Gain on the embedding branch.
    pub embedding_norm: TensorId,
    /// Gain on the hidden branch.
    pub hidden_norm: TensorId,
    /// `[d, 2d]`, input `[embedding ; hidden]`.
    pub w_eh: TensorId,
    /// The module's transformer block.
    pub block: BlockIds,
    /// Gain of the norm before the shared head.
    pub head_norm: TensorId,
}

/// The table, and the ids by their place in the model.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Every tensor, in checkpoint order.
    pub tensors: Vec<Tensor>,
    /// `[V, d]`.
    pub embedding: TensorId,
    /// The main model's blocks.
    pub blocks: Vec<BlockIds>,
    /// Gain of the final norm.
    pub norm: TensorId,
    /// `[V, d]`.
    pub head: TensorId,
    /// The MTP modules.
    pub mtp: Vec<MtpIds>,
}

impl Layout {
    /// The table of a model.
    #[must_use]
    pub fn new(architecture: &Architecture) -> Self {
        let mut table = Table {
            tensors: Vec::new(),
            architecture,
        };
        let (vocabulary, width) = (architecture.vocab_size as usize, architecture.hidden_size as usize);
        let layers = architecture.num_hidden_layers;
        let embedding = table.matrix("model.embed_tokens", Arithmetic::Bf16, &[vocabulary, width]);
        let blocks = (0..layers).map(|layer| table.block(layer)).collect();
        let norm = table.gain("model.norm", width);
        let head = table.matrix("lm_head", Arithmetic::Bf16, &[vocabulary, width]);
        let mtp = (layers..layers + architecture.num_nextn_predict_layers)
            .map(|layer| table.mtp(layer))
            .collect();
        Self {
            tensors: table.tensors,
            embedding,
            blocks,
            norm,
            head,
            mtp,
        }
    }

    /// Every id, in order.
    pub fn ids(&self) -> impl Iterator<Item = TensorId> + use<> {
        (0..self.tensors.len()).map(TensorId)
    }

    /// Ids of the trainable parameters: all but the routing biases.
    pub fn trainable(&self) -> impl Iterator<Item = TensorId> {
        self.ids().filter(|&id| self.tensor(id).role != Role::RoutingBias)
    }

    /// The row of an id.
    #[must_use]
    pub fn tensor(&self, id: TensorId) -> &Tensor {
        &self.tensors[id.0]
    }

    /// Blocks of the main model and of the MTP modules, in checkpoint order of their layers.
    pub fn all_blocks(&self) -> impl Iterator<Item = &BlockIds> {
        self.blocks.iter().chain(self.mtp.iter().map(|module| &module.block))
    }

    /// Number of trainable parameters, MTP modules included, routing biases not.
    #[must_use]
    pub fn parameters(&self) -> usize {
        self.tensors
            .iter()
            .filter(|tensor| tensor.role != Role::RoutingBias)
            .map(|tensor| tensor.len)
            .sum()
    }
}

/// A table under construction.
struct Table<'a> {
    tensors: Vec<Tensor>,
    architecture: &'a Architecture,
}

impl Table<'_> {
    /// Adds a tensor of consecutive parts.
    fn push(&mut self, role: Role, arithmetic: Arithmetic, parts: impl IntoIterator<Item = (String, Vec<usize>)>) -> TensorId {
        let mut len = 0;
        let parts = parts
            .into_iter()
            .map(|(name, shape)| {
                let part = Part { name, shape, offset: len };
                len += part.len();
                part
            })
            .collect();
        self.tensors.push(Tensor {
            role,
            arithmetic,
            parts,
            len,
        });
        TensorId(self.tensors.len() - 1)
    }

    fn matrix(&mut self, name: &str, arithmetic: Arithmetic, shape: &[usize]) -> TensorId {
        self.push(Role::Matrix, arithmetic, [(format!("{name}.weight"), shape.to_vec())])
    }

    /// The weight of a linear layer.
    fn linear(&mut self, name: &str, rows: usize, columns: usize) -> TensorId {
        let arithmetic = Arithmetic::Linear { count: 1, rows, columns };
        self.matrix(name, arithmetic, &[rows, columns])
    }

    fn gain(&mut self, name: &str, width: usize) -> TensorId {
        self.push(Role::Gain, Arithmetic::F32, [(format!("{name}.weight"), vec![width])])
    }

    fn block(&mut self, layer: u32) -> BlockIds {
        let prefix = format!("model.layers.{layer}");
        let width = self.architecture.hidden_size as usize;
        let attention_norm = self.gain(&format!("{prefix}.input_layernorm"), width);
        let mla = self.mla(&format!("{prefix}.self_attn"));
        let ffn_norm = self.gain(&format!("{prefix}.post_attention_layernorm"), width);
        let ffn = if layer < self.architecture.first_k_dense_replace {
            let ffn_width = self.architecture.intermediate_size as usize;
            FfnIds::Dense(self.mlp(&[format!("{prefix}.mlp")], ffn_width))
        } else {
            FfnIds::Moe(self.moe(&format!("{prefix}.mlp")))
        };
        BlockIds {
            attention_norm,
            mla,
            ffn_norm,
            ffn,
        }
    }

    fn mla(&mut self, prefix: &str) -> MlaIds {
        let a = self.architecture;
        let (width, heads) = (a.hidden_size as usize, a.num_attention_heads as usize);
        let (nope, rope, value) = (a.qk_nope_head_dim as usize, a.qk_rope_head_dim as usize, a.v_head_dim as usize);
        let kv_rank = a.kv_lora_rank as usize;
        let query = match a.q_lora_rank {
            None => QueryIds::Direct {
                w_q: self.linear(&format!("{prefix}.q_proj"), heads * (nope + rope), width),
            },
            Some(rank) => {
                let rank = rank as usize;
                QueryIds::Latent {
                    w_qa: self.linear(&format!("{prefix}.q_a_proj"), rank, width),
                    norm: self.gain(&format!("{prefix}.q_a_layernorm"), rank),
                    w_qb: self.linear(&format!("{prefix}.q_b_proj"), heads * (nope + rope), rank),
                }
            }
        };
        MlaIds {
            query,
            w_kva: self.linear(&format!("{prefix}.kv_a_proj_with_mqa"), kv_rank + rope, width),
            kv_norm: self.gain(&format!("{prefix}.kv_a_layernorm"), kv_rank),
            w_kvb: self.linear(&format!("{prefix}.kv_b_proj"), heads * (nope + value), kv_rank),
            w_o: self.linear(&format!("{prefix}.o_proj"), width, heads * value),
        }
    }

    /// One SwiGLU network per prefix, stacked.
    fn mlp(&mut self, prefixes: &[String], ffn_width: usize) -> MlpIds {
        let width = self.architecture.hidden_size as usize;
        let gate_up = prefixes.iter().flat_map(|prefix| {
            ["gate_proj", "up_proj"].map(|projection| (format!("{prefix}.{projection}.weight"), vec![ffn_width, width]))
        });
        let arithmetic = |rows, columns| Arithmetic::Linear {
            count: prefixes.len(),
            rows,
            columns,
        };
        let w_gate_up = self.push(Role::Matrix, arithmetic(2 * ffn_width, width), gate_up);
        let down = prefixes
            .iter()
            .map(|prefix| (format!("{prefix}.down_proj.weight"), vec![width, ffn_width]));
        let w_down = self.push(Role::Matrix, arithmetic(width, ffn_width), down);
        MlpIds { w_gate_up, w_down }
    }

    fn moe(&mut self, prefix: &str) -> MoeIds {
        let a = self.architecture;
        let (width, experts, expert_width) = (
            a.hidden_size as usize,
            a.n_routed_experts as usize,
            a.moe_intermediate_size as usize,
        );
        let names: Vec<_> = (0..experts).map(|expert| format!("{prefix}.experts.{expert}")).collect();
        MoeIds {
            gate: self.matrix(&format!("{prefix}.gate"), Arithmetic::F32, &[experts, width]),
            bias: self.push(
                Role::RoutingBias,
                Arithmetic::F32,
                [(format!("{prefix}.gate.e_score_correction_bias"), vec![experts])],
            ),
            experts: self.mlp(&names, expert_width),
            shared: (a.n_shared_experts > 0)
                .then(|| self.mlp(&[format!("{prefix}.shared_experts")], expert_width * a.n_shared_experts as usize)),
        }
    }

    fn mtp(&mut self, layer: u32) -> MtpIds {
        let prefix = format!("model.layers.{layer}");
        let width = self.architecture.hidden_size as usize;
        MtpIds {
            embedding_norm: self.gain(&format!("{prefix}.enorm"), width),
            hidden_norm: self.gain(&format!("{prefix}.hnorm"), width),
            w_eh: self.matrix(&format!("{prefix}.eh_proj"), Arithmetic::Bf16, &[width, 2 * width]),
            block: self.block(layer),
            head_norm: self.gain(&format!("{prefix}.shared_head.norm"), width),
        }
    }
}
