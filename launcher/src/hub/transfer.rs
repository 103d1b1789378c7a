//! Brings one file into the cache: resumed where an earlier run stopped, checked to the last byte.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use reqwest::{Response, StatusCode, Url};

use super::Error;
use super::cache::HubCache;
use super::client::{Client, Location, plain, transport};
use super::listing::Remote;
use super::partial::Partial;
use crate::digest::{Hashes, Sha256Hash, hash_file};
use crate::lock::{Hold, LockFile};
use crate::progress::{Progress, Transfer};
use crate::store::files::{check_free_space, remove_if_exists, rename_durably};
use crate::store::{Fetched, Origin};

/// An attempt that brings less than this counts as one that brought nothing.
const PROGRESS_BYTES: u64 = 64 << 10;

/// Brings files of a hub into its cache.
pub(crate) struct Downloader<'a> {
    pub(crate) client: &'a Client,
    pub(crate) cache: &'a HubCache,
    /// Where it is noted how far interrupted transfers came.
    pub(crate) state: &'a Path,
    pub(crate) progress: &'a Progress,
}

impl Downloader<'_> {
    /// Returns the file once it is in the cache and is what the hub and `pinned` say.
    pub(crate) async fn fetch(
        &self,
        remote: &Remote,
        pinned: Option<Sha256Hash>,
    ) -> Result<Fetched, Error> {
        self.cache.create()?;
        let lock = self.cache.lock(remote);
        let _lock = LockFile::take(&lock, Hold::Exclusive, || {
            self.progress.note(&format!("waiting for another pull of {}", remote.file));
        })
        .await
        .map_err(Error::io(&lock))?;

        let blob = self.cache.blob(remote);
        if let Some(hashes) = intact(&blob, remote, pinned).await? {
            self.progress.have(remote.file.as_ref(), remote.size);
            return Ok(Fetched { path: self.cache.link(remote)?, hashes, origin: Origin::Found });
        }
        if let Some(found) = self.plain_file(remote, pinned).await {
            self.progress.have(remote.file.as_ref(), remote.size);
            return Ok(found);
        }
        let hashes = self.download(remote, pinned, &blob).await?;
        Ok(Fetched { path: self.cache.link(remote)?, hashes, origin: Origin::Pulled })
    }

    /// A file in the snapshot itself, as it is on file systems without links.
    async fn plain_file(&self, remote: &Remote, pinned: Option<Sha256Hash>) -> Option<Fetched> {
        let path = self.cache.snapshot_file(&remote.repo, &remote.commit, &remote.file);
        if !std::fs::symlink_metadata(&path).ok()?.is_file() {
            return None;
        }
        let owned = path.clone();
        let hashes = blocking(move || hash_regular(&owned)).await.ok()?;
        let is_it = hashes.matches(&remote.id) && pinned.is_none_or(|pin| pin == hashes.sha256);
        is_it.then_some(Fetched { path, hashes, origin: Origin::Found })
    }

    async fn download(
        &self,
        remote: &Remote,
        pinned: Option<Sha256Hash>,
        blob: &Path,
    ) -> Result<Hashes, Error> {
        let incomplete = self.cache.incomplete(remote);
        let partial = self.open(remote).await?;
        let mut may_be_stale = partial.num_bytes() > 0;
        loop {
            check_free_space(&incomplete, remote.size - partial.num_bytes())
                .map_err(Error::io(&incomplete))?;
            if let Err(error) = self.receive(remote, &partial).await {
                return Err(abandon(error, &partial, remote));
            }
            let finished = Arc::clone(&partial);
            let hashes =
                blocking(move || finished.finish()).await.map_err(Error::io(&incomplete))?;
            if hashes.matches(&remote.id) && pinned.is_none_or(|pin| pin == hashes.sha256) {
                let (from, to) = (incomplete, blob.to_owned());
                blocking(move || rename_durably(&from, &to)).await.map_err(Error::io(blob))?;
                return Ok(hashes);
            }
            if !may_be_stale {
                partial.discard().map_err(Error::io(&incomplete))?;
                return Err(wrong_hash(remote, hashes));
            }
            // What an earlier run left may have been of something else.
            may_be_stale = false;
            let part_bytes = self.client.parallel().part_bytes;
            partial.restart(part_bytes).map_err(Error::io(&incomplete))?;
        }
    }

    async fn open(&self, remote: &Remote) -> Result<Arc<Partial>, Error> {
        let path = self.cache.incomplete(remote);
        let note = self.state.join(format!("{}.json", remote.id));
        let shape = (remote.size, self.client.parallel().part_bytes.max(1));
        let at = path.clone();
        let opened = blocking(move || Partial::open(&path, &note, shape)).await;
        opened.map(Arc::new).map_err(Error::io(&at))
    }

    /// Goes on until all bytes are there.
    async fn receive(&self, remote: &Remote, partial: &Arc<Partial>) -> Result<(), Error> {
        let location = self.client.location(remote);
        let shown = self.progress.start(remote.file.as_ref(), partial.num_bytes(), remote.size);
        let path = self.cache.incomplete(remote);
        let reception = Reception { client: self.client, remote, partial, location, shown, path };
        loop {
            match reception.all_parts().await {
                Ok(()) => break,
                // Only parts of several can be of no use, so that this comes once.
                Err(Broken::NoParts) => {
                    let path = &reception.path;
                    partial.restart(remote.size).map_err(Error::io(path))?;
                }
                Err(Broken::Failed(error)) => return Err(error),
            }
        }
        reception.shown.finish();
        Ok(())
    }
}

