//! Which worker computes a request, and the one session that carries it there.

use std::sync::Arc;

use sconce_proto::worker::{SamplingParams, TokenOutput};
use tokio::sync::mpsc;

use crate::model::Model;

/// The workers and what they serve. Cheap to clone.
#[derive(Clone)]
pub struct Dispatcher {
    _workers: Arc<()>,
}

/// What is sent to a worker: one prompt, and how to continue it.
#[derive(Clone, Debug)]
pub struct Generation {
    /// Prompt tokens, at least one.
    pub prompt: Vec<u32>,
    /// Completions of it.
    pub n: u32,
    /// How to sample. The seed is always set, so that a stream can be replayed.
    pub sampling: SamplingParams,
    /// The principal's salt.
    pub cache_salt: [u8; 16],
}

/// Why a generation could not start, or broke off.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// No worker serves the model now: none is connected, or all are starting or draining.
    #[error("no worker serves the model `{model}` at the moment")]
    NoWorker {
        /// As the client named it.
        model: String,
    },
    /// The worker's queue is full.
    #[error("the queue is full: {max_queue} requests are waiting")]
    QueueFull {
        /// The worker's limit.
        max_queue: u32,
    },
    /// The request waited longer than it may.
    #[error("the request waited too long for its turn")]
    Deadline,
    /// The worker refused what validation let through.
    #[error("{0}")]
    Refused(String),
    /// The worker died, or its connection broke.
    #[error("the worker was lost while it was generating")]
    WorkerLost,
}

/// The outputs of one generation. Dropping it before every completion has ended cancels it.
pub struct Outputs {
    receiver: mpsc::UnboundedReceiver<Result<TokenOutput, Error>>,
}

/// One worker as the dispatcher sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerStatus {
    /// Model and version, once known.
    pub model: Option<(String, String)>,
    /// Whether it can take a request now.
    pub ready: bool,
}

impl Dispatcher {
    /// Connects to workers.
    pub fn new(_config: &crate::config::Config) -> Self {
        Self { _workers: Arc::new(()) }
    }

    /// The state of every worker.
    pub fn status(&self) -> Vec<WorkerStatus> {
        Vec::new()
    }

    /// The models that are served, by name. A model stays listed while its workers restart.
    pub fn models(&self) -> Vec<Arc<Model>> {
        unimplemented!()
    }

    /// The model that a client names.
    pub fn model(&self, _name: &str) -> Option<Arc<Model>> {
        unimplemented!()
    }

    /// Sends a generation to a worker of `model`. Returns once it is on its way; a refusal by the
    /// worker is the first output.
    pub fn generate(&self, _model: &Model, _generation: Generation) -> Result<Outputs, Error> {
        unimplemented!()
    }
}

impl Outputs {
    /// The next token or end of one of the completions. After an error, or when every completion
    /// has ended, nothing follows.
    pub async fn next(&mut self) -> Option<Result<TokenOutput, Error>> {
        self.receiver.recv().await
    }

    /// The next output, when it is here already.
    pub fn try_next(&mut self) -> Option<Result<TokenOutput, Error>> {
        self.receiver.try_recv().ok()
    }
}
