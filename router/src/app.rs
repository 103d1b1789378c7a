//! What every route's handler can reach.

use std::sync::Arc;

use crate::config::Config;
use crate::dispatch::Dispatcher;

/// The router's shared state. Cheap to clone.
#[derive(Clone)]
pub struct App {
    /// The configuration.
    pub config: Arc<Config>,
    /// The workers, and the models they serve.
    pub dispatcher: Dispatcher,
}

/// Who makes a request: what authentication found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The key's public id; `anonymous` without authentication.
    pub key_id: Arc<str>,
    /// Salt of this principal's prefix-cache entries, derived from a server secret.
    pub cache_salt: [u8; 16],
}
