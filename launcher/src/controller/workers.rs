//! The worker processes of a fleet, by the numbers of its replicas.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::models::{Models, Prepared};
use super::{Message, PhasesMs};
use crate::fleet::{Event, Make, ReplicaId};
use crate::name::VersionId;
use crate::run_dir::RunDir;
use crate::store::InUse;
use crate::supervisor::{Files, Keep, Killer, Pulse, Record, Service, Spec, State};

const KEY: &str = "w";

/// A worker that nobody wants gets so long for what it runs.
const STRAY_PATIENCE: Duration = Duration::from_secs(60);

/// What becomes of a fleet's processes when its launcher ends.
#[derive(Clone, Debug)]
pub(crate) enum Keeping {
    /// They end too.
    Tied,
    /// They go on, written down in this folder.
    Outliving(PathBuf),
}

/// The worker processes.
pub(super) struct Workers {
    program: PathBuf,
    keeping: Keeping,
    run_dir: Arc<RunDir>,
    variables: Vec<(String, OsString)>,
    messages: mpsc::Sender<Message>,
    running: BTreeMap<ReplicaId, Worker>,
    tasks: JoinSet<()>,
}

struct Worker {
    version: VersionId,
    address: String,
    stage: Stage,
    end: Option<oneshot::Sender<End>>,
    killer: Killer,
    /// What its start took, if this launcher started it.
    phases: Option<Map<String, Value>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Starting,
    Ready,
    Ending,
}

/// How a worker's process is parted with.
enum End {
    Stop(Duration),
    Leave,
}

impl Workers {
    pub(super) fn new(
        (program, variables): (PathBuf, Vec<(String, OsString)>),
        (keeping, run_dir): (Keeping, Arc<RunDir>),
        messages: mpsc::Sender<Message>,
    ) -> Self {
        let tasks = JoinSet::new();
        let running = BTreeMap::new();
        Self { program, keeping, run_dir, variables, messages, running, tasks }
    }

    /// Starts a worker of a version.
    pub(super) fn spawn(
        &mut self,
        id: ReplicaId,
        version: &VersionId,
        models: &Models,
    ) -> anyhow::Result<()> {
        let prepared = models.prepared(version)?;
        let in_use = models.hold(version)?;
        let spec = self.spec(id, (version, &prepared), in_use.as_ref())?;
        self.watch(id, version, Service::start_once(spec), in_use);
        Ok(())
    }

    /// Finds a worker that a launcher before has started. Says whether it is there.
    pub(super) fn adopt(
        &mut self,
        id: ReplicaId,
        version: &VersionId,
        models: &Models,
    ) -> anyhow::Result<Found> {
        let Keeping::Outliving(folder) = &self.keeping else { return Ok(Found::Gone) };
        let files = Files::new(folder, &key(id));
        let Some(record) = files.read() else { return Ok(Found::Gone) };
        let prepared = models.prepared(version)?;
        let in_use = models.hold(version)?;
        let mut spec = self.spec(id, (version, &prepared), in_use.as_ref())?;
        let is_as_wanted = record.is_of(&spec);
        // Where it listens is where it was told to, wherever sockets would go now.
        spec.socket = record.socket.clone();
        let Some(service) = Service::adopt(spec) else {
            files.remove()?;
            return Ok(Found::Gone);
        };
        self.watch_at(id, version, (service, record), in_use);
        Ok(Found::Alive(if is_as_wanted { Make::Current } else { Make::Outdated }))
    }

    /// Ends workers of a launcher before that nobody wants.
    pub(super) fn end_strays(&self) {
        let Keeping::Outliving(folder) = &self.keeping else { return };
        let found = Files::all(folder).unwrap_or_default();
        let ids = found.iter().filter_map(|files| files.key().strip_prefix(KEY)?.parse().ok());
        ids.map(ReplicaId).filter(|id| !self.is_known(*id)).for_each(|id| self.end_stray(id));
    }

    /// Ends a worker of a launcher before that nobody wants.
    pub(super) fn end_stray(&self, id: ReplicaId) {
        let Keeping::Outliving(folder) = &self.keeping else { return };
        let files = Files::new(folder, &key(id));
        tokio::spawn(async move {
            if let Some(record) = files.read()
                && let Some(held) = record.hold()
            {
                crate::supervisor::end(&record.label, &held, STRAY_PATIENCE).await;
            }
            if let Err(error) = files.remove() {
                tracing::warn!(%error, "could not remove what a worker left");
            }
        });
    }

