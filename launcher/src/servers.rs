//! Servers that run in the background: which there are, where they write, and how they are told to
//! stop.
//!
//! Each has a record in the store and holds a lock beside it while it lives, so that a record whose
//! server was killed is known for one. A signal reaches the process that wrote the record or none:
//! its number and the time of its start must both be the record's.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

use crate::digest::Sha256Hash;
use crate::lock::{Hold, LockFile};
use crate::store::files::{create_private, remove_if_exists, write_atomic};

/// The layout of records.
const FORMAT: u32 = 1;

/// A look at whether a server lives takes no longer.
const LOOK: Duration = Duration::from_secs(1);

/// A log of before that is kept beside the new one.
const MAX_LOG_BYTES: u64 = 16 << 20;

/// A server, as it told of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    format: u32,
    /// What clients call its model.
    pub name: String,
    /// The launcher's process.
    pub pid: i32,
    /// When that process was started, in the kernel's ticks since it booted.
    pub started_ticks: u64,
    /// When the server was started, in seconds since 1970.
    pub started: u64,
    /// The version that it serves; `None`: a path of the user's.
    pub version: Option<String>,
    /// Where clients reach it, once they do.
    pub url: Option<String>,
    /// The command line, without the program and what put it into the background.
    pub args: Vec<String>,
    /// The folder that its paths are relative to.
    pub folder: PathBuf,
}

/// The servers of one store.
#[derive(Clone, Debug)]
pub struct Servers {
    folder: PathBuf,
}

/// A server's own record. Dropping it takes the record away.
#[derive(Debug)]
pub struct Registration {
    server: Server,
    path: PathBuf,
    _lock: LockFile,
}

/// Why servers can't be told of, or told to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk or the system said no.
    #[error("{}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What was said.
        #[source]
        source: io::Error,
    },
    /// A record that is damaged or of another version.
    #[error("{} is no record of a server that this version can read", .0.display())]
    Record(PathBuf),
    /// No such server.
    #[error("no server in the background serves `{0}`")]
    Absent(String),
    /// Another one has the name.
    #[error("`{0}` is being served in the background already")]
    Exists(String),
    /// The process with the record's number is another.
    #[error("process {pid} is not the server of `{name}` any more: nothing was signaled")]
    OtherProcess {
        /// The name.
        name: String,
        /// The process.
        pid: i32,
    },
    /// It does not end.
    #[error("process {pid}, the server of `{name}`, did not end within {} s", patience.as_secs())]
    Stuck {
        /// The name.
        name: String,
        /// The process.
        pid: i32,
        /// How long it was waited for.
        patience: Duration,
    },
}

impl Error {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}

impl Servers {
    /// The servers of the store below `home`.
    pub fn new(home: &Path) -> Self {
        Self { folder: home.join("run").join("servers") }
    }

