//! What stands behind the names that clients use.
//!
//! With a launcher, its routing table says: a name is shared out among versions, and a request whose
//! version has no replica is held until there is one, for a while. Without one, and for names that the
//! table does not have, they are those of the workers that the command line names.

mod follow;
mod hold;
mod report;
mod resend;
mod split;
mod table;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::HeaderValue;
use http::header::HeaderName;
use sconce_proto::fleet::RoutingTable;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;
use tracing::info;

use crate::config::Config;
use crate::dispatch::replicas::Readiness;
use crate::dispatch::{self, Dispatcher, WorkerRoom};
use crate::error::ApiError;
use crate::metrics::{self, HoldEnd, Pending, Split};
use crate::model::Model;
use hold::{Held, Place};
pub(crate) use resend::Hold;
pub(crate) use split::Client;
pub(crate) use table::Shadow;
use table::{Route, Table};

/// The response header that tells which version has answered.
const VERSION: HeaderName = HeaderName::from_static("x-sconce-version");

/// Where requests go. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Routing {
    shared: Arc<Shared>,
    /// Ends with the last clone.
    _following: Option<Arc<AbortOnDropHandle<std::convert::Infallible>>>,
}

struct Shared {
    dispatcher: Dispatcher,
    /// The last table; none before the first, and none without a launcher.
    table: ArcSwapOption<Table>,
    /// What the metrics say of it.
    split: Mutex<Split>,
    held: Arc<Held>,
    /// Whether a replica has been ready since the start.
    was_ready: AtomicBool,
}

/// What a request is for: a version of a model under the name that was asked for.
pub(crate) struct Target {
    /// As the client named it, and as the answer does.
    pub(crate) name: String,
    /// The version that was chosen.
    pub(crate) model: Arc<Model>,
    /// Who may get a copy of the request.
    pub(crate) shadow: Option<Shadow>,
    /// Lets the request wait for another worker, where one was lost with it.
    pub(crate) hold: Option<Arc<Hold>>,
    /// Until the request is sent, the version's replicas must not go.
    _pending: Option<Pending>,
}

/// A name that clients can use.
pub(crate) struct Listed {
    pub(crate) name: String,
    /// What stands behind it, if a worker has ever said so.
    pub(crate) model: Option<Arc<Model>>,
    /// Of names in the routing table.
    pub(crate) readiness: Option<Readiness>,
}

impl Routing {
    /// Follows the configured launcher, if there is one. Needs a Tokio runtime then.
    pub(crate) fn new(config: &Config, dispatcher: Dispatcher) -> Self {
        let table = ArcSwapOption::empty();
        let was_ready = AtomicBool::new(false);
        let (split, held) = (Mutex::default(), Arc::default());
        let shared = Arc::new(Shared { dispatcher, table, split, held, was_ready });
        let following = config.launcher.clone().map(|address| {
            let follow = follow::follow(Arc::clone(&shared), address, config.routing_table.clone());
            Arc::new(AbortOnDropHandle::new(tokio::spawn(follow)))
        });
        Self { shared, _following: following }
    }

    /// What a client's request for a name goes to. Waits for a replica as long as the name's route
    /// allows.
    pub(crate) async fn find(&self, name: &str, client: &Client) -> Result<Target, ApiError> {
        let mut changes = self.shared.dispatcher.changes();
        let mut place: Option<(Place, Instant)> = None;
        loop {
            // Seen before the look, so that what changes after it is not missed.
            changes.mark_unchanged();
            if self.shared.dispatcher.is_stopping() {
                return Err(dispatch::Error::Stopping.into());
            }
            let Some(route) = self.shared.route(name) else { return self.unrouted(name) };
            if let Some(target) = self.shared.choose(&route, client) {
                if let Some((place, _)) = place {
                    place.ended(HoldEnd::Ready);
                }
                return Ok(target);
            }
            let (taken, deadline) = match place.take() {
                Some(place) => place,
                None => self.wait(&route)?,
            };
            match timeout_at(deadline, changes.changed()).await {
                Ok(_) => place = Some((taken, deadline)),
                Err(_) => {
                    taken.ended(HoldEnd::Timeout);
                    return Err(unavailable(name));
                }
            }
        }
    }

    /// A place among those that wait for a replica, and until when.
    fn wait(&self, route: &Route) -> Result<(Place, Instant), ApiError> {
        if route.max_hold == Duration::ZERO {
            return Err(unavailable(&route.name));
        }
        let place = self.shared.held.take(route).ok_or_else(|| ApiError::HoldFull {
            model: route.name.clone(),
            max_held: route.max_held,
        })?;
        Ok((place, Instant::now() + route.max_hold))
    }

    /// What a name is that no route has.
    fn unrouted(&self, name: &str) -> Result<Target, ApiError> {
        match self.shared.dispatcher.model(name) {
            Some(model) => Ok(Target {
                name: name.to_owned(),
                model,
                shadow: None,
                hold: None,
                _pending: None,
            }),
            // Nothing is known of any name yet.
            None if self.is_waiting_for_table() => Err(unavailable(name)),
            None => Err(ApiError::ModelNotFound { model: name.chars().take(256).collect() }),
        }
    }

    /// Where a copy of a request goes, if that can be used now.
    pub(crate) fn shadow_target(&self, shadow: &Shadow) -> Option<Target> {
        let (model, pending) = self.shared.ready(&shadow.version)?;
        let name = shadow.version.to_string();
        Some(Target { name, model, shadow: None, hold: None, _pending: Some(pending) })
    }

