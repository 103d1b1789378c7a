//! Runs a fleet: tells the deciding core what happens, and does what it says.
//!
//! One loop owns the core. Everything else, processes, calls and files, sends it messages and is told
//! what to do; nothing that serves traffic waits for it.

mod golden;
mod models;
mod names;
mod overview;
mod pulls;
mod routers;
mod service;
mod socket;
mod state;
mod status;
mod workers;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Context;
use sconce_proto::fleet as proto;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Interval, MissedTickBehavior};

use crate::fleet::{
    self, Action, Event, Fleet, Make, OperationId, Order, Refusal, ReplicaId, Scale, Time,
    VersionState,
};
use crate::name::VersionId;
use crate::pull::Pulled;
use crate::run_dir::RunDir;
use crate::settings::Settings;
use crate::supervisor::Killer;

pub(crate) use golden::Golden;
pub use golden::{LendKey, LentKey};
pub(crate) use models::WorkerConfig;
pub(crate) use overview::{Overview, VersionOverview};
pub(crate) use routers::{RouterConfig, RouterPaths, Routers};
pub(crate) use service::SharedRouters;
pub(crate) use workers::Keeping;

use models::Models;
use state::{Files, Saved};
use workers::{Found, Workers};

/// Between two looks at the clock.
const TICK: Duration = Duration::from_millis(250);

/// Looks at the clock between two looks at the aliases.
const TICKS_PER_LOOK: u32 = 4;

/// A worker that drains has answered its requests by then; what it still does is quick.
const WORKER_PATIENCE: Duration = Duration::from_secs(10);

/// Messages that wait for the loop.
const MAX_MESSAGES: usize = 1024;

/// What a fleet is to be.
pub(crate) struct Config {
    /// The launcher's environment.
    pub(crate) settings: Settings,
    /// How workers are started.
    pub(crate) workers: WorkerConfig,
    /// What becomes of processes when the launcher ends.
    pub(crate) keeping: Keeping,
    /// Time that running requests get when a worker has to go.
    pub(crate) drain_timeout: Duration,
    /// Golden prompts are asked with this.
    pub(crate) golden: Golden,
}

/// A model of the command line.
pub(crate) struct Served {
    /// What clients call it.
    pub(crate) name: String,
    /// What it is.
    pub(crate) pulled: Pulled,
    /// How many replicas.
    pub(crate) scale: Scale,
}

/// A fleet that runs.
pub(crate) struct Controller {
    fleet: Fleet,
    models: Arc<Models>,
    workers: Workers,
    files: Files,
    saved: Saved,
    golden: Golden,
    drain_timeout: Duration,
    operations:
        BTreeMap<OperationId, mpsc::UnboundedSender<Result<proto::Progress, tonic::Status>>>,
    tables: watch::Sender<Option<proto::RoutingTable>>,
    statuses: watch::Sender<proto::FleetStatus>,
    /// For a live view, if there is one.
    overviews: Option<watch::Sender<Overview>>,
    handle: Handle,
    messages: mpsc::Receiver<Message>,
    ticks: Interval,
    num_ticks: u32,
    /// What names stand for, as it was when it was looked at last.
    current: BTreeMap<String, VersionId>,
    /// Versions that only an alias named, which were looked at.
    learnt: BTreeSet<VersionId>,
    run_dir: Arc<RunDir>,
    _server: Option<socket::Server>,
}

/// What the loop is told.
pub(crate) enum Message {
    /// Something happened.
    Event(Event),
    /// A worker can be used, and what its start took where this launcher started it.
    Ready(ReplicaId, Option<serde_json::Map<String, serde_json::Value>>),
    /// Somebody wants something.
    Order(Order, oneshot::Sender<Result<Updates, Refusal>>),
    /// What a name stands for now.
    Current(String, oneshot::Sender<Option<VersionId>>),
    /// What was ordered.
    History(oneshot::Sender<Vec<proto::HistoryEntry>>),
}

/// What the starts of versions' workers took: milliseconds by phase, in their order.
pub(crate) type PhasesMs = BTreeMap<String, serde_json::Map<String, serde_json::Value>>;

/// How an order stands, until it is done.
pub(crate) type Updates = mpsc::UnboundedReceiver<Result<proto::Progress, tonic::Status>>;

