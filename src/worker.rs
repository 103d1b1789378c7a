//! The process around the engine: tokens in over gRPC, tokens or vectors out, no HTTP and no keys.
//!
//! One thread owns scheduler and executor, or an embedder, and never waits for a router; everything
//! else runs on one Tokio thread. The process is crash-only: what a request can cause is refused
//! before it reaches the engine, and an engine that fails ends the process.

mod cli;
mod embed;
mod engine;
mod grammars;
mod hash;
mod listen;
mod load;
mod needs;
mod outbox;
mod process;
mod service;
mod submit;

pub use cli::Worker;
pub use process::{ENGINE_THREAD, run};

/// Why a worker could not start, or ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The flags contradict each other.
    #[error("{0}")]
    Flags(String),
    /// It can't listen.
    #[error("can't listen on {address}")]
    Listen {
        /// As it was given.
        address: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The model can't be served.
    #[error("can't load {model}")]
    Load {
        /// As it was given.
        model: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The engine failed; its log says where.
    #[error("the engine failed")]
    Engine(#[from] engine::Error),
    /// The engine panicked; its log says where.
    #[error("the engine panicked")]
    Panicked,
    /// The listener failed.
    #[error("the server failed")]
    Server(#[source] tonic::transport::Error),
    /// The process can't be set up.
    #[error("{what}")]
    Process {
        /// What failed.
        what: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A second signal came before the running requests had ended.
    #[error("stopped before the running requests had ended")]
    Stopped,
}
