//! What every route's handler can reach.

use std::sync::Arc;

use tokio::sync::watch;

use crate::config::Config;
use crate::dispatch::Dispatcher;
use crate::replay::Replays;
use crate::responses::Responses;
use crate::shutdown::Stage;

/// The router's shared state. Cheap to clone.
#[derive(Clone)]
pub struct App {
    /// The configuration.
    pub config: Arc<Config>,
    /// The workers, and the models they serve.
    pub dispatcher: Dispatcher,
    /// What the Responses API has stored.
    pub(crate) responses: Responses,
    /// The answers that clients can come back for.
    pub(crate) replays: Replays,
    stage: watch::Receiver<Stage>,
}

/// Who makes a request: what authentication found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The key's public id; `anonymous` without authentication.
    pub key_id: Arc<str>,
    /// Salt of this principal's prefix-cache entries, derived from a server secret.
    pub cache_salt: [u8; 16],
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
        let replays = Replays::new(&config.limits, stage.clone());
        Self { config: Arc::new(config), dispatcher, responses, replays, stage }
    }

    /// Whether a shutdown has begun: what runs is finished, and nobody should send more.
    pub fn is_draining(&self) -> bool {
        *self.stage.borrow() != Stage::Serve
    }
}
