//! Which versions are being served, and when each last was.

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::manifest::Manifest;
use super::{Error, Store};
use crate::lock::{Hold, LockFile};
use crate::name::{ModelName, VersionId};

/// A removal, or a look at what is served, takes no longer than this.
const PATIENCE: Duration = Duration::from_secs(5);

/// Keeps a version from being removed while it is served.
#[derive(Debug)]
pub struct InUse {
    used: PathBuf,
    lock: LockFile,
}

impl Store {
    /// Keeps a version from being removed until the returned value is dropped.
    pub async fn hold(&self, id: &VersionId) -> Result<InUse, Error> {
        let path = self.use_path(id);
        let taken = LockFile::take(&path, Hold::Shared, || ());
        let lock = tokio::time::timeout(PATIENCE, taken).await;
        let lock = lock.map_err(|_| Error::InUse(id.clone()))?.map_err(Error::io(&path))?;
        // It may have been removed before it was held.
        self.get(&ModelName::Version(id.clone()))?;
        let used = self.used_path(id);
        touch(&used).map_err(Error::io(&used))?;
        Ok(InUse { used, lock })
    }

    /// As [`Self::hold`], at once or not at all: another process that only looks may be in the way.
    pub fn try_hold(&self, id: &VersionId) -> Result<InUse, Error> {
        let path = self.use_path(id);
        let lock = LockFile::try_take(&path, Hold::Shared).map_err(Error::io(&path))?;
        let lock = lock.ok_or_else(|| Error::InUse(id.clone()))?;
        self.get(&ModelName::Version(id.clone()))?;
        let used = self.used_path(id);
        touch(&used).map_err(Error::io(&used))?;
        Ok(InUse { used, lock })
    }

    /// When a version was last served, in seconds since 1970.
    pub fn last_used(&self, id: &VersionId) -> Result<Option<u64>, Error> {
        let path = self.used_path(id);
        match std::fs::metadata(&path).and_then(|metadata| metadata.modified()) {
            Ok(time) => Ok(Some(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io(&path)(error)),
        }
    }

    /// Whether a version is being served.
    pub fn is_running(&self, manifest: &Manifest) -> Result<bool, Error> {
        for path in self.use_paths(manifest) {
            if LockFile::is_held(&path).map_err(Error::io(&path))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Keeps a version from being served. `None`: it is.
    pub(super) fn try_lock_use(&self, manifest: &Manifest) -> Result<Option<LockFile>, Error> {
        let [version, name] = self.use_paths(manifest);
        if LockFile::is_held(&name).map_err(Error::io(&name))? {
            return Ok(None);
        }
        LockFile::try_take(&version, Hold::Exclusive).map_err(Error::io(&version))
    }

    /// Forgets when a version was last served.
    pub(super) fn forget_use(&self, id: &VersionId) -> Result<(), Error> {
        let path = self.used_path(id);
        super::files::remove_if_exists(&path).map_err(Error::io(&path))
    }

    /// Of the version, and of the name that it was pulled by: a server that was started before
    /// there were versions holds the latter.
    fn use_paths(&self, manifest: &Manifest) -> [PathBuf; 2] {
        [self.use_path(&manifest.id), self.lock_path(&manifest.name, "use")]
    }

    fn use_path(&self, id: &VersionId) -> PathBuf {
        self.lock_path(&id.to_string(), "use")
    }

    fn used_path(&self, id: &VersionId) -> PathBuf {
        self.lock_path(&id.to_string(), "used")
    }
}

impl InUse {
    /// A file that keeps the version from being removed while anybody has it open: a process that
    /// is given it keeps its own version.
    pub fn share(&self) -> io::Result<std::fs::File> {
        self.lock.share()
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        // The time of the start is as good a guess as any when this fails.
        let _ = touch(&self.used);
    }
}

fn touch(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    file.set_modified(SystemTime::now())
}
