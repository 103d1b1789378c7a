//! Keeps a process running: starts it, reads what it announces, restarts it when it dies or hangs,
//! and stops it when told to.
//!
//! A process is tied to this one by pipes and ends with it, or it outlives it: then it is written
//! down, and the next launcher that wants the same takes it over as it runs.
//!
//! A process that dies before it was ever ready has a reason that a restart does not change (a bad
//! model, a taken port): that is reported and the end. One that dies later is started again, after
//! a delay that doubles while it keeps dying.

mod announcement;
mod backoff;
mod identity;
pub mod probe;
mod process;
mod pulse;
mod record;
mod tail;

use std::ffi::OsString;
use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use announcement::Announcement;
pub use backoff::Policy;
pub use identity::{Held, ProcessId};
pub(crate) use process::end;
pub use pulse::Pulse;
pub use record::{Files, Record};

use backoff::Backoff;
use process::{Event, Process};

/// A process that was started from something else than what is wanted now gets so long to end.
const REPLACED: Duration = Duration::from_secs(10);

/// A process to keep running.
#[derive(Clone, Debug)]
pub struct Spec {
    /// What its output and log lines are marked with.
    pub label: String,
    /// What to run.
    pub program: PathBuf,
    /// With which arguments.
    pub args: Vec<OsString>,
    /// The socket that it listens on: one that a dead process left is removed first.
    pub socket: Option<PathBuf>,
    /// The version that it serves, for its record.
    pub version: Option<String>,
    /// Variables of the environment that it heeds: with other values it is another process.
    pub variables: Vec<(String, OsString)>,
    /// What becomes of it when this process ends.
    pub keep: Keep,
    /// How a hang is noticed.
    pub pulse: Pulse,
}

/// What becomes of a process when the one that started it ends.
#[derive(Clone, Debug)]
pub enum Keep {
    /// It ends too: pipes connect the two.
    Tied,
    /// It goes on.
    Outliving {
        /// Where it is written down, and what it writes.
        files: Files,
        /// A file that the process keeps open: a lock on it is the process's own.
        held: Option<Arc<File>>,
    },
}

/// A process that is kept running. Dropping it kills the process, unless that outlives this one.
#[derive(Debug)]
pub struct Service {
    state: watch::Receiver<State>,
    running: watch::Receiver<Option<Running>>,
    orders: watch::Sender<Order>,
    task: JoinHandle<()>,
}

/// Tells a service to end, from elsewhere.
#[derive(Clone, Debug)]
pub struct Killer(watch::Sender<Order>);

/// How a service is.
#[derive(Clone, Debug)]
pub enum State {
    /// It was started and has not announced itself.
    Starting,
    /// It announced itself.
    Ready(Announcement),
    /// It died and will be started again.
    Restarting(Death),
    /// It died and will not be started again: it was never ready, or its first life was its last.
    Failed(Death),
    /// It was told to stop, and did.
    Stopped,
}

/// Which process a service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    /// The process.
    pub process: ProcessId,
    /// When it was started, in seconds since 1970.
    pub started: u64,
    /// This launcher did not start it, but found it.
    pub adopted: bool,
    /// How often the service was started again.
    pub num_restarts: u32,
}

impl Running {
    fn started(process: ProcessId) -> Self {
        let started = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
        Self { process, started, adopted: false, num_restarts: 0 }
    }
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Death {
    /// It could not be started.
    #[error("it could not be started: {0}")]
    NotStarted(String),
    /// It ended.
    #[error("{0}")]
    Exited(ExitStatus),
    /// It ended, and was another's child: only that is told how.
    #[error("it ended, and only the launcher before would know how")]
    Unseen,
    /// It was another's child, and said that it had drained before it ended.
    #[error("it drained and ended")]
    Drained,
    /// It lived, did not answer any more, and was killed.
    #[error("it did not answer any more and was killed")]
    Silent,
}

impl Death {
    /// Whether it drained and ended by itself, as it does when it is told to.
    pub fn is_orderly(&self) -> bool {
        match self {
            Self::Exited(status) => status.success(),
            Self::Drained => true,
            Self::NotStarted(_) | Self::Unseen | Self::Silent => false,
        }
    }
}

/// Why a service never became ready.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It died first.
    #[error("the {label} ended before it was ready: {death}")]
    Failed {
        /// Which one.
        label: &'static str,
        /// How.
        death: Death,
    },
    /// It was told to stop first.
    #[error("stopped before it was ready")]
    Stopped,
}

/// What a service is told. Only ever goes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Order {
    Run,
    /// It will end by itself, and is not started again.
    Last,
    Leave,
    Terminate {
        patience: Duration,
    },
    Kill,
}