/// Keeps what can be resumed, and frees the room of what cannot.
fn abandon(error: Error, partial: &Partial, remote: &Remote) -> Error {
    let is_useless = matches!(&error, Error::WrongSize { .. })
        || matches!(&error, Error::Io { source, .. } if is_disk_full(source));
    if is_useless && let Err(source) = partial.discard() {
        tracing::warn!(%source, file = %remote.file, "could not delete a partial file");
    }
    error
}

/// One file as it arrives.
struct Reception<'a> {
    client: &'a Client,
    remote: &'a Remote,
    partial: &'a Arc<Partial>,
    location: Location,
    shown: Transfer,
    path: PathBuf,
}

/// Why a file's parts stopped growing.
enum Broken {
    /// The host does not answer ranges, or its file is another one now.
    NoParts,
    Failed(Error),
}

impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Reception<'_> {
    async fn all_parts(&self) -> Result<(), Broken> {
        let parts: Vec<_> =
            self.partial.open_parts().into_iter().map(|part| self.part(part)).collect();
        let connections = self.client.parallel().max_connections.max(1);
        futures::stream::iter(parts).buffer_unordered(connections).try_collect().await
    }

    /// Goes on until the part is there.
    async fn part(&self, part: usize) -> Result<(), Broken> {
        let mut backoff = self.client.backoff();
        while let Some(before) = self.partial.missing(part) {
            let connection = self.client.connection().await;
            let attempt = self.attempt(part).await;
            drop(connection);
            if let Err(Broken::Failed(error)) = attempt {
                self.location.forget();
                let now = self.partial.missing(part).map_or(u64::MAX, |span| span.first);
                if now >= before.first + PROGRESS_BYTES {
                    backoff.reset();
                }
                tracing::debug!(%error, file = %self.remote.file, "transfer interrupted");
                backoff.wait(error).await?;
            } else {
                attempt?;
            }
        }
        if !self.partial.is_whole() {
            self.partial.note();
            let partial = Arc::clone(self.partial);
            let hashed = blocking(move || partial.hash_front()).await;
            hashed.map_err(Error::io(&self.path))?;
        }
        Ok(())
    }

    /// One request, from where the part ends now.
    async fn attempt(&self, part: usize) -> Result<(), Broken> {
        let Some(missing) = self.partial.missing(part) else { return Ok(()) };
        let is_whole = self.partial.is_whole();
        let span = (!is_whole || missing.first > 0).then_some(missing);
        let validator = self.partial.validator().filter(|_| self.partial.num_bytes() > 0);
        let mut response = self.client.get(&self.location, span, validator.as_deref()).await?;
        let url = response.url().clone();
        let etag = response.headers().get("etag").and_then(|etag| etag.to_str().ok());
        // Its first part is no part of several.
        let is_all = !is_whole && response.status() == StatusCode::OK;
        if is_all
            || !continues(&response, self.remote, missing.first)?
            || !self.partial.agrees(etag)
        {
            if !is_whole {
                return Err(Broken::NoParts);
            }
            self.partial.restart(self.remote.size).map_err(Error::io(&self.path))?;
            self.shown.set(0);
            if response.status() != StatusCode::OK {
                return Err(self.cut_short(&url).into());
            }
            self.partial.agrees(etag);
        }
        while let Some(chunk) = response.chunk().await.map_err(transport(&url))? {
            let written = self.partial.write(part, &chunk).map_err(Error::io(&self.path))?;
            if let Err(got) = written {
                return Err(wrong_size(self.remote, got).into());
            }
            self.shown.set(self.partial.num_bytes());
        }
        match self.partial.missing(part) {
            None => Ok(()),
            Some(_) => Err(self.cut_short(&url).into()),
        }
    }

    fn cut_short(&self, url: &Url) -> Error {
        let received = self.partial.num_bytes();
        Error::CutShort { url: plain(url), received, size: self.remote.size }
    }
}

