//! The public process: HTTP, API keys, chat templates, tokens and text. Holds no weights and never
//! imports the engine; a worker is on the other end of a session.

pub mod app;
pub mod auth;
pub mod cli;
pub mod config;
pub mod dispatch;
pub mod docs;
pub mod error;
pub mod health;
pub mod keys;
pub mod metrics;
pub mod model;
pub mod server;
pub mod shutdown;
pub mod store;
