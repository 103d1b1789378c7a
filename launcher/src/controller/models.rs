//! The versions that a fleet can serve, and how a worker of each is started.
//!
//! What a version needs is asked of a worker once (`sconce worker --describe`) and kept: the same
//! question gets the same answer while other workers take memory, so that a worker is found again by
//! the flags that it was started with.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::catalogue::Catalogue;
use crate::cli::{FitArgs, Room, Subject, fit};
use crate::digest::Sha256Hash;
use crate::fleet::{Memory, WHOLE};
use crate::name::{ModelId, ModelName, Tag, VersionId};
use crate::progress::Progress;
use crate::pull::{self, Puller};
use crate::settings::{Network, Settings};
use crate::store::files::fingerprint;
use crate::store::{self, Check, InUse, Manifest, Store};

/// The device of workers on the processor.
fn cpu() -> String {
    "cpu".to_owned()
}

/// How a worker of a version is started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Prepared {
    /// What was asked, as a hash: another question needs another answer.
    question: String,
    /// What the worker loads.
    pub(super) path: PathBuf,
    /// What the worker says that it serves.
    pub(super) name: String,
    /// What the files are.
    pub(super) digest: String,
    /// Threads of the forward pass.
    pub(super) threads: Option<NonZeroUsize>,
    /// Further flags.
    pub(super) args: Vec<String>,
    /// Memory that one replica takes.
    pub(super) needs: Memory,
    /// Where it runs.
    #[serde(default = "cpu")]
    device: String,
    /// Memory that all have together there, as far as is known.
    total_bytes: Option<u64>,
    /// A path of the user's, which no store keeps.
    is_local: bool,
}

/// What the command line says of all workers.
#[derive(Clone, Debug)]
pub(crate) struct WorkerConfig {
    /// What runs as worker.
    pub(crate) program: PathBuf,
    /// Threads of the forward pass.
    pub(crate) threads: Option<NonZeroUsize>,
    /// How much a model is to serve at once.
    pub(crate) fit: FitArgs,
    /// Further flags.
    pub(crate) args: Vec<OsString>,
    /// What the environment says to workers.
    pub(crate) variables: Vec<(String, OsString)>,
    /// The part of the memory that each model gets, of 10,000, unless it has a share of its own.
    pub(crate) part: u16,
    /// Models' own shares, of 10,000.
    pub(crate) shares: BTreeMap<ModelId, u16>,
}

/// The versions that a fleet can serve.
#[derive(Debug)]
pub(super) struct Models {
    settings: Settings,
    store: Store,
    config: WorkerConfig,
    known: Mutex<BTreeMap<VersionId, Prepared>>,
    /// What each worker runs: its memory is not free, and will be.
    loaded: Mutex<Vec<VersionId>>,
}

