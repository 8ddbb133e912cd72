//! Documents to rows: best-fit packing (Ding et al. 2024, "Fewer Truncations Improve Language Modeling"), without padding.
//!
//! A document longer than a row is cut into whole rows and a rest. Rests and short documents, longest first, go each into the fullest row
//! that still has room. The rows that end up least full are then dissolved to fill the gaps of the others, which cuts some of their
//! documents; what does not fill a last row is dropped. So every row is full, no token is used twice, and fewer than one row's tokens
//! are lost.

/// A document in the staged tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// Position of its first token.
    pub(crate) start: u64,
    /// Number of tokens.
    pub(crate) tokens: u32,
}

/// Rows as lists of fragments.
#[derive(Clone, Debug, Default)]
pub(crate) struct Packed {
    fragments: Vec<Span>,
    /// Where each row's fragments end.
    ends: Vec<u32>,
    /// Documents (or rests of long ones) that were cut to fill gaps.
    pub(crate) split_documents: u64,
    /// Tokens that did not fill a last row.
    pub(crate) dropped_tokens: u64,
    /// Tokens in rows before gaps were filled, over the tokens that those rows can hold: what best fit alone achieves.
    pub(crate) efficiency: f64,
}

impl Packed {
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn row(&self, index: usize) -> &[Span] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.fragments[start as usize..self.ends[index] as usize]
    }
}

/// No bin, no item.
const NONE: u32 = u32::MAX;

/// Rows under construction: each a linked list of items, in the order in which they were placed.
struct Bins {
    /// First item, last item and free tokens of each bin.
    heads: Vec<(u32, u32, u32)>,
    /// Next item in the same bin.
    next: Vec<u32>,
}

/// Packs `documents` into rows of `row_tokens` tokens.
pub(crate) fn pack(documents: &[Span], row_tokens: u32) -> Packed {
    assert!(row_tokens > 0, "a row has tokens");
    let mut packed = Packed::default();
    let items = whole_rows(documents, row_tokens, &mut packed);
    let bins = best_fit(&items, row_tokens);
    let used: u64 = documents.iter().map(|document| u64::from(document.tokens)).sum();
    let capacity = (packed.len() as u64 + bins.heads.len() as u64) * u64::from(row_tokens);
    packed.efficiency = if capacity == 0 { 1.0 } else { used as f64 / capacity as f64 };
    fill(&items, &bins, row_tokens, &mut packed);
    packed
}

/// Cuts whole rows off long documents; returns the rests, longest first (of equals, in order).
fn whole_rows(documents: &[Span], row_tokens: u32, packed: &mut Packed) -> Vec<Span> {
    let mut items = Vec::with_capacity(documents.len());
    for document in documents {
        let mut rest = *document;
        while rest.tokens >= row_tokens {
            packed.fragments.push(Span {
                start: rest.start,
                tokens: row_tokens,
            });
            packed.ends.push(packed.fragments.len() as u32);
            rest.start += u64::from(row_tokens);
            rest.tokens -= row_tokens;
        }
        if rest.tokens > 0 {
            items.push(rest);
        }
    }
    items.sort_by_key(|item| std::cmp::Reverse(item.tokens));
    items
}

/// Best fit decreasing. The smallest sufficient gap is found in a tree over gap sizes, in O(log row) per document.
fn best_fit(items: &[Span], row_tokens: u32) -> Bins {
    let mut bins = Bins {
        heads: Vec::new(),
        next: vec![NONE; items.len()],
    };
    // Bins by gap: a stack per gap size, as a linked list over bins.
    let mut top = vec![NONE; row_tokens as usize + 1];
    let mut below: Vec<u32> = Vec::new();
    let mut gaps = GapSet::new(row_tokens);
    for (index, item) in (0_u32..).zip(items) {
        let bin = match gaps.smallest_from(item.tokens) {
            Some(gap) => {
                let bin = top[gap as usize];
                top[gap as usize] = below[bin as usize];
                if top[gap as usize] == NONE {
                    gaps.remove(gap);
                }
                let (_, last, _) = bins.heads[bin as usize];
                bins.next[last as usize] = index;
                bins.heads[bin as usize].1 = index;
                bin
            }
            None => {
                bins.heads.push((index, index, row_tokens));
                below.push(NONE);
                bins.heads.len() as u32 - 1
            }
        };
        let gap = bins.heads[bin as usize].2 - item.tokens;
        bins.heads[bin as usize].2 = gap;
        if gap > 0 {
            below[bin as usize] = top[gap as usize];
            top[gap as usize] = bin;
            gaps.insert(gap);
        }
    }
    bins
}

