//! What the passes of a step add up to, along a tree that no number of ranks changes.

use crate::model::layout::Layout;
use crate::model::{Activations, MAX_MTP_DEPTH, Model, Storage, Weights};
use bytemuck::{Pod, Zeroable};
use fathom_kernels::Kernels;
use fathom_kernels::formats::Statistics;

/// Sums over passes, in nats; `balance` over sequences and layers.
#[derive(Clone, Copy, Default, Pod, Zeroable)]
#[repr(C)]
pub(super) struct LossSums {
    pub main: f64,
    pub mtp: [f64; MAX_MTP_DEPTH],
    pub balance: f64,
}

impl LossSums {
    /// Of one pass.
    pub fn of<K: Kernels, A: Storage>(model: &Model<K, A>, acts: &Activations<K, A>, host: &mut Vec<f32>) -> Self {
        let k = &model.kernels;
        let mut mtp = [0.0; MAX_MTP_DEPTH];
        for (index, total) in mtp.iter_mut().enumerate().take(model.layout.mtp.len()) {
            *total = sum(k, acts.mtp_nll(index), host);
        }
        Self {
            main: sum(k, &acts.nll, host),
            mtp,
            balance: acts.moe_layers().map(|moe| sum(k, &moe.balance_loss, host)).sum(),
        }
    }

    fn add(mut self, other: Self) -> Self {
        self.main += other.main;
        for (total, other) in self.mtp.iter_mut().zip(other.mtp) {
            *total += other;
        }
        self.balance += other.balance;
        self
    }
}

/// The passes over some micro-batches. Their gradients are added up along a binary tree that follows from the micro-batch's place in the global batch alone:
/// each half by itself, then the two. Ranks that each hold an equal part compute its subtrees, so their number changes no bit.
pub(super) struct Passes<'a, F> {
    pub micro_tokens: usize,
    /// Adds a micro-batch's gradients to zeros; nothing if it is interrupted.
    pub pass: F,
    pub layout: &'a Layout,
}

impl<F> Passes<'_, F> {
    /// Leaves the sum in `gradients`; they and those `waiting` are zero before, and the latter again afterwards.
    pub fn run<K: Kernels>(&mut self, k: &K, rows: &[u32], gradients: &mut Weights<K>, waiting: &mut [Weights<K>]) -> Option<LossSums>
    where
        F: FnMut(&mut Weights<K>, &[u32]) -> Option<LossSums>,
    {
        let micro_batches = rows.len() / self.micro_tokens;
        if micro_batches == 1 {
            return (self.pass)(gradients, rows);
        }
        let (left, right) = rows.split_at(micro_batches.div_ceil(2) * self.micro_tokens);
        let left = self.run(k, left, gradients, waiting)?;
        let (other, waiting) = waiting.split_first_mut().expect("there are as many as the tree is deep");
        let right = self.run(k, right, other, waiting)?;
        for id in self.layout.trainable() {
            k.add(&mut gradients[id], &other[id]);
            k.fill(&mut other[id], 0.0);
        }
        Some(left.add(right))
    }
}

/// What a report is made of, summed over micro-batches.
pub(super) struct Sums {
    pub losses: LossSums,
    /// Per MoE layer.
    pub expert_counts: Vec<Vec<u32>>,
    /// Per layer and class.
    pub numerics: Vec<Vec<Statistics>>,
}

impl Sums {
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = bytemuck::bytes_of(&self.losses).to_vec();
        self.expert_counts
            .iter()
            .for_each(|counts| bytes.extend_from_slice(bytemuck::cast_slice(counts)));
        self.numerics
            .iter()
            .for_each(|statistics| bytes.extend_from_slice(bytemuck::cast_slice(statistics)));
        bytes
    }

    /// The reverse of [`Sums::bytes`], for sums of the shape of `self`.
    ///
    /// # Panics
    /// If they have another shape: ranks train one model, which the exchange of their gradients has shown.
    pub fn parse(&self, bytes: &[u8]) -> Self {
        let mut rest = bytes;
        fn take<T: Pod>(rest: &mut &[u8], count: usize) -> Vec<T> {
            let (taken, left) = rest.split_at(count * size_of::<T>());
            *rest = left;
            taken.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()
        }
        let sums = Self {
            losses: take(&mut rest, 1)[0],
            expert_counts: self.expert_counts.iter().map(|counts| take(&mut rest, counts.len())).collect(),
            numerics: self.numerics.iter().map(|statistics| take(&mut rest, statistics.len())).collect(),
        };
        assert!(rest.is_empty(), "sums of another model");
        sums
    }

    pub fn add(mut self, other: Self) -> Self {
        self.losses = self.losses.add(other.losses);
        for (count, other) in self
            .expert_counts
            .iter_mut()
            .flatten()
            .zip(other.expert_counts.into_iter().flatten())
        {
            *count += other;
        }
        for (statistics, other) in self.numerics.iter_mut().flatten().zip(other.numerics.into_iter().flatten()) {
            *statistics = statistics.merge(other);
        }
        self
    }
}

/// Adds neighbours until one is left; there is a power of two of them.
pub(super) fn tree<T>(mut values: Vec<T>, add: impl Fn(T, T) -> T) -> T {
    while values.len() > 1 {
        let mut pairs = values.into_iter();
        values = std::iter::from_fn(|| Some(add(pairs.next()?, pairs.next()?))).collect();
    }
    values.pop().expect("there is at least one rank")
}

/// Copies a whole buffer to the host.
pub(super) fn download<K: Kernels, T: fathom_kernels::Element>(k: &K, buffer: &K::Buffer<T>) -> Vec<T> {
    let mut values = vec![T::default(); k.len(buffer)];
    k.download(&mut values, buffer, 0);
    values
}

/// Sum of a buffer, which goes through `host`.
fn sum<K: Kernels>(k: &K, buffer: &K::Buffer<f32>, host: &mut Vec<f32>) -> f64 {
    host.resize(k.len(buffer), 0.0);
    k.download(host, buffer, 0);
    host.iter().map(|&value| f64::from(value)).sum()
}
