//! Decides what each step computes. Pure data: no tensors, no threads, no clock, no I/O.

pub mod plan;
pub mod request;
