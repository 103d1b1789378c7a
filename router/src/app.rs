//! What every route's handler can reach.

use std::sync::Arc;

use tokio::sync::watch;

use crate::batch::Batches;
use crate::config::Config;
use crate::dispatch::Dispatcher;
use crate::files::Files;
use crate::fleet::Fleet;
use crate::replay::Replays;
use crate::responses::Responses;
use crate::routing::Routing;
use crate::shadow::Shadows;
use crate::shutdown::{self, Stage};

/// The router's shared state. Cheap to clone.
#[derive(Clone)]
pub struct App {
    /// The configuration.
    pub config: Arc<Config>,
    /// The workers, and the models they serve.
    pub dispatcher: Dispatcher,
    /// What stands behind the names of models.
    pub(crate) routing: Routing,
    /// The launcher, for those who manage models.
    pub(crate) fleet: Fleet,
    /// Copies of requests that are on their way.
    pub(crate) shadows: Shadows,
    /// What the Responses API has stored.
    pub(crate) responses: Responses,
    /// What clients have asked for in files.
    pub(crate) batches: Batches,
    /// What clients have uploaded, and what batches have made.
    pub(crate) files: Files,
    /// The answers that clients can come back for.
    pub(crate) replays: Replays,
    stage: watch::Receiver<Stage>,
}

/// The id of whoever comes without a key, where none is needed. No key has it: theirs are longer.
pub(crate) const ANONYMOUS: &str = "anonymous";

/// What is added to the priority of a batch's lines. A worker leaves them for when it has nothing else
/// to do, from this on; what clients may ask for lies between -1000 and 1000.
const BATCH_PRIORITY: i32 = 10_000;

/// Who makes a request: what authentication found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The key's public id; `anonymous` without authentication.
    pub key_id: Arc<str>,
    /// What it may ask for.
    pub scope: Scope,
    /// Salt of this principal's prefix-cache entries, derived from a server secret.
    pub cache_salt: [u8; 16],
    /// Whether anyone waits for the answer.
    pub urgency: Urgency,
}

/// Whether anyone waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// Someone does.
    Interactive,
    /// It is one line of a batch.
    Batch,
}

/// What a principal may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Answers of models.
    Use,
    /// Also that models are loaded, unloaded, pulled and removed.
    Admin,
}

impl Urgency {
    /// What a worker is told of a request with this priority: what nobody waits for comes behind all
    /// else, its own shadows included.
    pub(crate) fn priority(self, asked: i32) -> i32 {
        match self {
            Self::Interactive => asked,
            Self::Batch => asked.saturating_add(BATCH_PRIORITY),
        }
    }
}

impl Principal {
    /// Whether it is whoever came without a key.
    pub(crate) fn is_anonymous(&self) -> bool {
        &*self.key_id == ANONYMOUS
    }
}

impl App {
    /// An app that serves until the process ends.
    pub fn new(config: Config, dispatcher: Dispatcher) -> Self {
        let (_, stage) = watch::channel(Stage::Serve);
        Self::with_stage(config, dispatcher, stage)
    }

    /// An app that sees the stages of its shutdown.
    pub fn with_stage(
        config: Config,
        dispatcher: Dispatcher,
        stage: watch::Receiver<Stage>,
    ) -> Self {
        let responses = Responses::new(&config);
        let files = Files::new(&config);
        let batches = Batches::new(&config, files.clone());
        let replays = Replays::new(&config.limits, stage.clone());
        let fleet = Fleet::new(config.launcher.as_deref());
        let routing = Routing::new(&config, dispatcher.clone());
        Self {
            config: Arc::new(config),
            dispatcher,
            routing,
            fleet,
            shadows: Shadows::default(),
            responses,
            batches,
            files,
            replays,
            stage,
        }
    }

    /// Returns when every worker that may get requests can, and what names stand for is known.
    pub(crate) async fn settled(&self) {
        let mut changes = self.dispatcher.changes();
        loop {
            changes.mark_unchanged();
            let workers = self.dispatcher.status();
            let are_ready = workers.iter().all(|worker| worker.ready || worker.is_draining);
            if are_ready && !self.routing.is_waiting_for_table() {
                return;
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Returns when a shutdown has begun.
    pub(crate) fn draining(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut stage = self.stage.clone();
        async move { shutdown::reached(&mut stage, Stage::Drain).await }
    }

    /// Whether a shutdown has begun: what runs is finished, and nobody should send more.
    pub fn is_draining(&self) -> bool {
        *self.stage.borrow() != Stage::Serve
    }
}
