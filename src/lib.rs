//! What a worker runs: the engine that decides, the runner that computes, and the process around
//! them.
//!
//! [`engine`] is pure data and never names a tensor or the clock; [`runner`] never sees a queue.
//! A [`engine::plan::StepPlan`] passes between them.

pub mod engine;
pub mod grammar;
pub mod layers;
pub mod models;
pub mod runner;
pub mod weights;
pub mod worker;
