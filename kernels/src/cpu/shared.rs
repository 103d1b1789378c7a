//! A slice whose parts several threads write at once.

use std::marker::PhantomData;

/// A mutable slice that can be shared; who takes parts vouches that they are disjoint.
pub(super) struct SharedMut<'a, T> {
    start: *mut T,
    len: usize,
    owner: PhantomData<&'a mut [T]>,
}

// SAFETY: handing `&SharedMut` to another thread hands it disjoint `&mut [T]`, fine for `T: Send`.
unsafe impl<T: Send> Sync for SharedMut<'_, T> {}

impl<'a, T> SharedMut<'a, T> {
    pub(super) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), owner: PhantomData }
    }

    /// # Safety
    /// While the part lives, no other part that overlaps it may be taken.
    #[expect(clippy::mut_from_ref, reason = "the caller vouches for disjoint parts")]
    pub(super) unsafe fn part(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start <= self.len && len <= self.len - start, "a part is inside its slice");
        // SAFETY: in bounds by the line above, unique by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }

    /// A pointer to an element, for kernels that write with a stride.
    pub(super) fn at(&self, index: usize) -> *mut T {
        assert!(index < self.len, "an element is inside its slice");
        // SAFETY: in bounds by the line above.
        unsafe { self.start.add(index) }
    }
}
