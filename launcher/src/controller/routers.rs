//! The router process of a fleet, and its exchange for another at the same address.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::workers::{Keeping, unix};
use crate::supervisor::{
    Announcement, Files, Keep, Killer, Policy, Pulse, Service, Spec, State, probe, reachable, ready,
};

/// The router has closed its streams by then; what it still does is quick.
const AFTER_DRAIN: Duration = Duration::from_secs(5);

/// A new router accepts connections by then, and the one before has waited for the last of its own.
const TAKEOVER: Duration = Duration::from_secs(15);

const KEY: &str = "router";

/// How routers are started.
#[derive(Clone, Debug)]
pub(crate) struct RouterConfig {
    pub(crate) program: PathBuf,
    /// Where it listens.
    pub(crate) listen: SocketAddr,
    /// Its database.
    pub(crate) database: PathBuf,
    /// Whether requests need no key.
    pub(crate) no_auth: bool,
    /// What the environment says to it.
    pub(crate) variables: Vec<(String, OsString)>,
    /// Time that running requests get.
    pub(crate) drain_timeout: Duration,
}

/// What routers and their launcher meet at.
#[derive(Clone, Debug)]
pub(crate) struct RouterPaths {
    /// The launcher's socket.
    pub(crate) control: PathBuf,
    /// Where a router gives its port to the next one.
    pub(crate) takeover: PathBuf,
    /// The file with the last routing table.
    pub(crate) table: PathBuf,
}

/// The router process, and those before it that drain.
pub(crate) struct Routers {
    config: RouterConfig,
    keeping: Keeping,
    paths: RouterPaths,
    number: u64,
    current: Service,
    draining: JoinSet<()>,
}

impl Routers {
    /// Starts a router, or goes on with that of a launcher before. One that was started otherwise
    /// is exchanged.
    pub(crate) async fn start(
        config: RouterConfig,
        keeping: Keeping,
        paths: RouterPaths,
    ) -> anyhow::Result<Self> {
        let (known, others) = known(&keeping)?;
        let number = known.unwrap_or(1);
        let spec = spec(&config, &keeping, &paths, number);
        let is_outdated = match &spec.keep {
            Keep::Outliving { files, .. } => {
                files.read().is_some_and(|record| record.hold().is_some() && !record.is_of(&spec))
            }
            Keep::Tied => false,
        };
        let found = if is_outdated { Service::adopt(spec.clone()) } else { None };
        let is_outdated = found.is_some();
        let current = found.unwrap_or_else(|| Service::start(spec, Policy::default()));
        let draining = JoinSet::new();
        let mut routers = Self { config, keeping, paths, number, current, draining };
        for number in others {
            let spec = routers.spec(number);
            routers.drain(Service::adopt(spec));
        }
        if is_outdated {
            routers.exchange().await?;
        }
        Ok(routers)
    }

    /// Waits until the router serves, and says where. What it waits for needs nothing of this.
    pub(crate) fn serving(&self) -> impl Future<Output = anyhow::Result<SocketAddr>> + use<> {
        let state = self.current.state();
        async move {
            let address = listening(state.clone()).await?;
            let mut later = state.clone();
            let dies = later.wait_for(|state| !matches!(state, State::Ready(_)));
            tokio::select! {
                () = probe::until_ready(reachable(address)) => Ok(address),
                // It may still die.
                _ = dies => anyhow::bail!("the router ended before it was ready"),
            }
        }
    }

    /// Starts a router beside the present one, at its address, and has that one drain once the new
    /// one serves.
    pub(crate) async fn exchange(&mut self) -> anyhow::Result<SocketAddr> {
        let address = listening(self.current.state()).await?;
        let spec = self.spec(self.number + 1);
        // It takes the port itself from the present one, by --takeover.
        let next = Service::start_at(spec, Policy::default(), address);
        listening(next.state()).await.context("starting a router beside the present one")?;
        self.number += 1;
        let before = std::mem::replace(&mut self.current, next);
        // It is told by the new one, once that accepts connections: a signal now would come before.
        let patience = TAKEOVER + self.config.drain_timeout + AFTER_DRAIN;
        self.draining.spawn(async move { before.until_ended(patience).await });
        Ok(address)
    }

    fn drain(&mut self, router: Option<Service>) {
        let patience = self.config.drain_timeout + AFTER_DRAIN;
        if let Some(router) = router {
            self.draining.spawn(async move { router.stop(patience).await });
        }
    }

    /// Lets the router go on without this launcher.
    pub(crate) async fn leave(self) {
        self.current.leave().await;
    }

    /// Has the router drain and end.
    pub(crate) async fn end(mut self) {
        let patience = self.config.drain_timeout + AFTER_DRAIN;
        self.current.stop(patience).await;
        while self.draining.join_next().await.is_some() {}
        if let Keeping::Outliving(folder) = &self.keeping
            && let Err(error) = Files::new(folder, &key(self.number)).remove()
        {
            tracing::warn!(%error, "could not remove what the router left");
        }
    }

    /// What ends it at once, from elsewhere.
    pub(crate) fn killer(&self) -> Killer {
        self.current.killer()
    }

    fn spec(&self, number: u64) -> Spec {
        spec(&self.config, &self.keeping, &self.paths, number)
    }
}

/// Where a router listens, once it does.
async fn listening(state: watch::Receiver<State>) -> anyhow::Result<SocketAddr> {
    match ready(state, "router").await? {
        Announcement::Listening(address) => Ok(address),
        Announcement::Ready(_) => anyhow::bail!("the router did not say where it listens"),
    }
}

/// The number of the latest router that lives, and those of others, which are to end.
fn known(keeping: &Keeping) -> anyhow::Result<(Option<u64>, Vec<u64>)> {
    let Keeping::Outliving(folder) = keeping else { return Ok((None, Vec::new())) };
    let found = Files::all(folder).with_context(|| folder.display().to_string())?;
    let living =
        found.iter().filter(|files| files.read().is_some_and(|record| record.hold().is_some()));
    let number = |files: &Files| files.key().strip_prefix(KEY)?.parse().ok();
    let mut numbers: Vec<u64> = living.filter_map(number).collect();
    numbers.sort_unstable();
    Ok((numbers.pop(), numbers))
}

fn key(number: u64) -> String {
    format!("{KEY}{number}")
}

fn spec(config: &RouterConfig, keeping: &Keeping, paths: &RouterPaths, number: u64) -> Spec {
    let mut args: Vec<OsString> = vec!["router".into()];
    args.extend(["--listen".into(), config.listen.to_string().into()]);
    args.extend(["--launcher".into(), unix(&paths.control)]);
    args.extend(["--routing-table".into(), paths.table.clone().into()]);
    args.extend(["--takeover".into(), paths.takeover.clone().into()]);
    args.extend(["--database".into(), config.database.clone().into()]);
    args.extend(["--drain-timeout".into(), config.drain_timeout.as_secs().to_string().into()]);
    if config.no_auth {
        args.push("--no-auth".into());
    }
    let keep = match keeping {
        Keeping::Tied => {
            args.push("--exit-with-stdin".into());
            Keep::Tied
        }
        Keeping::Outliving(folder) => {
            Keep::Outliving { files: Files::new(folder, &key(number)), held: None }
        }
    };
    Spec {
        label: "router".to_owned(),
        program: config.program.clone(),
        args,
        socket: None,
        version: None,
        variables: config.variables.clone(),
        keep,
        pulse: Pulse::Router,
    }
}
