//! Removes versions: one, all of a model, or those that a budget leaves no room for.
//!
//! A file goes with the last version that has it. What runs or has an alias stays.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::draft::{Draft, State};
use super::files::remove_if_exists;
use super::manifest::{Content, Manifest, ManifestFile};
use super::{Error, Origin, Source, Store, select};
use crate::lock::LockFile;
use crate::name::{ModelId, ModelName, RepoId, VersionId};

/// A pull puts its files down before it says whose they are, within this.
const SETTLED: Duration = Duration::from_secs(24 * 60 * 60);

/// Removes a file from the hub's cache.
pub(crate) type RemoveCached<'a> = &'a dyn Fn(&RepoId, &Path) -> io::Result<()>;

/// What was removed, or would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// The version.
    pub id: VersionId,
    /// Bytes that it freed: of files that no other version has.
    pub freed: u64,
}

/// Whether anything is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It is.
    Real,
    /// What would be is told.
    DryRun,
}

/// What a collection did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Bytes of all files that pulls and imports brought, before it.
    pub before: u64,
    /// And after it.
    pub after: u64,
    /// What had to go, in this order.
    pub removed: Vec<Removed>,
    /// What stays, and why.
    pub kept: Vec<(VersionId, &'static str)>,
    /// Bytes of files that belong to nothing: of pulls and removals that were killed.
    pub leftovers: u64,
}

impl Store {
    /// Removes what `name` stands for: a version, or all of a model.
    pub(crate) fn remove(
        &self,
        name: &ModelName,
        remove_cached: RemoveCached<'_>,
    ) -> Result<Vec<Removed>, Error> {
        self.change(|draft| {
            let chosen = select(&draft.state, name)?;
            // All or none: looked at before the first goes.
            let mut held = Vec::new();
            for manifest in &chosen {
                if let Some(alias) = alias_of(&draft.state, &manifest.id) {
                    return Err(Error::Aliased { id: manifest.id.clone(), alias });
                }
                let lock = self.try_lock_use(manifest)?;
                held.push(lock.ok_or_else(|| Error::InUse(manifest.id.clone()))?);
            }
            let removed = chosen.iter().map(|manifest| draft.erase(self, manifest, remove_cached));
            removed.collect()
        })
    }

    /// Adds what `name` stands for now to the versions of `model`. Where that is a version that is here,
    /// as another commit has the same content, what only the one before had goes.
    pub(crate) fn add_pulled(
        &self,
        (model, name): (ModelId, &str),
        content: Content,
        remove_cached: RemoveCached<'_>,
    ) -> Result<Manifest, Error> {
        self.change(|draft| {
            let before = draft.state.manifests.clone();
            let manifest = draft.add(model, name, content)?;
            if let Some(before) = before.iter().find(|before| before.id == manifest.id) {
                draft.abandon(before, remove_cached)?;
            }
            Ok(manifest)
        })
    }

    /// Makes room until the files of all versions have `max_size` bytes at most: the least recently
    /// used go first. Files that belong to nothing go in any case.
    pub(crate) fn collect(
        &self,
        max_size: Option<u64>,
        mode: Mode,
        remove_cached: RemoveCached<'_>,
    ) -> Result<Collected, Error> {
        self.change(|draft| {
            let before = total(&draft.state.manifests);
            let mut collected = Collected { before, after: before, ..Collected::default() };
            let max_size = max_size.unwrap_or(u64::MAX);
            if before > max_size {
                let candidates = self.candidates(&draft.state, &mut collected)?;
                let mut left = draft.state.manifests.clone();
                for (manifest, _held) in candidates {
                    if collected.after <= max_size {
                        break;
                    }
                    left.retain(|other| other.id != manifest.id);
                    let removed = match mode {
                        Mode::Real => draft.erase(self, &manifest, remove_cached)?,
                        Mode::DryRun => Removed {
                            id: manifest.id.clone(),
                            freed: own_files(&manifest, &left).map(|(_, size)| size).sum(),
                        },
                    };
                    collected.after -= removed.freed;
                    collected.removed.push(removed);
                }
            }
            collected.leftovers = self.sweep(&draft.state.manifests, mode)?;
            Ok(collected)
        })
    }

    /// Whether `path` lies in a folder of this store, by whatever path it is reached.
    fn is_in(&self, path: &Path, folder: &str) -> bool {
        let real = |path: Option<&Path>| path.and_then(|path| std::fs::canonicalize(path).ok());
        let folder = real(Some(&self.home.join(folder)));
        folder.is_some() && real(path.parent()) == folder
    }

    /// What may be removed, least recently used first, locked against being served meanwhile.
    fn candidates(
        &self,
        state: &State,
        collected: &mut Collected,
    ) -> Result<Vec<(Manifest, LockFile)>, Error> {
        let mut kept: HashSet<PathBuf> = HashSet::new();
        let mut free = Vec::new();
        for manifest in &state.manifests {
            let why = if alias_of(state, &manifest.id).is_some() {
                "an alias stands for it"
            } else if let Some(held) = self.try_lock_use(manifest)? {
                let used = self.last_used(&manifest.id)?.unwrap_or(manifest.created);
                free.push((used.max(manifest.created), manifest, held));
                continue;
            } else {
                "it is running"
            };
            kept.extend(manifest.files.iter().map(place));
            collected.kept.push((manifest.id.clone(), why));
        }
        free.sort_by(|(a, x, _), (b, y, _)| (a, &x.id).cmp(&(b, &y.id)));
        let mut candidates = Vec::new();
        for (_, manifest, held) in free {
            // Its going would free nothing, now or later.
            if manifest.files.iter().all(|file| is_kept(file, &kept)) {
                collected.kept.push((manifest.id.clone(), "none of its files could go"));
                continue;
            }
            candidates.push((manifest.clone(), held));
        }
        Ok(candidates)
    }