impl Service {
    /// Starts a process and keeps it running.
    pub fn start(spec: Spec, policy: Policy) -> Self {
        Self::with(Keeper::new(spec, Some(policy)))
    }

    /// As [`Self::start`], at an address that another process of the kind has already.
    pub fn start_at(spec: Spec, policy: Policy, address: SocketAddr) -> Self {
        Self::with(Keeper { address: Some(address), ..Keeper::new(spec, Some(policy)) })
    }

    /// Starts a process; what becomes of one that dies is somebody else's business.
    pub fn start_once(spec: Spec) -> Self {
        Self::with(Keeper::new(spec, None))
    }

    /// Takes over the process that a launcher before has started, whatever it was started from;
    /// what becomes of it when it dies is somebody else's business. `None`: it is gone.
    pub fn adopt(spec: Spec) -> Option<Self> {
        let found = Process::find(&spec)?;
        Some(Self::with(Keeper { found: Some(found), ..Keeper::new(spec, None) }))
    }

    fn with(keeper: Keeper) -> Self {
        let (state, running) = (keeper.report.subscribe(), keeper.running.subscribe());
        let orders = keeper.order.clone();
        Self { state, running, orders, task: tokio::spawn(keeper.run()) }
    }

    /// Which process it is, now and later.
    pub fn process(&self) -> watch::Receiver<Option<Running>> {
        self.running.clone()
    }

    /// How it is, now and later.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Which process it is. `None`: none was started yet.
    pub fn running(&self) -> Option<Running> {
        *self.running.borrow()
    }

    /// Waits until it announces itself for the first time.
    pub async fn ready(&self, label: &'static str) -> Result<Announcement, Error> {
        ready(self.state(), label).await
    }

    /// Asks it to end (SIGTERM), kills it after `patience`, and waits until it is gone.
    pub async fn stop(mut self, patience: Duration) {
        give(&self.orders, Order::Terminate { patience });
        if let Err(error) = (&mut self.task).await {
            tracing::error!(%error, "a supervisor failed");
        }
    }

    /// Waits until it ends by itself, and does not start it again; asks it to end (SIGTERM) after
    /// `patience`.
    pub async fn until_ended(mut self, patience: Duration) {
        give(&self.orders, Order::Last);
        if tokio::time::timeout(patience, &mut self.task).await.is_err() {
            self.stop(REPLACED).await;
        }
    }

    /// Lets a process that outlives this one go on, without anybody who keeps it running.
    pub async fn leave(mut self) {
        give(&self.orders, Order::Leave);
        if let Err(error) = (&mut self.task).await {
            tracing::error!(%error, "a supervisor failed");
        }
    }

    /// What ends it at once, from elsewhere.
    pub fn killer(&self) -> Killer {
        Killer(self.orders.clone())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // With the task goes the child, which is killed when dropped if it is tied to this process.
        self.task.abort();
    }
}

impl Killer {
    /// Kills the process (SIGKILL).
    pub fn kill(&self) {
        give(&self.0, Order::Kill);
    }
}

fn give(orders: &watch::Sender<Order>, order: Order) {
    orders.send_if_modified(|current| {
        let is_more = order > *current;
        *current = order.max(*current);
        is_more
    });
}

struct Keeper {
    spec: Spec,
    /// Where it listens, once that is known: clients know it then.
    address: Option<SocketAddr>,
    /// What a launcher before has started.
    found: Option<Process>,
    order: watch::Sender<Order>,
    orders: watch::Receiver<Order>,
    report: watch::Sender<State>,
    running: watch::Sender<Option<Running>>,
    /// `None`: the first life is the last.
    backoff: Option<Backoff>,
}

impl Keeper {
    fn new(spec: Spec, policy: Option<Policy>) -> Self {
        let (order, orders) = watch::channel(Order::Run);
        Self {
            spec,
            address: None,
            found: None,
            order,
            orders,
            report: watch::Sender::new(State::Starting),
            running: watch::Sender::new(None),
            backoff: policy.map(Backoff::new),
        }
    }

    async fn run(mut self) {
        let mut was_ready = false;
        if self.found.is_none() {
            self.found = Process::adopt(&self.spec, REPLACED).await;
        }
        loop {
            let started = Instant::now();
            let Some(death) = self.run_once(&mut was_ready).await else { break };
            if *self.orders.borrow() >= Order::Last {
                break;
            }
            let backoff = self.backoff.as_mut().filter(|_| was_ready);
            let Some(backoff) = backoff else {
                tell_of_end(&self.spec.label, &death);
                self.report.send_replace(State::Failed(death));
                return;
            };
            let delay = backoff.next(started.elapsed());
            tell_of_end(&self.spec.label, &death);
            tracing::info!(
                service = self.spec.label,
                in_a_row = backoff.num_in_row(),
                delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
                "starting it again"
            );
            self.report.send_replace(State::Restarting(death));
            if !self.pause(delay).await {
                break;
            }
            self.report.send_replace(State::Starting);
        }
        self.report.send_replace(State::Stopped);
    }

