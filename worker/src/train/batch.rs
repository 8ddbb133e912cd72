//! Rows of tokens from the host into a batch on the device.

use crate::model::{Batch, BatchDims};
use bytemuck::cast_slice;
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
    for (sequence, row) in rows.chunks_exact(length + 1).enumerate() {
        k.upload(&mut batch.tokens, sequence * length, &row[..length]);
        k.upload(&mut batch.targets, sequence * length, cast_slice(&row[1..]));
        for (depth, (tokens, targets)) in (1..).zip(&mut batch.shifted) {
            let start = sequence * (length - depth);
            k.upload(tokens, start, &row[depth..length]);
            k.upload(targets, start, cast_slice(&row[depth + 1..]));
        }
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
