//! What is written down of a process that outlives its launcher, for the next launcher to find.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::identity::{Held, ProcessId, boot};
use super::{Spec, announcement};
use crate::digest::Sha256Hash;
use crate::store::files::{create_private, fingerprint, remove_if_exists, write_atomic};

/// The layout of records.
const FORMAT: u32 = 1;

const KIND: &str = "process";

/// What is written down before a process is started.
const INTENT: &str = "intent";

/// The variable that tells a process from others before its number is written down.
pub(super) const TOKEN: &str = "SCONCE_PROCESS_TOKEN";

/// A process that outlives its launcher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    format: u32,
    /// What it is, for people: `router`, or `worker smollm2@2`.
    pub label: String,
    /// Which process it is.
    pub process: ProcessId,
    /// The start of the machine that the process is of.
    boot: String,
    /// When it was started, in seconds since 1970.
    pub started: u64,
    /// The socket that it listens on.
    pub socket: Option<PathBuf>,
    /// The version that it serves.
    pub version: Option<String>,
    /// What it was started from: another program or other arguments have another.
    pub fingerprint: String,
}

/// What is written down of a process before it is started: a launcher that dies between the start and
/// the record leaves a process that only its environment tells from others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Intent {
    format: u32,
    token: String,
    label: String,
    socket: Option<PathBuf>,
    version: Option<String>,
    fingerprint: String,
}

/// The files of one process: its record and what it writes, below a folder that only the user can
/// enter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    folder: PathBuf,
    key: String,
}

impl Record {
    pub(super) fn new(spec: &Spec, pid: i32) -> io::Result<Self> {
        Ok(Self {
            format: FORMAT,
            label: spec.label.clone(),
            process: ProcessId::of(pid)?,
            boot: boot(),
            started: std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs(),
            socket: spec.socket.clone(),
            version: spec.version.clone(),
            fingerprint: spec.fingerprint(),
        })
    }

    /// The process of an intent, if it was started. `None`: it was not, or it is gone.
    fn of_intent(intent: Intent) -> Option<Self> {
        let Intent { format, token, label, socket, version, fingerprint } = intent;
        if format != FORMAT {
            return None;
        }
        let process = ProcessId::with_variable(TOKEN, &token)?;
        let started = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
        let boot = boot();
        Some(Self { format, label, process, boot, started, socket, version, fingerprint })
    }

    /// Whether the process was started from this.
    pub fn is_of(&self, spec: &Spec) -> bool {
        self.fingerprint == spec.fingerprint()
    }

    /// Holds on to the process. `None`: it is gone.
    pub fn hold(&self) -> Option<Held> {
        if self.boot == boot() { self.process.hold() } else { None }
    }
}

impl Spec {
    /// Tells whether a process was started from this.
    pub(super) fn fingerprint(&self) -> String {
        let program = fingerprint(&self.program).unwrap_or_default();
        let Self { program: path, args, variables, .. } = self;
        let text = format!("{FORMAT} {path:?} {program:?} {args:?} {variables:?}");
        Sha256Hash::of(text.as_bytes()).to_string()
    }
}

impl Files {
    /// The files of the process `key`, which is a plain file name, below `folder`.
    pub fn new(folder: &Path, key: &str) -> Self {
        Self { folder: folder.to_owned(), key: key.to_owned() }
    }