    /// Every server that lives, by name. The records of others are removed.
    pub fn list(&self) -> Result<Vec<Server>, Error> {
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::io(&self.folder)(error)),
        };
        let mut servers = Vec::new();
        for entry in entries {
            let path = entry.map_err(Error::io(&self.folder))?.path();
            if path.extension().is_some_and(|kind| kind == "json") {
                servers.extend(self.read(&path)?);
            }
        }
        servers.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(servers)
    }

    /// The server of `name`.
    pub fn get(&self, name: &str) -> Result<Server, Error> {
        let found = self.read(&self.path(name, "json"))?;
        found.ok_or_else(|| Error::Absent(name.to_owned()))
    }

    /// Where the server of `name` writes its log, or wrote it.
    pub fn log(&self, name: &str) -> PathBuf {
        self.path(name, "log")
    }

    /// Opens the log of a server that is about to start; a long one of before is put aside.
    pub fn open_log(&self, name: &str) -> Result<std::fs::File, Error> {
        create_private(&self.folder).map_err(Error::io(&self.folder))?;
        let path = self.log(name);
        if std::fs::metadata(&path).is_ok_and(|metadata| metadata.len() > MAX_LOG_BYTES) {
            let aside = self.path(name, "old.log");
            std::fs::rename(&path, &aside).map_err(Error::io(&aside))?;
        }
        let mut options = std::fs::OpenOptions::new();
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options.create(true).append(true).open(&path).map_err(Error::io(&path))
    }

    /// Notes this process as the server of `name`, which `args` started.
    pub async fn register(
        &self,
        name: &str,
        args: Vec<String>,
        version: Option<String>,
    ) -> Result<Registration, Error> {
        create_private(&self.folder).map_err(Error::io(&self.folder))?;
        let path = self.path(name, "lock");
        // Whoever looks whether a server lives holds it for a moment.
        let taken = LockFile::take(&path, Hold::Exclusive, || ());
        let lock = tokio::time::timeout(LOOK, taken).await;
        let exists = |_| Error::Exists(name.to_owned());
        let lock = lock.map_err(exists)?.map_err(Error::io(&path))?;
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        let path = self.path(name, "json");
        let started_ticks = started_ticks(pid).map_err(Error::io(&path))?;
        let server = Server {
            format: FORMAT,
            name: name.to_owned(),
            pid,
            started_ticks,
            started: std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs(),
            version,
            url: None,
            args,
            folder: std::env::current_dir().map_err(Error::io(&path))?,
        };
        let registration = Registration { server, path, _lock: lock };
        registration.write()?;
        Ok(registration)
    }

    /// Tells a server to drain and end, and waits until it has; kills it after `patience`.
    pub async fn stop(&self, server: &Server, patience: Duration) -> Result<(), Error> {
        signal(server, Signal::TERM)?;
        if self.until_gone(&server.name, patience).await? {
            return Ok(());
        }
        // A second one has it end at once.
        signal(server, Signal::TERM)?;
        let grace = Duration::from_secs(10);
        match self.until_gone(&server.name, grace).await? {
            true => Ok(()),
            false => {
                let (name, patience) = (server.name.clone(), patience + grace);
                Err(Error::Stuck { name, pid: server.pid, patience })
            }
        }
    }

    /// Whether the server of `name` ended within `patience`.
    async fn until_gone(&self, name: &str, patience: Duration) -> Result<bool, Error> {
        let path = self.path(name, "lock");
        let taken = LockFile::take(&path, Hold::Exclusive, || ());
        match tokio::time::timeout(patience, taken).await {
            Ok(taken) => taken.map(|_| true).map_err(Error::io(&path)),
            Err(_) => Ok(false),
        }
    }

    /// The server of a record. `None`: there is no record, or its server is gone, and then it goes.
    fn read(&self, path: &Path) -> Result<Option<Server>, Error> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(path)(error)),
        };
        let server: Option<Server> = serde_json::from_slice(&bytes).ok();
        let server = server.filter(|server| server.format == FORMAT);
        let server = server.ok_or_else(|| Error::Record(path.to_owned()))?;
        let lock = path.with_extension("lock");
        match LockFile::try_take(&lock, Hold::Exclusive).map_err(Error::io(&lock))? {
            None => Ok(Some(server)),
            // Nobody can register under the name while the lock is held here.
            Some(_held) => {
                remove_if_exists(path).map_err(Error::io(path))?;
                Ok(None)
            }
        }
    }

    fn path(&self, name: &str, kind: &str) -> PathBuf {
        let key = Sha256Hash::of(name.as_bytes()).short(32);
        self.folder.join(format!("{key}.{kind}"))
    }
}

impl Registration {
    /// Notes where clients reach it.
    pub fn ready(&mut self, url: String) -> Result<(), Error> {
        self.server.url = Some(url);
        self.write()
    }

