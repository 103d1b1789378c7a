//! Points in a device's stream that a host can wait for.

use std::sync::Arc;

use cudarc::driver::{result, sys};

use super::device::{Inner, called};
use super::{Device, Error};

/// A point in the stream.
pub struct Event {
    inner: Arc<Inner>,
    handle: sys::CUevent,
}

// SAFETY: the driver's handles may be used by any thread whose current context is theirs.
unsafe impl Send for Event {}

impl Device {
    /// Makes an event that counts as passed until it is recorded. `timed`: [`Event::ms_since`] works.
    pub fn event(&self, timed: bool) -> Result<Event, Error> {
        let flags = if timed {
            sys::CUevent_flags::CU_EVENT_DEFAULT
        } else {
            sys::CUevent_flags::CU_EVENT_DISABLE_TIMING
        };
        let handle = called("cuEventCreate", result::event::create(flags))?;
        Ok(Event { inner: Arc::clone(&self.inner), handle })
    }
}

/// Tells a profiler where to begin, or to end, what it was asked to look at.
pub fn profiler(begins: bool) -> Result<(), Error> {
    use cudarc::driver::{profiler_start, profiler_stop};
    called("cuProfilerStart", if begins { profiler_start() } else { profiler_stop() })
}

impl Event {
    /// Becomes the end of what was asked for until now.
    pub fn record(&mut self) -> Result<(), Error> {
        // SAFETY: both are alive.
        let result = unsafe { result::event::record(self.handle, self.inner.stream) };
        called("cuEventRecord", result)
    }

    /// Waits until it has passed.
    pub fn wait(&self) -> Result<(), Error> {
        // SAFETY: it is alive.
        called("cuEventSynchronize", unsafe { result::event::synchronize(self.handle) })
    }

    /// Whether it has passed.
    pub fn has_passed(&self) -> Result<bool, Error> {
        // SAFETY: it is alive.
        match unsafe { result::event::query(self.handle) } {
            Ok(()) => Ok(true),
            Err(result::DriverError(sys::CUresult::CUDA_ERROR_NOT_READY)) => Ok(false),
            Err(error) => called("cuEventQuery", Err(error)),
        }
    }

    /// Milliseconds from `earlier` to this, both passed and timed.
    pub fn ms_since(&self, earlier: &Self) -> Result<f32, Error> {
        // SAFETY: both are alive.
        let result = unsafe { result::event::elapsed(earlier.handle, self.handle) };
        called("cuEventElapsedTime", result)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.inner.bind().is_ok() {
            // SAFETY: it was created with this, and nothing else has its handle.
            let _ = unsafe { result::event::destroy(self.handle) };
        }
    }
}