/// Whether the answer goes on at `from`; if not, it starts over.
fn continues(response: &Response, remote: &Remote, from: u64) -> Result<bool, Error> {
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
    if response.status() != StatusCode::PARTIAL_CONTENT {
        let length = header("content-length").and_then(|length| length.parse().ok());
        if response.status() == StatusCode::OK
            && let Some(got) = length.filter(|length| *length != remote.size)
        {
            return Err(wrong_size(remote, got));
        }
        return Ok(response.status() == StatusCode::OK && from == 0);
    }
    let range = header("content-range").and_then(|range| range.strip_prefix("bytes "));
    let (span, total) = range
        .and_then(|range| range.split_once('/'))
        .ok_or_else(|| Error::Protocol { url: plain(response.url()), what: "Content-Range" })?;
    if let Some(got) = total.parse().ok().filter(|total| *total != remote.size) {
        return Err(wrong_size(remote, got));
    }
    let first = span.split_once('-').and_then(|(first, _)| first.parse::<u64>().ok());
    if first != Some(from) {
        return Err(Error::Protocol { url: plain(response.url()), what: "Content-Range" });
    }
    Ok(true)
}

/// The hashes of `path` if it is what it must be. Anything else is removed: a blob under the name
/// of a content that it does not have helps nobody.
async fn intact(
    path: &Path,
    remote: &Remote,
    pinned: Option<Sha256Hash>,
) -> Result<Option<Hashes>, Error> {
    if std::fs::symlink_metadata(path).is_err() {
        return Ok(None);
    }
    let owned = path.to_owned();
    if let Ok(hashes) = blocking(move || hash_regular(&owned)).await
        && hashes.matches(&remote.id)
    {
        return match pinned {
            Some(pin) if pin != hashes.sha256 => Err(wrong_hash(remote, hashes)),
            _ => Ok(Some(hashes)),
        };
    }
    tracing::warn!(path = %path.display(), "a file of the hub's cache is corrupt; fetching it again");
    remove_if_exists(path).map_err(Error::io(path))?;
    Ok(None)
}

/// Hashes a file, but nothing that could block or never end.
pub(crate) fn hash_regular(path: &Path) -> io::Result<Hashes> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    hash_file(path)
}

/// Runs disk work on a thread of its own.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

fn wrong_size(remote: &Remote, got: u64) -> Error {
    Error::WrongSize { file: remote.file.clone(), expected: remote.size, got }
}

fn wrong_hash(remote: &Remote, hashes: Hashes) -> Error {
    let (file, expected) = (remote.file.clone(), remote.id);
    Error::WrongHash { file, expected, got: hashes.sha256 }
}

fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
