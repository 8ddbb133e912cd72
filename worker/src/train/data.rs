//! The order in which packed rows are trained on: a function of the seed and of how many sequences came before.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// Maps positions in the training stream to rows. The first pass follows the corpus, which is shuffled already; each later pass has an
/// order of its own.
pub struct RowOrder {
    rows: u64,
    seed: u64,
    epoch: u64,
    /// The order of `epoch`; empty for the first.
    order: Vec<u32>,
}

impl RowOrder {
    /// An order over `rows` rows.
    ///
    /// # Panics
    /// If there are no rows, or more than 2^32.
    #[must_use]
    pub fn new(rows: usize, seed: u64) -> Self {
        assert!(rows > 0 && u32::try_from(rows).is_ok(), "between 1 and 2^32 rows, not {rows}");
        Self {
            rows: rows as u64,
            seed,
            epoch: 0,
            order: Vec::new(),
        }
    }

    /// The row at `position` (sequences consumed before it).
    pub fn row(&mut self, position: u64) -> usize {
        let (epoch, index) = (position / self.rows, position % self.rows);
        if epoch != self.epoch {
            self.epoch = epoch;
            self.order.clear();
            if epoch > 0 {
                self.order.extend(0..self.rows as u32);
                self.order.shuffle(&mut ChaCha8Rng::seed_from_u64(
                    self.seed ^ epoch.wrapping_mul(0x9E37_79B9_7F4A_7C15),
                ));
            }
        }
        self.order.get(index as usize).map_or(index as usize, |&row| row as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pass_visits_every_row_once_and_any_position_can_be_entered() {
        let mut straight = RowOrder::new(97, 3);
        let visited: Vec<_> = (0..97 * 3).map(|position| straight.row(position)).collect();
        assert_eq!(visited[..97], (0..97).collect::<Vec<_>>());
        for pass in visited.chunks_exact(97) {
            let mut sorted = pass.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..97).collect::<Vec<_>>());
        }
        assert_ne!(visited[97..194], visited[194..]);
        for position in [200, 3, 150, 290] {
            assert_eq!(RowOrder::new(97, 3).row(position), visited[position as usize]);
        }
    }
}