/// Turns bins into full rows: the fullest bins are kept, the others are poured into their gaps.
fn fill(items: &[Span], bins: &Bins, row_tokens: u32, packed: &mut Packed) {
    let mut order: Vec<u32> = (0..bins.heads.len() as u32).collect();
    order.sort_by_key(|&bin| bins.heads[bin as usize].2);
    let tokens: u64 = items.iter().map(|item| u64::from(item.tokens)).sum();
    let kept = (tokens / u64::from(row_tokens)) as usize;
    let items_of = |bin: u32| {
        let first = bins.heads[bin as usize].0;
        std::iter::successors(Some(first), |&item| Some(bins.next[item as usize]).filter(|&next| next != NONE))
    };
    // The fullest of the dissolved bins first, so that the emptiest is what is dropped.
    let mut donors = order[kept..].iter().flat_map(|&bin| items_of(bin)).map(|item| items[item as usize]);
    let mut donor: Option<Span> = None;
    let mut is_cut = false;
    for &bin in &order[..kept] {
        packed.fragments.extend(items_of(bin).map(|item| items[item as usize]));
        let mut gap = bins.heads[bin as usize].2;
        while gap > 0 {
            let mut span = donor
                .take()
                .or_else(|| donors.next())
                .expect("all tokens together fill the kept rows");
            let part = span.tokens.min(gap);
            packed.fragments.push(Span {
                start: span.start,
                tokens: part,
            });
            gap -= part;
            span.start += u64::from(part);
            span.tokens -= part;
            if span.tokens > 0 {
                packed.split_documents += u64::from(!is_cut);
                donor = Some(span);
            }
            is_cut = span.tokens > 0;
        }
        packed
            .ends
            .push(u32::try_from(packed.fragments.len()).expect("fewer fragments than 2^32"));
    }
    let rest = donor.map_or(0, |span| u64::from(span.tokens));
    packed.dropped_tokens = rest + donors.map(|span| u64::from(span.tokens)).sum::<u64>();
}

/// A set of gap sizes with successor queries: a bitmap with one summary level per factor of 64.
struct GapSet {
    levels: Vec<Vec<u64>>,
}

impl GapSet {
    fn new(largest: u32) -> Self {
        let mut levels = Vec::new();
        let mut words = largest as usize / 64 + 1;
        loop {
            levels.push(vec![0_u64; words]);
            if words == 1 {
                return Self { levels };
            }
            words = words.div_ceil(64);
        }
    }

    fn insert(&mut self, gap: u32) {
        let mut at = gap as usize;
        for level in &mut self.levels {
            level[at / 64] |= 1 << (at % 64);
            at /= 64;
        }
    }

    fn remove(&mut self, gap: u32) {
        let mut at = gap as usize;
        for level in &mut self.levels {
            level[at / 64] &= !(1 << (at % 64));
            if level[at / 64] != 0 {
                return;
            }
            at /= 64;
        }
    }

