//! Captures what is launched again and again: at the start for the first requests, and when it is first needed.

use super::batch::{Layout, Room};
use super::graphs::Key;
use super::sampling::Samples;
use super::{CudaRunner, LoadError};
use crate::engine::plan::StepPlan;
use crate::runner::Error;
use crate::runner::input::Input;

impl CudaRunner {
    /// Launches the graph of what `compute` asks of the device, which is captured when it is first needed.
    pub(super) fn launch_graph(
        &mut self,
        key: Key,
        compute: impl Fn(&mut Self) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if self.graphs.has(key) {
            return Ok(self.graphs.launch(key)?);
        }
        // The first such step is computed as it is: what libraries load at a first use must not be part
        // of a capture.
        compute(self)?;
        self.capture(key, compute)
    }

    fn capture(
        &mut self,
        key: Key,
        compute: impl Fn(&mut Self) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let device = self.device.clone();
        let graph = device.capture(|| compute(self))?;
        self.graphs.insert(key, graph);
        Ok(())
    }

    /// Computes and captures the smallest and the largest size, so that the first requests find them;
    /// others are captured when they are first needed.
    pub(super) fn capture_first(&mut self) -> Result<(), LoadError> {
        for key in self.graphs.first() {
            let layout = Layout::new(Room::of_graph(key.size));
            let grid = self.batch.plan.decode_grid(key.size);
            let capture = |runner: &mut Self| runner.compute(&layout, grid, key.needs);
            let captured = self.warm_up(key, &layout).and_then(|()| self.capture(key, capture));
            captured.map_err(LoadError::FirstStep)?;
        }
        Ok(self.device.synchronize()?)
    }

    /// Computes a step of nothing but padding, as no step is computed for the first time in a capture.
    pub(super) fn warm_up(&mut self, key: Key, layout: &Layout) -> Result<(), Error> {
        self.send_padding(layout)?;
        self.compute(layout, self.batch.plan.decode_grid(key.size), key.needs)
    }

    pub(super) fn send_padding(&mut self, layout: &Layout) -> Result<(), Error> {
        let (plan, input) = (StepPlan::default(), Input::default());
        self.batch.plan_attention(&plan)?;
        self.batch.send(&self.device, layout, (&plan, &input, &Samples::default()))
    }
}
