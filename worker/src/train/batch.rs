//! Rows of tokens from the host into a batch on the device.

use crate::model::{Batch, BatchDims};
use fathom_kernels::Kernels;

/// Fills a batch from B rows of S + 1 tokens.
///
/// # Panics
/// If `rows` has another length.
pub fn load<K: Kernels>(k: &K, batch: &mut Batch<K>, rows: &[u32]) {
    let BatchDims { sequences, length } = batch.dims;
    assert_eq!(
        rows.len(),
        sequences * (length + 1),
        "a batch is {sequences} rows of {length} + 1 tokens"
    );
    let shifted = |by: usize, until: usize| rows.chunks_exact(length + 1).flat_map(move |row| &row[by..until]).copied();
    let targets = |by: usize| shifted(by, length + 1).map(u32::cast_signed).collect::<Vec<i32>>();
    k.upload(&mut batch.tokens, 0, &shifted(0, length).collect::<Vec<u32>>());
    k.upload(&mut batch.targets, 0, &targets(1));
    for (depth, (tokens_k, targets_k)) in (1..).zip(&mut batch.shifted) {
        k.upload(tokens_k, 0, &shifted(depth, length).collect::<Vec<u32>>());
        k.upload(targets_k, 0, &targets(depth + 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fathom_kernels::Reference;

    #[test]
    fn tokens_and_targets_are_shifted_within_each_row() {
        let dims = BatchDims { sequences: 2, length: 3 };
        let mut batch = Batch::new(&Reference::PAIRS, dims, 1);
        load(&Reference::PAIRS, &mut batch, &[1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(batch.tokens, [1, 2, 3, 5, 6, 7]);
        assert_eq!(batch.targets, [2, 3, 4, 6, 7, 8]);
        // Depth 1 sees t_{i+1} and predicts t_{i+2}: the last position of each row has no target.
        assert_eq!(batch.shifted[0].0, [2, 3, 6, 7]);
        assert_eq!(batch.shifted[0].1, [3, 4, 7, 8]);
    }
}
