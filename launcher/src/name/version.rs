//! Names that this machine gives: a model, one of its versions, and what else may name a version.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Error, RepoId, is_plain, is_slug, shorten};

/// What this machine calls a model: `smollm2`. Its versions are numbered.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ModelId(String);

/// One immutable set of files: `smollm2@1`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VersionId {
    /// The model.
    pub model: ModelId,
    /// Its number, from 1 on. One that was given is never given to other files.
    pub number: NonZeroU32,
}

/// `name:tag`: an alias, or an entry of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tag(String);

impl ModelId {
    /// What a repository's model is called unless said otherwise: as the repository, without its
    /// owner. `None` where that would be read as something else.
    pub fn of_repo(repo: &RepoId) -> Option<Self> {
        repo.as_ref().split_once('/')?.1.parse().ok()
    }

    /// As [`Self::of_repo`], with the owner: no two repositories have the same.
    pub(crate) fn of_repo_in_full(repo: &RepoId) -> Result<Self, Error> {
        repo.as_ref().replace('/', "--").parse()
    }
}

impl Tag {
    /// What stands before the colon.
    pub fn model(&self) -> Result<ModelId, Error> {
        self.0.split_once(':').map_or("", |(name, _)| name).parse()
    }
}

impl FromStr for ModelId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        // Anything that ends so is taken for a file.
        let is_file = text.to_ascii_lowercase().ends_with(".gguf");
        let valid = text.len() <= 200 && is_plain(text) && !text.contains("..") && !is_file;
        if valid { Ok(Self(text.to_owned())) } else { Err(Error::Model(shorten(text))) }
    }
}

impl FromStr for VersionId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = || Error::Version(shorten(text));
        let (model, number) = text.split_once('@').ok_or_else(invalid)?;
        // One way to write each: no sign, no zeros in front.
        let number: NonZeroU32 = number.parse().map_err(|_| invalid())?;
        let id = Self { model: model.parse().map_err(|_| invalid())?, number };
        if id.to_string() == text { Ok(id) } else { Err(invalid()) }
    }
}

impl FromStr for Tag {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let valid = text.split_once(':').is_some_and(|(name, tag)| is_slug(name) && is_slug(tag));
        if valid { Ok(Self(text.to_owned())) } else { Err(Error::Tag(shorten(text))) }
    }
}

impl fmt::Display for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.model, self.number)
    }
}

macro_rules! from_text {
    ($($name:ident)*) => {$(
        impl TryFrom<String> for $name {
            type Error = Error;

            fn try_from(text: String) -> Result<Self, Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.to_string()
            }
        }
    )*};
}

as_text!(ModelId Tag);
from_text!(ModelId VersionId Tag);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_has_one_way_to_be_written() {
        assert_eq!("smollm2@12".parse::<VersionId>().unwrap().to_string(), "smollm2@12");
        for text in ["smollm2@0", "smollm2@01", "smollm2@+1", "smollm2@", "@1", "a/b@1", "a@1@2"] {
            assert!(text.parse::<VersionId>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_repository_gives_its_model_a_name() {
        let repo: RepoId = "Owner/Model.Name-1".parse().unwrap();
        assert_eq!(ModelId::of_repo(&repo).unwrap().as_ref(), "Model.Name-1");
        assert_eq!(ModelId::of_repo_in_full(&repo).unwrap().as_ref(), "Owner--Model.Name-1");
        let file: RepoId = "owner/model.GGUF".parse().unwrap();
        assert_eq!(ModelId::of_repo(&file), None);
    }
}
