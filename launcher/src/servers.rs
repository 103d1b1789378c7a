//! Servers: which there are, where they write, and how they are told to
//! stop.
//!
//! Each has a record in the store and holds a lock beside it while its launcher lives, so that a record
//! whose launcher was killed is known for one. Router and workers go on then: the server is orphaned,
//! until another launcher adopts them or they are told to end. A signal reaches the process that wrote
//! the record or none: its number and the time of its start must both be the record's.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::digest::Sha256Hash;
use crate::lock::{Hold, LockFile};
use crate::run_dir::RunDir;
use crate::store::files::{create_private, remove_if_exists, write_atomic};
use crate::supervisor::{self, Files, ProcessId, Record};

/// The layout of records.
const FORMAT: u32 = 1;

/// A look at whether a server lives takes no longer.
const LOOK: Duration = Duration::from_secs(1);

/// A launcher that leaves everything to the next has little to do.
const HAND_OVER: Duration = Duration::from_secs(10);

/// Servers of one name, all but one of them in the foreground.
const MAX_SAME: u32 = 64;

/// A launcher that starts again takes over what runs.
const RELOAD: Duration = Duration::from_secs(300);

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
    /// The socket that the launcher takes orders on, once it does.
    #[serde(default)]
    pub control: Option<PathBuf>,
    /// Whether its launcher lives.
    #[serde(default)]
    pub state: Standing,
    /// Who looks after its launcher.
    #[serde(default)]
    pub mode: Mode,
    /// Tells this start of its launcher from others of the same process.
    #[serde(default)]
    pub start: u64,
}

/// Whether a server's launcher lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// It does.
    #[default]
    Running,
    /// It does not, and its router or a worker does.
    Orphaned,
}

