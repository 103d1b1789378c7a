//! Memory of a device: what owns it, and the parts that kernels are given.

use std::marker::PhantomData;
use std::sync::Arc;

use cudarc::driver::{result, sys};

use super::device::{Inner, called};
use super::{Device, Error};
use crate::check_len;

/// A piece of a device's memory. What kind of elements it holds is the user's affair.
pub struct Buffer {
    inner: Arc<Inner>,
    pointer: sys::CUdeviceptr,
    bytes: usize,
}

/// Memory that a kernel reads.
#[derive(Clone, Copy, Debug)]
pub struct Slice<'a> {
    pointer: sys::CUdeviceptr,
    bytes: usize,
    owner: PhantomData<&'a Buffer>,
}

/// Memory that a kernel writes.
#[derive(Debug)]
pub struct SliceMut<'a> {
    pointer: sys::CUdeviceptr,
    bytes: usize,
    owner: PhantomData<&'a mut Buffer>,
}

/// Values that are nothing but their bytes, whatever these are.
///
/// # Safety
///
/// Every pattern of bits is a value, and there is no padding.
pub unsafe trait Plain: Copy + 'static {}
// SAFETY: numbers.
unsafe impl Plain for u8 {}
// SAFETY: numbers.
unsafe impl Plain for i8 {}
// SAFETY: numbers.
unsafe impl Plain for u16 {}
// SAFETY: numbers.
unsafe impl Plain for i32 {}
// SAFETY: numbers.
unsafe impl Plain for u32 {}
// SAFETY: numbers.
unsafe impl Plain for u64 {}
// SAFETY: numbers.
unsafe impl Plain for f32 {}
// SAFETY: numbers.
unsafe impl Plain for f64 {}
// SAFETY: 16 bits, all of them used.
unsafe impl Plain for half::f16 {}
// SAFETY: 16 bits, all of them used.
unsafe impl Plain for half::bf16 {}
// SAFETY: an array of what is plain.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}

/// The bytes of plain values.
pub fn bytes_of<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: plain values have no padding, so all their bytes are initialized.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

impl Device {
    /// Allocates `bytes` bytes, at least one. What is in them is undefined.
    pub fn alloc(&self, bytes: usize) -> Result<Buffer, Error> {
        // SAFETY: the memory is freed once, by the buffer.
        match unsafe { result::malloc_sync(bytes.max(1)) } {
            Ok(pointer) => Ok(Buffer { inner: Arc::clone(&self.inner), pointer, bytes }),
            Err(result::DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                let (free, total) = self.memory()?;
                Err(Error::Memory { bytes, free, total })
            }
            Err(error) => called("cuMemAlloc", Err(error)),
        }
    }

    /// Allocates `bytes` bytes of zero.
    pub fn alloc_zeroed(&self, bytes: usize) -> Result<Buffer, Error> {
        let mut buffer = self.alloc(bytes)?;
        self.fill(&mut buffer.slice_mut(), 0)?;
        Ok(buffer)
    }

    /// Allocates a copy of `values` and waits until it is there.
    pub fn buffer_of<T: Plain>(&self, values: &[T]) -> Result<Buffer, Error> {
        let mut buffer = self.alloc(size_of_val(values))?;
        self.upload(&mut buffer.slice_mut(), values)?;
        Ok(buffer)
    }

    /// Sets every byte.
    pub fn fill(&self, to: &mut SliceMut<'_>, byte: u8) -> Result<(), Error> {
        // SAFETY: the slice is of memory that is alive.
        let result =
            unsafe { result::memset_d8_async(to.pointer, byte, to.bytes, self.inner.stream) };
        called("cuMemsetD8Async", result)
    }

