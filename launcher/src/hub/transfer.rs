//! Brings one file into the cache: resumed where an earlier run stopped, checked to the last byte.

use std::io;
use std::path::{Path, PathBuf};

use reqwest::{Response, StatusCode};

use super::Error;
use super::cache::HubCache;
use super::client::{Client, Remote, plain, transport};
use super::partial::Partial;
use super::retry::Backoff;
use crate::digest::{Hashes, Sha256Hash, hash_file};
use crate::lock::{Hold, LockFile};
use crate::progress::{Progress, Transfer};
use crate::store::files::{check_free_space, remove_if_exists, rename_durably, write_atomic};
use crate::store::{Fetched, Origin};

/// An attempt that brings less than this counts as one that brought nothing.
const PROGRESS_BYTES: u64 = 64 << 10;

/// Brings files of a hub into its cache.
pub(crate) struct Downloader<'a> {
    pub(crate) client: &'a Client,
    pub(crate) cache: &'a HubCache,
    /// Where validators of interrupted transfers are kept.
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
            return Ok(Fetched { path: self.cache.link(remote)?, hashes, origin: Origin::Found });
        }
        let hashes = self.download(remote, pinned, &blob).await?;
        Ok(Fetched { path: self.cache.link(remote)?, hashes, origin: Origin::Pulled })
    }

    async fn download(
        &self,
        remote: &Remote,
        pinned: Option<Sha256Hash>,
        blob: &Path,
    ) -> Result<Hashes, Error> {
        let incomplete = self.cache.incomplete(remote);
        let mut partial = open(incomplete.clone(), remote.size).await?;
        let mut may_be_stale = partial.num_bytes() > 0;
        loop {
            check_free_space(&incomplete, remote.size - partial.num_bytes())
                .map_err(Error::io(&incomplete))?;
            if let Err(error) = self.receive(remote, &mut partial).await {
                return Err(self.abandon(error, partial, remote));
            }
            let finished = blocking(move || partial.finish()).await;
            let (path, hashes) = finished.map_err(Error::io(&incomplete))?;
            self.forget_validator(remote);
            if hashes.matches(&remote.id) && pinned.is_none_or(|pin| pin == hashes.sha256) {
                let to = blob.to_owned();
                blocking(move || rename_durably(&path, &to)).await.map_err(Error::io(blob))?;
                return Ok(hashes);
            }
            remove_if_exists(&incomplete).map_err(Error::io(&incomplete))?;
            if !may_be_stale {
                return Err(wrong_hash(remote, hashes));
            }
            // What an earlier run left may have been of something else.
            may_be_stale = false;
            partial = open(incomplete.clone(), remote.size).await?;
        }
    }

    /// Keeps what can be resumed, and frees the room of what cannot.
    fn abandon(&self, error: Error, partial: Partial, remote: &Remote) -> Error {
        let is_useless = matches!(&error, Error::WrongSize { .. })
            || matches!(&error, Error::Io { source, .. } if is_disk_full(source));
        if is_useless {
            self.forget_validator(remote);
            if let Err(source) = partial.discard() {
                tracing::warn!(%source, file = %remote.file, "could not delete a partial file");
            }
        }
        error
    }

    /// Goes on until all bytes are there.
    async fn receive(&self, remote: &Remote, partial: &mut Partial) -> Result<(), Error> {
        let label = remote.file.as_ref();
        let transfer = self.progress.start(label, partial.num_bytes(), remote.size);
        let mut backoff = Backoff::new(self.client.retries());
        while !partial.is_complete() {
            let before = partial.num_bytes();
            if let Err(error) = self.attempt(remote, partial, &transfer).await {
                if partial.num_bytes() >= before + PROGRESS_BYTES {
                    backoff.reset();
                }
                tracing::debug!(%error, file = label, "transfer interrupted");
                backoff.wait(error).await?;
            }
        }
        transfer.finish();
        Ok(())
    }

    /// One request, from where the file ends now.
    async fn attempt(
        &self,
        remote: &Remote,
        partial: &mut Partial,
        transfer: &Transfer,
    ) -> Result<(), Error> {
        let path = self.cache.incomplete(remote);
        let from = partial.num_bytes();
        let validator = if from > 0 { self.validator(remote) } else { None };
        let mut response = self.client.get(remote, from, validator.as_deref()).await?;
        let url = response.url().clone();
        if !continues(&response, remote, from)? {
            partial.restart().map_err(Error::io(&path))?;
        }
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            return Err(Error::CutShort { url: plain(&url), received: 0, size: remote.size });
        }
        self.remember_validator(remote, &response);
        while let Some(chunk) = response.chunk().await.map_err(transport(&url))? {
            if let Err(got) = partial.write(&chunk).map_err(Error::io(&path))? {
                return Err(wrong_size(remote, got));
            }
            transfer.set(partial.num_bytes());
        }
        if !partial.is_complete() {
            let received = partial.num_bytes();
            return Err(Error::CutShort { url: plain(&url), received, size: remote.size });
        }
        Ok(())
    }

    fn validator_path(&self, remote: &Remote) -> PathBuf {
        self.state.join(format!("{}.etag", remote.id))
    }

    /// The strong ETag under which the first bytes of an interrupted transfer came.
    fn validator(&self, remote: &Remote) -> Option<String> {
        std::fs::read_to_string(self.validator_path(remote)).ok()
    }

    fn remember_validator(&self, remote: &Remote, response: &Response) {
        let etag = response.headers().get("etag").and_then(|etag| etag.to_str().ok());
        match etag.filter(|etag| etag.starts_with('"')) {
            Some(etag) => {
                // Without it a resumed file is still checked, only later.
                if let Err(error) = write_atomic(&self.validator_path(remote), etag.as_bytes()) {
                    tracing::debug!(%error, "could not note the validator of a transfer");
                }
            }
            None => self.forget_validator(remote),
        }
    }

    fn forget_validator(&self, remote: &Remote) {
        let _ = remove_if_exists(&self.validator_path(remote));
    }
}

/// Whether the answer goes on where the file ends; if not, it starts over.
fn continues(response: &Response, remote: &Remote, from: u64) -> Result<bool, Error> {
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
    if response.status() != StatusCode::PARTIAL_CONTENT {
        let length = header("content-length").and_then(|length| length.parse().ok());
        if response.status() == StatusCode::OK
            && let Some(got) = length.filter(|length| *length != remote.size)
        {
            return Err(wrong_size(remote, got));
        }
        return Ok(false);
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

async fn open(path: PathBuf, size: u64) -> Result<Partial, Error> {
    let at = path.clone();
    blocking(move || Partial::open(&path, size)).await.map_err(Error::io(&at))
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
