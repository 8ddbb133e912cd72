//! Byte-pair merges: a piece of text to tokens. The pair of lowest rank is merged first, the leftmost one of equals, until no
//! adjacent pair has a rank.

use super::random::mix;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Pieces up to this many bytes are merged by scanning for the lowest rank; longer ones keep a heap, so that a piece of megabytes
/// costs n log n.
const SCANNED: usize = 96;

/// Rank of a pair that does not merge.
const NONE: u32 = u32::MAX;

/// The merges of a tokenizer: an open-addressed table from pairs of tokens to rank and merged token.
#[derive(Debug)]
pub(crate) struct Merges {
    slots: Vec<Slot>,
    mask: usize,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    pair: u64,
    rank: u32,
    token: u32,
}

const EMPTY: Slot = Slot {
    pair: u64::MAX,
    rank: NONE,
    token: 0,
};

const fn pair_key(left: u32, right: u32) -> u64 {
    (left as u64) << 32 | right as u64
}

impl Merges {
    /// The table of `(left, right, merged)` in order of rank. Of a repeated pair, the last counts, as in `tokenizers`.
    pub(crate) fn new(merges: &[(u32, u32, u32)]) -> Self {
        let size = (merges.len() * 2).next_power_of_two().max(16);
        let mut table = Self {
            slots: vec![EMPTY; size],
            mask: size - 1,
        };
        for (rank, &(left, right, token)) in (0..).zip(merges) {
            let pair = pair_key(left, right);
            let mut at = mix(pair) as usize & table.mask;
            while table.slots[at].pair != EMPTY.pair && table.slots[at].pair != pair {
                at = (at + 1) & table.mask;
            }
            table.slots[at] = Slot { pair, rank, token };
        }
        table
    }

    /// Rank and merged token of a pair; the rank is [`NONE`] if it does not merge.
    #[inline]
    fn get(&self, left: u32, right: u32) -> (u32, u32) {
        let pair = pair_key(left, right);
        let mut at = mix(pair) as usize & self.mask;
        loop {
            let slot = self.slots[at];
            if slot.pair == pair {
                return (slot.rank, slot.token);
            }
            if slot.pair == EMPTY.pair {
                return (NONE, 0);
            }
            at = (at + 1) & self.mask;
        }
    }

    /// Merges the tokens in `scratch.tokens` in place.
    pub(crate) fn apply(&self, scratch: &mut Scratch) {
        if scratch.tokens.len() <= SCANNED {
            self.apply_by_scanning(scratch);
        } else {
            self.apply_by_heap(scratch);
        }
    }

    fn apply_by_scanning(&self, scratch: &mut Scratch) {
        let Scratch { tokens, pairs, .. } = scratch;
        pairs.clear();
        pairs.extend(tokens.windows(2).map(|pair| self.get(pair[0], pair[1])));
        loop {
            let mut best = NONE;
            let mut at = 0;
            for (index, &(rank, _)) in pairs.iter().enumerate() {
                if rank < best {
                    (best, at) = (rank, index);
                }
            }
            if best == NONE {
                return;
            }
            tokens[at] = pairs[at].1;
            tokens.remove(at + 1);
            pairs.remove(at);
            if at > 0 {
                pairs[at - 1] = self.get(tokens[at - 1], tokens[at]);
            }
            if at < pairs.len() {
                pairs[at] = self.get(tokens[at], tokens[at + 1]);
            }
        }
    }

