//! The launcher: pulls models, keeps the store, and supervises the processes that serve them.
//! The only process that talks to the Hugging Face hub.
//!
//! [`name`] says what a model is called, [`pull`] brings it into the [`store`] from the [`hub`] or
//! a [`mirror`], [`mod@plan`] says whether it fits into memory, [`supervisor`] keeps a worker and a
//! router running, [`servers`] knows which run, [`terminal`] is where log lines go, [`doctor`] looks at the machine, and
//! [`cli`] is what a user types.

pub mod catalogue;
pub mod cli;
pub mod controller;
pub mod digest;
pub mod doctor;
pub mod exit;
pub mod fleet;
pub mod hub;
pub mod mirror;
pub mod name;
pub mod plan;
pub mod progress;
pub mod pull;
pub mod servers;
pub mod settings;
pub mod store;
pub mod supervisor;
pub mod terminal;

mod lock;
mod run_dir;
