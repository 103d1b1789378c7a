//! Zeroed anonymous memory for weights and the KV cache: large pages where the system has them,
//! committed only when touched.

use std::ptr::NonNull;
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
        advise_huge_pages(start, len);
        Ok(Self { start, len, map, map_len })
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        // SAFETY: `len` initialised (zeroed by the system) bytes from `start` belong to us, and
        // `&self` rules out writers (those who write through `as_ptr` hold `&mut` of the owner).
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// The start, for writers that share the region between threads.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.start.as_ptr()
    }
}

#[cfg(target_os = "linux")]
fn advise_huge_pages(start: NonNull<u8>, len: usize) {
    if len >= HUGE_PAGE_BYTES {
        // SAFETY: the range is inside our own mapping. Refusal only costs speed.
        unsafe { libc::madvise(start.as_ptr().cast(), len, libc::MADV_HUGEPAGE) };
    }
}

#[cfg(not(target_os = "linux"))]
fn advise_huge_pages(_start: NonNull<u8>, _len: usize) {}

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

        assert_eq!(region.as_slice()[(1 << 40) - 1], 0);
        assert_eq!(region.as_slice().as_ptr() as usize % HUGE_PAGE_BYTES, 0);
    }

    #[test]
    fn an_impossible_size_is_an_error() {
        assert!(matches!(Region::new(usize::MAX - 5), Err(Error::Memory { .. })));
        assert!(matches!(Region::new(1 << 60), Err(Error::Memory { .. })));
    }
}
