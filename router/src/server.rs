//! The public port: the accept loop, the layers around every request, and the life of the process
//! from its configuration to its last answer.

mod accept;
mod body;
mod connection;
mod cors;
mod handover;
mod io;
pub mod route;
mod target;
mod trace;

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::task::AbortOnDropHandle;

pub use trace::RequestId;

use crate::app::{App, Scope};
use crate::auth::Authenticator;
use crate::batch::executor;
use crate::config::{AuthMode, Config};
use crate::dispatch::Dispatcher;
use crate::error::refusal::Refusal;
use crate::keys::{self, Keys};
use crate::metrics;
use crate::shutdown::{self, Stage};
use accept::Acceptor;
use connection::Protocol;
use handover::{Offer, Taken, reach};

/// How long a router that takes a port over waits until its workers are ready.
const MAX_SETTLING: Duration = Duration::from_secs(10);

/// Histograms grow with every observation until this has passed.
const UPKEEP: Duration = Duration::from_secs(5);

/// Why a router does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address can't be listened on.
    #[error("can't listen on {address}")]
    Bind {
        /// What was asked for.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The port of a running router can't be taken over, or not be offered to the next one.
    #[error("can't take over or offer {address} at {path}")]
    Takeover {
        /// What was asked for.
        address: SocketAddr,
        /// The socket where ports are offered.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The keys can't be read.
    #[error(transparent)]
    Keys(#[from] keys::Error),
    /// Nobody could use it, and a key made later might be made by the wrong one.
    #[error(
        "{0} can be reached from other machines and there is no API key: make one with \
         `sconce keys create`, or let everyone in with --no-auth"
    )]
    NoKeys(SocketAddr),
    /// Signals can't be received.
    #[error("can't listen for signals")]
    Signals(#[source] std::io::Error),
}

/// A router that listens, and does not serve yet.
pub struct Server {
    address: SocketAddr,
    listener: TcpListener,
    /// Who had the port before.
    predecessor: Option<Taken>,
    /// Where a successor's coming is told, with `--takeover`.
    stages: Option<Arc<watch::Sender<Stage>>>,
    /// Offers the port to the next one, and follows the stages. They end with the server.
    tasks: Vec<AbortOnDropHandle<()>>,
    authenticator: Authenticator,
    app: App,
    stage: watch::Receiver<Stage>,
}

/// Runs a router until the stage asks for its end. Prints one line with its address when it
/// listens.
pub async fn run(config: Config, stage: watch::Receiver<Stage>) -> Result<(), Error> {
    let dispatcher = Dispatcher::new(&config);
    let server = Server::bind(config, dispatcher, stage).await?;
    announce(server.address());
    server.serve().await;
    Ok(())
}

#[expect(clippy::print_stdout, reason = "whoever started the process reads this line")]
fn announce(address: SocketAddr) {
    println!("listening http://{address}");
}

impl Server {
    /// Opens the database and the port. Connections wait in the port's queue until
    /// [`Server::serve`].
    pub async fn bind(
        config: Config,
        dispatcher: Dispatcher,
        stage: watch::Receiver<Stage>,
    ) -> Result<Self, Error> {
        metrics::install();
        let authenticator = authenticator(&config).await?;
        let failed = |source| Error::Bind { address: config.listen, source };
        let (listener, predecessor) = match &config.takeover {
            None => (accept::bind(config.listen).map_err(failed)?, None),
            Some(path) => take(path, config.listen).await?,
        };
        let address = listener.local_addr().map_err(failed)?;
        let (mut tasks, mut stage, mut stages) = (Vec::new(), stage, None);
        if let Some(path) = &config.takeover {
            let passed = Arc::new(watch::Sender::new(*stage.borrow()));
            let followed = std::mem::replace(&mut stage, passed.subscribe());
            tasks.push(spawn(follow(followed, Arc::clone(&passed))));
            if predecessor.is_none() {
                let offer = offer(path, &listener);
                let failed = |source| Error::Takeover { address, path: path.clone(), source };
                tasks.push(spawn(offer.map_err(failed)?.give(Arc::clone(&passed))));
            }
            stages = Some(passed);
        }
        let app = App::with_stage(config, dispatcher, stage.clone());
        Ok(Self { address, listener, predecessor, stages, tasks, authenticator, app, stage })
    }

    /// Where it listens; tells the port when the configuration left it open.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the stage asks for the end, then finishes what runs.
    pub async fn serve(self) {
        self.serve_routes(route::routes()).await;
    }

    /// Serves other routes than the router's own, behind the same port and policies.
    pub async fn serve_routes(mut self, routes: Vec<route::Route>) {
        tracing::info!(address = %self.address, auth = ?self.app.config.auth, "listening");
        self.relieve().await;
        let router = router(routes, &self.app, &self.authenticator);
        let (end, ended) = oneshot::channel::<()>();
        let batches = {
            let ended = async move { drop(ended.await) };
            spawn(executor::run(self.app.clone(), self.authenticator.clone(), ended))
        };
        let (config, files) = (&self.app.config, self.app.files.clone());
        let protocol = Protocol::new(&config.limits, router);
        let acceptor = Acceptor::new(self.listener, protocol, &config.limits);
        let ends = (self.app.replays.finished(), || self.app.dispatcher.stop());
        let num_cut = tokio::select! {
            num_cut = acceptor.run((config, self.stage), ends) => num_cut,
            never = keep_metrics_small() => match never {},
            never = files.keep_clean() => match never {},
        };
        drop((self.tasks, end));
        let _ = batches.await;
        tracing::info!(num_cut, "stopped");
    }
}

impl Server {
    /// Tells the router that had the port to go, once requests would be served here as they are there,
    /// and offers the port to the next one.
    async fn relieve(&mut self) {
        let Some(predecessor) = self.predecessor.take() else { return };
        tokio::select! {
            is_ready = timeout(MAX_SETTLING, self.app.settled()) => if is_ready.is_err() {
                tracing::warn!("taking the port over although some worker is not ready");
            },
            () = shutdown::reached(&mut self.stage, Stage::Drain) => return,
        }
        if let Err(error) = predecessor.accepted() {
            tracing::warn!(%error, "the router that was running can't be told to go");
        }
        // Only now: until here, the predecessor could have had to go on, and offer it again.
        let (Some(path), Some(stages)) = (&self.app.config.takeover, &self.stages) else { return };
        match offer(path, &self.listener) {
            Ok(offer) => self.tasks.push(spawn(offer.give(Arc::clone(stages)))),
            Err(error) => tracing::error!(%error, "no router will be able to take the port over"),
        }
    }
}

/// The port of the router that offers it at `path`, or a new one.
async fn take(path: &Path, address: SocketAddr) -> Result<(TcpListener, Option<Taken>), Error> {
    let failed = |source| Error::Takeover { address, path: path.to_owned(), source };
    let offered = path.to_owned();
    let taken = tokio::task::spawn_blocking(move || handover::take(&offered, address)).await;
    let taken = taken.unwrap_or_else(|error| Err(std::io::Error::other(error))).map_err(failed)?;
    let Some(taken) = taken else {
        let bound = accept::bind(address).map_err(|source| Error::Bind { address, source })?;
        return Ok((bound, None));
    };
    let listener = taken.listener.try_clone().and_then(TcpListener::from_std).map_err(failed)?;
    Ok((listener, Some(taken)))
}

fn offer(path: &Path, listener: &TcpListener) -> std::io::Result<Offer> {
    Offer::new(path, listener.as_fd().try_clone_to_owned()?)
}

/// Passes stages on, for as long as they move forward.
async fn follow(mut from: watch::Receiver<Stage>, to: Arc<watch::Sender<Stage>>) {
    loop {
        let stage = *from.borrow_and_update();
        to.send_if_modified(|now| reach(now, stage));
        if from.changed().await.is_err() {
            return;
        }
    }
}

fn spawn(task: impl Future<Output = ()> + Send + 'static) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(task))
}

async fn authenticator(config: &Config) -> Result<Authenticator, Error> {
    let exposed = !config.listen.ip().to_canonical().is_loopback();
    match config.auth {
        AuthMode::Open => {
            if exposed {
                tracing::warn!(address = %config.listen, "anyone who can reach this may use it");
            }
            // Whoever can reach the port is on this machine, or may use models and no more.
            Ok(Authenticator::open(if exposed { Scope::Use } else { Scope::Admin }))
        }
        AuthMode::Keys => {
            let keys = Keys::open(&config.database).await?;
            let authenticator = Authenticator::with_keys(keys).await?;
            if exposed && authenticator.num_active_keys() == Some(0) {
                return Err(Error::NoKeys(config.listen));
            }
            Ok(authenticator)
        }
    }
}

/// The routes and everything around them, outermost last. Layers are inside the routing, so each
/// knows the route that a request matched.
fn router(routes: Vec<route::Route>, app: &App, authenticator: &Authenticator) -> Router {
    let mut router = route::mount(routes, app, authenticator)
        .fallback(|| async { Refusal::UnknownUrl })
        .method_not_allowed_fallback(|| async { Refusal::Method })
        .layer(from_fn_with_state(app.clone(), target::check));
    if !app.config.cors_origins.is_empty() {
        let origins = cors::Origins::new(&app.config.cors_origins);
        router = router.layer(from_fn_with_state(origins, cors::share));
    }
    router.layer(from_fn(trace::request)).with_state(app.clone())
}

async fn keep_metrics_small() -> std::convert::Infallible {
    let mut ticks = interval(UPKEEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        metrics::upkeep();
    }
}