    /// The smallest member that is at least `from`.
    fn smallest_from(&self, from: u32) -> Option<u32> {
        let mut at = from as usize;
        for (height, level) in self.levels.iter().enumerate() {
            let word = level.get(at / 64)? & (u64::MAX << (at % 64));
            if word != 0 {
                let mut found = at / 64 * 64 + word.trailing_zeros() as usize;
                for level in self.levels[..height].iter().rev() {
                    found = found * 64 + level[found].trailing_zeros() as usize;
                }
                return Some(found as u32);
            }
            at = at / 64 + 1;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn spans(lengths: &[u32]) -> Vec<Span> {
        let starts = lengths.iter().scan(0, |start, &tokens| {
            let span = Span { start: *start, tokens };
            *start += u64::from(tokens);
            Some(span)
        });
        starts.collect()
    }

    fn rows(packed: &Packed) -> Vec<Vec<(u64, u32)>> {
        let row = |index| packed.row(index).iter().map(|span| (span.start, span.tokens)).collect();
        (0..packed.len()).map(row).collect()
    }

    #[test]
    fn documents_that_fit_stay_whole() {
        // 10 = 6 + 4 = 7 + 3 = 10: nothing is split.
        let packed = pack(&spans(&[4, 7, 10, 6, 3]), 10);
        assert_eq!(rows(&packed), [vec![(11, 10)], vec![(4, 7), (27, 3)], vec![(21, 6), (0, 4)]]);
        assert_eq!((packed.split_documents, packed.dropped_tokens), (0, 0));
        assert!((packed.efficiency - 1.0).abs() < 1e-12);
    }

    #[test]
    fn long_documents_are_cut_into_rows_and_a_rest() {
        let packed = pack(&spans(&[25, 5]), 10);
        assert_eq!(rows(&packed), [vec![(0, 10)], vec![(10, 10)], vec![(20, 5), (25, 5)]]);
        assert_eq!(packed.split_documents, 0);
    }

    #[test]
    fn gaps_are_filled_by_splitting() {
        // Three documents of 7: one is poured into the gaps of 3 of the others.
        let packed = pack(&spans(&[7, 7, 7]), 10);
        assert_eq!(rows(&packed), [vec![(0, 7), (14, 3)], vec![(7, 7), (17, 3)]]);
        assert_eq!((packed.split_documents, packed.dropped_tokens), (1, 1));
        assert!((packed.efficiency - 0.7).abs() < 1e-12);
    }

    #[test]
    fn too_little_text_makes_no_row() {
        let packed = pack(&spans(&[4, 5]), 10);
        assert_eq!((packed.len(), packed.dropped_tokens), (0, 9));
        assert_eq!(pack(&[], 10).len(), 0);
    }

    proptest! {
        #[test]
        fn rows_are_full_and_tokens_are_used_once(lengths in proptest::collection::vec(1_u32..40, 0..60), row_tokens in 1_u32..20) {
            let packed = pack(&spans(&lengths), row_tokens);
            let total: u64 = lengths.iter().map(|&length| u64::from(length)).sum();
            prop_assert_eq!(packed.len() as u64, total / u64::from(row_tokens));
            prop_assert_eq!(packed.dropped_tokens, total % u64::from(row_tokens));
            let mut used = BTreeSet::new();
            for index in 0..packed.len() {
                let row = packed.row(index);
                prop_assert_eq!(row.iter().map(|span| span.tokens).sum::<u32>(), row_tokens);
                for span in row {
                    for token in span.start..span.start + u64::from(span.tokens) {
                        prop_assert!(used.insert(token));
                    }
                }
            }
            prop_assert!(used.iter().all(|&token| token < total));
        }

        #[test]
        fn gap_sets_are_sets(operations in proptest::collection::vec((any::<bool>(), 0_u32..9000), 0..200), from in 0_u32..9001) {
            let mut set = GapSet::new(9000);
            let mut oracle = BTreeSet::new();
            for (insert, gap) in operations {
                if insert {
                    set.insert(gap);
                    oracle.insert(gap);
                } else if oracle.remove(&gap) {
                    set.remove(gap);
                }
            }
            prop_assert_eq!(set.smallest_from(from), oracle.range(from..).next().copied());
        }
    }
}
