//! The router's command lines: what was typed becomes what was meant, once.

mod batches;
mod database;
mod files;
mod keys;
mod router;

pub use keys::{Keys, KeysError};
pub use router::Router;