    fn watch_at(
        &mut self,
        id: ReplicaId,
        version: &VersionId,
        (service, record): (Service, Record),
        in_use: Option<InUse>,
    ) {
        self.watch(id, version, service, in_use);
        if let (Some(worker), Some(socket)) = (self.running.get_mut(&id), record.socket) {
            worker.address = unix(&socket).to_string_lossy().into_owned();
        }
    }

    fn watch(
        &mut self,
        id: ReplicaId,
        version: &VersionId,
        service: Service,
        in_use: Option<InUse>,
    ) {
        let (end, ended) = oneshot::channel();
        let address = unix(&self.socket(id)).to_string_lossy().into_owned();
        let killer = service.killer();
        let worker = Worker {
            version: version.clone(),
            address,
            stage: Stage::Starting,
            end: Some(end),
            killer,
            phases: None,
        };
        self.running.insert(id, worker);
        let messages = self.messages.clone();
        self.tasks.spawn(async move {
            // Held for as long as this launcher watches it.
            let _in_use = in_use;
            live(id, service, ended, &messages).await;
        });
    }

    /// Asks a worker to end.
    pub(super) fn stop(&mut self, id: ReplicaId, patience: Duration) {
        if let Some(worker) = self.running.get_mut(&id) {
            worker.stage = Stage::Ending;
            let end = worker.end.take();
            // Without anybody who takes it, the worker has ended by itself.
            let _ = end.map(|end| end.send(End::Stop(patience)));
        }
    }

    /// Kills a worker.
    pub(super) fn kill(&mut self, id: ReplicaId) {
        if let Some(worker) = self.running.get_mut(&id) {
            worker.stage = Stage::Ending;
            worker.killer.kill();
        }
    }

    /// Whether a worker is known.
    pub(super) fn is_known(&self, id: ReplicaId) -> bool {
        self.running.contains_key(&id)
    }

    /// Notes that a worker can be used, and says where.
    pub(super) fn ready(
        &mut self,
        id: ReplicaId,
        phases: Option<Map<String, Value>>,
    ) -> Option<String> {
        let worker = self.running.get_mut(&id)?;
        worker.phases = phases;
        if worker.stage == Stage::Starting {
            worker.stage = Stage::Ready;
        }
        Some(worker.address.clone())
    }

    /// What the start of each version's worker took.
    pub(super) fn start_phases(&self) -> PhasesMs {
        let known = self.running.values();
        known.filter_map(|it| Some((it.version.to_string(), it.phases.clone()?))).collect()
    }

    /// Forgets a worker that has ended.
    pub(super) fn forget(&mut self, id: ReplicaId) {
        self.running.remove(&id);
        if let Keeping::Outliving(folder) = &self.keeping
            && let Err(error) = Files::new(folder, &key(id)).remove()
        {
            tracing::warn!(%error, "could not remove what a worker left");
        }
    }

    /// Workers that are being loaded: routers may connect to them already.
    pub(super) fn starting(&self) -> impl Iterator<Item = (&str, &VersionId)> {
        let starting = self.running.values().filter(|worker| worker.stage == Stage::Starting);
        starting.map(|worker| (worker.address.as_str(), &worker.version))
    }

    /// Lets all processes go on without this launcher.
    pub(super) async fn leave(mut self) {
        self.end_all(|| End::Leave).await;
    }

    /// Asks all processes to end, and waits until they have.
    pub(super) async fn end(mut self, patience: Duration) {
        self.end_all(|| End::Stop(patience)).await;
        if let Keeping::Outliving(folder) = &self.keeping {
            for id in self.running.keys() {
                if let Err(error) = Files::new(folder, &key(*id)).remove() {
                    tracing::warn!(%error, "could not remove what a worker left");
                }
            }
        }
    }

    async fn end_all(&mut self, end: impl Fn() -> End) {
        for worker in self.running.values_mut() {
            let _ = worker.end.take().map(|order| order.send(end()));
        }
        while self.tasks.join_next().await.is_some() {}
    }

    /// What ends all of them at once, from elsewhere.
    pub(super) fn killers(&self) -> Vec<Killer> {
        self.running.values().map(|worker| worker.killer.clone()).collect()
    }