    /// Copies `values` to the beginning of `to` and waits until they are there.
    ///
    /// # Panics
    ///
    /// When they do not fit.
    pub fn upload<T: Plain>(&self, to: &mut SliceMut<'_>, values: &[T]) -> Result<(), Error> {
        assert!(size_of_val(values) <= to.bytes, "more values than there is room for");
        // SAFETY: both are alive until the copy has ended, which is waited for, and it stays in bounds.
        let result = unsafe { result::memcpy_htod_async(to.pointer, values, self.inner.stream) };
        called("cuMemcpyHtoDAsync", result)?;
        self.synchronize()
    }

    /// Waits for everything before, and copies `from`, as many whole values as it has.
    pub fn download<T: Plain + Default>(&self, from: Slice<'_>) -> Result<Vec<T>, Error> {
        let mut values = vec![T::default(); from.bytes / size_of::<T>()];
        // SAFETY: both are alive until the copy has ended, which is waited for, and it stays in bounds.
        let result =
            unsafe { result::memcpy_dtoh_async(&mut values, from.pointer, self.inner.stream) };
        called("cuMemcpyDtoHAsync", result)?;
        self.synchronize()?;
        Ok(values)
    }

    /// Copies within the device.
    pub fn copy(&self, from: Slice<'_>, to: &mut SliceMut<'_>) -> Result<(), crate::Error> {
        check_len("the copy's target", to.bytes, from.bytes)?;
        // SAFETY: both are alive and of this length.
        let result = unsafe {
            result::memcpy_dtod_async(to.pointer, from.pointer, from.bytes, self.inner.stream)
        };
        Ok(called("cuMemcpyDtoDAsync", result)?)
    }
}

impl Buffer {
    /// Bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// To be read.
    pub fn slice(&self) -> Slice<'_> {
        Slice { pointer: self.pointer, bytes: self.bytes, owner: PhantomData }
    }

    /// To be written.
    pub fn slice_mut(&mut self) -> SliceMut<'_> {
        SliceMut { pointer: self.pointer, bytes: self.bytes, owner: PhantomData }
    }
}

impl Slice<'_> {
    /// Bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// `len` bytes from `begin` on.
    ///
    /// # Panics
    ///
    /// When it has fewer.
    #[must_use]
    pub fn at(self, begin: usize, len: usize) -> Self {
        assert!(begin.checked_add(len).is_some_and(|end| end <= self.bytes), "out of the slice");
        Self { pointer: self.pointer + begin as u64, bytes: len, ..self }
    }

    pub(super) fn pointer(self) -> sys::CUdeviceptr {
        self.pointer
    }
}

impl SliceMut<'_> {
    /// Bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// `len` bytes from `begin` on.
    ///
    /// # Panics
    ///
    /// When it has fewer.
    #[must_use]
    pub fn at(self, begin: usize, len: usize) -> Self {
        assert!(begin.checked_add(len).is_some_and(|end| end <= self.bytes), "out of the slice");
        Self { pointer: self.pointer + begin as u64, bytes: len, ..self }
    }

    /// The first `len` bytes, and the rest.
    ///
    /// # Panics
    ///
    /// When it has fewer.
    pub fn split_at(self, len: usize) -> (Self, Self) {
        assert!(len <= self.bytes, "out of the slice");
        let (begin, bytes) = (self.pointer + len as u64, self.bytes - len);
        (Self { bytes: len, ..self }, Self { pointer: begin, bytes, owner: PhantomData })
    }

    /// The same for a shorter time.
    pub fn reborrow(&mut self) -> SliceMut<'_> {
        SliceMut { pointer: self.pointer, bytes: self.bytes, owner: PhantomData }
    }

    /// To be read, for a shorter time.
    pub fn as_slice(&self) -> Slice<'_> {
        Slice { pointer: self.pointer, bytes: self.bytes, owner: PhantomData }
    }

    pub(super) fn pointer(&self) -> sys::CUdeviceptr {
        self.pointer
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.inner.bind().is_ok() {
            // SAFETY: it was allocated with the buffer. The driver waits for kernels that use it.
            let _ = unsafe { result::free_sync(self.pointer) };
        }
    }
}
