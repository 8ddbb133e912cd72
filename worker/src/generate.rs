//! Text generation: greedy or sampled, by recomputing the whole window for each token. Simple, for looking at a model; serving has a
//! latent cache.

use crate::model::{Activations, Batch, BatchDims, Model, Storage};
use crate::train::batch;
use fathom_kernels::Kernels;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divisor of the logits; 0 always takes the most likely token.
    pub temperature: f64,
    /// Only this many most likely tokens are considered; 0 means all.
    pub top_k: usize,
    /// Seed of the random choices.
    pub seed: u64,
}

impl Sampling {
    /// Always the most likely token.
    pub const GREEDY: Self = Self {
        temperature: 0.0,
        top_k: 0,
        seed: 0,
    };
}

/// Generates from one model, with memory for one window.
pub struct Generator<'a, K: Kernels, A: Storage> {
    model: &'a Model<K, A>,
    window: usize,
    acts: Activations<K, A>,
    batch: Batch<K>,
    logits: K::Buffer<f32>,
}

impl<'a, K: Kernels, A: Storage> Generator<'a, K, A> {
    /// A generator that sees the last `window` tokens.
    pub fn new(model: &'a Model<K, A>, window: usize) -> Self {
        let dims = BatchDims {
            sequences: 1,
            length: window,
        };
        Self {
            model,
            window,
            acts: model.activations(dims),
            batch: Batch::new(&model.kernels, dims, model.layout.mtp.len()),
            logits: model.kernels.zeros(window * model.architecture.vocab_size as usize),
        }
    }

    /// The tokens that follow `prompt`: up to `limit`, ending before the first of `stop`.
    ///
    /// # Panics
    /// If the prompt is empty.
    pub fn generate(&mut self, prompt: &[u32], limit: usize, stop: &[u32], sampling: Sampling) -> Vec<u32> {
        assert!(!prompt.is_empty(), "generation continues at least one token");
        let mut random = ChaCha8Rng::seed_from_u64(sampling.seed);
        let mut tokens = prompt.to_vec();
        while tokens.len() - prompt.len() < limit {
            let next = choose(&self.next_logits(&tokens), sampling, &mut random);
            if stop.contains(&next) {
                break;
            }
            tokens.push(next);
        }
        tokens.split_off(prompt.len())
    }

    /// Logits of the token after `tokens`, `[V]`.
    fn next_logits(&mut self, tokens: &[u32]) -> Vec<f32> {
        let k = &self.model.kernels;
        let visible = &tokens[tokens.len().saturating_sub(self.window)..];
        // Attention is causal: what stands after the last visible token does not matter.
        let mut row = visible.to_vec();
        row.resize(self.window + 1, 0);
        batch::load(k, &mut self.batch, &row);
        self.model.forward(&mut self.acts, &self.batch, false);
        self.model.logits(&mut self.logits, &self.acts.hidden, self.window);
        let vocabulary = self.model.architecture.vocab_size as usize;
        let mut logits = vec![0.0; vocabulary];
        k.download(&mut logits, &self.logits, (visible.len() - 1) * vocabulary);
        logits
    }
}

/// A token from logits.
fn choose(logits: &[f32], sampling: Sampling, random: &mut ChaCha8Rng) -> u32 {
    let mut ranked: Vec<u32> = (0..logits.len() as u32).collect();
    ranked.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
    if sampling.temperature <= 0.0 {
        return ranked[0];
    }
    if sampling.top_k > 0 {
        ranked.truncate(sampling.top_k);
    }
    let largest = f64::from(logits[ranked[0] as usize]);
    let weights: Vec<f64> = ranked
        .iter()
        .map(|&token| ((f64::from(logits[token as usize]) - largest) / sampling.temperature).exp())
        .collect();
    let mut draw = f64::from(random.next_u32()) / (f64::from(u32::MAX) + 1.0) * weights.iter().sum::<f64>();
    for (&token, weight) in ranked.iter().zip(&weights) {
        draw -= weight;
        if draw < 0.0 {
            return token;
        }
    }
    ranked[ranked.len() - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greedy_takes_the_largest_and_the_lowest_among_equals() {
        let mut random = ChaCha8Rng::seed_from_u64(0);
        assert_eq!(choose(&[0.0, 3.0, 3.0, -1.0], Sampling::GREEDY, &mut random), 1);
    }

    #[test]
    fn sampling_follows_the_softmax_of_the_top_k() {
        let logits = [2.0f32.ln(), 1.0f32.ln(), 5.0f32.ln(), f32::NEG_INFINITY];
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let sampling = Sampling {
            temperature: 1.0,
            top_k: 2,
            seed: 1,
        };
        let draws = 20_000;
        let firsts = (0..draws).filter(|_| choose(&logits, sampling, &mut random) == 2).count();
        let expected = f64::from(draws) * 5.0 / 7.0;
        // Four standard deviations of the binomial law.
        let deviation = (f64::from(draws) * 5.0 / 7.0 * 2.0 / 7.0).sqrt();
        assert!((firsts as f64 - expected).abs() < 4.0 * deviation, "{firsts}");
    }
}
