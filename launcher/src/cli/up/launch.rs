//! Starts a fleet and its router at the same time, says when they can be used, and stops them in
//! their order.

use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Mutex, watch};

use super::Hooks;
use super::banner::{Access, Phases, Ready};
use super::live::Live;
use super::notify::Notifier;
use crate::cli::output::Output;
use crate::controller::{
    Config, Controller, Golden, Keeping, RouterConfig, Routers, Served, SharedRouters, WorkerConfig,
};
use crate::run_dir::RunDir;
use crate::servers::{Mode, Registration};
use crate::settings::Settings;
use crate::supervisor::{Killer, reachable};

/// Models to serve, and how.
pub(super) struct Launch {
    /// Who looks after this process.
    pub(super) mode: Mode,
    /// Whether a terminal is to have a live view.
    pub(super) is_live: bool,
    /// How it is told that all can be used.
    pub(super) output: Output,
    /// What bringing the models here took.
    pub(super) files: Duration,
    /// What tells of this server.
    pub(super) registration: Option<Registration>,
    /// The models, the first of which gives the server its name.
    pub(super) served: Vec<Served>,
    /// How their workers are started.
    pub(super) workers: WorkerConfig,
    /// How the router is started.
    pub(super) router: RouterConfig,
    /// What becomes of the processes when this one ends.
    pub(super) keeping: Keeping,
}

/// What runs, from the start to the end.
struct Running {
    controller: Controller,
    routers: SharedRouters,
    registration: Option<Registration>,
    keeping: Keeping,
}

/// What a signal asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wish {
    /// Everything drains and ends.
    Stop,
    /// The launcher ends, and leaves the rest to the next.
    Leave,
    /// The launcher starts again as what its program is now, and goes on with the rest.
    Reload,
}

impl Launch {
    /// Serves until a signal says otherwise.
    pub(super) async fn run(
        self,
        settings: &Settings,
        hooks: Hooks,
        out: &mut impl Write,
    ) -> anyhow::Result<()> {
        let Self { mode, is_live, output, files, registration, served, workers, router, keeping } =
            self;
        let manager = (mode == Mode::Service).then(Notifier::from_env).flatten();
        let program = router.program.clone();
        let mut signals = Signals::new(mode)?;
        let (say_address, address) = watch::channel(None);
        let keys = (!router.no_auth).then(|| (router.database.clone(), hooks.lend_key.clone()));
        let config = Config {
            settings: settings.clone(),
            workers,
            keeping: keeping.clone(),
            drain_timeout: router.drain_timeout,
            golden: Golden { router: address, keys },
        };
        let planning = Instant::now();
        let controller = Controller::start(config, &served).await?;
        let (files, plan) = (ms(files), ms(planning.elapsed()));
        let routers = Arc::new(Mutex::new(None));
        let mut running = Running { controller, routers, registration, keeping };
        let names: Vec<_> = served.into_iter().map(|served| served.name).collect();

        let database = (!router.no_auth).then(|| router.database.clone());
        let access = access(database, hooks.ensure_first_key);
        let started = tokio::select! {
            started = running.start(router, access) => started,
            wish = signals.next() => return running.conclude(wish, signals, &program).await,
        };
        let (address, access, router) = match started {
            Ok(started) => started,
            Err(error) => {
                running.end(Wish::Stop, signals).await?;
                return Err(error);
            }
        };
        say_address.send_replace(Some(address));
        running.note(&names, address)?;
        let workers = running.controller.start_phases();
        let phases_ms = Phases { files, plan, router: ms(router), workers };
        let (url, ready_ms) =
            (format!("http://{}", reachable(address)), ms(hooks.started.elapsed()));
        let ready = Ready { models: names, url, access, phases_ms, ready_ms };
        let text = match output.is_json() || mode == Mode::Background {
            true => serde_json::to_string(&ready)? + "\n",
            false => ready.to_string(),
        };
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            // Whoever started this in the background may have heard enough.
            Err(error) if mode != Mode::Foreground && error.kind() == ErrorKind::BrokenPipe => {}
            printed => printed.context("printing the address")?,
        }
        manager.iter().for_each(Notifier::ready);

        let view = is_live.then(|| Live::start(running.controller.overviews()));
        let wish = running.controller.until(signals.next()).await;
        drop(view);
        match wish {
            Wish::Stop => {
                manager.iter().for_each(Notifier::stopping);
                tracing::info!("stopping; a second signal stops at once");
            }
            Wish::Reload => manager.iter().for_each(Notifier::reloading),
            Wish::Leave => {}
        }
        running.conclude(wish, signals, &program).await
    }
}