    /// The files of every process that was written down below `folder`.
    pub fn all(folder: &Path) -> io::Result<Vec<Self>> {
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut found = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let Some(name) = name.to_str() else { continue };
            let key = [KIND, INTENT].iter().find_map(|kind| name.strip_suffix(&format!(".{kind}")));
            found.extend(key.map(|key| Self::new(folder, key)));
        }
        found.sort_by(|a, b| a.key.cmp(&b.key));
        found.dedup();
        Ok(found)
    }

    /// What the process is called among the others.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// What was written down. `None`: nothing, or nothing that this version can read.
    pub fn read(&self) -> Option<Record> {
        let Ok(bytes) = std::fs::read(self.path(KIND)) else { return self.find_intended() };
        let record: Option<Record> = serde_json::from_slice(&bytes).ok();
        record.filter(|record| record.format == FORMAT)
    }

    /// The process that was about to be written down when its launcher died.
    fn find_intended(&self) -> Option<Record> {
        let bytes = std::fs::read(self.path(INTENT)).ok()?;
        Record::of_intent(serde_json::from_slice(&bytes).ok()?)
    }

    /// Writes down that a process is about to be started; it must have what is returned in the
    /// variable [`TOKEN`].
    pub(super) fn intend(&self, spec: &Spec) -> io::Result<String> {
        create_private(&self.folder)?;
        let unique = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
        let text = format!("{} {unique} {}", std::process::id(), self.path(KIND).display());
        let token = Sha256Hash::of(text.as_bytes()).short(32);
        let intent = Intent {
            format: FORMAT,
            token: token.clone(),
            label: spec.label.clone(),
            socket: spec.socket.clone(),
            version: spec.version.clone(),
            fingerprint: spec.fingerprint(),
        };
        // What was known of a process before this one would be taken for it.
        remove_if_exists(&self.path(KIND))?;
        write_atomic(&self.path(INTENT), &serde_json::to_vec(&intent)?)?;
        Ok(token)
    }

    /// Writes a process down, which its intent then has no more to say of.
    pub(super) fn write(&self, record: &Record) -> io::Result<()> {
        write_atomic(&self.path(KIND), &serde_json::to_vec_pretty(record)?)?;
        remove_if_exists(&self.path(INTENT))
    }

    /// Forgets the process; what it logged stays.
    pub fn forget(&self) -> io::Result<()> {
        remove_if_exists(&self.path(KIND))?;
        remove_if_exists(&self.path(INTENT))?;
        remove_if_exists(&self.out())
    }

    /// Forgets the process and what it logged.
    pub fn remove(&self) -> io::Result<()> {
        self.forget()?;
        for path in [self.log(), self.old_log(), self.relayed()] {
            remove_if_exists(&path)?;
        }
        Ok(())
    }

    /// What it says on its standard output: announcements.
    pub(super) fn out(&self) -> PathBuf {
        self.path("out")
    }

    /// Whether the last that it said is that it ended in order.
    pub(super) fn ended_in_order(&self) -> bool {
        std::fs::read_to_string(self.out()).is_ok_and(|said| announcement::ended_in_order(&said))
    }

    /// What it says on its standard error stream.
    pub fn log(&self) -> PathBuf {
        self.path("log")
    }

    pub(super) fn old_log(&self) -> PathBuf {
        self.path("old.log")
    }

    /// How much of the log a launcher has passed on.
    pub(super) fn relayed(&self) -> PathBuf {
        self.path("relayed")
    }

    /// Opens the process's standard output, empty, and its standard error stream.
    pub(super) fn open(&self) -> io::Result<(File, File)> {
        create_private(&self.folder)?;
        let mut options = OpenOptions::new();
        options.create(true).mode(0o600);
        // Whatever is put aside or cut off, the next line goes to the end.
        let log = options.clone().append(true).open(self.log())?;
        remove_if_exists(&self.out())?;
        let out = options.append(true).open(self.out())?;
        Ok((out, log))
    }

    fn path(&self, kind: &str) -> PathBuf {
        self.folder.join(format!("{}.{kind}", self.key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::{Keep, Pulse};

    #[test]
    fn a_record_of_another_boot_or_layout_names_no_process() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::new(folder.path(), "router");
        let spec = Spec {
            label: "router".into(),
            program: "/bin/sh".into(),
            args: vec!["-c".into()],
            socket: None,
            version: None,
            variables: Vec::new(),
            keep: Keep::Outliving { files: files.clone(), held: None },
            pulse: Pulse::None,
        };
        let own = rustix::process::getpid().as_raw_nonzero().get();
        let record = Record::new(&spec, own).unwrap();
        files.write(&record).unwrap();

        assert_eq!(files.read(), Some(record.clone()));
        assert!(record.hold().is_some());
        assert_eq!(Files::all(folder.path()).unwrap(), std::slice::from_ref(&files));
        let other = Record { boot: "another".into(), ..record.clone() };
        assert!(other.hold().is_none());
        files.write(&Record { format: FORMAT + 1, ..record }).unwrap();
        assert_eq!(files.read(), None);
        files.remove().unwrap();
        assert!(Files::all(folder.path()).unwrap().is_empty());
    }

    #[test]
    fn other_arguments_and_variables_are_another_fingerprint() {
        let with = |args: &[&str], value: &str| Spec {
            label: "worker".into(),
            program: "/bin/sh".into(),
            args: args.iter().map(Into::into).collect(),
            socket: None,
            version: None,
            variables: vec![("SCONCE_DEVICE".into(), value.into())],
            keep: Keep::Tied,
            pulse: Pulse::None,
        };
        let spec = |args: &[&str]| with(args, "cpu");

        assert_eq!(spec(&["a", "b"]).fingerprint(), spec(&["a", "b"]).fingerprint());
        assert_ne!(spec(&["a", "b"]).fingerprint(), spec(&["a b"]).fingerprint());
        assert_ne!(spec(&["a"]).fingerprint(), with(&["a"], "cuda").fingerprint());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_process_is_found_whose_launcher_died_before_it_was_written_down() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::new(folder.path(), "w7");
        let spec = Spec {
            label: "worker".into(),
            program: "/bin/sleep".into(),
            args: vec!["1000".into()],
            socket: Some("/run/w7.sock".into()),
            version: Some("m@1".into()),
            variables: Vec::new(),
            keep: Keep::Outliving { files: files.clone(), held: None },
            pulse: Pulse::None,
        };
        let token = files.intend(&spec).unwrap();
        // It died before it started one.
        assert_eq!(Files::all(folder.path()).unwrap(), std::slice::from_ref(&files));
        assert_eq!(files.read(), None);

        let mut child = std::process::Command::new(&spec.program)
            .args(&spec.args)
            .env(TOKEN, token)
            .spawn()
            .unwrap();
        // It died before it wrote that down. A process has its environment some moments after its start.
        let found = std::iter::repeat_with(|| files.read()).take(10_000).flatten().next().unwrap();

        assert_eq!(found.process.pid, i32::try_from(child.id()).unwrap());
        assert!(found.hold().is_some() && found.is_of(&spec));
        assert_eq!((&found.socket, &found.version), (&spec.socket, &spec.version));
        files.write(&found).unwrap();
        assert_eq!(Files::all(folder.path()).unwrap(), std::slice::from_ref(&files));
        child.kill().unwrap();
        child.wait().unwrap();
        files.remove().unwrap();
        assert!(Files::all(folder.path()).unwrap().is_empty());
    }
}
