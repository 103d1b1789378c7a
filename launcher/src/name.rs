//! What a model is called: a version or an alias on this machine, a catalogue entry, a file or
//! repository on the hub, or a local path.
//!
//! A name that parses is safe to build a URL or a cache path from: no `..`, no separators where
//! none belong, no control characters.

// Before the modules that use it.
macro_rules! as_text {
    ($($name:ident)*) => {$(
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

mod version;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

pub use version::{ModelId, Tag, VersionId};

/// A model's name as a user typed it, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelName {
    /// `name`: the newest version in the store.
    Model(ModelId),
    /// `name@number`: a version in the store.
    Version(VersionId),
    /// `name:tag`: an alias, or an entry of the catalogue.
    Tag(Tag),
    /// `hf:owner/repo[@revision][:file]`.
    Hub(HubName),
    /// A GGUF file or a directory of safetensors on this machine.
    Path(PathBuf),
}

/// A repository on the hub, or one file of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubName {
    /// The repository.
    pub repo: RepoId,
    /// A branch, tag or commit; the hub's `main` when none is given.
    pub revision: Option<Revision>,
    /// One file; the whole model when none is given.
    pub file: Option<RepoPath>,
}

/// `owner/repo`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RepoId(String);

/// A branch, a tag or a commit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Revision(String);

/// A file's path inside a repository, of a kind that models are made of.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepoPath(String);

/// The kinds of file that are ever fetched. Pickles, archives and code are not: they can run.
pub const FILE_KINDS: [&str; 6] = ["gguf", "safetensors", "json", "txt", "model", "jinja"];

/// Why a text names no model.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Neither form fits.
    #[error(
        "`{0}` names no model: expected `name`, `name@number`, `name:tag`, \
         `hf:owner/repo[@revision][:file]`, or a path (with a `/` in it, or to a .gguf file)"
    )]
    Unknown(String),
    /// Not the name of a model on this machine.
    #[error(
        "`{0}` can't be the name of a model: expected letters, digits, `.`, `_`, `-` and `+`, and \
         no .gguf at its end"
    )]
    Model(String),
    /// Not `name@number`.
    #[error("`{0}` is not a version: expected `name@number`, such as `smollm2@1`")]
    Version(String),
    /// Not `name:tag`.
    #[error("`{0}` is not an alias: expected `name:tag`, such as `smollm2:prod`")]
    Tag(String),
    /// Not `owner/repo`.
    #[error("`{0}` is not a repository: expected `owner/repo`")]
    Repo(String),
    /// Not a branch, tag or commit.
    #[error("`{0}` is not a revision: expected a branch, a tag or a commit")]
    Revision(String),
    /// Not a plain relative path.
    #[error("`{0}` is not a path inside a repository")]
    File(String),
    /// A file that is never fetched.
    #[error(
        "`{0}` is refused: only .gguf, .safetensors, .json, .txt, .model and .jinja files are fetched"
    )]
    FileKind(String),
}

impl FromStr for ModelName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if let Some(rest) = text.strip_prefix("hf:") {
            return rest.parse().map(Self::Hub);
        }
        if let Ok(tag) = text.parse() {
            return Ok(Self::Tag(tag));
        }
        if let Ok(version) = text.parse() {
            return Ok(Self::Version(version));
        }
        let path = Path::new(text);
        let looks_like_path = text.contains('/') || path.extension().is_some_and(|e| e == "gguf");
        if looks_like_path && !text.contains('\0') {
            return Ok(Self::Path(path.to_owned()));
        }
        text.parse().map(Self::Model).map_err(|_| Error::Unknown(shorten(text)))
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Model(name) => name.fmt(f),
            Self::Version(version) => version.fmt(f),
            Self::Tag(tag) => tag.fmt(f),
            Self::Hub(name) => write!(f, "hf:{name}"),
            Self::Path(path) => path.display().fmt(f),
        }
    }
}

impl FromStr for HubName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (text, file) = match text.split_once(':') {
            Some((text, file)) => (text, Some(file.parse()?)),
            None => (text, None),
        };
        let (repo, revision) = match text.split_once('@') {
            Some((repo, revision)) => (repo, Some(revision.parse()?)),
            None => (text, None),
        };
        Ok(Self { repo: repo.parse()?, revision, file })
    }
}

impl fmt::Display for HubName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.repo)?;
        if let Some(revision) = &self.revision {
            write!(f, "@{revision}")?;
        }
        match &self.file {
            Some(file) => write!(f, ":{file}"),
            None => Ok(()),
        }
    }
}

