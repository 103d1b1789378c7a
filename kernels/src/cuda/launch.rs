//! Launching a kernel.

use std::ffi::c_void;
use std::sync::atomic::Ordering;

use cudarc::driver::sys;

use super::device::called;
use super::{Device, Error, Slice, SliceMut};

/// How many threads run a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grid {
    /// Blocks.
    pub(super) blocks: [u32; 3],
    /// Threads of a block.
    pub(super) threads: [u32; 3],
    /// Bytes of dynamic shared memory of a block.
    pub(super) shared_bytes: u32,
}

impl Grid {
    /// So many blocks of so many threads in a row.
    pub(super) fn line(blocks: usize, threads: u32) -> Self {
        Self { blocks: [blocks as u32, 1, 1], threads: [threads, 1, 1], shared_bytes: 0 }
    }
}

/// An argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub(super) enum Arg {
    Pointer(sys::CUdeviceptr),
    I32(i32),
    U32(u32),
    F32(f32),
}

impl Arg {
    /// A null pointer where there is none.
    pub(super) fn optional(slice: Option<Slice<'_>>) -> Self {
        Self::Pointer(slice.map_or(0, Slice::pointer))
    }

    fn bits(self) -> u64 {
        match self {
            Self::Pointer(x) => x,
            // The driver reads the first four bytes of the cell: the low ones.
            Self::I32(x) => u64::from(x.cast_unsigned()),
            Self::U32(x) => u64::from(x),
            Self::F32(x) => u64::from(x.to_bits()),
        }
    }
}

impl From<Slice<'_>> for Arg {
    fn from(slice: Slice<'_>) -> Self {
        Self::Pointer(slice.pointer())
    }
}

impl From<&SliceMut<'_>> for Arg {
    fn from(slice: &SliceMut<'_>) -> Self {
        Self::Pointer(slice.pointer())
    }
}

impl From<i32> for Arg {
    fn from(x: i32) -> Self {
        Self::I32(x)
    }
}

impl From<u32> for Arg {
    fn from(x: u32) -> Self {
        Self::U32(x)
    }
}

impl From<f32> for Arg {
    fn from(x: f32) -> Self {
        Self::F32(x)
    }
}

/// No kernel has more parameters.
const MAX_ARGS: usize = 32;

impl Device {
    /// Launches a kernel.
    ///
    /// # Safety
    ///
    /// The arguments are what the kernel declares, in number, order and type, and it stays within the
    /// memory that they point to.
    pub(super) unsafe fn launch(
        &self,
        name: &'static str,
        grid: Grid,
        args: &[Arg],
    ) -> Result<(), Error> {
        let Grid { blocks: [x, y, z], threads: [i, j, k], shared_bytes } = grid;
        if x == 0 || y == 0 || z == 0 {
            return Ok(());
        }
        let function = self.function(name)?;
        if shared_bytes > function.shared_bytes {
            self.allow_shared(name, shared_bytes)?;
        }
        let mut cells = [0u64; MAX_ARGS];
        let mut pointers = [std::ptr::null_mut::<c_void>(); MAX_ARGS];
        for ((arg, cell), pointer) in args.iter().zip(&mut cells).zip(&mut pointers) {
            *cell = arg.bits();
            *pointer = (&raw mut *cell).cast();
        }
        let early = self.inner.launches_early.load(Ordering::Relaxed);
        let mut attributes = [early_launch()];
        let config = sys::CUlaunchConfig {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: i,
            blockDimY: j,
            blockDimZ: k,
            sharedMemBytes: shared_bytes,
            hStream: self.inner.stream,
            attrs: attributes.as_mut_ptr(),
            numAttrs: u32::from(early),
        };
        let (function, pointers) = (function.handle, pointers.as_mut_ptr());
        // SAFETY: the function and the stream are alive, and so are the attributes; each pointer is to a cell
        // that outlives the call, which copies it. The rest is the caller's promise.
        let launched = unsafe {
            sys::cuLaunchKernelEx(&raw const config, function, pointers, std::ptr::null_mut())
        };
        called("cuLaunchKernelEx", launched.result())
    }
}

/// Lets a kernel's blocks be placed while the kernel before runs. All of ours wait for it before they touch
/// what it may write.
fn early_launch() -> sys::CUlaunchAttribute {
    sys::CUlaunchAttribute {
        id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
        pad: [0; 4],
        value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
    }
}
