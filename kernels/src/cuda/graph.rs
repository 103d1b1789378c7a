//! A recorded row of launches that the host starts with one call.

use std::sync::Arc;

use cudarc::driver::{result, sys};

use super::device::{Inner, called};
use super::{Device, Error};

/// What was captured. It names the buffers by address: whoever launches it keeps them alive.
pub struct Graph {
    inner: Arc<Inner>,
    graph: sys::CUgraph,
    exec: sys::CUgraphExec,
}

// SAFETY: the driver's handles may be used by any thread whose current context is theirs.
unsafe impl Send for Graph {}

impl Device {
    /// Records what `ask` asks for, and runs nothing of it.
    pub fn capture<E: From<Error>>(&self, ask: impl FnOnce() -> Result<(), E>) -> Result<Graph, E> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is alive and not the default one.
        let begun = unsafe { result::stream::begin_capture(self.inner.stream, mode) };
        called("cuStreamBeginCapture", begun)?;
        let asked = ask();
        // A capture must end also where something in it failed.
        // SAFETY: the stream is being captured.
        let graph = unsafe { result::stream::end_capture(self.inner.stream) };
        asked?;
        let graph = called("cuStreamEndCapture", graph)?;
        let mut exec = std::ptr::null_mut();
        // SAFETY: the graph is whole, and the place for the answer is a pointer.
        let made = unsafe { sys::cuGraphInstantiateWithFlags(&raw mut exec, graph, 0) }.result();
        if let Err(error) = called("cuGraphInstantiate", made) {
            // SAFETY: nothing else has the graph.
            let _ = unsafe { result::graph::destroy(graph) };
            return Err(error.into());
        }
        let inner = Arc::clone(&self.inner);
        // SAFETY: the graph and the stream are alive.
        let uploaded = unsafe { result::graph::upload(exec, inner.stream) };
        let captured = Graph { inner, graph, exec };
        called("cuGraphUpload", uploaded)?;
        Ok(captured)
    }
}

impl Graph {
    /// Runs it after what was asked for before. The buffers that it names must be alive: memory that
    /// was given back faults, or is another buffer's.
    pub fn launch(&self) -> Result<(), Error> {
        // SAFETY: both are alive. Nothing of the host's memory is in a graph.
        let result = unsafe { result::graph::launch(self.exec, self.inner.stream) };
        called("cuGraphLaunch", result)
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.inner.bind().is_ok() {
            // SAFETY: nothing else has the handles.
            unsafe {
                let _ = result::graph::exec_destroy(self.exec);
                let _ = result::graph::destroy(self.graph);
            }
        }
    }
}
