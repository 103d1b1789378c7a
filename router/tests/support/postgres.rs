//! A PostgreSQL server of a test's own: its files in a temporary directory, its only door a socket
//! there.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// Who runs the server where the tests are run by root, which PostgreSQL refuses to be.
const NOBODY: u32 = 65534;

/// A running server, which ends with it.
pub(crate) struct Postgres {
    server: Child,
    directory: TempDir,
}

impl Postgres {
    /// Starts a server; nothing, and says so, where PostgreSQL is not installed.
    pub(crate) fn start() -> Option<Self> {
        let Some(programs) = programs() else {
            eprintln!("SKIPPED: PostgreSQL is not installed, and nothing was tested with it");
            return None;
        };
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
        if is_root() {
            chown(directory.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let data = directory.path().join("data");
        let mut initdb = command(&programs, "initdb", directory.path());
        initdb.args(["--auth=trust", "--username=sconce", "--no-sync", "--encoding=UTF8"]);
        let output = initdb.arg("--locale=C").arg("-D").arg(&data).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut postgres = command(&programs, "postgres", directory.path());
        postgres.arg("-D").arg(&data).arg("-k").arg(directory.path());
        postgres.args(["-c", "listen_addresses=", "-c", "fsync=off"]);
        let log = fs::File::create(directory.path().join("log")).unwrap();
        let server = postgres.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let mut started = Self { server, directory };
        started.wait(&programs);
        Some(started)
    }

    /// The URL of its one database.
    pub(crate) fn url(&self) -> String {
        format!("postgres://sconce@localhost/postgres?host={}", self.directory.path().display())
    }

    fn wait(&mut self, programs: &Path) {
        loop {
            let mut ready = command(programs, "pg_isready", self.directory.path());
            let ready = ready.arg("-q").arg("-h").arg(self.directory.path()).status().unwrap();
            if ready.success() {
                return;
            }
            if let Some(status) = self.server.try_wait().unwrap() {
                let log = fs::read_to_string(self.directory.path().join("log")).unwrap();
                panic!("PostgreSQL ended with {status}: {log}");
            }
            std::thread::yield_now();
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // The postmaster's death ends its children.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Where the newest PostgreSQL's programs are.
fn programs() -> Option<PathBuf> {
    let installed = fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut versions: Vec<_> = installed
        .filter_map(|version| {
            let path = version.ok()?.path();
            let number: u32 = path.file_name()?.to_str()?.parse().ok()?;
            path.join("bin/initdb").exists().then(|| (number, path.join("bin")))
        })
        .collect();
    versions.sort();
    Some(versions.pop()?.1)
}

fn command(programs: &Path, name: &str, directory: &Path) -> Command {
    let mut command = Command::new(programs.join(name));
    command.current_dir(directory);
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| {
        use std::os::unix::fs::MetadataExt;
        process.uid() == 0
    })
}
