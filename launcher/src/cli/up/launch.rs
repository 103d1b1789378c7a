//! Starts a worker and a router at the same time, says when they can be used, and stops them in
//! their order.

use std::ffi::OsString;
use std::io::Write;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Hooks;
use super::banner::{Access, Banner};
use crate::pull::Model;
use crate::run_dir::RunDir;
use crate::servers::Registration;
use crate::settings::Settings;
use crate::supervisor::{Announcement, Keep, Policy, Pulse, Service, Spec, probe, reachable};

/// The router has closed its streams by then; what it still does is quick.
const AFTER_DRAIN: Duration = Duration::from_secs(5);

/// A worker whose router is gone has nothing left to do.
const WORKER_PATIENCE: Duration = Duration::from_secs(10);

/// A model to serve, and how.
#[derive(Debug)]
pub struct Launch {
    /// What runs as worker and router.
    pub program: PathBuf,
    /// What tells of this server while it is in the background.
    pub registration: Option<Registration>,
    /// What the worker loads.
    pub model: Model,
    /// Where the router listens.
    pub listen: SocketAddr,
    /// The router's database.
    pub database: PathBuf,
    /// Threads of the forward pass.
    pub threads: Option<NonZeroUsize>,
    /// Whether requests need no key.
    pub no_auth: bool,
    /// Time that running requests get at shutdown.
    pub drain_timeout: Duration,
    /// Further flags of the worker.
    pub worker_args: Vec<OsString>,
}

impl Launch {
    /// Serves until a signal says otherwise.
    pub async fn run(
        mut self,
        settings: &Settings,
        hooks: Hooks,
        out: &mut impl Write,
    ) -> anyhow::Result<()> {
        let mut signals = Signals::new()?;
        let run_dir = RunDir::passing(settings)?;
        let socket = run_dir.socket("worker");
        let worker = Service::start(self.worker(&socket), Policy::default());
        // The database is made before the router opens it: one of them migrates it, not both.
        let access = self.access(hooks.ensure_first_key).await?;
        let router = Service::start(self.router(&socket), Policy::default());

        let address = tokio::select! {
            address = until_ready(&worker, &router) => address,
            () = signals.next() => {
                self.stop(router, worker, signals).await;
                return Ok(());
            }
        };
        let address = match address {
            Ok(address) => address,
            Err(error) => {
                self.stop(router, worker, signals).await;
                return Err(error);
            }
        };
        if let Some(registration) = &mut self.registration {
            registration.ready(format!("http://{address}"))?;
        }
        let took = hooks.started.elapsed();
        let banner = Banner { model: &self.model.name, address, access, took };
        write!(out, "{banner}").and_then(|()| out.flush()).context("printing the address")?;

        signals.next().await;
        tracing::info!("stopping; a second signal stops at once");
        self.stop(router, worker, signals).await;
        Ok(())
    }

    async fn access(&self, ensure_first_key: super::FirstKey) -> anyhow::Result<Access> {
        if self.no_auth {
            return Ok(Access::Open);
        }
        let key = ensure_first_key(self.database.clone()).await.context("opening the key store")?;
        Ok(key.map_or(Access::KnownKey, Access::NewKey))
    }

    fn worker(&self, socket: &Path) -> Spec {
        let mut args: Vec<OsString> = vec!["worker".into(), "--model".into()];
        args.push(self.model.path.clone().into());
        args.extend(["--name".into(), OsString::from(&self.model.name)]);
        args.extend(["--version".into(), OsString::from(&self.model.version)]);
        args.extend(["--listen".into(), unix(socket)]);
        if let Some(threads) = self.threads {
            args.extend(["--threads".into(), threads.to_string().into()]);
        }
        args.push("--exit-with-stdin".into());
        args.extend(self.worker_args.iter().cloned());
        let (program, socket) = (self.program.clone(), Some(socket.to_owned()));
        let (version, keep, pulse) = (None, Keep::Tied, Pulse::Worker);
        Spec { label: "worker".into(), program, args, socket, version, keep, pulse }
    }

    fn router(&self, socket: &Path) -> Spec {
        let mut args: Vec<OsString> = vec!["router".into()];
        args.extend(["--listen".into(), self.listen.to_string().into()]);
        args.extend(["--worker".into(), unix(socket)]);
        args.extend(["--database".into(), self.database.clone().into()]);
        args.extend(["--drain-timeout".into(), self.drain_timeout.as_secs().to_string().into()]);
        if self.no_auth {
            args.push("--no-auth".into());
        }
        args.push("--exit-with-stdin".into());
        let program = self.program.clone();
        let (version, keep, pulse) = (None, Keep::Tied, Pulse::Router);
        Spec { label: "router".into(), program, args, socket: None, version, keep, pulse }
    }

    /// The router first, for its streams need the worker. A further signal ends both at once.
    async fn stop(&self, router: Service, worker: Service, mut signals: Signals) {
        let killers = [router.killer(), worker.killer()];
        let orderly = async {
            router.stop(self.drain_timeout + AFTER_DRAIN).await;
            worker.stop(WORKER_PATIENCE).await;
        };
        let mut orderly = std::pin::pin!(orderly);
        tokio::select! {
            () = &mut orderly => return,
            () = signals.next() => killers.iter().for_each(crate::supervisor::Killer::kill),
        }
        orderly.await;
    }
}

/// Waits until the router says that the worker has done a step for it.
async fn until_ready(worker: &Service, router: &Service) -> anyhow::Result<SocketAddr> {
    let both = tokio::try_join!(worker.ready("worker"), router.ready("router"))?;
    let Announcement::Listening(address) = both.1 else {
        anyhow::bail!("the router did not say where it listens");
    };
    let address = reachable(address);
    tokio::select! {
        () = probe::until_ready(address) => Ok(address),
        // Either may still die before the first step.
        error = never_ready(worker, "worker") => Err(error),
        error = never_ready(router, "router") => Err(error),
    }
}

/// Resolves when the service dies.
async fn never_ready(service: &Service, label: &'static str) -> anyhow::Error {
    match service.until_dead().await {
        Some(death) => anyhow::anyhow!("the {label} ended before it was ready: {death}"),
        None => anyhow::anyhow!("the {label} was stopped"),
    }
}

fn unix(socket: &Path) -> OsString {
    let mut address = OsString::from("unix:");
    address.push(socket);
    address
}

/// What a user or a service manager says.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("listening for signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}
