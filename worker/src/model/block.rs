//! A transformer block: `u = h + MLA(RMSNorm(h))`, `h' = u + FFN(RMSNorm(u))`.

use super::dims::OpDims;
use super::ffn::{self, FfnActivations, FfnScratch};
use super::layout::{BlockIds, FfnIds};
use super::linear::Pass;
use super::mla::{self, MlaActivations, MlaScratch, UpProjections};
use super::numerics::Numerics;
use super::weights::{Storage, Weights};
use fathom_kernels::{Kernels, Write};

/// What the forward pass keeps of one block.
pub struct BlockActivations<K: Kernels, A: Storage> {
    /// What follows from the rest, unless the backward pass recomputes it.
    derived: Option<Derived<K, A>>,
    mla: MlaActivations<K, A>,
    /// Residual stream after attention, `[T, d]`.
    u: K::Buffer<A>,
    /// The feed-forward network.
    pub ffn: FfnActivations<K, A>,
    /// Residual stream after the block, `[T, d]`.
    pub out: K::Buffer<A>,
}

impl<K: Kernels, A: Storage> BlockActivations<K, A> {
    /// Memory for one block.
    pub fn new(k: &K, ids: &BlockIds, dims: &OpDims<'_>) -> Self {
        let len = dims.batch.rows() * dims.model.width;
        Self {
            derived: (!dims.recompute).then(|| Derived::new(k, dims)),
            mla: MlaActivations::new(k, dims),
            u: k.zeros(len),
            ffn: FfnActivations::new(k, &ids.ffn, dims),
            out: k.zeros(len),
        }
    }
}

/// Normalised inputs and up-projections: cheap to recompute from the residual stream and the latents (paper, section 3.2.3).
struct Derived<K: Kernels, A: Storage> {
    attention: Normed<K, A>,
    up: UpProjections<K, A>,
    ffn: Normed<K, A>,
}

impl<K: Kernels, A: Storage> Derived<K, A> {
    fn new(k: &K, dims: &OpDims<'_>) -> Self {
        Self {
            attention: Normed::new(k, dims),
            up: UpProjections::new(k, dims),
            ffn: Normed::new(k, dims),
        }
    }
}

/// A normalised input, `[T, d]`, and the norm's statistics.
struct Normed<K: Kernels, A: Storage> {
    y: K::Buffer<A>,
    rstd: K::Buffer<f32>,
}

impl<K: Kernels, A: Storage> Normed<K, A> {
    fn new(k: &K, dims: &OpDims<'_>) -> Self {
        let rows = dims.batch.rows();
        Self {
            y: k.zeros(rows * dims.model.width),
            rstd: k.zeros(rows),
        }
    }

    /// `y = RMSNorm(x)`.
    fn forward(&mut self, p: &Pass<'_, K>, x_Td: &K::Buffer<A>, gain_d: &K::Buffer<f32>) {
        p.k.rmsnorm_forward(&mut self.y, &mut self.rstd, x_Td, gain_d, p.dims.norm(p.dims.model.width));
    }

    /// `dx += dRMSNorm/dx (dy)`.
    fn backward(
        &self,
        p: &Pass<'_, K>,
        dx_Td: &mut K::Buffer<A>,
        dgain_d: &mut K::Buffer<f32>,
        dy_Td: &K::Buffer<A>,
        x_Td: &K::Buffer<A>,
        gain_d: &K::Buffer<f32>,
    ) {
        let dims = p.dims.norm(p.dims.model.width);
        p.k.rmsnorm_backward(dx_Td, dgain_d, dy_Td, x_Td, gain_d, &self.rstd, dims, Write::Accumulate);
    }
}

/// Values that live only inside one block's pass; shared by all blocks of one batch shape.
pub struct BlockScratch<K: Kernels, A: Storage> {
    derived: Option<Derived<K, A>>,
    mla: MlaScratch<K, A>,
    ffn: FfnScratch<K, A>,
    /// Gradient of a normalised input, `[T, d]`.
    dn: K::Buffer<A>,
}

