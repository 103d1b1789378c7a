//! A directory for sockets that nobody else can enter. Removed when dropped; what a launcher that
//! was killed left behind goes at the next start.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::lock::{Hold, LockFile};
use crate::settings::Settings;

const PREFIX: &str = "sconce-";
const SOCKET: &str = "worker.sock";
const LOCK: &str = "lock";

/// The kernel's limit for the path of a socket (macOS; Linux has a few bytes more).
const MAX_SOCKET_PATH: usize = 104;

/// The directory, held by this process.
pub(super) struct RunDir {
    directory: TempDir,
    _lock: LockFile,
}

impl RunDir {
    /// Makes one where the system keeps such things, or in the store, or where a path is short.
    pub(super) fn create(settings: &Settings) -> anyhow::Result<Self> {
        let own = settings.home.join("run");
        let candidates = [settings.runtime_dir.clone(), Some(own), Some(std::env::temp_dir())];
        let mut last = None;
        for base in candidates.into_iter().flatten() {
            let length = base.as_os_str().len() + PREFIX.len() + SOCKET.len() + "/xxxxxx/".len();
            if length + 1 >= MAX_SOCKET_PATH {
                continue;
            }
            sweep(&base);
            match Self::create_in(&base) {
                Ok(directory) => return Ok(directory),
                Err(error) => {
                    last = Some(anyhow::Error::new(error).context(base.display().to_string()));
                }
            }
        }
        let error = last.unwrap_or_else(|| anyhow::anyhow!("every path is too long for a socket"));
        Err(error.context("creating a directory for sockets"))
    }

    /// Where the worker listens.
    pub(super) fn socket(&self) -> PathBuf {
        self.directory.path().join(SOCKET)
    }

    fn create_in(base: &Path) -> std::io::Result<Self> {
        std::fs::create_dir_all(base)?;
        let private = Permissions::from_mode(0o700);
        let directory =
            tempfile::Builder::new().prefix(PREFIX).permissions(private).tempdir_in(base)?;
        let lock = LockFile::try_take(&directory.path().join(LOCK), Hold::Exclusive)?;
        let lock = lock.ok_or_else(|| std::io::Error::other("the new directory is locked"))?;
        Ok(Self { directory, _lock: lock })
    }
}

/// Removes directories whose launcher is gone.
fn sweep(base: &Path) {
    let Ok(entries) = std::fs::read_dir(base) else { return };
    for entry in entries.flatten() {
        let is_ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        let directory = entry.path();
        let lock = directory.join(LOCK);
        if !is_ours || !lock.is_file() {
            continue;
        }
        if let Ok(Some(_lock)) = LockFile::try_take(&lock, Hold::Exclusive) {
            let leftovers = [directory.join(SOCKET), lock];
            for file in leftovers {
                // What cannot be removed keeps the directory, and nothing else is removed.
                let _ = std::fs::remove_file(file);
            }
            let _ = std::fs::remove_dir(&directory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_launcher_left_is_swept_and_what_is_in_use_stays() {
        let base = tempfile::tempdir().unwrap();
        let alive = RunDir::create_in(base.path()).unwrap();
        let dead = base.path().join("sconce-dead");
        let foreign = base.path().join("sconce-foreign");
        for directory in [&dead, &foreign] {
            std::fs::create_dir(directory).unwrap();
            std::fs::write(directory.join(SOCKET), b"").unwrap();
        }
        std::fs::write(dead.join(LOCK), b"").unwrap();

        sweep(base.path());

        assert!(!dead.exists());
        assert!(foreign.exists());
        assert!(alive.directory.path().exists());
    }
}
