//! The model store: which versions of which models are on this machine, and the files that no hub's
//! cache holds.
//!
//! It is files alone, each replaced whole: it works without a database, beside one of several
//! machines, and after a crash. Paths are made of hashes, never of names.

mod defaults;
mod draft;
pub(crate) mod files;
mod import;
mod lockfile;
mod manifest;
mod remove;
mod sampling;
#[cfg(test)]
mod tests;
mod usage;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub(crate) use defaults::has_flag;
pub use defaults::{Defaults, KvCacheDtype, Quantization, Speculation};
pub use import::{ImportError, Imported, Transfer};
pub use lockfile::{Lock, LockError, LockedFile, LockedVersion};
pub use manifest::{Check, Content, Damage, Manifest, ManifestFile, Source};
pub use remove::{Collected, Mode, Removed};
pub use sampling::SamplingDefaults;
pub use usage::InUse;

use crate::digest::{Hashes, Sha256Hash};
use crate::lock::{Hold, LockFile};
use crate::name::{ModelId, ModelName, RepoId, Tag, VersionId};
use draft::State;
use files::create_private;
use manifest::CREATED;

/// A file that is on this machine and was checked.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// Where it is.
    pub path: PathBuf,
    /// What it is.
    pub hashes: Hashes,
    /// Who put it there.
    pub origin: Origin,
}

/// Who put a file where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// A pull: removing the model removes it.
    Pulled,
    /// It was there before, and others may rely on it.
    Found,
}

/// The store below one directory.
#[derive(Clone, Debug)]
pub struct Store {
    home: PathBuf,
}

/// Why the store cannot do what it should.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk said no.
    #[error("{}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A manifest that is damaged or of another version.
    #[error("{} is no manifest that this version can read", .0.display())]
    Manifest(PathBuf),
    /// `models.lock` cannot be read or written.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// No such model.
    #[error("no model `{0}` in the store")]
    Absent(String),
    /// No such alias.
    #[error("no alias `{0}`")]
    NoAlias(Tag),
    /// The version is being served.
    #[error("`{0}` is in use by another sconce")]
    InUse(VersionId),
    /// An alias says that the version is needed.
    #[error("`{id}` is what the alias `{alias}` stands for")]
    Aliased {
        /// The version.
        id: VersionId,
        /// What names it.
        alias: Tag,
    },
    /// Two repositories want one name.
    #[error("the model `{model}` is from {source_of_other}, not from hf:{repo}")]
    NameTaken {
        /// The name.
        model: ModelId,
        /// Who has it.
        source_of_other: String,
        /// Who wants it.
        repo: RepoId,
    },
    /// A lock file speaks of other content than the store has under the same name and number.
    #[error("`{id}` is {here} in the store, and {wanted} in the lock file")]
    Conflict {
        /// The version.
        id: VersionId,
        /// The content that is here.
        here: String,
        /// The content that was asked for.
        wanted: String,
    },
    /// As many versions as can be counted.
    #[error("there are no more numbers for versions of `{0}`")]
    Numbers(ModelId),
}

impl Error {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}

/// What becomes of what the store has and a lock file doesn't.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extras {
    /// It stays.
    Keep,
    /// It is removed.
    Remove,
}

/// A version whose files were read again.
#[derive(Debug)]
pub struct Verified {
    /// What was pulled.
    pub manifest: Manifest,
    /// How the files differ from it.
    pub damage: Option<Damage>,
}

/// A version, and how things stand with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// What it is.
    #[serde(flatten)]
    pub manifest: Manifest,
    /// What users named it.
    pub aliases: Vec<Tag>,
    /// The length of all files together.
    pub size: u64,
    /// When it was last served, in seconds since 1970.
    pub last_used: Option<u64>,
    /// Whether it is being served now.
    pub running: bool,
}

impl Store {
    /// The store below `home`, which need not exist.
    pub fn new(home: PathBuf) -> Self {
        Self { home }
    }

    /// The version that `name` stands for, if it is here.
    pub fn find(&self, name: &ModelName) -> Result<Option<Manifest>, Error> {
        Ok(self.load()?.resolve(name).cloned())
    }

    /// The version that `name` stands for, which must be here.
    pub fn get(&self, name: &ModelName) -> Result<Manifest, Error> {
        self.find(name)?.ok_or_else(|| Error::Absent(name.to_string()))
    }

