//! Repeatable test data.

/// Splitmix64.
pub struct Draw(u64);

impl Draw {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
    /// Near-normal values: the sum of four uniform ones, scaled to unit variance.
    pub fn normal(&mut self, len: usize) -> Vec<f32> {
        let mut uniform = || (self.next() >> 40) as f32 / (1_u32 << 24) as f32 - 0.5;
        (0..len)
            .map(|_| (uniform() + uniform() + uniform() + uniform()) * 3.0_f32.sqrt())
            .collect()
    }
    pub fn tokens(&mut self, len: usize, vocabulary: usize) -> Vec<u32> {
        (0..len).map(|_| self.below(vocabulary) as u32).collect()
    }
    /// Ascending offsets of `groups` groups over `rows`; about a third of the groups are empty.
    pub fn offsets(&mut self, rows: usize, groups: usize) -> Vec<u32> {
        let mut cuts: Vec<u32> = (1..groups).map(|_| self.below(rows + 1) as u32).collect();
        cuts.sort_unstable();
        for index in (1..cuts.len()).step_by(3) {
            cuts[index] = cuts[index - 1];
        }
        cuts.insert(0, 0);
        cuts.push(rows as u32);
        cuts
    }
    pub fn shuffle<T>(&mut self, values: &mut [T]) {
        for last in (1..values.len()).rev() {
            values.swap(last, self.below(last + 1));
        }
    }
}