    /// A doubly linked list over positions, and a heap of candidate merges in which entries that no longer describe the pair at
    /// their position are skipped. Ranks identify pairs, so comparing ranks is comparing pairs.
    fn apply_by_heap(&self, scratch: &mut Scratch) {
        let Scratch { tokens, links, heap, .. } = scratch;
        let length = u32::try_from(tokens.len()).expect("documents are cut far below 4 GiB");
        links.clear();
        links.extend((0..length).map(|at| Link {
            previous: at.wrapping_sub(1),
            next: at + 1,
        }));
        heap.clear();
        for at in 0..length - 1 {
            let (rank, _) = self.get(tokens[at as usize], tokens[at as usize + 1]);
            if rank != NONE {
                heap.push(Reverse((rank, at)));
            }
        }
        while let Some(Reverse((rank, at))) = heap.pop() {
            let left = at as usize;
            let next = links[left].next;
            if links[left].is_removed() || next >= length {
                continue;
            }
            let (current, token) = self.get(tokens[left], tokens[next as usize]);
            if current != rank {
                continue;
            }
            let after = links[next as usize].next;
            tokens[left] = token;
            links[left].next = after;
            links[next as usize] = Link::REMOVED;
            let previous = links[left].previous;
            if previous != u32::MAX {
                let (rank, _) = self.get(tokens[previous as usize], token);
                if rank != NONE {
                    heap.push(Reverse((rank, previous)));
                }
            }
            if after < length {
                links[after as usize].previous = at;
                let (rank, _) = self.get(token, tokens[after as usize]);
                if rank != NONE {
                    heap.push(Reverse((rank, at)));
                }
            }
        }
        let mut kept = links.iter().map(|link| !link.is_removed());
        tokens.retain(|_| kept.next().expect("one link per token"));
    }
}

#[derive(Clone, Copy, Debug)]
struct Link {
    previous: u32,
    next: u32,
}

impl Link {
    const REMOVED: Self = Self { previous: 0, next: 0 };

    /// A live link's successor is at least 1.
    const fn is_removed(self) -> bool {
        self.next == 0
    }
}

/// Buffers of [`Merges::apply`], reused from piece to piece.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scratch {
    /// The tokens to merge, then the merged ones.
    pub(crate) tokens: Vec<u32>,
    pairs: Vec<(u32, u32)>,
    links: Vec<Link>,
    heap: BinaryHeap<Reverse<(u32, u32)>>,
}

impl Scratch {
    /// Gives back the memory that an exceptionally long piece took.
    pub(crate) fn shrink(&mut self) {
        const KEPT: usize = 1 << 16;
        if self.tokens.capacity() > KEPT {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition of byte-pair encoding, word for word.
    fn naive(merges: &[(u32, u32, u32)], mut tokens: Vec<u32>) -> Vec<u32> {
        loop {
            let candidate = tokens
                .windows(2)
                .enumerate()
                .filter_map(|(at, pair)| {
                    let rank = merges.iter().rposition(|&(left, right, _)| (left, right) == (pair[0], pair[1]))?;
                    Some((rank, at))
                })
                .min();
            let Some((rank, at)) = candidate else { return tokens };
            tokens.splice(at..at + 2, [merges[rank].2]);
        }
    }

    /// Merges over the symbols 0, 1 and 2, each of two earlier tokens.
    fn arbitrary_merges() -> impl Strategy<Value = Vec<(u32, u32, u32)>> {
        proptest::collection::vec((any::<u32>(), any::<u32>()), 0..20).prop_map(|choices| {
            let mut merges = Vec::new();
            for (token, (left, right)) in (3..).zip(choices) {
                let merge = (left % token, right % token);
                if merges.iter().all(|&(left, right, _)| (left, right) != merge) {
                    merges.push((merge.0, merge.1, token));
                }
            }
            merges
        })
    }

    proptest! {
        #[test]
        fn both_ways_of_merging_follow_the_definition(merges in arbitrary_merges(), tokens in proptest::collection::vec(0_u32..3, 1..60)) {
            let expected = naive(&merges, tokens.clone());
            let table = Merges::new(&merges);
            let mut scratch = Scratch { tokens: tokens.clone(), ..Scratch::default() };
            table.apply_by_scanning(&mut scratch);
            prop_assert_eq!(&scratch.tokens, &expected);
            scratch.tokens = tokens;
            table.apply_by_heap(&mut scratch);
            prop_assert_eq!(&scratch.tokens, &expected);
        }
    }
}
