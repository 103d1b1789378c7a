//! The cache that the hub's own tools use, in their layout, so that files are shared with them.
//!
//! `models--owner--repo/blobs/<content>` holds files, `snapshots/<commit>/<path>` links to them,
//! `refs/<branch>` says which commit a branch was last seen at. A blob may itself be a link into a
//! store that several repositories share.

use std::io;
use std::path::{Path, PathBuf};

use hf_hub::{Cache, CacheRepo, Repo};

use super::Error;
use super::listing::Remote;
use crate::digest::ContentId;
use crate::name::{RepoId, RepoPath, Revision};
use crate::store::files::{check_free_space, remove_if_exists, write_atomic};

/// The hub's cache on this machine.
#[derive(Clone, Debug)]
pub(crate) struct HubCache {
    root: PathBuf,
}

impl HubCache {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Where `file` is, or would be, at `commit`.
    pub(crate) fn snapshot_file(
        &self,
        repo: &RepoId,
        commit: &Revision,
        file: &RepoPath,
    ) -> PathBuf {
        self.snapshot(repo, commit).join(file.as_ref())
    }

    /// The directory of everything at `commit`.
    pub(crate) fn snapshot(&self, repo: &RepoId, commit: &Revision) -> PathBuf {
        self.repo(repo).pointer_path(commit.as_ref())
    }

    /// Where the content of `remote` is, or would be.
    pub(crate) fn blob(&self, remote: &Remote) -> PathBuf {
        self.directory(&remote.repo).join("blobs").join(remote.id.to_string())
    }

    /// Where the content of `remote` grows. Not where the hub's own tools let it grow: it may have
    /// gaps, and they would take its length for how much is there.
    pub(crate) fn incomplete(&self, remote: &Remote) -> PathBuf {
        self.directory(&remote.repo).join("blobs").join(format!("{}.sconce.incomplete", remote.id))
    }

    /// Refuses to begin what the disk has no room for: all of `remotes` that is not here yet.
    pub(crate) fn check_room<'a>(
        &self,
        remotes: impl Iterator<Item = &'a Remote>,
    ) -> Result<(), Error> {
        use std::os::unix::fs::MetadataExt;

        self.create()?;
        let missing = remotes.filter(|remote| !self.blob(remote).exists()).map(|remote| {
            let partial = std::fs::metadata(self.incomplete(remote));
            remote.size.saturating_sub(partial.map_or(0, |it| it.blocks() * 512))
        });
        let needed = missing.fold(0, u64::saturating_add);
        let any = self.root.join("blobs");
        check_free_space(&any, needed).map_err(Error::io(&self.root))
    }

    /// The lock that the hub's own tools take while they fetch the same content.
    pub(crate) fn lock(&self, remote: &Remote) -> PathBuf {
        let locks = self.root.join(".locks").join(folder_name(&remote.repo));
        locks.join(format!("{}.lock", remote.id))
    }

    /// The commit that `revision` was last seen at.
    pub(crate) fn commit(&self, repo: &RepoId, revision: &Revision) -> Option<Revision> {
        if revision.is_commit() {
            return Some(revision.clone());
        }
        let path = self.directory(repo).join("refs").join(revision.as_ref());
        let commit: Revision = std::fs::read_to_string(path).ok()?.trim().parse().ok()?;
        commit.is_commit().then_some(commit)
    }

    /// What the cache's own layout says that the file at `path` holds: the name of the blob that
    /// it links to.
    pub(crate) fn content_id(&self, path: &Path) -> Option<ContentId> {
        let target = std::fs::read_link(path).ok()?;
        let is_blob = target.parent().and_then(Path::file_name).is_some_and(|dir| dir == "blobs");
        is_blob.then(|| target.file_name()?.to_str()?.parse().ok())?
    }

    /// Makes `remote` appear in its snapshot.
    pub(crate) fn link(&self, remote: &Remote) -> Result<PathBuf, Error> {
        let path = self.snapshot_file(&remote.repo, &remote.commit, &remote.file);
        let target = relative_blob(&remote.file, &remote.id);
        if std::fs::read_link(&path).is_ok_and(|existing| existing == target) {
            return Ok(path);
        }
        link_atomic(&target, &path).map_err(Error::io(&path))?;
        Ok(path)
    }

    /// Notes that `revision` is at `commit`. Last, so that a reader finds what it points to.
    pub(crate) fn write_ref(
        &self,
        repo: &RepoId,
        revision: &Revision,
        commit: &Revision,
    ) -> Result<(), Error> {
        if revision.is_commit() {
            return Ok(());
        }
        let path = self.directory(repo).join("refs").join(revision.as_ref());
        write_atomic(&path, commit.as_ref().as_bytes()).map_err(Error::io(&path))
    }

    /// Marks the cache as one, so that backup tools leave it out.
    pub(crate) fn create(&self) -> Result<(), Error> {
        std::fs::create_dir_all(&self.root).map_err(Error::io(&self.root))?;
        let tag = self.root.join("CACHEDIR.TAG");
        if tag.exists() {
            return Ok(());
        }
        let text = b"Signature: 8a477f597d28d172789f06886806bc55\n# A cache of huggingface.co.\n";
        write_atomic(&tag, text).map_err(Error::io(&tag))
    }

    /// Removes `path`, a file of a snapshot, and its blob unless another file of the repository
    /// still links to it. A blob in the store that repositories share stays.
    pub(crate) fn remove(&self, repo: &RepoId, path: &Path) -> io::Result<()> {
        let Some(id) = self.content_id(path) else { return remove_if_exists(path) };
        remove_if_exists(path)?;
        let directory = self.directory(repo);
        if !links_to(&directory.join("snapshots"), &id.to_string())? {
            remove_if_exists(&directory.join("blobs").join(id.to_string()))?;
        }
        // Directories that still hold something stay.
        let mut parent = path.parent();
        while let Some(empty) = parent.filter(|parent| parent.starts_with(&directory)) {
            if std::fs::remove_dir(empty).is_err() {
                break;
            }
            parent = empty.parent();
        }
        Ok(())
    }

    fn repo(&self, repo: &RepoId) -> CacheRepo {
        Cache::new(self.root.clone()).model(repo.as_ref().to_owned())
    }

    fn directory(&self, repo: &RepoId) -> PathBuf {
        self.root.join(folder_name(repo))
    }
}

fn folder_name(repo: &RepoId) -> String {
    Repo::model(repo.as_ref().to_owned()).folder_name()
}

/// From a snapshot's file to its blob, relative, so that the cache can be moved.
fn relative_blob(file: &RepoPath, id: &ContentId) -> PathBuf {
    let depth = file.as_ref().split('/').count() + 1;
    let mut target: PathBuf = std::iter::repeat_n("..", depth).collect();
    target.push("blobs");
    target.push(id.to_string());
    target
}

fn link_atomic(target: &Path, path: &Path) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent)?;
    let temporary = tempfile::Builder::new()
        .prefix(".sconce-")
        .make_in(parent, |candidate| std::os::unix::fs::symlink(target, candidate))?;
    temporary.into_temp_path().persist(path).map_err(|failed| failed.error)
}

/// Whether any link below `directory` points to a blob called `blob`.
fn links_to(directory: &Path, blob: &str) -> io::Result<bool> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let found = if kind.is_dir() {
            links_to(&entry.path(), blob)?
        } else {
            kind.is_symlink()
                && std::fs::read_link(entry.path())?.file_name().is_some_and(|name| name == blob)
        };
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}
