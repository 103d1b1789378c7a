//! One GPU: its context, the stream that everything runs in, and the kernels.

use std::collections::HashMap;
use std::ffi::{CString, c_int};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::{result, sys};

use super::{Error, library};

include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// A GPU. Clones are the same one. It may move between threads; [`Device::bind`] makes it a thread's.
#[derive(Clone)]
pub struct Device {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    device: sys::CUdevice,
    pub(super) context: sys::CUcontext,
    pub(super) stream: sys::CUstream,
    properties: Properties,
    modules: Vec<sys::CUmodule>,
    /// Whether kernels are launched before those before them have ended.
    pub(super) launches_early: AtomicBool,
    functions: Mutex<HashMap<&'static str, Function>>,
}

/// A kernel, and how much dynamic shared memory it was allowed so far.
#[derive(Clone, Copy)]
pub(super) struct Function {
    pub(super) handle: sys::CUfunction,
    pub(super) shared_bytes: u32,
}

// SAFETY: the driver's handles may be used by any thread whose current context is theirs.
unsafe impl Send for Inner {}
// SAFETY: as above; the driver serialises calls into a stream.
unsafe impl Sync for Inner {}

/// What the hardware is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Properties {
    /// As the driver names it.
    pub name: String,
    /// Compute capability: (9, 0) is Hopper.
    pub capability: (u32, u32),
    /// Streaming multiprocessors.
    pub num_processors: u32,
    /// Bytes of memory.
    pub memory_bytes: usize,
    /// Bytes of shared memory that one block may have.
    pub shared_bytes: u32,
    /// The driver's version of CUDA: 13000 is 13.0.
    pub driver_version: u32,
}

/// Makes an [`Error`] of the driver's.
pub(super) fn called<T>(
    call: &'static str,
    result: Result<T, result::DriverError>,
) -> Result<T, Error> {
    result.map_err(|error| {
        let name = error.error_name().map(|name| name.to_string_lossy().into_owned());
        Error::Driver { call, name: name.unwrap_or_default(), code: error.0 as u32 }
    })
}