/// Who looks after a server's launcher.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Nobody: it is in the background.
    #[default]
    Background,
    /// A service manager.
    Service,
    /// Whoever started it, in a terminal: everything ends with it.
    Foreground,
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
    stays: bool,
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
    #[error("no server is called `{0}`")]
    Absent(String),
    /// Another one has the name.
    #[error("`{0}` is being served already")]
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
    #[error(
        "process {pid}, the server of `{name}`, did not do so within {} s",
        patience.as_secs()
    )]
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

    /// Every server of which a process lives, by name. The records of others are removed.
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

    /// Where the server of `name` keeps what is its own: what its processes write, and what the next
    /// launcher goes on from.
    pub fn own_folder(&self, name: &str) -> PathBuf {
        self.folder.join(key(name))
    }

    /// The processes of a server that outlive its launcher, and live.
    pub fn processes(&self, name: &str) -> Result<Vec<(Files, Record)>, Error> {
        let folder = self.own_folder(name);
        let found = Files::all(&folder).map_err(Error::io(&folder))?;
        let found = found.into_iter().filter_map(|files| Some((files.read()?, files)));
        let living = found.filter(|(record, _)| record.hold().is_some());
        Ok(living.map(|(record, files)| (files, record)).collect())
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

    /// Notes this process as a server in the foreground, by this name or, if another has that, by one
    /// with a number.
    pub async fn register_foreground(
        &self,
        name: &str,
        args: Vec<String>,
        version: Option<String>,
    ) -> Result<Registration, Error> {
        let names = (2..=MAX_SAME).map(|number| format!("{name}#{number}"));
        for name in std::iter::once(name.to_owned()).chain(names) {
            // Processes that wait for their launcher keep their record.
            if !self.processes(&name)?.is_empty() {
                continue;
            }
            let of = (version.clone(), Mode::Foreground);
            match self.register(&name, args.clone(), of).await {
                Err(Error::Exists(_)) => {}
                other => return other,
            }
        }
        Err(Error::Exists(name.to_owned()))
    }

    /// Notes this process as the server of `name`, which `args` started.
    pub async fn register(
        &self,
        name: &str,
        args: Vec<String>,
        (version, mode): (Option<String>, Mode),
    ) -> Result<Registration, Error> {
        create_private(&self.folder).map_err(Error::io(&self.folder))?;
        let path = self.path(name, "lock");
        // Whoever looks whether a server lives holds it for a moment.
        let taken = LockFile::take(&path, Hold::Exclusive, || ());
        let lock = tokio::time::timeout(LOOK, taken).await;
        let exists = |_| Error::Exists(name.to_owned());
        let lock = lock.map_err(exists)?.map_err(Error::io(&path))?;
        let path = self.path(name, "json");
        let ProcessId { pid, started_ticks } = ProcessId::own().map_err(Error::io(&path))?;
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
            control: None,
            state: Standing::Running,
            mode,
            start: unique(),
        };
        let registration = Registration { server, path, stays: false, _lock: lock };
        registration.write()?;
        Ok(registration)
    }

    /// Tells a server to drain and end, and waits until it has; kills it after `patience`.
    pub async fn stop(&self, server: &Server, patience: Duration) -> Result<(), Error> {
        match server.state {
            Standing::Running => self.stop_launcher(server, patience).await,
            Standing::Orphaned => self.stop_orphans(server, patience).await,
        }
    }

    /// Has a server's launcher end and leave the rest as it runs, for the next launcher.
    pub async fn hand_over(&self, server: &Server) -> Result<(), Error> {
        if server.state == Standing::Orphaned {
            return Ok(());
        }
        signal(server, Signal::USR1)?;
        if self.until_gone(&server.name, HAND_OVER).await? {
            return Ok(());
        }
        // As good, but for the last words.
        signal(server, Signal::KILL)?;
        self.until_gone(&server.name, HAND_OVER).await.map(drop)
    }

    /// Has a server's launcher start again as the same process, as whatever its program is now, and
    /// waits until it has taken everything over.
    pub async fn reload(&self, server: &Server) -> Result<Server, Error> {
        signal(server, Signal::HUP)?;
        let reloaded = async {
            let mut every = tokio::time::interval(Duration::from_millis(100));
            loop {
                every.tick().await;
                let now = self.get(&server.name)?;
                if now.start != server.start && now.url.is_some() {
                    return Ok(now);
                }
            }
        };
        let stuck =
            |_| Error::Stuck { name: server.name.clone(), pid: server.pid, patience: RELOAD };
        tokio::time::timeout(RELOAD, reloaded).await.map_err(stuck)?
    }

    /// Ends the router first: what it serves needs the workers.
    async fn stop_orphans(&self, server: &Server, patience: Duration) -> Result<(), Error> {
        let path = self.path(&server.name, "lock");
        let taken = LockFile::try_take(&path, Hold::Exclusive).map_err(Error::io(&path))?;
        // A launcher came back in between.
        let _lock = taken.ok_or_else(|| Error::Exists(server.name.clone()))?;
        let (routers, workers): (Vec<_>, Vec<_>) = self
            .processes(&server.name)?
            .into_iter()
            .partition(|(_, record)| record.version.is_none());
        for group in [routers, workers] {
            let ends = group.into_iter().map(|(files, record)| async move {
                if let Some(held) = record.hold() {
                    supervisor::end(&record.label, &held, patience).await;
                }
                files.forget()
            });
            for end in futures::future::join_all(ends).await {
                end.map_err(Error::io(&path))?;
            }
        }
        let folder = self.own_folder(&server.name);
        RunDir::remove_lasting(&folder).map_err(Error::io(&folder))?;
        let record = self.path(&server.name, "json");
        remove_if_exists(&record).map_err(Error::io(&record))
    }

    async fn stop_launcher(&self, server: &Server, patience: Duration) -> Result<(), Error> {
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
            Some(_held) if !self.processes(&server.name)?.is_empty() => {
                Ok(Some(Server { state: Standing::Orphaned, ..server }))
            }
            // Nobody can register under the name while the lock is held here.
            Some(_held) => {
                remove_if_exists(path).map_err(Error::io(path))?;
                Ok(None)
            }
        }
    }

    fn path(&self, name: &str, kind: &str) -> PathBuf {
        self.folder.join(format!("{}.{kind}", key(name)))
    }
}

fn unique() -> u64 {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
    u64::try_from(now).unwrap_or(u64::MAX)
}

fn key(name: &str) -> String {
    Sha256Hash::of(name.as_bytes()).short(32)
}

impl Registration {
    /// Notes where clients reach it.
    pub fn ready(&mut self, url: String) -> Result<(), Error> {
        self.server.url = Some(url);
        self.write()
    }

    /// Notes what it serves.
    pub fn serves(&mut self, version: Option<String>) {
        self.server.version = version;
    }

    /// Notes where the launcher takes orders.
    pub fn control(&mut self, socket: PathBuf) -> Result<(), Error> {
        self.server.control = Some(socket);
        self.write()
    }

    /// Leaves the record to the next launcher.
    pub fn leave(mut self) {
        self.stays = true;
    }

    fn write(&self) -> Result<(), Error> {
        let json = serde_json::to_vec_pretty(&self.server);
        let json = json.map_err(|error| Error::io(&self.path)(error.into()))?;
        write_atomic(&self.path, &json).map_err(Error::io(&self.path))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if !self.stays {
            // One that can't be is removed when servers are next listed: nobody holds its lock.
            let _ = remove_if_exists(&self.path);
        }
    }
}

/// Signals the process that wrote the record, and no other.
fn signal(server: &Server, signal: Signal) -> Result<(), Error> {
    let Server { name, pid, started_ticks, .. } = server;
    let other = || Error::OtherProcess { name: name.clone(), pid: *pid };
    let process = ProcessId { pid: *pid, started_ticks: *started_ticks };
    process.hold().ok_or_else(other)?.signal(signal).map_err(|_| other())
}

#[cfg(test)]
mod tests;