    fn socket(&self, id: ReplicaId) -> PathBuf {
        self.run_dir.socket(&key(id))
    }

    fn spec(
        &self,
        id: ReplicaId,
        (version, prepared): (&VersionId, &Prepared),
        in_use: Option<&InUse>,
    ) -> std::io::Result<Spec> {
        let socket = self.socket(id);
        let mut args: Vec<OsString> = vec!["worker".into(), "--model".into()];
        args.push(prepared.path.clone().into());
        args.extend(["--name".into(), OsString::from(&prepared.name)]);
        args.extend(["--version".into(), OsString::from(&prepared.digest)]);
        args.extend(["--listen".into(), unix(&socket)]);
        if let Some(threads) = prepared.threads {
            args.extend(["--threads".into(), threads.to_string().into()]);
        }
        let keep = match &self.keeping {
            Keeping::Tied => {
                args.push("--exit-with-stdin".into());
                Keep::Tied
            }
            Keeping::Outliving(folder) => {
                let held = in_use.map(InUse::share).transpose()?.map(Arc::new);
                Keep::Outliving { files: Files::new(folder, &key(id)), held }
            }
        };
        args.extend(prepared.args.iter().map(OsString::from));
        Ok(Spec {
            label: format!("{version} #{} worker", id.0),
            program: self.program.clone(),
            args,
            socket: Some(socket),
            version: Some(version.to_string()),
            variables: self.variables.clone(),
            keep,
            pulse: Pulse::Worker,
        })
    }
}

/// Whether the worker of a launcher before is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// It is.
    Alive(Make),
    /// It is not.
    Gone,
}

fn key(id: ReplicaId) -> String {
    format!("{KEY}{}", id.0)
}

/// What the workers run that a launcher before has left.
pub(super) fn living(keeping: &Keeping) -> Vec<VersionId> {
    let Keeping::Outliving(folder) = keeping else { return Vec::new() };
    let records = Files::all(folder).unwrap_or_default().into_iter().filter_map(|it| it.read());
    let living = records.filter(|record| record.hold().is_some());
    living.filter_map(|record| record.version?.parse().ok()).collect()
}

pub(super) fn unix(socket: &Path) -> OsString {
    let mut address = OsString::from("unix:");
    address.push(socket);
    address
}

/// Tells of a process until it ends or is parted with.
async fn live(
    id: ReplicaId,
    service: Service,
    mut ended: oneshot::Receiver<End>,
    messages: &mpsc::Sender<Message>,
) {
    let (mut state, mut process) = (service.state(), service.process());
    // Nobody listens only when everything ends.
    let tell = async |message| drop(messages.send(message).await);
    if process.wait_for(Option::is_some).await.is_ok() {
        let pid = process.borrow().map_or(0, |running| running.process.pid);
        let pid = u32::try_from(pid).unwrap_or(0);
        tell(Message::Event(Event::Spawned { replica: id, pid })).await;
    }
    let mut was_ready = false;
    loop {
        let now = state.borrow_and_update().clone();
        match now {
            State::Ready(announcement) => {
                was_ready = true;
                let is_own = service.running().is_some_and(|running| !running.adopted);
                let phases = announcement.phases_ms().filter(|_| is_own).cloned();
                tell(Message::Ready(id, phases)).await;
            }
            State::Failed(death) => {
                let event = match death.is_orderly() && was_ready {
                    true => Event::Left { replica: id },
                    // One that was never ready did not do what it was started for.
                    false => Event::Ended { replica: id, why: death.to_string() },
                };
                return tell(Message::Event(event)).await;
            }
            State::Stopped => {
                let why = "it was told to".to_owned();
                return tell(Message::Event(Event::Ended { replica: id, why })).await;
            }
            State::Starting | State::Restarting(_) => {}
        }
        tokio::select! {
            changed = state.changed() => if changed.is_err() { return },
            end = &mut ended => match end {
                Ok(End::Stop(patience)) => {
                    service.stop(patience).await;
                    let why = "it was told to".to_owned();
                    return tell(Message::Event(Event::Ended { replica: id, why })).await;
                }
                Ok(End::Leave) => return service.leave().await,
                // With the service goes a process that is tied to this one.
                Err(_) => return,
            },
        }
    }
}