/// How many GPUs there are. None where there is no driver.
fn count() -> Result<usize, Error> {
    if !library::has_driver() {
        return Err(Error::NoDriver);
    }
    match result::init() {
        Ok(()) => {}
        Err(result::DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => return Ok(0),
        Err(error) => return called("cuInit", Err(error)),
    }
    let count = called("cuDeviceGetCount", result::device::get_count())?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// As the driver numbers GPU `ordinal`.
fn number(ordinal: usize) -> Result<c_int, Error> {
    let count = count()?;
    let number = c_int::try_from(ordinal).ok().filter(|_| ordinal < count);
    let number = number.ok_or(Error::NoDevice { ordinal, count })?;
    if IMAGES.is_empty() { Err(Error::NoKernels) } else { Ok(number) }
}

impl Device {
    /// Whether there are GPU `ordinal` and kernels for it, without the cost of opening it.
    pub fn check(ordinal: usize) -> Result<(), Error> {
        number(ordinal).map(|_| ())
    }

    /// Opens GPU `ordinal` and loads the kernels.
    pub fn open(ordinal: usize) -> Result<Self, Error> {
        let number = number(ordinal)?;
        let device = called("cuDeviceGet", result::device::get(number))?;
        let properties = properties(device)?;
        // SAFETY: `device` is one; the context is released when the last clone is dropped.
        let context =
            called("cuDevicePrimaryCtxRetain", unsafe { result::primary_ctx::retain(device) })?;
        // SAFETY: the context is alive.
        called("cuCtxSetCurrent", unsafe { result::ctx::set_current(context) })?;
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking);
        let stream = called("cuStreamCreate", stream)?;
        let modules = IMAGES.iter().map(|image| load(image)).collect::<Result<_, _>>()?;
        let (functions, launches_early) = (Mutex::default(), AtomicBool::new(false));
        let inner =
            Inner { device, context, stream, properties, modules, launches_early, functions };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What the hardware is.
    pub fn properties(&self) -> &Properties {
        &self.inner.properties
    }

    /// Makes the device the calling thread's. Every thread that uses it calls this first.
    pub fn bind(&self) -> Result<(), Error> {
        self.inner.bind()
    }

    /// From now on a kernel's blocks are placed while the kernel before still runs, and wait for it there
    /// (programmatic dependent launch). False where the GPU is older than Hopper, which can't.
    pub fn launch_early(&self) -> bool {
        let can = self.properties().capability >= (9, 0);
        self.inner.launches_early.store(can, Ordering::Relaxed);
        can
    }

    /// Bytes of memory that are free, and that there are.
    pub fn memory(&self) -> Result<(usize, usize), Error> {
        called("cuMemGetInfo", result::mem_get_info())
    }

    /// Waits for everything that was asked for.
    pub fn synchronize(&self) -> Result<(), Error> {
        // SAFETY: the stream is alive.
        let result = unsafe { result::stream::synchronize(self.inner.stream) };
        called("cuStreamSynchronize", result)
    }

    /// Finds a kernel.
    pub(super) fn function(&self, name: &'static str) -> Result<Function, Error> {
        let mut functions = self.functions();
        if let Some(function) = functions.get(name) {
            return Ok(*function);
        }
        let symbol = CString::new(name).map_err(|_| Error::NoKernel(name.to_owned()))?;
        for &module in &self.inner.modules {
            // SAFETY: the module is alive.
            match unsafe { result::module::get_function(module, symbol.clone()) } {
                Ok(handle) => {
                    // Of the 48 KiB that need no asking, what the kernel declares itself is taken already.
                    let function = Function { handle, shared_bytes: 0 };
                    functions.insert(name, function);
                    return Ok(function);
                }
                Err(result::DriverError(sys::CUresult::CUDA_ERROR_NOT_FOUND)) => {}
                Err(error) => return called("cuModuleGetFunction", Err(error)),
            }
        }
        Err(Error::NoKernel(name.to_owned()))
    }

    /// Allows a kernel this much dynamic shared memory.
    pub(super) fn allow_shared(&self, name: &'static str, bytes: u32) -> Result<(), Error> {
        let function = self.function(name)?;
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function is of a module that is alive.
        let result = unsafe {
            result::function::set_function_attribute(function.handle, attribute, bytes as c_int)
        };
        called("cuFuncSetAttribute", result)?;
        self.functions().insert(name, Function { shared_bytes: bytes, ..function });
        Ok(())
    }

    fn functions(&self) -> std::sync::MutexGuard<'_, HashMap<&'static str, Function>> {
        self.inner.functions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    pub(super) fn bind(&self) -> Result<(), Error> {
        // SAFETY: the context is alive.
        called("cuCtxSetCurrent", unsafe { result::ctx::set_current(self.context) })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.bind().is_err() {
            return;
        }
        // SAFETY: nothing that uses the stream, the modules or the context is left: all hold an `Arc` of
        // this. Errors have nowhere to go.
        unsafe {
            let _ = result::stream::destroy(self.stream);
            for module in &self.modules {
                let _ = result::module::unload(*module);
            }
            let _ = result::primary_ctx::release(self.device);
        }
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("properties", &self.inner.properties).finish_non_exhaustive()
    }
}

fn load(image: &[u8]) -> Result<sys::CUmodule, Error> {
    // SAFETY: the image is a whole fat binary, which says its own length.
    called("cuModuleLoadData", unsafe { result::module::load_data(image.as_ptr().cast()) })
}

fn properties(device: sys::CUdevice) -> Result<Properties, Error> {
    use sys::CUdevice_attribute as A;
    let attribute = |attribute| {
        // SAFETY: `device` is one.
        let value = unsafe { result::device::get_attribute(device, attribute) };
        called("cuDeviceGetAttribute", value).map(|value| u32::try_from(value).unwrap_or(0))
    };
    let major = attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    let mut driver_version = 0;
    // SAFETY: the place for the answer is a whole integer.
    let result = unsafe { sys::cuDriverGetVersion(&raw mut driver_version) }.result();
    called("cuDriverGetVersion", result)?;
    Ok(Properties {
        name: called("cuDeviceGetName", result::device::get_name(device))?,
        capability: (major, minor),
        num_processors: attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        // SAFETY: `device` is one.
        memory_bytes: called("cuDeviceTotalMem", unsafe { result::device::total_mem(device) })?,
        shared_bytes: attribute(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        driver_version: u32::try_from(driver_version).unwrap_or(0),
    })
}
