//! Zeroed anonymous memory for weights and the KV cache: large pages where the system has them,
//! on all of the process's memory nodes, committed only when touched.

use std::ptr::NonNull;
use std::sync::Arc;
use std::{io, ptr, slice};

use crate::Error;

/// The size of a large page; regions of at least this size start on one.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// A region of zeroed memory, aligned to a page.
#[derive(Debug)]
pub(crate) struct Region {
    start: NonNull<u8>,
    len: usize,
    map: NonNull<libc::c_void>,
    map_len: usize,
}

// SAFETY: the region is owned memory without thread affinity; shared access is by shared slices.
unsafe impl Send for Region {}
// SAFETY: as above, `&Region` only gives out shared slices and raw pointers.
unsafe impl Sync for Region {}

impl Region {
    /// Reserves `len` zeroed bytes.
    pub(crate) fn new(len: usize) -> Result<Self, Error> {
        let failed = |source| Error::Memory { bytes: len, source };
        let padding = if len >= HUGE_PAGE_BYTES { HUGE_PAGE_BYTES } else { 0 };
        let map_len = len
            .max(1)
            .checked_add(padding)
            .ok_or_else(|| failed(io::ErrorKind::OutOfMemory.into()))?;
        // SAFETY: a new anonymous mapping at an address of the system's choice touches nothing.
        let map = unsafe {
            libc::mmap(
                ptr::null_mut(),
                map_len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if map == libc::MAP_FAILED {
            return Err(failed(io::Error::last_os_error()));
        }
        let map = NonNull::new(map).ok_or_else(|| failed(io::ErrorKind::OutOfMemory.into()))?;
        let bytes: NonNull<u8> = map.cast();
        let offset = if padding > 0 { bytes.align_offset(HUGE_PAGE_BYTES) } else { 0 };
        // SAFETY: the offset is below the padding that the mapping has on top of `len`.
        let start = unsafe { bytes.add(offset) };
        advise(start, len);
        Ok(Self { start, len, map, map_len })
    }

    /// A part of the region.
    ///
    /// # Safety
    /// Nobody may write to the part while the slice lives.
    pub(crate) unsafe fn slice(&self, start: usize, len: usize) -> &[u8] {
        assert!(start <= self.len && len <= self.len - start, "a part is inside its region");
        // SAFETY: the bytes are ours and initialised (zeroed by the system), in bounds by the
        // line above, and not written to by the caller's promise.
        unsafe { slice::from_raw_parts(self.start.as_ptr().add(start), len) }
    }

    /// The start, for writers that keep their parts apart.
    pub(crate) fn as_mut_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }
}

/// Regions that hold many small slabs, so that these too lie in large pages.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    region: Option<Arc<Region>>,
    used: usize,
}

/// The size of an arena's regions; larger slabs have a region of their own.
const ARENA_BYTES: usize = 32 << 20;
/// Slabs start on cache lines.
const CACHE_LINE_BYTES: usize = 64;

impl Arena {
    /// Reserves `len` zeroed bytes.
    pub(crate) fn slab(&mut self, len: usize) -> Result<Slab, Error> {
        if len > ARENA_BYTES / 2 {
            return Ok(Slab { region: Arc::new(Region::new(len)?), start: 0, len });
        }
        let region = match self.region.take().filter(|_| len <= ARENA_BYTES - self.used) {
            Some(region) => region,
            None => {
                self.used = 0;
                Arc::new(Region::new(ARENA_BYTES)?)
            }
        };
        let slab = Slab { region: Arc::clone(&region), start: self.used, len };
        self.used = (self.used + len).next_multiple_of(CACHE_LINE_BYTES).min(ARENA_BYTES);
        self.region = Some(region);
        Ok(slab)
    }
}

/// Bytes that are nobody else's, in a region that others share.
#[derive(Debug)]
pub(crate) struct Slab {
    region: Arc<Region>,
    start: usize,
    len: usize,
}

impl Slab {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        // SAFETY: only this slab writes to its part, through `as_mut_slice`, which needs `&mut`.
        unsafe { self.region.slice(self.start, self.len) }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: the part is inside the region and this slab's alone, and `self` is borrowed
        // mutably.
        unsafe { slice::from_raw_parts_mut(self.region.as_mut_ptr().add(self.start), self.len) }
    }
}

/// Says how large and where the pages of a new range should be. Refusal only costs speed.
#[cfg(target_os = "linux")]
fn advise(start: NonNull<u8>, len: usize) {
    if len >= HUGE_PAGE_BYTES {
        // SAFETY: the range is inside our own mapping.
        unsafe { libc::madvise(start.as_ptr().cast(), len, libc::MADV_HUGEPAGE) };
        super::numa::interleave(start, len);
    }
}

#[cfg(not(target_os = "linux"))]
fn advise(_start: NonNull<u8>, _len: usize) {}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing borrowed from it outlives us.
        unsafe { libc::munmap(self.map.as_ptr(), self.map_len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_region_is_zeroed_and_costs_nothing_until_touched() {
        let region = Region::new(1 << 40).unwrap();

        // SAFETY: nobody writes.
        let bytes = unsafe { region.slice(0, 1 << 40) };
        assert_eq!(bytes[(1 << 40) - 1], 0);
        assert_eq!(bytes.as_ptr() as usize % HUGE_PAGE_BYTES, 0);
    }

    #[test]
    fn slabs_do_not_overlap_and_outlive_their_arena() {
        let mut arena = Arena::default();
        let sizes = [100, ARENA_BYTES / 2, 0, 7 << 20, 64, ARENA_BYTES + 1, 9 << 20, 8 << 20];
        let mut slabs: Vec<_> = sizes.iter().map(|&size| arena.slab(size).unwrap()).collect();
        drop(arena);

        for (index, slab) in slabs.iter_mut().enumerate() {
            slab.as_mut_slice().fill(index as u8 + 1);
        }

        for (index, slab) in slabs.iter().enumerate() {
            assert_eq!(slab.len(), sizes[index]);
            assert!(slab.as_slice().iter().all(|&byte| byte == index as u8 + 1));
        }
    }

    #[test]
    fn an_impossible_size_is_an_error() {
        assert!(matches!(Region::new(usize::MAX - 5), Err(Error::Memory { .. })));
        assert!(matches!(Region::new(1 << 60), Err(Error::Memory { .. })));
    }
}