impl<K: Kernels, A: Storage> BlockScratch<K, A> {
    /// Memory for any of `blocks`.
    pub fn new<'a>(k: &K, blocks: impl Iterator<Item = &'a BlockIds>, dims: &OpDims<'_>) -> Self {
        let (mut dense, mut moe) = (false, false);
        for block in blocks {
            match block.ffn {
                FfnIds::Dense(_) => dense = true,
                FfnIds::Moe(_) => moe = true,
            }
        }
        Self {
            derived: dims.recompute.then(|| Derived::new(k, dims)),
            mla: MlaScratch::new(k, dims),
            ffn: FfnScratch::new(k, dims, dense, moe),
            dn: k.zeros(dims.batch.rows() * dims.model.width),
        }
    }
}

/// The memory of derived values: the block's own, or the one that blocks share.
fn derived<'a, K: Kernels, A: Storage>(own: &'a mut Option<Derived<K, A>>, shared: &'a mut Option<Derived<K, A>>) -> &'a mut Derived<K, A> {
    own.as_mut()
        .or(shared.as_mut())
        .expect("derived values are kept by each block or shared by all")
}

/// `acts.out = Block(h)`.
pub fn forward<K: Kernels, A: Storage>(
    p: &Pass<'_, K>,
    n: &mut Numerics<K>,
    acts: &mut BlockActivations<K, A>,
    s: &mut BlockScratch<K, A>,
    h_Td: &K::Buffer<A>,
    ids: &BlockIds,
) {
    let derived = derived(&mut acts.derived, &mut s.derived);
    derived.attention.forward(p, h_Td, &p.w[ids.attention_norm]);
    p.k.copy(&mut acts.u, h_Td);
    let x = &derived.attention.y;
    mla::forward(p, n, &mut acts.u, &mut acts.mla, &mut derived.up, &mut s.mla, x, &ids.mla);
    derived.ffn.forward(p, &acts.u, &p.w[ids.ffn_norm]);
    p.k.copy(&mut acts.out, &acts.u);
    ffn::forward(p, n, &mut acts.out, &mut acts.ffn, &mut s.ffn, &derived.ffn.y, &ids.ffn);
}

/// Turns `dh_Td` from the gradient of the block's output into that of its input.
pub fn backward<K: Kernels, A: Storage>(
    p: &Pass<'_, K>,
    n: &mut Numerics<K>,
    dh_Td: &mut K::Buffer<A>,
    g: &mut Weights<K>,
    acts: &mut BlockActivations<K, A>,
    s: &mut BlockScratch<K, A>,
    h_Td: &K::Buffer<A>,
    ids: &BlockIds,
    balance_scale: f32,
) {
    let recompute = acts.derived.is_none();
    let derived = derived(&mut acts.derived, &mut s.derived);
    if recompute {
        derived.attention.forward(p, h_Td, &p.w[ids.attention_norm]);
        mla::up_projections(p, n, &mut derived.up, &acts.mla, &mut s.mla, &derived.attention.y, &ids.mla);
        derived.ffn.forward(p, &acts.u, &p.w[ids.ffn_norm]);
    }
    // out = u + FFN(n2)
    let (ffn_acts, x) = (&mut acts.ffn, &derived.ffn.y);
    ffn::backward(p, n, &mut s.dn, g, ffn_acts, &mut s.ffn, dh_Td, x, &ids.ffn, balance_scale);
    // n2 = RMSNorm(u)
    let gain = &p.w[ids.ffn_norm];
    derived.ffn.backward(p, dh_Td, &mut g[ids.ffn_norm], &s.dn, &acts.u, gain);
    // u = h + MLA(n1)
    let x = &derived.attention.y;
    mla::backward(p, n, &mut s.dn, g, &mut s.mla, dh_Td, &acts.mla, &derived.up, x, &ids.mla);
    // n1 = RMSNorm(h)
    let gain = &p.w[ids.attention_norm];
    derived.attention.backward(p, dh_Td, &mut g[ids.attention_norm], &s.dn, h_Td, gain);
}
