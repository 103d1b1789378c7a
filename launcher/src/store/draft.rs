//! Changes of the store, one at a time across all processes.
//!
//! A manifest is written after its files and before `models.lock`, and removed before them: whatever
//! happens in between, what has a manifest is whole, and the next change completes the lock file.

use std::collections::HashSet;
use std::io;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use super::files::{create_private, remove_if_exists, write_atomic};
use super::lockfile::{self, Lock, LockedVersion};
use super::manifest::{Content, Manifest, Stored};
use super::remove::place;
use super::{Error, Origin, Store, key};
use crate::lock::{Hold, LockFile};
use crate::name::{ModelId, ModelName, VersionId};

/// What the store holds: every version, and what names them.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    /// Every version, by name and number.
    pub(crate) manifests: Vec<Manifest>,
    /// What names them.
    pub(crate) lock: Lock,
}

/// A state that is being changed; nobody else changes it meanwhile.
pub(crate) struct Draft<'a> {
    store: &'a Store,
    pub(crate) state: State,
    /// Manifests that others have replaced; removed once the change is on the disk.
    replaced: Vec<PathBuf>,
}

/// A model of before there were versions, and the file of its manifest.
pub(super) type Unnumbered = (PathBuf, String, Box<dyn FnOnce(VersionId) -> Manifest>);

impl State {
    /// The version that `name` stands for. `None`: none, as for every path.
    pub(crate) fn resolve(&self, name: &ModelName) -> Option<&Manifest> {
        let of_pull = |name: &str| {
            // The manifest itself is the last word, should the lock file have been lost.
            self.lock.names.get(name).and_then(|id| self.find(id)).or_else(|| {
                let named = self.manifests.iter().filter(|manifest| manifest.name == name);
                named.max_by_key(|manifest| manifest.id.number)
            })
        };
        match name {
            ModelName::Path(_) => None,
            ModelName::Version(id) => self.find(id),
            ModelName::Model(model) => self.versions_of(model).max_by_key(|it| it.id.number),
            ModelName::Hub(_) => of_pull(&name.to_string()),
            ModelName::Tag(tag) => match self.lock.aliases.get(tag) {
                Some(id) => self.find(id),
                None => of_pull(tag.as_ref()),
            },
        }
    }

    pub(crate) fn find(&self, id: &VersionId) -> Option<&Manifest> {
        self.manifests.iter().find(|manifest| manifest.id == *id)
    }

    pub(crate) fn versions_of(&self, model: &ModelId) -> impl Iterator<Item = &Manifest> {
        self.manifests.iter().filter(move |manifest| manifest.id.model == *model)
    }

    fn sort(&mut self) {
        self.manifests.sort_by(|a, b| a.id.cmp(&b.id));
    }
}

impl Store {
    /// What the store holds now.
    pub(crate) fn load(&self) -> Result<State, Error> {
        let (state, unnumbered) = self.read()?;
        if unnumbered.is_empty() {
            return Ok(state);
        }
        // A store of an earlier version: the change gives its models numbers.
        self.change(|draft| Ok(draft.state.clone()))
    }

    /// Changes what the store holds; waits while another process does.
    pub(crate) fn change<T>(
        &self,
        change: impl FnOnce(&mut Draft<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        // The router's database will lie here too, and sockets: nobody else's business.
        create_private(&self.home).map_err(Error::io(&self.home))?;
        let path = self.home.join("locks").join("store");
        let _held = LockFile::wait(&path, Hold::Exclusive).map_err(Error::io(&path))?;
        let (state, unnumbered) = self.read()?;
        let before = state.lock.clone();
        let mut draft = Draft { store: self, state, replaced: Vec::new() };
        draft.number(unnumbered)?;
        let changed = change(&mut draft);
        // Also what a change did before it failed is noted.
        draft.finish(&before)?;
        changed
    }

    pub(super) fn read(&self) -> Result<(State, Vec<Unnumbered>), Error> {
        let lock = Lock::read(&lockfile::path(&self.home))?.unwrap_or_default();
        let mut state = State { manifests: Vec::new(), lock };
        let mut unnumbered = Vec::new();
        for path in self.manifest_paths()? {
            let bytes = match std::fs::read(&path) {
                Ok(bytes) => bytes,
                // Removed just now.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(Error::io(&path)(error)),
            };
            match Manifest::parse(&bytes).ok_or_else(|| Error::Manifest(path.clone()))? {
                Stored::Version(manifest) => state.manifests.push(*manifest),
                Stored::Unnumbered(number, name) => unnumbered.push((path, name, number)),
            }
        }
        state.sort();
        Ok((state, unnumbered))
    }

    fn manifest_paths(&self) -> Result<Vec<PathBuf>, Error> {
        let directory = self.home.join("models");
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::io(&directory)(error)),
        };
        let paths = entries.map(|entry| entry.map(|entry| entry.path()));
        let paths: io::Result<Vec<_>> = paths.collect();
        let mut paths = paths.map_err(Error::io(&directory))?;
        paths.retain(|path| path.extension().is_some_and(|kind| kind == "json"));
        // Old models get their numbers in the same order everywhere.
        paths.sort();
        Ok(paths)
    }

    fn manifest_path(&self, id: &VersionId) -> PathBuf {
        self.home.join("models").join(format!("{}.json", key(&id.to_string())))
    }
}

