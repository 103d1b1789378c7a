//! The launcher against a hub that misbehaves, a pip that is a script, and children that die.

#![expect(clippy::unwrap_used, reason = "what a test stands on may fail it")]

mod cache;
mod corruption;
mod faults;
mod mirror;
mod pull;
mod ranges;
mod scenarios;
mod supervision;
mod support;
mod up;
mod versions;