impl Models {
    pub(super) fn new(settings: Settings, config: WorkerConfig) -> Self {
        let store = Store::new(settings.home.clone());
        let (known, loaded) = (Mutex::default(), Mutex::default());
        Self { settings, store, config, known, loaded }
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// Goes on from what a launcher before has found out.
    pub(super) fn restore(&self, known: BTreeMap<VersionId, Prepared>) {
        *lock(&self.known) = known;
    }

    /// Everything that was found out.
    pub(super) fn all(&self) -> BTreeMap<VersionId, Prepared> {
        lock(&self.known).clone()
    }

    /// Notes what each worker runs.
    pub(super) fn set_loaded(&self, loaded: Vec<VersionId>) {
        *lock(&self.loaded) = loaded;
    }

    /// How a worker of a version is started.
    pub(super) fn prepared(&self, version: &VersionId) -> Result<Prepared, store::Error> {
        let known = lock(&self.known).get(version).cloned();
        known.ok_or_else(|| store::Error::Absent(version.to_string()))
    }

    /// Keeps a version from being removed from the store. `None`: it is not there.
    pub(super) fn hold(&self, version: &VersionId) -> Result<Option<InUse>, store::Error> {
        let is_local = lock(&self.known).get(version).is_some_and(|known| known.is_local);
        if is_local { Ok(None) } else { self.store.try_hold(version).map(Some) }
    }

    /// Forgets a version.
    pub(super) fn forget(&self, version: &VersionId) {
        lock(&self.known).remove(version);
    }

    /// What a name of the store stands for.
    pub(super) fn find(&self, name: &ModelName) -> Result<Manifest, store::Error> {
        self.store.get(name)
    }

    /// Finds out how a version of the store is served. What it lacks is not fetched.
    pub(super) async fn prepare(&self, name: &ModelName) -> anyhow::Result<VersionId> {
        let manifest = self.find(name)?;
        let mut settings = self.settings.clone();
        settings.hub.network = Network::Offline;
        let puller = Puller::new(settings, Catalogue::built_in()?, Progress::Silent);
        let id = ModelName::Version(manifest.id.clone());
        let pulled = puller.pull(&id, Check::IfTouched).await?;
        let manifest = pulled.manifest().cloned().unwrap_or(manifest);
        let name = manifest.id.to_string();
        self.prepare_manifest(&manifest, &name).await
    }

    /// Finds out how a version is served whose files are there.
    pub(super) async fn prepare_manifest(
        &self,
        manifest: &Manifest,
        name: &str,
    ) -> anyhow::Result<VersionId> {
        let known = self.prepared(&manifest.id).ok();
        // What a version's worker was told that it serves stays: clients are told by routers.
        let name = known.map_or_else(|| name.to_owned(), |known| known.name);
        let model =
            pull::Model { name, path: manifest.model.clone(), version: manifest.version.clone() };
        let defaults = |given: &[OsString]| Ok(self.store.worker_args(manifest, given)?);
        let version = manifest.id.clone();
        self.ask(version.clone(), (&model, false), defaults).await?;
        Ok(version)
    }

    /// Finds out how a path of the user's is served.
    pub(super) async fn prepare_local(&self, model: &pull::Model) -> anyhow::Result<VersionId> {
        // Its version is made of what tells that the files were touched.
        let version: VersionId = format!("{}@1", model.version).parse()?;
        self.ask(version.clone(), (model, true), |_| Ok(Vec::new())).await?;
        Ok(version)
    }

    async fn ask(
        &self,
        version: VersionId,
        (model, is_local): (&pull::Model, bool),
        defaults: impl FnOnce(&[OsString]) -> anyhow::Result<Vec<OsString>>,
    ) -> anyhow::Result<()> {
        let part = self.config.shares.get(&version.model).copied().unwrap_or(self.config.part);
        let WorkerConfig { program, threads, fit: typed, args: given, .. } = &self.config;
        let question = self.question(model, part);
        if self.prepared(&version).is_ok_and(|known| known.question == question) {
            return Ok(());
        }
        let loaded = self.loaded_memory();
        let reserved_bytes = move |device: &str| loaded.bytes(device);
        let part = f64::from(part) / f64::from(WHOLE);
        let room = Room { reserved_bytes: &reserved_bytes, part };
        let name = version.to_string();
        let subject = Subject { name: &name, program, path: &model.path, room };
        let fitted = fit(subject, *typed, given, defaults).await?;
        for reason in fitted.plan.iter().flat_map(|plan| &plan.reasons) {
            tracing::info!("{reason}");
        }
        let args = fitted.args.into_iter().map(|arg| {
            arg.into_string().map_err(|arg| anyhow::anyhow!("`{}` is not UTF-8", arg.display()))
        });
        let needs = fitted.plan.as_ref();
        let device = fitted.description.device;
        let prepared = Prepared {
            question,
            path: model.path.clone(),
            name: model.name.clone(),
            digest: model.version.clone(),
            threads: *threads,
            args: args.collect::<Result<_, _>>()?,
            needs: needs
                .map_or_else(Memory::default, |plan| Memory::on(&device, plan.needed_bytes)),
            device,
            total_bytes: fitted.total_bytes,
            is_local,
        };
        lock(&self.known).insert(version, prepared);
        Ok(())
    }

    /// What is asked of a model, as a hash. Another binary may answer otherwise.
    fn question(&self, model: &pull::Model, part: u16) -> String {
        let WorkerConfig { program, threads, fit, args, variables, .. } = &self.config;
        let binary = fingerprint(program).unwrap_or_default();
        let text = format!(
            "{model:?} {part} {program:?} {binary:?} {threads:?} {fit:?} {args:?} {variables:?}"
        );
        Sha256Hash::of(text.as_bytes()).to_string()
    }

    /// Asks again of versions that a launcher before has asked of, where the question is another
    /// now. Returns which; one of which there is no answer is served as before.
    pub(super) async fn refresh(&self) -> Vec<VersionId> {
        let mut refreshed = Vec::new();
        for (version, known) in self.all() {
            let Prepared { name, path, digest, is_local, question, .. } = known;
            let model = pull::Model { name, path, version: digest };
            let defaults = |given: &[OsString]| match is_local {
                true => Ok(Vec::new()),
                false => {
                    let manifest = self.find(&ModelName::Version(version.clone()))?;
                    Ok(self.store.worker_args(&manifest, given)?)
                }
            };
            if let Err(error) = self.ask(version.clone(), (&model, is_local), defaults).await {
                let error = format!("{error:#}");
                tracing::warn!(%version, error, "is served as before: the new flags do not do");
            } else if self.prepared(&version).is_ok_and(|now| now.question != question) {
                refreshed.push(version);
            }
        }
        refreshed
    }

    /// Memory that all workers may take together, as far as is known.
    pub(super) fn budget(&self) -> Memory {
        let mut budget = Memory::default();
        for Prepared { device, total_bytes, .. } in lock(&self.known).values() {
            let known = Some(budget.bytes(device)).filter(|bytes| *bytes > 0);
            // Where the system does not say, there is no limit.
            let most = known.max(*total_bytes).unwrap_or(u64::MAX);
            budget = budget.and(device, most);
        }
        budget
    }

    /// Models' own shares of it.
    pub(super) fn shares(&self) -> BTreeMap<ModelId, u16> {
        self.config.shares.clone()
    }

    fn loaded_memory(&self) -> Memory {
        let loaded = lock(&self.loaded).clone();
        let known = lock(&self.known);
        let mut sum = Memory::default();
        let needs = loaded.iter().filter_map(|id| known.get(id)).map(|known| &known.needs);
        needs.for_each(|needs| sum.add(needs));
        sum
    }

    /// What aliases of the store stand for, of these models.
    pub(super) fn aliases(&self, models: &BTreeSet<ModelId>) -> BTreeMap<Tag, VersionId> {
        let aliases = match self.store.lock() {
            Ok(lock) => lock.aliases,
            Err(error) => {
                tracing::warn!(%error, "could not read the aliases");
                return BTreeMap::new();
            }
        };
        aliases.into_iter().filter(|(_, id)| models.contains(&id.model)).collect()
    }
}

/// A map that a panic left is as good as before: each change is one insertion.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