    /// Every version, by name and number.
    pub fn list(&self) -> Result<Vec<Listed>, Error> {
        let State { manifests, lock } = self.load()?;
        manifests.into_iter().map(|manifest| self.listed(manifest, &lock)).collect()
    }

    /// The number of versions, without a change of a store that is of an earlier sconce.
    pub(crate) fn peek(&self) -> Result<usize, Error> {
        let (state, unnumbered) = self.read()?;
        Ok(state.manifests.len() + unnumbered.len())
    }

    /// What `name` stands for, and how things stand with it.
    pub fn show(&self, name: &ModelName) -> Result<Listed, Error> {
        let state = self.load()?;
        let found = state.resolve(name).ok_or_else(|| Error::Absent(name.to_string()))?;
        self.listed(found.clone(), &state.lock)
    }

    fn listed(&self, manifest: Manifest, lock: &Lock) -> Result<Listed, Error> {
        let named = lock.aliases.iter().filter(|(_, id)| **id == manifest.id);
        Ok(Listed {
            aliases: named.map(|(alias, _)| alias.clone()).collect(),
            size: manifest.size(),
            last_used: self.last_used(&manifest.id)?,
            running: self.is_running(&manifest)?,
            manifest,
        })
    }

    /// The lock file as it is now: what another store can be made the same from.
    pub fn lock(&self) -> Result<Lock, Error> {
        Ok(self.load()?.lock)
    }

    /// Adds what `name` stands for now to the versions of `model`.
    pub(crate) fn add(
        &self,
        model: ModelId,
        name: &str,
        content: Content,
    ) -> Result<Manifest, Error> {
        self.change(|draft| draft.add(model, name, content))
    }

    /// Adds a version of `model` with the files of `base` and defaults of its own.
    pub fn create(
        &self,
        model: ModelId,
        base: &ModelName,
        defaults: Defaults,
    ) -> Result<Manifest, Error> {
        self.change(|draft| {
            let found = draft.state.resolve(base);
            let base = found.ok_or_else(|| Error::Absent(base.to_string()))?;
            let name = format!("{CREATED}{}", base.id);
            let mut content = base.content();
            let inherited = content.defaults.take().unwrap_or_default();
            content.defaults = Some(defaults.over(inherited));
            draft.add(model, &name, content)
        })
    }

    /// Puts a version back under its own number. What else has that number is a conflict.
    pub(crate) fn restore(
        &self,
        id: &VersionId,
        name: &str,
        content: Content,
    ) -> Result<Manifest, Error> {
        self.change(|draft| draft.restore(id, name, content))
    }

    /// Takes names and aliases from a lock file whose versions are here.
    pub(crate) fn adopt_names(&self, lock: &Lock, extras: Extras) -> Result<(), Error> {
        self.change(|draft| {
            let own = &mut draft.state.lock;
            if extras == Extras::Remove {
                own.aliases.clear();
                own.names.clear();
            }
            own.aliases.extend(lock.aliases.clone());
            own.names.extend(lock.names.clone());
            for (model, number) in &lock.next {
                let next = own.next.entry(model.clone()).or_insert(*number);
                *next = (*next).max(*number);
            }
            Ok(())
        })
    }