impl Running {
    /// Starts the router, and waits until all can be used.
    async fn start(
        &mut self,
        router: RouterConfig,
        access: impl Future<Output = anyhow::Result<Access>>,
    ) -> anyhow::Result<(SocketAddr, Access, Duration)> {
        // The database is made before the router opens it: one of them migrates it, not both.
        let access = self.controller.until(access).await?;
        let control = self.controller.listen(self.routers.clone())?;
        if let Some(registration) = &mut self.registration {
            registration.control(control)?;
        }
        let paths = self.controller.router_paths();
        let before = Instant::now();
        let started = Routers::start(router, self.keeping.clone(), paths);
        let routers = self.controller.until(started).await?;
        let serving = routers.serving();
        *self.routers.lock().await = Some(routers);
        let mut serving = std::pin::pin!(serving);
        let mut address = None;
        loop {
            let is_ready = self.controller.is_ready();
            let is_ready = is_ready
                .map_err(|why| anyhow::anyhow!("the worker ended before it was ready: {why}"))?;
            if let (true, Some((address, took))) = (is_ready, address) {
                return Ok((address, access, took));
            }
            tokio::select! {
                serves = &mut serving, if address.is_none() => {
                    address = Some((serves?, before.elapsed()));
                }
                () = self.controller.turn() => {}
            }
        }
    }

    /// Notes where clients reach what.
    fn note(&mut self, names: &[String], address: SocketAddr) -> anyhow::Result<()> {
        let Some(registration) = &mut self.registration else { return Ok(()) };
        let version = names.first().and_then(|name| self.controller.current(name));
        registration.serves(version.map(ToString::to_string));
        Ok(registration.ready(format!("http://{}", reachable(address)))?)
    }

    /// Ends as was wished.
    async fn conclude(self, wish: Wish, signals: Signals, program: &Path) -> anyhow::Result<()> {
        self.end(wish, signals).await?;
        match wish {
            Wish::Reload => Err(start_again(program)),
            Wish::Stop | Wish::Leave => Ok(()),
        }
    }

    /// The router first, for its streams need the workers. A further signal ends all at once.
    async fn end(self, wish: Wish, mut signals: Signals) -> anyhow::Result<()> {
        let Self { controller, routers, registration, keeping } = self;
        let routers = routers.lock().await.take();
        if wish != Wish::Stop && matches!(keeping, Keeping::Outliving(_)) {
            tracing::info!("leaving everything to the next launcher");
            if let Some(routers) = routers {
                routers.leave().await;
            }
            controller.leave().await;
            registration.into_iter().for_each(Registration::leave);
            return Ok(());
        }
        let mut killers = controller.killers();
        killers.extend(routers.iter().map(Routers::killer));
        let orderly = async {
            if let Some(routers) = routers {
                routers.end().await;
            }
            controller.end().await;
        };
        let mut orderly = std::pin::pin!(orderly);
        tokio::select! {
            () = &mut orderly => {}
            () = signals.until_stop() => {
                killers.iter().for_each(Killer::kill);
                orderly.await;
            }
        }
        if let Keeping::Outliving(folder) = &keeping {
            RunDir::remove_lasting(folder).with_context(|| folder.display().to_string())?;
        }
        Ok(())
    }
}

/// Becomes what the program is now, with the same command line. Returns only if that fails; what
/// was left runs on.
fn start_again(program: &Path) -> anyhow::Error {
    use std::os::unix::process::CommandExt;
    let error = std::process::Command::new(program).args(std::env::args_os().skip(1)).exec();
    anyhow::Error::new(error).context(format!("starting {} again", program.display()))
}

async fn access(
    database: Option<PathBuf>,
    ensure_first_key: super::FirstKey,
) -> anyhow::Result<Access> {
    let Some(database) = database else { return Ok(Access::None) };
    let key = ensure_first_key(database).await.context("opening the key store")?;
    Ok(key.map_or(Access::KnownKey, |api_key| Access::NewKey { api_key }))
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What a user, a service manager or the next launcher says.
struct Signals {
    mode: Mode,
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
    leave: Signal,
}

impl Signals {
    fn new(mode: Mode) -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("listening for signals");
        Ok(Self {
            mode,
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hang_up: listen(SignalKind::hangup())?,
            leave: listen(SignalKind::user_defined1())?,
        })
    }

    async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.interrupt.recv() => Wish::Stop,
            _ = self.terminate.recv() => Wish::Stop,
            // A terminal that closes ends what runs in it; elsewhere this is how to say that there is
            // another binary.
            _ = self.hang_up.recv() => match self.mode {
                Mode::Foreground => Wish::Stop,
                Mode::Background | Mode::Service => Wish::Reload,
            },
            _ = self.leave.recv() => Wish::Leave,
        }
    }

    async fn until_stop(&mut self) {
        while self.next().await != Wish::Stop {}
    }
}
