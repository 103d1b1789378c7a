//! The real worker process with the hash model, or a tiny encoder: what its routers get, and what
//! it survives.

#![expect(clippy::unwrap_used, reason = "a test that can't go on should stop")]

mod answers;
mod embed;
mod faults;
mod life;
mod process;
mod protocol;
mod session;
#[path = "../support/tiny_encoder.rs"]
mod tiny_encoder;