    /// Refuses a name that versions of other repositories have.
    pub(crate) fn check_is_of_repo(&self, model: &ModelId, repo: &RepoId) -> Result<(), Error> {
        let state = self.load()?;
        let mut versions = state.versions_of(model);
        match versions.next() {
            Some(other) if !other.source.is_of_repo(repo) => {
                if versions.any(|version| version.source.is_of_repo(repo)) {
                    return Ok(());
                }
                let (model, repo) = (model.clone(), repo.clone());
                Err(Error::NameTaken { model, source_of_other: other.source.to_string(), repo })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Where an earlier generation of the lock file is, if it was kept.
    pub fn generation(&self, generation: u64) -> PathBuf {
        lockfile::generation_path(&self.home, generation)
    }

    /// Has `alias` stand for the version that `target` stands for now. Returns it, and what `alias`
    /// stood for before.
    pub fn set_alias(
        &self,
        alias: Tag,
        target: &ModelName,
    ) -> Result<(VersionId, Option<VersionId>), Error> {
        self.change(|draft| {
            let found = draft.state.resolve(target);
            let id = found.map(|manifest| manifest.id.clone());
            let id = id.ok_or_else(|| Error::Absent(target.to_string()))?;
            let before = draft.state.lock.aliases.insert(alias, id.clone());
            Ok((id, before))
        })
    }

    /// Forgets an alias; returns what it stood for.
    pub fn remove_alias(&self, alias: &Tag) -> Result<VersionId, Error> {
        self.change(|draft| {
            let removed = draft.state.lock.aliases.remove(alias);
            removed.ok_or_else(|| Error::NoAlias(alias.clone()))
        })
    }

    /// Reads the files of these models again, or of all. Blocking.
    pub fn verify(&self, names: &[ModelName]) -> Result<Vec<Verified>, Error> {
        let state = self.load()?;
        let manifests = match names {
            [] => state.manifests,
            names => {
                let chosen = names.iter().map(|name| select(&state, name));
                let chosen: Vec<Vec<_>> = chosen.collect::<Result<_, _>>()?;
                chosen.into_iter().flatten().collect()
            }
        };
        let verify = |mut manifest: Manifest| {
            let checked = manifest.check(Check::Always);
            if let Ok(true) = checked {
                self.refresh(&manifest)?;
            }
            Ok(Verified { manifest, damage: checked.err() })
        };
        manifests.into_iter().map(verify).collect()
    }

    /// Notes that files were touched and hold the same; not of a version that is gone by now.
    pub(crate) fn refresh(&self, manifest: &Manifest) -> Result<(), Error> {
        self.change(|draft| match draft.state.find(&manifest.id) {
            Some(known) if known.version == manifest.version => draft.put(manifest.clone()),
            Some(_) | None => Ok(()),
        })
    }

    /// Waits until no other pull of `name` is under way.
    pub(crate) async fn lock_pull(
        &self,
        name: &str,
        on_wait: impl FnOnce(),
    ) -> Result<LockFile, Error> {
        // The router's database will lie here too, and sockets: nobody else's business.
        create_private(&self.home).map_err(Error::io(&self.home))?;
        let path = self.lock_path(name, "pull");
        LockFile::take(&path, Hold::Exclusive, on_wait).await.map_err(Error::io(&path))
    }

    /// Where a file with this content is, or would be, if no hub's cache holds it. `kind` is its
    /// extension.
    pub(crate) fn blob(&self, sha256: &Sha256Hash, kind: &str) -> PathBuf {
        self.blobs().join(format!("{sha256}.{kind}"))
    }

    /// Where the chat template of a version's defaults is for its worker.
    pub(crate) fn template_path(&self, id: &VersionId) -> PathBuf {
        self.home.join("templates").join(format!("{}.jinja", key(&id.to_string())))
    }

    /// Flags for the worker of a version with defaults, but for what `given` says otherwise. Puts its
    /// chat template where the worker finds it.
    pub fn worker_args(
        &self,
        manifest: &Manifest,
        given: &[OsString],
    ) -> Result<Vec<OsString>, Error> {
        let Some(defaults) = &manifest.defaults else { return Ok(Vec::new()) };
        let Some(template) = &defaults.chat_template else {
            return Ok(defaults.worker_args(None, given));
        };
        let path = self.template_path(&manifest.id);
        files::write_atomic(&path, template.as_bytes()).map_err(Error::io(&path))?;
        Ok(defaults.worker_args(Some(&path), given))
    }

    fn blobs(&self) -> PathBuf {
        self.home.join("blobs")
    }

    /// A directory for what is under way, on the same disk as the files.
    pub(crate) fn scratch(&self) -> io::Result<tempfile::TempDir> {
        let directory = self.home.join("partial");
        std::fs::create_dir_all(&directory)?;
        tempfile::Builder::new().prefix("mirror-").tempdir_in(directory)
    }

    /// Where notes about interrupted transfers go.
    pub(crate) fn transfers(&self) -> PathBuf {
        self.home.join("partial")
    }

    fn lock_path(&self, name: &str, kind: &str) -> PathBuf {
        self.home.join("locks").join(format!("{}.{kind}", key(name)))
    }
}

/// A model is all of its versions; any other name is one.
fn select(state: &State, name: &ModelName) -> Result<Vec<Manifest>, Error> {
    let chosen: Vec<_> = match name {
        ModelName::Model(model) => state.versions_of(model).cloned().collect(),
        ModelName::Path(_) | ModelName::Version(_) | ModelName::Tag(_) | ModelName::Hub(_) => {
            state.resolve(name).cloned().into_iter().collect()
        }
    };
    if chosen.is_empty() { Err(Error::Absent(name.to_string())) } else { Ok(chosen) }
}

fn key(name: &str) -> String {
    Sha256Hash::of(name.as_bytes()).short(32)
}
