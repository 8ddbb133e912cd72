//! Randomness that is a function of a seed and a document: the same draws on every machine, in every order of work.

/// What a draw decides. Each purpose has its own stream, so that changing one decision does not change the others.
#[derive(Clone, Copy, Debug)]
#[repr(u64)]
pub(crate) enum Purpose {
    /// Whether a document is held out for validation.
    Validation = 1,
    /// How often a document is used.
    Repetition = 2,
    /// Whether and where a document is cut for fill-in-the-middle.
    FillInTheMiddle = 3,
    /// Which merged punctuation tokens are split.
    PunctuationSplit = 4,
    /// Whether a document is part of the tokenizer's sample.
    Sample = 5,
    /// The order of the rows.
    RowOrder = 6,
}

/// `SplitMix64` (Steele, Lea, Flood 2014): a counter put through a bijective mixer. Not for secrets.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    state: u64,
}

impl Stream {
    /// The stream of `purpose` for a document (or another item) with this hash.
    pub(crate) fn new(seed: u64, purpose: Purpose, item: u128) -> Self {
        let mut state = mix(seed ^ mix(purpose as u64));
        state = mix(state ^ (item as u64));
        state = mix(state ^ ((item >> 64) as u64));
        Self { state }
    }

    /// 64 uniform bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.state)
    }

    /// Uniform in [0, 1), in steps of 2^-53.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Uniform in `0..bound`, by multiplication (bias below `bound / 2^64`).
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}

/// The finaliser of `SplitMix64`: a bijection of 64 bits in which every input bit changes about half of the output bits.
pub(crate) const fn mix(mut value: u64) -> u64 {
    value ^= value >> 30;
    value = value.wrapping_mul(0xBF58_476D_1CE4_E5B9);
    value ^= value >> 27;
    value = value.wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

/// 128 bits of the BLAKE3 digest of a document's text: its identity in deduplication and in all draws.
pub(crate) fn document_hash(text: &str) -> u128 {
    let digest = blake3::hash(text.as_bytes());
    let mut low = [0; 16];
    low.copy_from_slice(&digest.as_bytes()[..16]);
    u128::from_le_bytes(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_by_every_part_of_their_key() {
        let first = |seed, purpose, item| Stream::new(seed, purpose, item).next();
        let base = first(1, Purpose::Validation, 2);
        assert_eq!(base, first(1, Purpose::Validation, 2));
        assert_ne!(base, first(2, Purpose::Validation, 2));
        assert_ne!(base, first(1, Purpose::Repetition, 2));
        assert_ne!(base, first(1, Purpose::Validation, 3));
        assert_ne!(base, first(1, Purpose::Validation, 2 | 1 << 100));
    }

    #[test]
    fn draws_are_uniform_within_five_standard_deviations() {
        let draws = 100_000;
        let mean = (0..draws).map(|item| Stream::new(7, Purpose::Sample, item).unit()).sum::<f64>() / draws as f64;
        assert!((mean - 0.5).abs() < 5.0 * (1.0 / 12.0_f64).sqrt() / (draws as f64).sqrt(), "{mean}");
        let mut stream = Stream::new(7, Purpose::Sample, 0);
        let mut counts = [0_u32; 7];
        for _ in 0..70_000 {
            counts[stream.below(7) as usize] += 1;
        }
        assert!(counts.iter().all(|&count| (count as i32 - 10_000).abs() < 500), "{counts:?}");
    }
}
