//! Several ranks that train one model: processes of one machine or pods of a cluster, over TCP.

mod rendezvous;
mod tcp;

pub use rendezvous::{Place, Rendezvous, connect};
pub use tcp::Tcp;

use crate::error::Result;
use std::time::Duration;

/// How long a rank waits for the others: images are pulled and volumes mounted meanwhile.
const RENDEZVOUS_DEADLINE: Duration = Duration::from_secs(300);

/// This process among the ranks of its attempt.
#[derive(Clone, Debug)]
pub struct Group {
    /// This rank, from 0. Rank 0 reports, validates and writes checkpoints.
    pub rank: usize,
    /// Number of ranks, a power of two.
    pub size: usize,
    /// Where rank 0 is found.
    pub place: Place,
}

impl Group {
    /// Whether this is the only rank.
    #[must_use]
    pub const fn is_alone(&self) -> bool {
        self.size == 1
    }

    /// Finds the others; `key` names the attempt.
    ///
    /// # Errors
    /// As [`connect()`].
    pub fn connect(&self, key: String, stop: &dyn Fn() -> bool) -> Result<Tcp> {
        let rendezvous = Rendezvous {
            place: self.place.clone(),
            key,
            rank: self.rank,
            size: self.size,
            deadline: RENDEZVOUS_DEADLINE,
        };
        connect(&rendezvous, stop)
    }
}