    fn write(&self) -> Result<(), Error> {
        let json = serde_json::to_vec_pretty(&self.server);
        let json = json.map_err(|error| Error::io(&self.path)(error.into()))?;
        write_atomic(&self.path, &json).map_err(Error::io(&self.path))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // One that stays is removed when servers are next listed: nobody holds its lock.
        let _ = remove_if_exists(&self.path);
    }
}

/// Signals the process that wrote the record, and no other: it is held on to before it is looked
/// at, so that its number can't become another's in between.
#[cfg(target_os = "linux")]
fn signal(server: &Server, signal: Signal) -> Result<(), Error> {
    use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};
    let Server { name, pid, .. } = server;
    let other = || Error::OtherProcess { name: name.clone(), pid: *pid };
    let number = Pid::from_raw(*pid).ok_or_else(other)?;
    let held = pidfd_open(number, PidfdFlags::empty()).map_err(|_| other())?;
    match started_ticks(*pid) {
        Ok(ticks) if ticks == server.started_ticks => {
            pidfd_send_signal(&held, signal).map_err(|_| other())
        }
        Ok(_) | Err(_) => Err(other()),
    }
}

/// Without a way to hold on to a process or to tell when it started, none is signaled.
#[cfg(not(target_os = "linux"))]
fn signal(server: &Server, _: Signal) -> Result<(), Error> {
    Err(Error::OtherProcess { name: server.name.clone(), pid: server.pid })
}

/// When a process was started, in the kernel's ticks since it booted.
fn started_ticks(pid: i32) -> io::Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in the second field may hold anything, spaces and parentheses too.
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace());
    let ticks = fields.and_then(|mut fields| fields.nth(19)?.parse().ok());
    ticks.ok_or_else(|| io::Error::other("/proc does not say when the process was started"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers() -> (tempfile::TempDir, Servers) {
        let home = tempfile::tempdir().unwrap();
        let servers = Servers::new(home.path());
        (home, servers)
    }

    #[tokio::test]
    async fn a_server_is_known_while_it_lives() {
        let (_home, servers) = servers();
        assert!(servers.list().unwrap().is_empty());

        let mut own = servers.register("a:1", vec!["up".into()], None).await.unwrap();
        own.ready("http://127.0.0.1:1".into()).unwrap();

        let [listed] = &servers.list().unwrap()[..] else { panic!() };
        assert_eq!(listed.url.as_deref(), Some("http://127.0.0.1:1"));
        assert_eq!(servers.get("a:1").unwrap(), *listed);
        assert!(matches!(servers.register("a:1", vec![], None).await, Err(Error::Exists(_))));
        drop(own);
        assert!(matches!(servers.get("a:1"), Err(Error::Absent(_))));
        assert!(servers.register("a:1", vec![], None).await.is_ok());
    }

    #[tokio::test]
    async fn the_record_of_a_server_that_was_killed_goes() {
        let (_home, servers) = servers();
        let own = servers.register("a:1", vec![], None).await.unwrap();
        let record = std::fs::read(&own.path).unwrap();
        let path = own.path.clone();
        drop(own);
        std::fs::write(&path, record).unwrap();

        assert!(servers.list().unwrap().is_empty());
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_process_of_the_same_number_is_not_signaled() {
        let (_home, servers) = servers();
        let _own = servers.register("a:1", vec![], None).await.unwrap();
        let mut server = servers.get("a:1").unwrap();
        server.started_ticks += 1;

        // Were it sent, this test would end here.
        assert!(matches!(signal(&server, Signal::KILL), Err(Error::OtherProcess { .. })));
        server.pid = 0;
        assert!(matches!(signal(&server, Signal::KILL), Err(Error::OtherProcess { .. })));
    }

    #[test]
    fn a_record_that_cannot_be_read_is_an_error_not_an_absence() {
        let (_home, servers) = servers();
        create_private(&servers.folder).unwrap();
        std::fs::write(servers.folder.join("x.json"), b"{}").unwrap();

        assert!(matches!(servers.list(), Err(Error::Record(_))));
    }
}
