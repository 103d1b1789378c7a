//! The Hugging Face hub: its protocol, its cache, and downloads that are verified and can resume.
//!
//! A file is asked for at a commit, never at a branch, and its content is known before its first
//! byte arrives: the hub announces a hash, the catalogue may pin one, and both are checked.

mod cache;
mod client;
mod error;
mod filter;
mod listing;
mod partial;
mod retry;
pub(crate) mod select;
mod transfer;

use std::path::{Path, PathBuf};

use futures::{StreamExt, TryStreamExt};

pub use error::Error;
pub use filter::{BadPattern, Filter};

use crate::catalogue::{CatalogueFile, HubLocation};
use crate::digest::ContentId;
use crate::name::{HubName, RepoId, RepoPath, Revision};
use crate::progress::Progress;
use crate::settings::{HubSettings, Network};
use crate::store::{Fetched, Origin};
use cache::HubCache;
use client::Client;
use listing::{Listing, Remote};
use transfer::{Downloader, blocking, hash_regular};

/// Files of one model that are fetched at once.
const MAX_PARALLEL: usize = 4;

/// The hub, as seen from this machine.
#[derive(Debug)]
pub struct Hub {
    settings: HubSettings,
    cache: HubCache,
    state: PathBuf,
    progress: Progress,
}

/// A model that is in the cache and was checked.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The commit that its revision stood for.
    pub commit: Revision,
    /// The commit's directory in the cache.
    pub directory: PathBuf,
    /// Its files.
    pub files: Vec<(RepoPath, Fetched)>,
}

impl Hub {
    /// `state` is a directory for notes about interrupted transfers.
    pub fn new(settings: HubSettings, state: PathBuf, progress: Progress) -> Self {
        let cache = HubCache::new(settings.cache.clone());
        Self { settings, cache, state, progress }
    }

    /// Brings the files of a catalogue entry, which must be what the catalogue says.
    pub async fn pull_pinned(
        &self,
        at: &HubLocation,
        files: &[CatalogueFile],
    ) -> Result<Snapshot, Error> {
        let (mut fetched, mut missing) = (Vec::new(), Vec::new());
        for file in files {
            match self.cached_pinned(at, file).await {
                Some(found) => fetched.push((file.name.clone(), found)),
                None => missing.push(file),
            }
        }
        if !missing.is_empty() {
            fetched.extend(self.fetch_pinned(at, &missing).await?);
        }
        fetched.sort_by_key(|(name, _)| files.iter().position(|file| file.name == *name));
        let directory = self.cache.snapshot(&at.repo, &at.revision);
        Ok(Snapshot { commit: at.revision.clone(), directory, files: fetched })
    }

    async fn fetch_pinned(
        &self,
        at: &HubLocation,
        files: &[&CatalogueFile],
    ) -> Result<Vec<(RepoPath, Fetched)>, Error> {
        let client = self.client()?;
        let mut remotes = Vec::new();
        for file in files {
            remotes.push((announce_pinned(&client, at, file).await?, file.sha256));
        }
        self.cache.check_room(remotes.iter().map(|(remote, _)| remote))?;
        let downloader = self.downloader(&client);
        let fetch = async |remote: &Remote, sha256| {
            let fetched = downloader.fetch(remote, Some(sha256)).await?;
            Ok((remote.file.clone(), fetched))
        };
        // Made before the stream: a closure within it would keep a task from being sent elsewhere.
        let fetches: Vec<_> =
            remotes.iter().map(|(remote, sha256)| fetch(remote, *sha256)).collect();
        futures::stream::iter(fetches).buffered(MAX_PARALLEL).try_collect().await
    }

    /// Brings what `name` stands for, of which `filter` wants all or some, resolving its revision
    /// to a commit first.
    pub async fn pull(&self, name: &HubName, filter: &Filter) -> Result<Snapshot, Error> {
        let revision = name.revision.clone().unwrap_or_else(Revision::main);
        if let Some(snapshot) = self.cached((name, filter), &revision).await? {
            return Ok(snapshot);
        }
        let client = self.client()?;
        let remotes = match &name.file {
            Some(file) => vec![client.announce(&name.repo, &revision, file).await?],
            None => select::choose(client.list(&name.repo, &revision).await?, filter)?,
        };
        let commit = remotes.first().map(|remote| remote.commit.clone()).ok_or(Error::NoWeights)?;
        self.cache.check_room(remotes.iter())?;
        for remote in &remotes {
            self.progress.expect(remote.file.as_ref(), remote.size);
        }
        let downloader = self.downloader(&client);
        let fetch = async |remote: &Remote| {
            downloader.fetch(remote, None).await.map(|fetched| (remote.file.clone(), fetched))
        };
        // Made before the stream: a closure within it would keep a task from being sent elsewhere.
        let fetches: Vec<_> = remotes.iter().map(fetch).collect();
        let files = futures::stream::iter(fetches).buffered(MAX_PARALLEL).try_collect().await?;
        self.cache.write_ref(&name.repo, &revision, &commit)?;
        let directory = self.cache.snapshot(&name.repo, &commit);
        Ok(Snapshot { commit, directory, files })
    }

    /// Removes a file that a pull brought.
    pub fn remove(&self, repo: &RepoId, path: &Path) -> std::io::Result<()> {
        self.cache.remove(repo, path)
    }

