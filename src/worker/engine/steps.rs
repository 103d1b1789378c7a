//! Steps on their way through the executor: begun, finished, committed.

use std::time::Instant;

use super::{Engine, Error};
use crate::engine::plan::StepPlan;

/// A step that the executor computes.
pub(super) struct Begun {
    plan: StepPlan,
    at: Instant,
}

impl Engine {
    /// Begins a step, and finishes one unless another may be begun before. Returns false when there
    /// was nothing to begin and nothing to finish.
    pub(super) fn step(&mut self) -> Result<bool, Error> {
        let has_begun = self.begin()?;
        if has_begun && self.in_flight.len() < self.executor.depth() {
            return Ok(true);
        }
        self.finish()
    }

    /// Plans a step and begins it. Returns false when there is nothing to compute, or nothing before
    /// the step in flight has ended.
    fn begin(&mut self) -> Result<bool, Error> {
        let mut plan = self.spare_plans.pop_front().unwrap_or_default();
        // Planning is part of what a step takes that nothing is computed beside.
        let at = Instant::now();
        if !self.scheduler.step(at - self.start, &mut plan) {
            self.spare_plans.push_front(plan);
            return Ok(false);
        }
        self.executor.begin(&plan)?;
        self.in_flight.push_back(Begun { plan, at });
        Ok(true)
    }

    /// Waits for the earliest step in flight and takes what it brought. Returns false when there is
    /// none.
    fn finish(&mut self) -> Result<bool, Error> {
        let Some(Begun { plan, at }) = self.in_flight.pop_front() else { return Ok(false) };
        let mut sampled = Vec::with_capacity(plan.samples.len());
        self.executor.finish(&plan, &mut sampled)?;
        if !plan.is_answered_by(&sampled) {
            let (planned, sampled) = (plan.samples.len(), sampled.len());
            return Err(Error::Samples { planned, sampled });
        }
        if !plan.scores.is_empty() {
            let scored = self.executor.take_scored();
            let (planned, scores) = (plan.scores.len(), scored.len());
            if planned != scores {
                return Err(Error::Scores { planned, scored: scores });
            }
            self.scheduler.score(&plan, scored);
        }
        let before = std::mem::replace(&mut self.finished, Instant::now());
        // A step is computed after the one before it, though it was begun earlier.
        let elapsed = self.finished - at.max(before);
        self.scheduler.commit(&plan, sampled, elapsed);
        self.spare_plans.push_back(plan);
        self.answer_probes();
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
