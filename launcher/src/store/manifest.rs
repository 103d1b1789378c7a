//! What the store remembers of a version: where its files are, and what they must be.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::defaults::Defaults;
use super::files::fingerprint;
use super::{Fetched, Origin};
use crate::digest::{Sha256Hash, hash_file};
use crate::name::{RepoId, RepoPath, VersionId};

/// The layout of manifests that is written. The one before had neither versions nor defaults.
const FORMAT: u32 = 2;

/// A version in the store: where it came from, where its files are, and what they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    format: u32,
    /// The version.
    pub id: VersionId,
    /// As it was first pulled.
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
    /// How it is served, where `sconce create` said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub defaults: Option<Defaults>,
}

/// What is to become a version.
#[derive(Clone, Debug)]
pub struct Content {
    /// Where its files came from.
    pub source: Source,
    /// What a worker loads.
    pub model: PathBuf,
    /// Its files.
    pub files: Vec<ManifestFile>,
    /// How it is served.
    pub defaults: Option<Defaults>,
}

/// What manifests were before models had versions.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unnumbered {
    #[serde(rename = "format")]
    _format: u32,
    name: String,
    source: Source,
    model: PathBuf,
    version: String,
    files: Vec<ManifestFile>,
    created: u64,
}

/// What a manifest's file holds.
pub(super) enum Stored {
    /// A version.
    Version(Box<Manifest>),
    /// A model of before there were versions, which needs a number.
    Unnumbered(Box<dyn FnOnce(VersionId) -> Manifest>, String),
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
    /// A file or folder of this machine; the files are in the store itself.
    Import {
        /// Where it was.
        path: String,
    },
}

impl Source {
    pub(super) fn is_of_repo(&self, repo: &RepoId) -> bool {
        matches!(self, Self::Hub { repo: own, .. } if own == repo.as_ref())
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Hub { repo, commit } => {
                write!(f, "hf:{repo}@{}", commit.get(..8).unwrap_or(commit))
            }
            Self::Pypi { package, version } => write!(f, "pypi:{package}=={version}"),
            Self::Import { path } => write!(f, "import:{path}"),
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

impl Content {
    pub(crate) fn new(
        source: Source,
        model: PathBuf,
        fetched: &[(RepoPath, Fetched)],
    ) -> io::Result<Self> {
        let files = fetched.iter().map(|(name, fetched)| ManifestFile::new(name, fetched));
        let files = files.collect::<io::Result<Vec<_>>>()?;
        Ok(Self { source, model, files, defaults: None })
    }

    /// Derived from all files and the defaults: equal for equal versions, wherever they came from.
    pub(crate) fn digest(&self) -> String {
        let mut lines: Vec<_> =
            self.files.iter().map(|file| format!("{} {}\n", file.sha256, file.name)).collect();
        lines.sort();
        if let Some(defaults) = &self.defaults {
            lines.push(defaults.canonical());
        }
        Sha256Hash::of(lines.concat().as_bytes()).short(16)
    }

    /// Whether all files are still where they were a moment ago.
    pub(super) fn check_present(&self) -> io::Result<()> {
        self.files.iter().try_for_each(|file| fingerprint(&file.path).map(drop))
    }
}

/// What the name of a version that was created begins with, before its base.
pub(super) const CREATED: &str = "create:";

impl Manifest {
    /// The version that this one was created from, with defaults of its own. `None`: it was pulled or
    /// imported.
    pub fn base(&self) -> Option<&str> {
        self.name.strip_prefix(CREATED)
    }

    pub(crate) fn new(id: VersionId, name: String, content: Content) -> Self {
        let version = content.digest();
        let Content { source, model, files, defaults } = content;
        let created = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
        Self { format: FORMAT, id, name, source, model, version, files, created, defaults }
    }

    /// What it is made of.
    pub(super) fn content(&self) -> Content {
        let Self { source, model, files, defaults, .. } = self.clone();
        Content { source, model, files, defaults }
    }

    /// Reads a manifest's file. `None`: it is none that this version knows.
    pub(super) fn parse(bytes: &[u8]) -> Option<Stored> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        match serde_json::from_slice::<Head>(bytes).ok()?.format {
            FORMAT => serde_json::from_slice(bytes).ok().map(Box::new).map(Stored::Version),
            1 => {
                let old: Unnumbered = serde_json::from_slice(bytes).ok()?;
                let name = old.name.clone();
                Some(Stored::Unnumbered(Box::new(|id| old.numbered(id)), name))
            }
            _ => None,
        }
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

impl Unnumbered {
    fn numbered(self, id: VersionId) -> Manifest {
        let Self { name, source, model, version, files, created, .. } = self;
        let (format, defaults) = (FORMAT, None);
        Manifest { format, id, name, source, model, version, files, created, defaults }
    }
}

impl ManifestFile {
    pub(crate) fn new(name: &RepoPath, fetched: &Fetched) -> io::Result<Self> {
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
