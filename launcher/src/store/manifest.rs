//! What the store remembers of a model.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::files::fingerprint;
use super::{Fetched, Origin};
use crate::digest::{Sha256Hash, hash_file};
use crate::name::RepoPath;

/// The layout of manifests that this version reads and writes.
const FORMAT: u32 = 1;

/// A model in the store: where it came from, where its files are, and what they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    format: u32,
    /// As it was pulled.
    pub name: String,
    /// Where its files came from.
    pub source: Source,
    /// What a worker loads: a GGUF file, or a directory with safetensors.
    pub model: PathBuf,
    /// Derived from the content of all files: equal for equal models, wherever they came from.
    pub version: String,
    /// Its files.
    pub files: Vec<ManifestFile>,
    /// When it was pulled, in seconds since 1970.
    pub created: u64,
}

/// Where a model's files came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Source {
    /// The hub; the files are in its cache.
    Hub {
        /// The repository.
        repo: String,
        /// The commit.
        commit: String,
    },
    /// A Python package; the files are in the store itself.
    Pypi {
        /// The package.
        package: String,
        /// Its version.
        version: String,
    },
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Hub { repo, commit } => {
                write!(f, "hf:{repo}@{}", commit.get(..8).unwrap_or(commit))
            }
            Self::Pypi { package, version } => write!(f, "pypi:{package}=={version}"),
        }
    }
}

/// One file of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestFile {
    /// Its path in the repository.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// Its length in bytes.
    pub size: u64,
    /// Its content.
    pub sha256: Sha256Hash,
    /// When it was last written, in nanoseconds since 1970: while this and the size stay, so does
    /// the content.
    pub modified_ns: u64,
    /// Whether removing the model may remove the file.
    pub origin: Origin,
}

/// How much of a file's content is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// All of it only when its length or time changed.
    IfTouched,
    /// All of it.
    Always,
}

/// Why a model in the store is not what was pulled.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// A file cannot be read.
    #[error("{} cannot be read", path.display())]
    Unreadable {
        /// Where it was.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file has another content.
    #[error("{} changed since it was pulled: its sha256 is {got}", path.display())]
    Changed {
        /// Where it is.
        path: PathBuf,
        /// Its content now.
        got: Sha256Hash,
    },
}

impl Manifest {
    pub(crate) fn new(
        name: String,
        source: Source,
        model: PathBuf,
        fetched: &[(RepoPath, Fetched)],
    ) -> io::Result<Self> {
        let files = fetched
            .iter()
            .map(|(name, fetched)| ManifestFile::new(name, fetched))
            .collect::<io::Result<Vec<_>>>()?;
        let created = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
        Ok(Self { format: FORMAT, name, source, model, version: version(&files), files, created })
    }

    /// Whether this version can read it.
    pub(crate) fn is_readable(&self) -> bool {
        self.format == FORMAT
    }

    /// The length of all files together.
    pub fn size(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }

    /// Checks that the files are still what was pulled. Blocking. Returns whether a file was
    /// touched but holds the same: the manifest now knows its new time.
    pub(crate) fn check(&mut self, check: Check) -> Result<bool, Damage> {
        let mut was_touched = false;
        for file in &mut self.files {
            was_touched |= file.check(check)?;
        }
        match std::fs::symlink_metadata(&self.model) {
            Ok(_) => Ok(was_touched),
            Err(source) => Err(Damage::Unreadable { path: self.model.clone(), source }),
        }
    }
}

impl ManifestFile {
    fn new(name: &RepoPath, fetched: &Fetched) -> io::Result<Self> {
        let (size, modified_ns) = fingerprint(&fetched.path)?;
        Ok(Self {
            name: name.to_string(),
            path: fetched.path.clone(),
            size,
            sha256: fetched.hashes.sha256,
            modified_ns,
            origin: fetched.origin,
        })
    }

    fn check(&mut self, check: Check) -> Result<bool, Damage> {
        let unreadable = |path: &Path| {
            let path = path.to_owned();
            move |source| Damage::Unreadable { path, source }
        };
        let (size, modified_ns) = fingerprint(&self.path).map_err(unreadable(&self.path))?;
        let is_untouched = (size, modified_ns) == (self.size, self.modified_ns);
        if is_untouched && check == Check::IfTouched {
            return Ok(false);
        }
        let hashes = hash_file(&self.path).map_err(unreadable(&self.path))?;
        if hashes.sha256 != self.sha256 {
            return Err(Damage::Changed { path: self.path.clone(), got: hashes.sha256 });
        }
        self.modified_ns = modified_ns;
        Ok(!is_untouched)
    }
}

fn version(files: &[ManifestFile]) -> String {
    let mut lines: Vec<_> =
        files.iter().map(|file| format!("{} {}\n", file.sha256, file.name)).collect();
    lines.sort();
    Sha256Hash::of(lines.concat().as_bytes()).short(16)
}
