//! A directory for sockets that nobody else can enter.
//!
//! A passing one is removed when dropped; what a launcher that was killed left behind goes at the
//! next start. A lasting one stays for as long as what listens in it: the next launcher of the same
//! server finds it again.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::lock::{Hold, LockFile};
use crate::settings::Settings;

use crate::digest::Sha256Hash;
use crate::store::files::{remove_if_exists, write_atomic};

const PREFIX: &str = "sconce-";
const LOCK: &str = "lock";
const SOCKET: &str = "sock";

/// The longest name of a socket, without [`SOCKET`].
const MAX_NAME: usize = 16;

/// Where a server notes its lasting directory.
const NOTE: &str = "sockets";

/// The kernel's limit for the path of a socket (macOS; Linux has a few bytes more).
const MAX_SOCKET_PATH: usize = 104;

/// The directory.
#[derive(Debug)]
pub(crate) enum RunDir {
    /// Held by this process, and removed when dropped.
    Passing {
        /// The directory.
        directory: TempDir,
        /// Tells others that it is in use.
        _lock: LockFile,
    },
    /// A server's, whichever process is its launcher.
    Lasting(PathBuf),
}

impl RunDir {
    /// Makes one where the system keeps such things, or in the store, or where a path is short.
    pub(crate) fn passing(settings: &Settings) -> anyhow::Result<Self> {
        in_first_base(settings, |base| {
            sweep(base);
            Self::create_in(base)
        })
    }

    /// The one of the server whose own folder is `server`, which exists.
    pub(crate) fn lasting(settings: &Settings, server: &Path) -> anyhow::Result<Self> {
        if let Some(known) = lasting_of(server).filter(|known| is_private(known)) {
            return Ok(Self::Lasting(known));
        }
        let key = Sha256Hash::of(server.as_os_str().as_encoded_bytes()).short(12);
        in_first_base(settings, |base| {
            std::fs::create_dir_all(base)?;
            let directory = base.join(format!("{PREFIX}{key}"));
            match DirBuilder::new().mode(0o700).create(&directory) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                Ok(()) | Err(_) if is_private(&directory) => {}
                Ok(()) | Err(_) => return Err(io::Error::other("others may enter it")),
            }
            write_atomic(&server.join(NOTE), directory.as_os_str().as_encoded_bytes())?;
            Ok(Self::Lasting(directory))
        })
    }

    /// Where a socket of this name is, or would be.
    pub(crate) fn socket(&self, name: &str) -> PathBuf {
        let directory = match self {
            Self::Passing { directory, .. } => directory.path(),
            Self::Lasting(directory) => directory,
        };
        directory.join(format!("{name}.{SOCKET}"))
    }

    /// Removes a lasting directory, in which nothing listens any more.
    pub(crate) fn remove_lasting(server: &Path) -> io::Result<()> {
        if let Some(directory) = lasting_of(server).filter(|directory| is_private(directory)) {
            remove_sockets(&directory);
            // What is not ours keeps the directory.
            let _ = std::fs::remove_dir(&directory);
        }
        remove_if_exists(&server.join(NOTE))
    }

    fn create_in(base: &Path) -> std::io::Result<Self> {
        std::fs::create_dir_all(base)?;
        let private = Permissions::from_mode(0o700);
        let directory =
            tempfile::Builder::new().prefix(PREFIX).permissions(private).tempdir_in(base)?;
        let lock = LockFile::try_take(&directory.path().join(LOCK), Hold::Exclusive)?;
        let lock = lock.ok_or_else(|| std::io::Error::other("the new directory is locked"))?;
        Ok(Self::Passing { directory, _lock: lock })
    }
}

/// Makes a directory in the first place that is there and whose paths are short enough.
fn in_first_base(
    settings: &Settings,
    make: impl Fn(&Path) -> io::Result<RunDir>,
) -> anyhow::Result<RunDir> {
    let own = settings.home.join("run");
    let candidates = [settings.runtime_dir.clone(), Some(own), Some(std::env::temp_dir())];
    let mut last = None;
    for base in candidates.into_iter().flatten() {
        let name = PREFIX.len() + "xxxxxxxxxxxx//".len() + MAX_NAME + 1 + SOCKET.len();
        if base.as_os_str().len() + name + 1 >= MAX_SOCKET_PATH {
            continue;
        }
        match make(&base) {
            Ok(directory) => return Ok(directory),
            Err(error) => {
                last = Some(anyhow::Error::new(error).context(base.display().to_string()));
            }
        }
    }
    let error = last.unwrap_or_else(|| anyhow::anyhow!("every path is too long for a socket"));
    Err(error.context("creating a directory for sockets"))
}

fn lasting_of(server: &Path) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let path = std::fs::read(server.join(NOTE)).ok()?;
    Some(std::ffi::OsString::from_vec(path).into())
}

/// Whether it is a directory, and only this user can enter it.
fn is_private(directory: &Path) -> bool {
    let own = rustix::process::geteuid().as_raw();
    std::fs::symlink_metadata(directory).is_ok_and(|metadata| {
        metadata.is_dir() && metadata.uid() == own && metadata.mode() & 0o077 == 0
    })
}

fn remove_sockets(directory: &Path) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.path().extension().is_some_and(|kind| kind == SOCKET) {
            // What cannot be removed keeps the directory, and nothing else is removed.
            let _ = std::fs::remove_file(entry.path());
        }
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
            remove_sockets(&directory);
            let _ = std::fs::remove_file(lock);
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
            std::fs::write(directory.join("worker.sock"), b"").unwrap();
        }
        std::fs::write(dead.join(LOCK), b"").unwrap();

        sweep(base.path());

        assert!(!dead.exists());
        assert!(foreign.exists());
        assert!(alive.socket("worker").parent().unwrap().exists());
    }

    #[test]
    fn a_server_finds_its_lasting_directory_again_whatever_the_environment_says() {
        let home = tempfile::tempdir().unwrap();
        let server = tempfile::tempdir().unwrap();
        let base = tempfile::tempdir().unwrap();
        let settings = |base: Option<&Path>| {
            let home = home.path().to_owned();
            let variables = move |name: &str| (name == "HOME").then(|| home.clone().into());
            let mut settings = Settings::from_lookup(&variables).unwrap();
            settings.runtime_dir = base.map(Path::to_owned);
            settings
        };
        let first = RunDir::lasting(&settings(Some(base.path())), server.path()).unwrap();
        let socket = first.socket("a");
        assert!(socket.starts_with(base.path()));
        std::fs::write(&socket, b"").unwrap();
        drop(first);

        sweep(base.path());
        let second = RunDir::lasting(&settings(None), server.path()).unwrap();
        assert_eq!(second.socket("a"), socket);
        assert!(socket.exists());
        RunDir::remove_lasting(server.path()).unwrap();
        assert!(!socket.parent().unwrap().exists());
    }

    #[test]
    fn a_directory_that_others_may_enter_is_not_used() {
        let base = tempfile::tempdir().unwrap();
        let open = base.path().join("open");
        std::fs::create_dir(&open).unwrap();
        std::fs::set_permissions(&open, Permissions::from_mode(0o755)).unwrap();

        assert!(!is_private(&open));
        std::os::unix::fs::symlink("/root", base.path().join("link")).unwrap();
        assert!(!is_private(&base.path().join("link")));
    }
}
