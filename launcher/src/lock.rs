//! Locks between processes: files that are `flock`ed. The system lets go of them when their holder
//! dies, however it dies.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// A held lock. Dropping it releases it.
#[derive(Debug)]
pub(crate) struct LockFile {
    file: File,
}

/// How a lock is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    /// By one process at most.
    Exclusive,
    /// By any number, while nobody holds it exclusively.
    Shared,
}

impl LockFile {
    /// Takes the lock, or returns `None` when another holds it.
    pub(crate) fn try_take(path: &Path, hold: Hold) -> io::Result<Option<Self>> {
        loop {
            let file = open(path)?;
            let taken = match hold {
                Hold::Exclusive => file.try_lock(),
                Hold::Shared => file.try_lock_shared(),
            };
            match taken {
                Ok(()) if is_still_at(&file, path) => return Ok(Some(Self { file })),
                // Its last holder removed the file (Python's `filelock` does): lock the new one.
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
    }

    /// Takes the lock, and blocks this thread until then: for what is only ever held shortly.
    pub(crate) fn wait(path: &Path, hold: Hold) -> io::Result<Self> {
        loop {
            let file = open(path)?;
            match hold {
                Hold::Exclusive => file.lock()?,
                Hold::Shared => file.lock_shared()?,
            }
            if is_still_at(&file, path) {
                return Ok(Self { file });
            }
        }
    }

    /// The open file, which holds the lock in whatever process has it.
    pub(crate) fn share(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Whether another holds the lock in any way. One that was never taken isn't made.
    pub(crate) fn is_held(path: &Path) -> io::Result<bool> {
        match path.try_exists()? {
            true => Ok(Self::try_take(path, Hold::Exclusive)?.is_none()),
            false => Ok(false),
        }
    }

    /// Takes the lock; calls `on_wait` once if another holds it, and waits.
    pub(crate) async fn take(path: &Path, hold: Hold, on_wait: impl FnOnce()) -> io::Result<Self> {
        if let Some(lock) = Self::try_take(path, hold)? {
            return Ok(lock);
        }
        on_wait();
        loop {
            #[expect(
                clippy::disallowed_methods,
                reason = "a file lock tells nobody when it is free"
            )]
            tokio::time::sleep(Duration::from_millis(50)).await;
            if let Some(lock) = Self::try_take(path, hold)? {
                return Ok(lock);
            }
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path)
}

fn is_still_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(held), Ok(named)) => held.ino() == named.ino() && held.dev() == named.dev(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exclusive_lock_excludes_and_shared_ones_do_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sub/lock");

        let shared = LockFile::try_take(&path, Hold::Shared).unwrap().unwrap();
        assert!(LockFile::try_take(&path, Hold::Shared).unwrap().is_some());
        assert!(LockFile::try_take(&path, Hold::Exclusive).unwrap().is_none());

        drop(shared);
        assert!(LockFile::try_take(&path, Hold::Exclusive).unwrap().is_some());
    }
}