impl Draft<'_> {
    /// Adds what `name` stands for now to `model`: a new version, or the one that has the same
    /// content already, whose files are then where `content` says.
    pub(crate) fn add(
        &mut self,
        model: ModelId,
        name: &str,
        content: Content,
    ) -> Result<Manifest, Error> {
        content.check_present().map_err(Error::io(&content.model))?;
        let digest = content.digest();
        let known = self.state.versions_of(&model).find(|known| known.version == digest).cloned();
        let mut manifest = match known {
            Some(known) => {
                let mut manifest = Manifest::new(known.id, known.name, content);
                manifest.created = known.created;
                manifest
            }
            None => Manifest::new(self.next(model)?, name.to_owned(), content),
        };
        self.claim(&mut manifest);
        self.put(manifest.clone())?;
        // The path of an import is no name: another machine has something else there.
        if let Ok(ModelName::Tag(_) | ModelName::Hub(_)) = name.parse() {
            self.state.lock.names.insert(name.to_owned(), manifest.id.clone());
        }
        Ok(manifest)
    }

    /// Puts a version back under its own number.
    pub(crate) fn restore(
        &mut self,
        id: &VersionId,
        name: &str,
        content: Content,
    ) -> Result<Manifest, Error> {
        content.check_present().map_err(Error::io(&content.model))?;
        let mut manifest = Manifest::new(id.clone(), name.to_owned(), content);
        if let Some(known) = self.state.find(id) {
            if known.version != manifest.version {
                let (here, wanted) = (known.version.clone(), manifest.version);
                return Err(Error::Conflict { id: id.clone(), here, wanted });
            }
            manifest.created = known.created;
            manifest.name.clone_from(&known.name);
        }
        self.claim(&mut manifest);
        self.put(manifest.clone())?;
        Ok(manifest)
    }

    /// What a pull of another commit finds because one before brought it was not there before.
    fn claim(&self, manifest: &mut Manifest) {
        let known = self.state.manifests.iter().flat_map(|known| &known.files);
        let pulled: HashSet<_> =
            known.filter(|file| file.origin == Origin::Pulled).map(place).collect();
        for file in &mut manifest.files {
            if file.origin == Origin::Found && pulled.contains(&place(file)) {
                file.origin = Origin::Pulled;
            }
        }
    }

    /// Writes a manifest, in place of the one of the same version.
    pub(crate) fn put(&mut self, manifest: Manifest) -> Result<(), Error> {
        let path = self.store.manifest_path(&manifest.id);
        let json = serde_json::to_vec_pretty(&manifest).map_err(|e| Error::io(&path)(e.into()))?;
        write_atomic(&path, &json).map_err(Error::io(&path))?;
        self.state.manifests.retain(|other| other.id != manifest.id);
        self.reserve(&manifest.id)?;
        self.state.manifests.push(manifest);
        self.state.sort();
        Ok(())
    }

    /// Forgets a version; its files stay.
    pub(crate) fn forget(&mut self, id: &VersionId) -> Result<(), Error> {
        let path = self.store.manifest_path(id);
        remove_if_exists(&path).map_err(Error::io(&path))?;
        self.state.manifests.retain(|manifest| manifest.id != *id);
        self.state.lock.names.retain(|_, named| named != id);
        Ok(())
    }

    fn next(&self, model: ModelId) -> Result<VersionId, Error> {
        let number = self.state.lock.next.get(&model).copied();
        let highest = self.state.versions_of(&model).map(|manifest| manifest.id.number).max();
        let after = match highest {
            Some(highest) => highest.checked_add(1).ok_or(Error::Numbers(model.clone()))?,
            None => NonZeroU32::MIN,
        };
        Ok(VersionId { number: number.map_or(after, |number| number.max(after)), model })
    }

    /// Numbers up to that of `id` are given.
    fn reserve(&mut self, id: &VersionId) -> Result<(), Error> {
        let after = id.number.checked_add(1).ok_or_else(|| Error::Numbers(id.model.clone()))?;
        let next = self.state.lock.next.entry(id.model.clone()).or_insert(after);
        *next = after.max(*next);
        Ok(())
    }

    /// Makes versions of the models that an earlier sconce pulled.
    fn number(&mut self, unnumbered: Vec<Unnumbered>) -> Result<(), Error> {
        for (path, name, number) in unnumbered {
            let model = self.model_of_old(&name).ok_or_else(|| Error::Manifest(path.clone()))?;
            let manifest = number(self.next(model.clone())?);
            let same = self.state.versions_of(&model).find(|it| it.version == manifest.version);
            let id = match same.map(|same| same.id.clone()) {
                Some(id) => id,
                None => {
                    let id = manifest.id.clone();
                    self.put(manifest)?;
                    id
                }
            };
            self.state.lock.names.insert(name, id);
            self.replaced.push(path);
        }
        Ok(())
    }

    fn model_of_old(&self, name: &str) -> Option<ModelId> {
        match name.parse().ok()? {
            ModelName::Tag(tag) => tag.model().ok(),
            ModelName::Hub(hub) => {
                let short = ModelId::of_repo(&hub.repo);
                let is_free = |model: &ModelId| {
                    let mut others = self.state.versions_of(model);
                    others.all(|other| other.source.is_of_repo(&hub.repo))
                };
                short.filter(is_free).or_else(|| ModelId::of_repo_in_full(&hub.repo).ok())
            }
            ModelName::Model(_) | ModelName::Version(_) | ModelName::Path(_) => None,
        }
    }

    fn finish(mut self, before: &Lock) -> Result<(), Error> {
        let Self { store, state, replaced } = &mut self;
        let manifests = &state.manifests;
        state.lock.names.retain(|_, id| manifests.iter().any(|manifest| manifest.id == *id));
        state.lock.versions = manifests.iter().map(LockedVersion::of).collect();
        if state.lock != *before {
            state.lock.generation = before.generation + 1;
            state.lock.write(&store.home)?;
        }
        replaced.iter().try_for_each(|path: &PathBuf| remove(path))
    }
}

fn remove(path: &Path) -> Result<(), Error> {
    remove_if_exists(path).map_err(Error::io(path))
}
