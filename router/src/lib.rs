//! The public process: HTTP, API keys, chat templates, tokens and text. Holds no weights and never
//! imports the engine; a worker is on the other end of a session.

pub mod api;
pub mod app;
pub mod auth;
mod batch;
pub mod cli;
pub mod config;
pub mod detokenizer;
pub mod dispatch;
pub mod docs;
mod embedding;
pub mod error;
mod files;
mod fleet;
pub mod generation;
pub mod health;
pub mod keys;
pub mod metrics;
pub mod model;
pub mod parse;
mod playground;
mod prompt;
mod reading;
pub mod replay;
mod responses;
mod routing;
mod scoring;
pub mod server;
mod shadow;
pub mod shutdown;
pub mod stop;
pub mod store;
pub mod stream;
mod validate;
