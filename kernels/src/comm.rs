//! What several ranks compute together.

use crate::Kernels;
use std::convert::Infallible;

/// A group of ranks, each a process of its own (MPI 4.1, chapter 6, calls them collective operations). All ranks call the same operations in the
/// same order, with buffers of the same sizes. After an error a group is of no use any more.
pub trait Comm<K: Kernels> {
    /// Why an operation failed.
    type Error;

    /// This rank, from 0.
    fn rank(&self) -> usize;
    /// Number of ranks, a power of two.
    fn size(&self) -> usize;
    /// Replaces each element by its sum over the ranks along a binary tree of neighbours, `((x_0 + x_1) + (x_2 + x_3)) + ...`. All ranks get the same bits.
    ///
    /// # Errors
    /// If a rank is lost, or calls another operation.
    fn all_reduce(&mut self, k: &K, buffers: &mut [&mut K::Buffer<f32>]) -> Result<(), Self::Error>;
    /// What each rank gave, in their order. It may be of any length.
    ///
    /// # Errors
    /// As for [`Comm::all_reduce`].
    fn all_gather(&mut self, mine: &[u8]) -> Result<Vec<Vec<u8>>, Self::Error>;
}

/// A group of one rank.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl<K: Kernels> Comm<K> for Alone {
    type Error = Infallible;

    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn all_reduce(&mut self, _: &K, _: &mut [&mut K::Buffer<f32>]) -> Result<(), Infallible> {
        Ok(())
    }

    fn all_gather(&mut self, mine: &[u8]) -> Result<Vec<Vec<u8>>, Infallible> {
        Ok(vec![mine.to_vec()])
    }
}
