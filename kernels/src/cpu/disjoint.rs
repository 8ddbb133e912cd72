//! A mutable slice whose parts are written by different tasks.

use std::marker::PhantomData;

/// An exclusive borrow, shared by tasks that each take their own part.
pub struct Disjoint<'a, T> {
    pointer: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: it stands for the exclusive borrow, and `part`'s callers never let two threads hold the same element.
unsafe impl<T: Send> Send for Disjoint<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    /// Takes the borrow.
    pub fn new(slice: &'a mut [T]) -> Self {
        Self {
            pointer: slice.as_mut_ptr(),
            len: slice.len(),
            borrow: PhantomData,
        }
    }

    /// Elements `start..start + len`; panics if they are outside.
    ///
    /// # Safety
    /// No two parts that are alive at the same time share an element.
    #[allow(clippy::mut_from_ref)] // the point of the type
    pub unsafe fn part(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start <= self.len && len <= self.len - start, "part {start}..+{len} of {}", self.len);
        // SAFETY: inside the borrowed slice, as just checked; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.add(start), len) }
    }
}
