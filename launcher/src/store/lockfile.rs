//! `models.lock`: the versions of a store with their hashes, and what names them.
//!
//! It holds nothing of this machine, so that another can be made the same from it. Each change is a
//! new generation; the ones before are kept beside it.

use std::collections::BTreeMap;
use std::io;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::defaults::Defaults;
use super::files::{remove_if_exists, write_atomic};
use super::manifest::{Manifest, Source};
use crate::digest::Sha256Hash;
use crate::name::{ModelId, Tag, VersionId};

/// The layout that this version reads and writes.
const FORMAT: u32 = 1;

/// Generations that are kept.
const NUM_KEPT: u64 = 100;

const HEAD: &str = "\
# The versions of the models in this store, and what names them. Written by sconce.
# `sconce sync FILE` makes another store the same.

";

/// The versions of a store with their hashes, and what names them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    format: u32,
    /// Grows with each change.
    pub generation: u64,
    /// What users named: versions that stay.
    #[serde(default)]
    pub aliases: BTreeMap<Tag, VersionId>,
    /// What pulls were asked for, and the version that the last one of each brought.
    #[serde(default)]
    pub names: BTreeMap<String, VersionId>,
    /// The number of each model's next version.
    #[serde(default)]
    pub next: BTreeMap<ModelId, NonZeroU32>,
    /// Every version, by name and number.
    #[serde(default, rename = "version")]
    pub versions: Vec<LockedVersion>,
}

/// A version, without anything of this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedVersion {
    /// The version.
    pub id: VersionId,
    /// Derived from its files and defaults.
    pub content: String,
    /// Where its files came from.
    pub source: Source,
    /// How it is served, where `sconce create` said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub defaults: Option<Defaults>,
    /// Its files.
    #[serde(rename = "file")]
    pub files: Vec<LockedFile>,
}

/// A file, and what it must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedFile {
    /// Its path in the repository.
    pub name: String,
    /// Its length in bytes.
    pub size: u64,
    /// Its content.
    pub sha256: Sha256Hash,
}

/// Why a `models.lock` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The disk said no.
    #[error("{}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It is damaged, or was edited into nonsense.
    #[error("{} is no lock file that this version can read", path.display())]
    Parse {
        /// Where.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: toml::de::Error,
    },
    /// It is of another version.
    #[error("{} has format {format}, and this version reads {FORMAT}", path.display())]
    Format {
        /// Where.
        path: PathBuf,
        /// What it has.
        format: u32,
    },
    /// It cannot be written as TOML.
    #[error("the lock file cannot be written")]
    Write(#[from] toml::ser::Error),
}

impl LockError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}

impl Default for Lock {
    fn default() -> Self {
        Self {
            format: FORMAT,
            generation: 0,
            aliases: BTreeMap::new(),
            names: BTreeMap::new(),
            next: BTreeMap::new(),
            versions: Vec::new(),
        }
    }
}

impl Lock {
    /// Reads a file; `None` if there is none.
    pub fn read(path: &Path) -> Result<Option<Self>, LockError> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(LockError::io(path)(error)),
        };
        let parse = |source| LockError::Parse { path: path.to_owned(), source };
        let Head { format } = toml::from_str(&text).map_err(parse)?;
        if format != FORMAT {
            return Err(LockError::Format { path: path.to_owned(), format });
        }
        toml::from_str(&text).map(Some).map_err(parse)
    }

    /// As text, for people and for [`Self::read`].
    pub fn to_toml(&self) -> Result<String, LockError> {
        Ok(HEAD.to_owned() + &toml::to_string_pretty(self)?)
    }

    /// Writes it as the store's own: its generation first, so that none is ever missing.
    pub(super) fn write(&self, home: &Path) -> Result<(), LockError> {
        let text = self.to_toml()?;
        let kept = generation_path(home, self.generation);
        write_atomic(&kept, text.as_bytes()).map_err(LockError::io(&kept))?;
        let path = path(home);
        write_atomic(&path, text.as_bytes()).map_err(LockError::io(&path))?;
        if let Some(oldest) = self.generation.checked_sub(NUM_KEPT) {
            let oldest = generation_path(home, oldest);
            remove_if_exists(&oldest).map_err(LockError::io(&oldest))?;
        }
        Ok(())
    }
}

impl LockedVersion {
    pub(crate) fn of(manifest: &Manifest) -> Self {
        let files = manifest.files.iter().map(|file| LockedFile {
            name: file.name.clone(),
            size: file.size,
            sha256: file.sha256,
        });
        Self {
            id: manifest.id.clone(),
            content: manifest.version.clone(),
            source: manifest.source.clone(),
            defaults: manifest.defaults.clone(),
            files: files.collect(),
        }
    }

    /// The length of all files together.
    pub fn size(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }
}

/// Where the store below `home` has its own.
pub(super) fn path(home: &Path) -> PathBuf {
    home.join("models.lock")
}

/// Where the store below `home` keeps a generation.
pub(super) fn generation_path(home: &Path, generation: u64) -> PathBuf {
    home.join("generations").join(format!("{generation}.lock"))
}