impl FromStr for RepoId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let valid = text.split_once('/').is_some_and(|(owner, repo)| {
            [owner, repo].into_iter().all(|part| {
                part.len() <= 96 && is_plain(part) && !part.contains("..") && !part.contains("--")
            })
        });
        if valid { Ok(Self(text.to_owned())) } else { Err(Error::Repo(shorten(text))) }
    }
}

impl FromStr for Revision {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let valid =
            text.len() <= 200 && text.split('/').all(|part| is_plain(part) && !part.contains(".."));
        if valid { Ok(Self(text.to_owned())) } else { Err(Error::Revision(shorten(text))) }
    }
}

impl Revision {
    /// The branch that a repository starts with.
    pub fn main() -> Self {
        Self("main".to_owned())
    }

    /// Whether this is a commit, which can never mean something else later.
    pub fn is_commit(&self) -> bool {
        self.0.len() == 40 && self.0.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    }
}

impl FromStr for RepoPath {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let valid =
            text.len() <= 500 && text.split('/').all(|part| is_plain(part) && !part.contains(".."));
        if !valid {
            return Err(Error::File(shorten(text)));
        }
        let path = Self(text.to_owned());
        if !FILE_KINDS.contains(&path.kind()) {
            return Err(Error::FileKind(shorten(text)));
        }
        Ok(path)
    }
}

impl RepoPath {
    /// The extension, one of [`FILE_KINDS`].
    pub fn kind(&self) -> &str {
        self.0.rsplit_once('.').map_or("", |(_, kind)| kind)
    }

    /// The folder that the file lies in; empty for the root.
    pub fn folder(&self) -> &str {
        self.0.rsplit_once('/').map_or("", |(folder, _)| folder)
    }

    /// The file's name in its folder.
    pub fn name(&self) -> &str {
        self.0.rsplit_once('/').map_or(&self.0, |(_, name)| name)
    }

    /// Whether the file lies in the repository's root.
    pub fn is_at_root(&self) -> bool {
        !self.0.contains('/')
    }
}

/// Starts with a letter, digit or `_`, goes on with those, `.`, `-` and `+`. ASCII only, so that no
/// two names look the same.
fn is_plain(part: &str) -> bool {
    let starts_well = part.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    starts_well && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-+".contains(&b))
}

fn is_slug(part: &str) -> bool {
    part.len() <= 64 && is_plain(part)
}

/// Keeps a hostile name from filling a terminal.
fn shorten(text: &str) -> String {
    text.chars().take(100).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

as_text!(RepoId Revision RepoPath);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_form_parses_and_prints_as_it_was_typed() {
        for text in [
            "smollm2",
            "smollm2@3",
            "smollm2:135m",
            "hf:Owner/Repo.Name-1",
            "hf:owner/repo@refs/pr/1",
            "hf:owner/repo:model.Q4_1.gguf",
            "hf:owner/repo@v1.0:sub/model-00001-of-00002.safetensors",
            "./model.gguf",
            "/models/llama",
            "model.gguf",
        ] {
            assert_eq!(text.parse::<ModelName>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn hostile_names_are_refused() {
        let long = format!("hf:{}/b", "a".repeat(10_000));
        for text in [
            "",
            "..",
            ":",
            "smollm2@0",
            "smollm2@main",
            "smollm2:135m@1",
            "a:",
            "hf:",
            "hf:repo",
            "hf:../x",
            "hf:a/..",
            "hf:a/b/c",
            "hf:/etc/passwd",
            "hf:a/b@",
            "hf:a/b@../../x",
            "hf:a/b@-x",
            "hf:a/b:../../.ssh/id.txt",
            "hf:a/b:/etc/x.json",
            "hf:a/b:x/.hidden.json",
            "hf:a/b%2e%2e",
            "hf:a/b;$(id)",
            "hf:a/b\0",
            "hf:a/b\n",
            "hf:а/b",
            "a\0:b",
            &long,
        ] {
            assert!(text.parse::<ModelName>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn files_that_can_run_are_refused() {
        for file in ["a.bin", "a.pkl", "a.pt", "a.py", "a.zip", "a", "gguf", "a.gguf.exe"] {
            let error = format!("hf:o/r:{file}").parse::<ModelName>().unwrap_err();
            assert_eq!(error, Error::FileKind(file.to_owned()));
        }
    }

    proptest! {
        #[test]
        fn what_parses_never_climbs(text in "hf:[a./@:%-]{0,12}(\\.\\.)?[a./@:-]{0,12}(\\.json)?") {
            if let Ok(ModelName::Hub(name)) = text.parse() {
                let file = name.file.as_ref().map_or("", AsRef::as_ref);
                let revision = name.revision.as_ref().map_or("", AsRef::as_ref);
                for part in [name.repo.as_ref(), file, revision] {
                    prop_assert!(!part.contains("..") && !part.starts_with('/'));
                }
            }
        }
    }
}
