//! The public process: HTTP, API keys, chat templates, tokens and text. Holds no weights and never
//! imports the engine; a worker is on the other end of a session.

pub mod app;
pub mod config;
pub mod dispatch;
pub mod error;
pub mod model;