    /// One life of the process. Returns how it died, or `None` if it was told to end.
    async fn run_once(&mut self, was_ready: &mut bool) -> Option<Death> {
        let found = self.found.take();
        let mut process = match found.map_or_else(|| self.start(), Ok) {
            Ok(process) => process,
            Err(error) => return Some(Death::NotStarted(error.to_string())),
        };
        self.note(process.running());
        let mut hang = std::pin::pin!(futures::future::OptionFuture::default());
        loop {
            tokio::select! {
                event = process.next() => match event {
                    Event::Announced(announcement) => {
                        *was_ready = true;
                        if let Announcement::Listening(address) = &announcement {
                            self.address = Some(*address);
                        }
                        hang.set(self.hang(&announcement, process.running().process).into());
                        self.report.send_replace(State::Ready(announcement));
                    }
                    Event::Died(death) => {
                        process.last_words().await;
                        return Some(death);
                    }
                },
                Some(()) = &mut hang => {
                    tracing::error!(service = self.spec.label, "does not answer: killing it");
                    process.kill().await;
                    process.last_words().await;
                    return Some(Death::Silent);
                }
                order = next_order(&mut self.orders) => {
                    if order != Order::Leave {
                        process.end(order, &mut self.orders).await;
                    }
                    return None;
                }
            }
        }
    }

    fn note(&self, running: Running) {
        self.running.send_modify(|now| {
            let num_restarts = now.map_or(0, |before| before.num_restarts + 1);
            *now = Some(Running { num_restarts, ..running });
        });
    }

    /// What resolves when the process hangs. `None`: nobody can tell.
    fn hang(
        &self,
        announcement: &Announcement,
        process: ProcessId,
    ) -> Option<impl Future<Output = ()> + use<>> {
        let target = match (self.spec.pulse, announcement) {
            (Pulse::Worker, Announcement::Ready(_)) => {
                pulse::Target::Worker(self.spec.socket.clone()?)
            }
            (Pulse::Router, Announcement::Listening(address)) => {
                pulse::Target::Router(reachable(*address))
            }
            (Pulse::None | Pulse::Worker | Pulse::Router, _) => return None,
        };
        Some(async move { pulse::until_silent(&target, process).await })
    }

    /// A port that the system chose stays: clients know it now.
    fn start(&self) -> std::io::Result<Process> {
        let mut args = self.spec.args.clone();
        let flag = args.iter().position(|arg| arg == "--listen");
        let value = flag.and_then(|flag| args.get_mut(flag + 1));
        if let (Some(address), Some(value)) = (self.address, value) {
            *value = address.to_string().into();
        }
        Process::start(&self.spec, &args)
    }

    /// Whether to go on after `delay`.
    async fn pause(&mut self, delay: Duration) -> bool {
        #[expect(clippy::disallowed_methods, reason = "the back-off between restarts")]
        let delay = tokio::time::sleep(delay);
        tokio::select! {
            () = delay => true,
            _ = next_order(&mut self.orders) => false,
        }
    }
}

/// Tells of an end that nobody here asked for.
fn tell_of_end(label: &str, death: &Death) {
    if death.is_orderly() {
        tracing::warn!(service = label, "ended in order, though the launcher did not tell it to");
    } else {
        tracing::error!(service = label, status = %death, "died");
    }
}

/// Waits until the service whose state this is announces itself for the first time.
pub async fn ready(
    mut state: watch::Receiver<State>,
    label: &'static str,
) -> Result<Announcement, Error> {
    loop {
        match &*state.borrow_and_update() {
            State::Ready(announcement) => return Ok(announcement.clone()),
            State::Failed(death) => return Err(Error::Failed { label, death: death.clone() }),
            State::Stopped => return Err(Error::Stopped),
            State::Starting | State::Restarting(_) => {}
        }
        if state.changed().await.is_err() {
            return Err(Error::Stopped);
        }
    }
}

/// Waits for an order to end.
async fn next_order(orders: &mut watch::Receiver<Order>) -> Order {
    match orders.wait_for(|order| *order > Order::Last).await {
        Ok(order) => *order,
        Err(_) => Order::Kill,
    }
}

/// Where a local client reaches what listens on `address`.
pub fn reachable(address: SocketAddr) -> SocketAddr {
    let mut address = address;
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}
