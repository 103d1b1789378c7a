//! Pinned memory of the host, between which and the device copies run while the host goes on.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;

use cudarc::driver::result;

use super::device::{Inner, called};
use super::{Device, Error, Event, Plain, Slice, SliceMut};
use crate::check_len;

/// Memory of the host that the device reads and writes by itself.
struct Pinned {
    inner: Arc<Inner>,
    pointer: NonNull<u8>,
    bytes: usize,
}

// SAFETY: it is memory, owned by this alone.
unsafe impl Send for Pinned {}

impl Pinned {
    fn new(device: &Device, bytes: usize) -> Result<Self, Error> {
        // SAFETY: the memory is freed once, on drop.
        let pointer = called("cuMemHostAlloc", unsafe { result::malloc_host(bytes.max(1), 0) })?;
        let pointer = NonNull::new(pointer.cast::<u8>());
        let pointer = pointer.ok_or(Error::Memory { bytes, free: 0, total: 0 })?;
        // SAFETY: the memory is this long, and so holds initialized bytes from here on.
        unsafe { pointer.write_bytes(0, bytes) };
        Ok(Self { inner: Arc::clone(&device.inner), pointer, bytes })
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the memory is this long and initialized; who calls has waited for the device's writes.
        unsafe { slice::from_raw_parts(self.pointer.as_ptr(), self.bytes) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and nothing else refers to it; who calls has waited for the device's reads.
        unsafe { slice::from_raw_parts_mut(self.pointer.as_ptr(), self.bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.inner.bind().is_ok() {
            // SAFETY: copies in flight are over before it is freed: the owners below wait for them.
            let _ = unsafe { result::free_host(self.pointer.as_ptr().cast::<c_void>()) };
        }
    }
}

/// Sends what changes every step. Two pieces take turns, so that one is filled while the device may still
/// read the other.
pub struct Staging {
    pieces: [(Pinned, Event); 2],
    turn: usize,
}

impl Staging {
    /// Two pieces of `bytes` bytes.
    pub fn new(device: &Device, bytes: usize) -> Result<Self, Error> {
        let piece = || Ok::<_, Error>((Pinned::new(device, bytes)?, device.event(false)?));
        Ok(Self { pieces: [piece()?, piece()?], turn: 0 })
    }

    /// The piece to fill, after the device has read what was in it.
    pub fn begin(&mut self) -> Result<&mut [u8], Error> {
        let (pinned, event) = &mut self.pieces[self.turn];
        event.wait()?;
        Ok(pinned.bytes_mut())
    }

    /// Copies the piece's first bytes, as many as `to` has, in the stream's order.
    pub fn send(&mut self, device: &Device, to: &SliceMut<'_>) -> Result<(), crate::Error> {
        let (pinned, event) = &mut self.pieces[self.turn];
        let bytes = pinned.bytes().get(..to.len());
        let Some(bytes) = bytes else {
            return check_len("the piece of staging memory", pinned.bytes, to.len());
        };
        // SAFETY: both are alive and of this length, and the piece is not changed, nor freed, before the
        // event after the copy has passed.
        let result = unsafe { result::memcpy_htod_async(to.pointer(), bytes, device.inner.stream) };
        called("cuMemcpyHtoDAsync", result)?;
        event.record()?;
        self.turn = 1 - self.turn;
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        for (_, event) in &self.pieces {
            let _ = event.wait();
        }
    }
}

/// Receives what every step yields.
pub struct Readback {
    pinned: Pinned,
    event: Event,
    bytes: usize,
}

impl Readback {
    /// Room for `bytes` bytes.
    pub fn new(device: &Device, bytes: usize) -> Result<Self, Error> {
        Ok(Self { pinned: Pinned::new(device, bytes)?, event: device.event(false)?, bytes: 0 })
    }

    /// Begins to copy `from`, in the stream's order.
    pub fn begin(&mut self, device: &Device, from: Slice<'_>) -> Result<(), crate::Error> {
        self.event.wait()?;
        if from.len() > self.pinned.bytes {
            return check_len("the room for what is read back", self.pinned.bytes, from.len());
        }
        self.bytes = from.len();
        let to = &mut self.pinned.bytes_mut()[..from.len()];
        // SAFETY: both are alive and of this length, and the memory is not read, nor freed, before the
        // event after the copy has passed.
        let result = unsafe { result::memcpy_dtoh_async(to, from.pointer(), device.inner.stream) };
        called("cuMemcpyDtoHAsync", result)?;
        Ok(self.event.record()?)
    }

    /// Waits for the last copy: as many whole values as it had.
    pub fn wait<T: Plain>(&mut self) -> Result<&[T], Error> {
        self.event.wait()?;
        let bytes = &self.pinned.bytes()[..self.bytes];
        // SAFETY: every pattern of bits is a value of a plain type.
        let (before, values, _) = unsafe { bytes.align_to::<T>() };
        debug_assert!(before.is_empty(), "pinned memory begins at a page");
        Ok(values)
    }
}

impl Drop for Readback {
    fn drop(&mut self) {
        let _ = self.event.wait();
    }
}
