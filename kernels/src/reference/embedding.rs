//! Table lookup and its scatter-add.

use super::real::Real;
use crate::dims::EmbeddingDims;

/// `y[t] = table[tokens[t]]`.
pub fn forward<A: Real>(y_TD: &mut [A], table_VD: &[A], tokens_T: &[u32], dims: EmbeddingDims) {
    let EmbeddingDims { rows, width, vocabulary } = dims;
    for (t, &token) in tokens_T[..rows].iter().enumerate() {
        assert!((token as usize) < vocabulary, "token {token} of a vocabulary of {vocabulary}");
        y_TD[t * width..][..width].copy_from_slice(&table_VD[token as usize * width..][..width]);
    }
}

/// `dtable[tokens[t]] += dy[t]`, `t` ascending, each sum rounded: the order is part of the contract.
pub fn backward<A: Real, F: Real>(dtable_VD: &mut [F], dy_TD: &[A], tokens_T: &[u32], dims: EmbeddingDims) {
    let EmbeddingDims { rows, width, vocabulary } = dims;
    for (t, &token) in tokens_T[..rows].iter().enumerate() {
        assert!((token as usize) < vocabulary, "token {token} of a vocabulary of {vocabulary}");
        for (target, dy) in dtable_VD[token as usize * width..][..width].iter_mut().zip(&dy_TD[t * width..]) {
            *target = F::of(target.get() + dy.get());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::gradient::{Draw, check_gradient};

    #[test]
    fn gradient_with_repeated_tokens() {
        let dims = EmbeddingDims {
            rows: 5,
            width: 3,
            vocabulary: 4,
        };
        let (mut draw, tokens) = (Draw::new(1), [2, 0, 2, 3, 2]);
        let (table, dy) = (draw.normal(12), draw.normal(15));
        let mut dtable = vec![0.0; 12];
        backward(&mut dtable, &dy, &tokens, dims);
        check_gradient("dtable", &table, &dtable, &dy, |table| {
            let mut y = vec![0.0; 15];
            forward(&mut y, table, &tokens, dims);
            y
        });
    }
}
