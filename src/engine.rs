//! Decides what each step computes. Pure data: no tensors, no threads, no clock, no I/O.

pub mod block_pool;
mod drafter;
pub mod embed;
pub mod output;
pub mod plan;
pub mod prompt_lookup;
pub mod request;
pub mod scheduler;
pub mod sequence;