    /// The workers that could get a request for a name now.
    pub(crate) fn workers(&self, name: &str) -> Vec<WorkerRoom> {
        let Some(route) = self.shared.route(name) else {
            return self.shared.dispatcher.room_of_model(name);
        };
        let versions = route.shares.iter().map(|share| &share.version);
        versions.flat_map(|version| self.shared.dispatcher.room_of_version(version)).collect()
    }

    /// Whether a request for a name would wait until a replica is ready.
    pub(crate) fn loads(&self, name: &str) -> bool {
        self.shared.route(name).is_some_and(|route| route.max_hold > Duration::ZERO)
    }

    /// Every name that lists show, by name.
    pub(crate) fn list(&self) -> Vec<Listed> {
        let table = self.shared.table.load_full();
        let routes = table.iter().flat_map(|table| table.routes());
        let mut listed: Vec<_> = routes
            .filter(|route| !route.is_hidden)
            .map(|route| self.shared.listed(route))
            .collect();
        for model in self.shared.dispatcher.models() {
            let name = model.info.model.clone();
            if table.as_ref().is_none_or(|table| table.route(&name).is_none()) {
                listed.push(Listed { name, model: Some(model), readiness: None });
            }
        }
        listed.sort_by(|a, b| a.name.cmp(&b.name));
        listed
    }

    /// A name, hidden or not.
    pub(crate) fn get(&self, name: &str) -> Option<Listed> {
        if let Some(route) = self.shared.route(name) {
            return Some(self.shared.listed(&route));
        }
        let model = self.shared.dispatcher.model(name)?;
        Some(Listed { name: name.to_owned(), model: Some(model), readiness: None })
    }

    /// Whether some request would be served that no replica is ready for: it would be held. Not
    /// before the first replica is ready that is being started.
    pub(crate) fn holds(&self, is_starting: bool) -> bool {
        if is_starting && !self.shared.was_ready.load(Ordering::Relaxed) {
            return false;
        }
        let table = self.shared.table.load();
        let mut routes = table.iter().flat_map(|table| table.routes());
        routes.any(|route| route.max_hold > Duration::ZERO && route.max_held > 0)
    }

    /// Notes that a replica is ready.
    pub(crate) fn note_ready(&self) {
        self.shared.was_ready.store(true, Ordering::Relaxed);
    }

    /// Whether a launcher is to say what names stand for, and nothing has yet.
    pub(crate) fn is_waiting_for_table(&self) -> bool {
        self._following.is_some() && self.shared.table.load().is_none()
    }
}

impl Shared {
    /// Follows another table from now on.
    fn apply(&self, table: RoutingTable) {
        let (table, replicas) = Table::read(table);
        let generation = table.generation;
        info!(
            generation,
            replicas = replicas.len(),
            routes = table.routes().count(),
            "routing table"
        );
        // Replicas first: a name never stands for a version of which nothing is known.
        self.dispatcher.set_replicas(&replicas);
        self.split.lock().unwrap_or_else(PoisonError::into_inner).show(&table.split());
        self.table.store(Some(Arc::new(table)));
        metrics::table_generation(generation);
        self.dispatcher.announce();
    }

    fn route(&self, name: &str) -> Option<Arc<Route>> {
        self.table.load().as_ref()?.route(name).cloned()
    }

    /// The model of a version, if a request for it would be served now, and the request's claim.
    fn ready(&self, version: &Arc<str>) -> Option<(Arc<Model>, Pending)> {
        // Claimed before the look: whoever finds no claim after a replica began to drain knows that
        // nothing more will come.
        let pending = self.dispatcher.totals(version).choose();
        self.dispatcher.ready(version).map(|model| (model, pending))
    }

    /// The client's version, or another of the route if that one has no replica.
    fn choose(self: &Arc<Self>, route: &Route, client: &Client) -> Option<Target> {
        let by_preference = split::order(&route.shares, client);
        let (model, pending) = by_preference.iter().find_map(|share| self.ready(&share.version))?;
        let hold = |version| Arc::new(Hold::new(Arc::clone(self), route.name.clone(), version));
        // A version is not compared with itself.
        let is_other = |shadow: &&Shadow| Some(&shadow.version) != model.version.as_ref();
        Some(Target {
            name: route.name.clone(),
            shadow: route.shadow.as_ref().filter(is_other).cloned(),
            hold: model.version.clone().map(hold),
            model,
            _pending: Some(pending),
        })
    }

    fn listed(&self, route: &Route) -> Listed {
        let versions = || route.shares.iter().map(|share| &share.version);
        let ready = versions().find_map(|version| self.dispatcher.ready(version));
        let model = ready.or_else(|| versions().find_map(|it| self.dispatcher.described(it)));
        let readiness = versions().map(|version| self.dispatcher.readiness(version)).max();
        Listed { name: route.name.clone(), model, readiness }
    }
}

impl Target {
    /// The answer, with the version that it is from where a routing table names it.
    pub(crate) fn label<T: axum::response::IntoResponse>(
        &self,
        answer: T,
    ) -> axum::response::Response {
        let mut response = answer.into_response();
        let version = self.model.version.as_deref().map(HeaderValue::from_str);
        if let Some(Ok(version)) = version {
            response.headers_mut().insert(VERSION, version);
        }
        response
    }
}

fn unavailable(name: &str) -> ApiError {
    let model = name.chars().take(256).collect();
    dispatch::Error::NoWorker { model }.into()
}