/// What calls reach the loop with.
#[derive(Clone)]
pub(crate) struct Handle {
    messages: mpsc::Sender<Message>,
    models: Arc<Models>,
    pulls: pulls::Pulls,
    tables: watch::Receiver<Option<proto::RoutingTable>>,
    statuses: watch::Receiver<proto::FleetStatus>,
}

impl Controller {
    /// Starts a fleet, or goes on with that of a launcher before, and serves its socket.
    pub(crate) async fn start(config: Config, served: &[Served]) -> anyhow::Result<Self> {
        let Config { settings, workers, keeping, drain_timeout, golden } = config;
        let (run_dir, files) = match &keeping {
            Keeping::Tied => {
                let run_dir = RunDir::passing(&settings)?;
                let table = run_dir.socket("table");
                (run_dir, Files::passing(table))
            }
            Keeping::Outliving(folder) => {
                crate::store::files::create_private(folder)
                    .with_context(|| folder.display().to_string())?;
                (RunDir::lasting(&settings, folder)?, Files::lasting(folder))
            }
        };
        let run_dir = Arc::new(run_dir);
        let program = (workers.program.clone(), workers.variables.clone());
        let models = Arc::new(Models::new(settings, workers));
        let before = files.load().context("reading what the launcher before has left")?;
        let mut saved = before.clone().unwrap_or_default();
        models.restore(saved.prepared.clone());
        models.set_loaded(workers::living(&keeping));
        let mut named = Vec::new();
        for served in served {
            named.push((served, prepare(&models, served).await?));
        }
        let refreshed = models.refresh().await;
        saved.prepared = models.all();
        let (sender, messages) = mpsc::channel(MAX_MESSAGES);
        let (tables, statuses) = (watch::Sender::new(None), watch::Sender::default());
        let handle = Handle {
            messages: sender.clone(),
            models: models.clone(),
            pulls: pulls::Pulls::default(),
            tables: tables.subscribe(),
            statuses: statuses.subscribe(),
        };
        let rules = fleet::Settings {
            budget: models.budget(),
            shares: models.shares(),
            patience: fleet::Patience { drain: drain_timeout, ..fleet::Patience::default() },
            ..fleet::Settings::default()
        };
        let (fleet, actions) = match before {
            Some(before) => Fleet::restore(rules, before.snapshot, now()),
            None => (Fleet::new(rules), Vec::new()),
        };
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut controller = Self {
            fleet,
            workers: Workers::new(program, (keeping, run_dir.clone()), sender),
            models,
            files,
            saved,
            golden,
            drain_timeout,
            operations: BTreeMap::new(),
            tables,
            statuses,
            overviews: None,
            handle,
            messages,
            ticks,
            num_ticks: 0,
            current: BTreeMap::new(),
            learnt: BTreeSet::new(),
            run_dir,
            _server: None,
        };
        controller.act(actions);
        controller.workers.end_strays();
        for version in refreshed {
            let needs = controller.models.prepared(&version)?.needs;
            controller.order(Order::Add { version, needs })?;
        }
        controller.name(&named)?;
        controller.follow_aliases();
        controller.tell();
        Ok(controller)
    }

    /// Takes calls on the control socket; returns where that is.
    pub(crate) fn listen(&mut self, routers: SharedRouters) -> anyhow::Result<PathBuf> {
        let socket = self.control_socket();
        let server = socket::Server::start(&socket, self.handle.clone(), routers);
        self._server = Some(server.with_context(|| socket.display().to_string())?);
        Ok(socket)
    }

    fn control_socket(&self) -> PathBuf {
        self.run_dir.socket("control")
    }

    /// What routers and this launcher meet at.
    pub(crate) fn router_paths(&self) -> RouterPaths {
        RouterPaths {
            control: self.control_socket(),
            takeover: self.run_dir.socket("takeover"),
            table: self.files.table().to_owned(),
        }
    }

    /// How the fleet is, a few times a second from now on.
    pub(crate) fn overviews(&mut self) -> watch::Receiver<Overview> {
        let overviews = watch::Sender::new(overview::of(&self.fleet));
        let received = overviews.subscribe();
        self.overviews = Some(overviews);
        received
    }