    /// A pinned file that the cache has already, whoever put it there.
    async fn cached_pinned(&self, at: &HubLocation, file: &CatalogueFile) -> Option<Fetched> {
        let path = self.cache.snapshot_file(&at.repo, &at.revision, &file.name);
        if std::fs::metadata(&path).ok()?.len() != file.size {
            return None;
        }
        let owned = path.clone();
        let hashes = blocking(move || hash_regular(&owned)).await.ok()?;
        (hashes.sha256 == file.sha256).then_some(Fetched { path, hashes, origin: Origin::Found })
    }

    /// What the cache has of `name`, when asking the hub is not allowed, or cannot matter: one file
    /// at a commit never changes.
    async fn cached(
        &self,
        (name, filter): (&HubName, &Filter),
        revision: &Revision,
    ) -> Result<Option<Snapshot>, Error> {
        let is_offline = self.settings.network == Network::Offline;
        let is_fixed = revision.is_commit() && name.file.is_some();
        if !is_offline && !is_fixed {
            return Ok(None);
        }
        let Some(commit) = self.cache.commit(&name.repo, revision) else {
            return Err(self.offline());
        };
        let directory = self.cache.snapshot(&name.repo, &commit);
        let remotes = match &name.file {
            Some(file) => {
                self.cached_remote(&name.repo, &commit, file.clone()).into_iter().collect()
            }
            None => self.cached_remotes(&name.repo, &commit),
        };
        if remotes.is_empty() {
            return if is_offline { Err(self.offline()) } else { Ok(None) };
        }
        let remotes = match &name.file {
            Some(_) => remotes,
            None => select::choose(Listing { files: remotes, pickle: None }, filter)?,
        };
        if name.file.is_none() && !select::is_whole(&remotes) {
            return Err(self.offline());
        }
        let Some(files) = self.check_cached(remotes).await? else { return Ok(None) };
        Ok(Some(Snapshot { commit, directory, files }))
    }

    /// Hashes files of the cache. `None` if one is not what its name says and the hub can be asked.
    async fn check_cached(
        &self,
        remotes: Vec<Remote>,
    ) -> Result<Option<Vec<(RepoPath, Fetched)>>, Error> {
        let mut files = Vec::new();
        for remote in remotes {
            let path = self.cache.snapshot_file(&remote.repo, &remote.commit, &remote.file);
            let owned = path.clone();
            match blocking(move || hash_regular(&owned)).await {
                Ok(hashes) if hashes.matches(&remote.id) => {
                    files.push((remote.file, Fetched { path, hashes, origin: Origin::Found }));
                }
                _ if self.settings.network == Network::Offline => {
                    return Err(Error::Unverifiable(path));
                }
                _ => return Ok(None),
            }
        }
        Ok(Some(files))
    }

    fn cached_remote(&self, repo: &RepoId, commit: &Revision, file: RepoPath) -> Option<Remote> {
        let path = self.cache.snapshot_file(repo, commit, &file);
        let size = std::fs::metadata(&path).ok()?.len();
        let id = self.cache.content_id(&path)?;
        Some(Remote { repo: repo.clone(), commit: commit.clone(), file, id, size })
    }

    /// The files of a snapshot. Whether they are all that the repository has, only the hub knows; a
    /// loader that misses one says so.
    fn cached_remotes(&self, repo: &RepoId, commit: &Revision) -> Vec<Remote> {
        let mut names = Vec::new();
        collect_names(&self.cache.snapshot(repo, commit), "", &mut names);
        names.sort();
        names.into_iter().filter_map(|file| self.cached_remote(repo, commit, file)).collect()
    }

    fn client(&self) -> Result<Client, Error> {
        match self.settings.network {
            Network::Online => Client::new(self.settings.clone(), self.progress.clone()),
            Network::Offline => Err(self.offline()),
        }
    }

    fn offline(&self) -> Error {
        Error::Offline { cache: self.cache.root().to_owned() }
    }

    fn downloader<'a>(&'a self, client: &'a Client) -> Downloader<'a> {
        let Self { cache, state, progress, .. } = self;
        Downloader { client, cache, state, progress }
    }
}

/// Asks for a file of which the content is known already: the hub must know it too.
async fn announce_pinned(
    client: &Client,
    at: &HubLocation,
    file: &CatalogueFile,
) -> Result<Remote, Error> {
    let remote = client.announce(&at.repo, &at.revision, &file.name).await?;
    if let ContentId::Sha256(got) = remote.id
        && got != file.sha256
    {
        let (file, expected) = (file.name.clone(), file.sha256);
        return Err(Error::WrongAnnouncement { file, expected, got: remote.id });
    }
    if remote.size != file.size {
        let (file, expected) = (file.name.clone(), file.size);
        return Err(Error::WrongSize { file, expected, got: remote.size });
    }
    Ok(remote)
}

/// Files below `directory`, which is `folder` of the snapshot, of a kind that is fetched.
fn collect_names(directory: &Path, folder: &str, names: &mut Vec<RepoPath>) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = format!("{folder}{name}");
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect_names(&entry.path(), &format!("{path}/"), names);
        } else if let Ok(file) = path.parse() {
            names.push(file);
        }
    }
}
