//! Requests that were sent to a worker and not answered: they wait for another one of their version, as
//! requests wait that find none at first, and for no longer than those.

use std::sync::{Arc, OnceLock};

use futures::future::BoxFuture;
use tokio::time::{Instant, timeout_at};

use super::Shared;
use super::hold::Place;
use super::table::Route;
use crate::dispatch::{Embeddings, Error, Outputs, Unanswered};
use crate::metrics::HoldEnd;

/// Lets one request wait for a worker of the version that it was made for.
pub(crate) struct Hold {
    shared: Arc<Shared>,
    name: String,
    version: Arc<str>,
    /// The end of all its waits, from the first one on.
    deadline: OnceLock<Instant>,
}

impl Hold {
    pub(super) fn new(shared: Arc<Shared>, name: String, version: Arc<str>) -> Self {
        Self { shared, name, version, deadline: OnceLock::new() }
    }

    /// Sends a generation as soon as a worker takes it. Without one, `error` says why it is needed.
    pub(crate) fn resend(
        self: Arc<Self>,
        unanswered: Box<Unanswered>,
        error: Error,
    ) -> BoxFuture<'static, Result<Outputs, Error>> {
        Box::pin(async move {
            let mut unanswered = Some(unanswered);
            let send = || match unanswered.take()?.send() {
                Ok(outputs) => Some(outputs),
                Err((_, unsent)) => {
                    unanswered = Some(unsent);
                    None
                }
            };
            self.wait(error, send).await
        })
    }

    /// Waits until a worker would take a request for vectors that has ended with `error`.
    pub(crate) async fn wait_for(
        &self,
        embeddings: &Embeddings,
        error: Error,
    ) -> Result<(), Error> {
        self.wait(error, || embeddings.has_worker().then_some(())).await
    }

    /// Tries whenever a worker has come or gone.
    async fn wait<T>(
        &self,
        error: Error,
        mut attempt: impl FnMut() -> Option<T>,
    ) -> Result<T, Error> {
        let mut changes = self.shared.dispatcher.changes();
        let mut place: Option<Place> = None;
        loop {
            // Seen before the look, so that what changes after it is not missed.
            changes.mark_unchanged();
            if self.shared.dispatcher.is_stopping() {
                return Err(Error::Stopping);
            }
            if self.deadline.get().is_some_and(|deadline| *deadline <= Instant::now()) {
                return Err(error);
            }
            // Nobody starts a worker of what the name does not stand for any more.
            let Some(route) = self.route() else { return Err(error) };
            // Claimed before the look, as every request is. One that drains may get this one: it was meant
            // for it or its like before.
            let claim = self.shared.dispatcher.totals(&self.version).choose();
            let done = attempt();
            drop(claim);
            if let Some(done) = done {
                if let Some(place) = place {
                    place.ended(HoldEnd::Ready);
                }
                return Ok(done);
            }
            let Some(taken) = place.take().or_else(|| self.shared.held.take(&route)) else {
                return Err(error);
            };
            let deadline = *self.deadline.get_or_init(|| Instant::now() + route.max_hold);
            if timeout_at(deadline, changes.changed()).await.is_err() {
                taken.ended(HoldEnd::Timeout);
                return Err(error);
            }
            place = Some(taken);
        }
    }

    /// The name's route, as long as requests for this version may wait.
    fn route(&self) -> Option<Arc<Route>> {
        let route = self.shared.route(&self.name)?;
        let is_of_it = route.shares.iter().any(|share| share.version == self.version);
        (is_of_it && !route.max_hold.is_zero()).then_some(route)
    }
}