    /// Waits for something, and runs the fleet meanwhile.
    pub(crate) async fn until<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        loop {
            tokio::select! {
                output = &mut future => return output,
                () = self.turn() => {}
            }
        }
    }

    /// Takes one message, or notices that time passed. Can be cancelled.
    pub(crate) async fn turn(&mut self) {
        tokio::select! {
            message = self.messages.recv() => {
                // The handle has a sender: there is always one.
                if let Some(message) = message {
                    self.take(message);
                }
            }
            _ = self.ticks.tick() => {
                self.num_ticks = self.num_ticks.wrapping_add(1);
                if self.num_ticks.is_multiple_of(TICKS_PER_LOOK) {
                    self.follow_aliases();
                }
                self.step(Event::Tick);
                if let Some(overviews) = &self.overviews {
                    overviews.send_replace(overview::of(&self.fleet));
                }
            }
        }
        self.tell();
    }

    /// Whether all names of the command line can be used that are to be, or why one never will.
    pub(crate) fn is_ready(&self) -> Result<bool, String> {
        let status = self.fleet.status();
        let mut all = true;
        for (name, _) in self.saved.typed.iter().filter(|(_, typed)| typed.scale.min > 0) {
            let current = self.fleet.current(name);
            let version = status.versions.iter().find(|it| Some(&it.version) == current);
            let moves = status.rollouts.iter().any(|rollout| rollout.name == *name);
            match version.map(|version| (version.state, &version.error)) {
                Some((VersionState::Ready, _)) if !moves => {}
                Some((VersionState::Failed, error)) if !moves => {
                    return Err(error.clone().unwrap_or_else(|| "it failed".to_owned()));
                }
                Some(_) | None => all = false,
            }
        }
        Ok(all)
    }

    /// What the start of each version's worker took.
    pub(crate) fn start_phases(&self) -> PhasesMs {
        self.workers.start_phases()
    }

    /// The version that a name stands for.
    pub(crate) fn current(&self, name: &str) -> Option<&VersionId> {
        self.fleet.current(name)
    }

    /// Lets all workers go on without this launcher.
    pub(crate) async fn leave(mut self) {
        self.save();
        self.workers.leave().await;
    }

    /// Has all workers end: what they run is done, for the router is gone.
    pub(crate) async fn end(mut self) {
        self.save();
        self.workers.end(WORKER_PATIENCE).await;
    }

    /// What ends all workers at once, from elsewhere.
    pub(crate) fn killers(&self) -> Vec<Killer> {
        self.workers.killers()
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Event(event) => {
                if let Event::Ended { replica, .. } | Event::Left { replica } = &event {
                    self.workers.forget(*replica);
                }
                self.step(event);
            }
            Message::Ready(replica, phases) => {
                if let Some(address) = self.workers.ready(replica, phases) {
                    self.step(Event::Ready { replica, address });
                }
            }
            Message::Order(order, answer) => {
                let taken = self.order(order);
                // Whoever has gone does not want to know.
                let _ = answer.send(taken);
            }
            Message::Current(name, answer) => {
                let _ = answer.send(self.fleet.current(&name).cloned());
            }
            Message::History(answer) => {
                let _ = answer.send(self.fleet.history().map(Into::into).collect());
            }
        }
    }

    fn step(&mut self, event: Event) {
        let actions = self.fleet.step(now(), event);
        self.act(actions);
    }

    fn order(&mut self, order: Order) -> Result<Updates, Refusal> {
        if matches!(order, Order::Add { .. }) {
            self.fleet.add_devices(&self.models.budget());
        }
        let (operation, actions) = self.fleet.order(now(), order)?;
        let (updates, received) = mpsc::unbounded_channel();
        self.operations.insert(operation, updates);
        self.act(actions);
        Ok(received)
    }

    fn act(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Save => self.save(),
                Action::Publish => self.publish(),
                Action::Spawn { replica, version } => self.spawn(replica, &version),
                Action::Adopt { replica, version, .. } => self.adopt(replica, &version),
                Action::Stop { replica } => {
                    self.end_or_tell(replica);
                    self.workers.stop(replica, self.drain_timeout + WORKER_PATIENCE);
                }
                Action::Kill { replica } => {
                    self.end_or_tell(replica);
                    self.workers.kill(replica);
                }
                Action::Check { rollout, version, golden, .. } => {
                    let (checks, messages) = (self.golden.clone(), self.handle.messages.clone());
                    tokio::spawn(async move {
                        let verdict = checks.ask(&version, &golden).await;
                        let checked = Event::Checked { rollout, verdict };
                        // Nobody listens only when everything ends.
                        let _ = messages.send(Message::Event(checked)).await;
                    });
                }
                Action::Progress { operation, message, state } => {
                    let progress = progress(message, state);
                    if let Some(updates) = self.operations.get(&operation) {
                        let _ = updates.send(Ok(progress));
                    }
                }
                Action::Finished { operation, result, state } => {
                    let result = result
                        .map(|message| proto::Progress { done: true, ..progress(message, state) })
                        .map_err(tonic::Status::aborted);
                    if let Some(updates) = self.operations.remove(&operation) {
                        let _ = updates.send(result);
                    }
                }
            }
        }
        // Workers that are being loaded are in the table too.
        self.publish();
    }

    /// A worker that nobody knows has ended.
    fn end_or_tell(&self, replica: ReplicaId) {
        if !self.workers.is_known(replica) {
            self.later(Event::Ended { replica, why: "it was gone".to_owned() });
        }
    }

    fn spawn(&mut self, replica: ReplicaId, version: &VersionId) {
        if let Err(error) = self.workers.spawn(replica, version, &self.models) {
            self.later(Event::Ended { replica, why: format!("{error:#}") });
        }
    }

    fn adopt(&mut self, replica: ReplicaId, version: &VersionId) {
        let gone = |why: String| Event::Ended { replica, why };
        match self.workers.adopt(replica, version, &self.models) {
            Ok(Found::Alive(make)) => {
                if make == Make::Outdated {
                    tracing::info!(%version, replica = replica.0, "outdated: it will be exchanged");
                }
                self.later(Event::Found { replica, make });
            }
            Ok(Found::Gone) => self.later(gone("it was gone".to_owned())),
            Err(error) => {
                // Nobody could start another like it.
                self.workers.end_stray(replica);
                self.later(gone(format!("{error:#}")));
            }
        }
    }

    /// Tells the loop, which is not asked again from within itself.
    fn later(&self, event: Event) {
        let messages = self.handle.messages.clone();
        tokio::spawn(async move { drop(messages.send(Message::Event(event)).await) });
    }

    fn save(&mut self) {
        self.saved.snapshot = self.fleet.snapshot().clone();
        self.saved.prepared = self.models.all();
        if let Err(error) = self.files.save(&mut self.saved) {
            tracing::error!(%error, "could not keep what the next launcher needs");
        }
    }

    /// Gives routers the table, with workers that are being loaded: they connect meanwhile.
    fn publish(&mut self) {
        let mut table = proto::RoutingTable::from(self.fleet.table());
        for (address, version) in self.workers.starting() {
            if table.replicas.iter().all(|replica| replica.address != address) {
                let (address, version) = (address.to_owned(), version.to_string());
                table.replicas.push(proto::Replica { address, version, draining: false });
            }
        }
        if self.tables.borrow().as_ref() == Some(&table) {
            return;
        }
        if let Err(error) = self.files.save_table(&table) {
            tracing::error!(%error, "could not keep the routing table");
        }
        self.tables.send_replace(Some(table));
    }

    /// Tells those who watch, and the models, how things stand.
    fn tell(&mut self) {
        self.keep_aliases();
        let status = self.fleet.status();
        let loaded = status.replicas.iter().map(|replica| replica.version.clone());
        self.models.set_loaded(loaded.collect());
        let status = status::of(&status, self.fleet.table());
        self.statuses.send_if_modified(|now| {
            let is_news = *now != status;
            *now = status;
            is_news
        });
    }
}

async fn prepare(models: &Models, served: &Served) -> anyhow::Result<VersionId> {
    match &served.pulled {
        Pulled::Local(model) => {
            let model = crate::pull::Model { name: served.name.clone(), ..model.clone() };
            models.prepare_local(&model).await
        }
        Pulled::Present(manifest) | Pulled::Fetched(manifest) => {
            models.prepare_manifest(manifest, &served.name).await
        }
    }
}

fn progress(message: String, state: VersionState) -> proto::Progress {
    let state = proto::VersionState::from(state).into();
    proto::Progress { message, state, ..proto::Progress::default() }
}

fn now() -> Time {
    let now = UNIX_EPOCH.elapsed().unwrap_or_default().as_millis();
    Time::from_unix_ms(u64::try_from(now).unwrap_or(u64::MAX))
}
