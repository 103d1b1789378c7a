//! Keeps a process running: starts it, reads what it announces, restarts it when it dies, and
//! stops it when told to.
//!
//! A process that dies before it was ever ready has a reason that a restart does not change (a bad
//! model, a taken port): that is reported and the end. One that dies later is started again, after
//! a delay that doubles while it keeps dying.

mod announcement;
mod backoff;
pub mod probe;
mod process;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use announcement::Announcement;
pub use backoff::Policy;

use backoff::Backoff;
use process::{Event, Process};

/// A process to keep running.
#[derive(Clone, Debug)]
pub struct Spec {
    /// What its output and log lines are marked with.
    pub label: &'static str,
    /// What to run.
    pub program: PathBuf,
    /// With which arguments.
    pub args: Vec<OsString>,
    /// The socket that it listens on: one that a dead process left is removed first.
    pub socket: Option<PathBuf>,
}

/// A process that is kept running. Dropping it kills the process.
#[derive(Debug)]
pub struct Service {
    state: watch::Receiver<State>,
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
    /// It died before it was ever ready, and will not be started again.
    Failed(Death),
    /// It was told to stop, and did.
    Stopped,
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
    Terminate { patience: Duration },
    Kill,
}

impl Service {
    /// Starts a process and keeps it running.
    pub fn start(spec: Spec, policy: Policy) -> Self {
        let (orders, received) = watch::channel(Order::Run);
        let (report, state) = watch::channel(State::Starting);
        let keeper = Keeper { spec, orders: received, report, backoff: Backoff::new(policy) };
        Self { state, orders, task: tokio::spawn(keeper.run()) }
    }

    /// How it is, now and later.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Waits until it announces itself for the first time.
    pub async fn ready(&self, label: &'static str) -> Result<Announcement, Error> {
        let mut state = self.state.clone();
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

    /// Waits until it dies, and says how; `None` if it was told to stop.
    pub async fn until_dead(&self) -> Option<Death> {
        let mut state = self.state.clone();
        loop {
            match &*state.borrow_and_update() {
                State::Failed(death) | State::Restarting(death) => return Some(death.clone()),
                State::Stopped => return None,
                State::Starting | State::Ready(_) => {}
            }
            if state.changed().await.is_err() {
                return None;
            }
        }
    }

    /// Asks it to end (SIGTERM), kills it after `patience`, and waits until it is gone.
    pub async fn stop(mut self, patience: Duration) {
        give(&self.orders, Order::Terminate { patience });
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
        // With the task goes the child, which is killed when dropped.
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
    orders: watch::Receiver<Order>,
    report: watch::Sender<State>,
    backoff: Backoff,
}

impl Keeper {
    async fn run(mut self) {
        let mut was_ready = false;
        loop {
            let started = Instant::now();
            let Some(death) = self.run_once(&mut was_ready).await else { break };
            if !was_ready {
                self.report.send_replace(State::Failed(death));
                return;
            }
            let delay = self.backoff.next(started.elapsed());
            tracing::error!(
                service = self.spec.label,
                status = %death,
                failures = self.backoff.failures(),
                delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
                "died; starting it again"
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
        let mut process = match Process::start(&self.spec) {
            Ok(process) => process,
            Err(error) => return Some(Death::NotStarted(error.to_string())),
        };
        loop {
            tokio::select! {
                event = process.next() => match event {
                    Event::Announced(announcement) => {
                        *was_ready = true;
                        self.pin_address(&announcement);
                        self.report.send_replace(State::Ready(announcement));
                    }
                    Event::Died(death) => {
                        process.last_words().await;
                        return Some(death);
                    }
                },
                order = next_order(&mut self.orders) => {
                    process.end(order, &mut self.orders).await;
                    return None;
                }
            }
        }
    }

    /// A port that the system chose stays: clients know it now.
    fn pin_address(&mut self, announcement: &Announcement) {
        let Announcement::Listening(address) = announcement else { return };
        let flag = self.spec.args.iter().position(|arg| arg == "--listen");
        if let Some(value) = flag.and_then(|flag| self.spec.args.get_mut(flag + 1)) {
            *value = address.to_string().into();
        }
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

/// Waits for an order to end.
async fn next_order(orders: &mut watch::Receiver<Order>) -> Order {
    match orders.wait_for(|order| *order > Order::Run).await {
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
