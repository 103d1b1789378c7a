//! The public port: the accept loop, the layers around every request, and the life of the process
//! from its configuration to its last answer.

mod accept;
mod body;
mod connection;
mod cors;
mod io;
pub mod route;
mod target;
mod trace;

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

pub use trace::RequestId;

use crate::app::{App, Scope};
use crate::auth::Authenticator;
use crate::config::{AuthMode, Config};
use crate::dispatch::Dispatcher;
use crate::error::refusal::Refusal;
use crate::keys::{self, Keys};
use crate::metrics;
use crate::shutdown::Stage;
use accept::Acceptor;
use connection::Protocol;

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
        let listener = accept::bind(config.listen).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let app = App::with_stage(config, dispatcher, stage.clone());
        Ok(Self { address, listener, authenticator, app, stage })
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
    pub async fn serve_routes(self, routes: Vec<route::Route>) {
        tracing::info!(address = %self.address, auth = ?self.app.config.auth, "listening");
        let router = router(routes, &self.app, &self.authenticator);
        let config = &self.app.config;
        let protocol = Protocol::new(&config.limits, router);
        let acceptor = Acceptor::new(self.listener, protocol, &config.limits);
        let num_cut = tokio::select! {
            num_cut = acceptor.run((config, self.stage), self.app.replays.finished()) => num_cut,
            never = keep_metrics_small() => match never {},
        };
        tracing::info!(num_cut, "stopped");
    }
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