    /// Removes blobs, folders of links and half transfers that belong to nothing.
    fn sweep(&self, manifests: &[Manifest], mode: Mode) -> Result<u64, Error> {
        let models = manifests.iter().map(|manifest| manifest.model.as_path());
        let files = manifests.iter().flat_map(|it| it.files.iter().map(|file| file.path.as_path()));
        // By name, which is the content: a store that was moved still has what its manifests lost.
        let owned: HashSet<&OsStr> = files.chain(models).filter_map(Path::file_name).collect();
        let mut freed = 0;
        for folder in ["blobs", "trees", "partial"] {
            let folder = self.home.join(folder);
            for path in entries(&folder).map_err(Error::io(&folder))? {
                let settled = is_settled(&path).map_err(Error::io(&path))?;
                if path.file_name().is_some_and(|name| owned.contains(name)) || !settled {
                    continue;
                }
                freed += size_of(&path).map_err(Error::io(&path))?;
                if mode == Mode::Real {
                    remove_any(&path).map_err(Error::io(&path))?;
                }
            }
        }
        Ok(freed)
    }
}

impl Draft<'_> {
    /// Removes what pulls brought for `before`, which has its files elsewhere by now: the links of
    /// another commit.
    fn abandon(&self, before: &Manifest, remove_cached: RemoveCached<'_>) -> Result<(), Error> {
        let Source::Hub { repo, .. } = &before.source else { return Ok(()) };
        for (path, _) in own_files(before, &self.state.manifests) {
            let removed = repo.parse().map_err(io::Error::other);
            removed.and_then(|repo| remove_cached(&repo, path)).map_err(Error::io(path))?;
        }
        Ok(())
    }

    /// Forgets a version and removes the files that only it has.
    fn erase(
        &mut self,
        store: &Store,
        manifest: &Manifest,
        remove_cached: RemoveCached<'_>,
    ) -> Result<Removed, Error> {
        self.forget(&manifest.id)?;
        store.forget_use(&manifest.id)?;
        let template = store.template_path(&manifest.id);
        remove_if_exists(&template).map_err(Error::io(&template))?;
        let mut freed = 0;
        // What it frees is known while its links are there.
        let own: Vec<_> = own_files(manifest, &self.state.manifests).collect();
        for (path, size) in own {
            match &manifest.source {
                Source::Hub { repo, .. } => repo
                    .parse()
                    .map_err(io::Error::other)
                    .and_then(|repo| remove_cached(&repo, path)),
                Source::Pypi { .. } | Source::Import { .. } if store.is_in(path, "blobs") => {
                    remove_if_exists(path)
                }
                // Of the store that this one was copied from.
                Source::Pypi { .. } | Source::Import { .. } => continue,
            }
            .map_err(Error::io(path))?;
            freed += size;
        }
        let is_tree = store.is_in(&manifest.model, "trees");
        if is_tree && !self.state.manifests.iter().any(|other| other.model == manifest.model) {
            remove_any(&manifest.model).map_err(Error::io(&manifest.model))?;
        }
        Ok(Removed { id: manifest.id.clone(), freed })
    }
}

/// The files that pulls brought for `manifest` and none of `others` has, and what the end of each frees:
/// nothing where another commit's file is the same.
fn own_files<'a>(
    manifest: &'a Manifest,
    others: &[Manifest],
) -> impl Iterator<Item = (&'a Path, u64)> {
    let shared: HashSet<&Path> =
        others.iter().flat_map(|other| &other.files).map(|file| file.path.as_path()).collect();
    let mut counted: HashSet<PathBuf> =
        others.iter().flat_map(|other| &other.files).map(place).collect();
    let pulled = manifest.files.iter().filter(|file| file.origin == Origin::Pulled);
    let own: HashMap<&Path, u64> = pulled
        .filter(|file| !shared.contains(file.path.as_path()))
        .map(|file| {
            let is_last = counted.insert(place(file));
            (file.path.as_path(), if is_last { file.size } else { 0 })
        })
        .collect();
    own.into_iter()
}

/// Where the content of a file is: commits that have the same one link to one place.
pub(super) fn place(file: &ManifestFile) -> PathBuf {
    std::fs::canonicalize(&file.path).unwrap_or_else(|_| file.path.clone())
}

/// Bytes of all files that pulls and imports brought, each counted once.
fn total(manifests: &[Manifest]) -> u64 {
    let files = manifests.iter().flat_map(|manifest| &manifest.files);
    let pulled = files.filter(|file| file.origin == Origin::Pulled);
    let sizes: HashMap<PathBuf, u64> = pulled.map(|file| (place(file), file.size)).collect();
    sizes.values().sum()
}

fn is_kept(file: &ManifestFile, kept: &HashSet<PathBuf>) -> bool {
    file.origin == Origin::Found || kept.contains(&place(file))
}

fn alias_of(state: &State, id: &VersionId) -> Option<crate::name::Tag> {
    state.lock.aliases.iter().find(|(_, named)| *named == id).map(|(alias, _)| alias.clone())
}

fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match std::fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn is_settled(path: &Path) -> io::Result<bool> {
    let modified = std::fs::symlink_metadata(path)?.modified()?;
    Ok(SystemTime::now().duration_since(modified).is_ok_and(|age| age > SETTLED))
}

fn size_of(path: &Path) -> io::Result<u64> {
    let metadata = std::fs::symlink_metadata(path)?;
    if !metadata.is_dir() {
        return Ok(if metadata.is_file() { metadata.len() } else { 0 });
    }
    entries(path)?.iter().map(|entry| size_of(entry)).sum()
}

fn remove_any(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => remove_if_exists(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
