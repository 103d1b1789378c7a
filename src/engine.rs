//! Decides what each step computes. Pure data: no tensors, no threads, no clock, no I/O.

pub mod block_pool;
pub mod output;
pub mod plan;
pub mod request;
pub mod scheduler;
pub mod sequence;
