//! Models that the user has already, served from where they are.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::Model;
use crate::digest::Sha256Hash;
use crate::store::files::fingerprint;

/// Why a path is no model.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("{}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file of another kind.
    #[error("{} is not a .gguf file", .0.display())]
    Kind(PathBuf),
    /// A directory without a model.
    #[error("{} has no config.json with .safetensors files beside it", .0.display())]
    Directory(PathBuf),
}

/// Looks at the model at `path`.
///
/// Its version is made of lengths and times, not of the content: reading a model of a hundred
/// gigabytes twice at each start would be a high price for a file that its owner looks after.
pub(super) fn open(path: &Path) -> Result<Model, Error> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io { path, source }
    };
    let path = std::fs::canonicalize(path).map_err(io(path))?;
    let mut files = Vec::new();
    if path.is_dir() {
        for entry in std::fs::read_dir(&path).map_err(io(&path))? {
            files.push(entry.map_err(io(&path))?.path());
        }
        files.retain(|file| matches!(kind(file), Some("json" | "safetensors" | "model" | "jinja")));
        let has_config = files.iter().any(|file| file.ends_with("config.json"));
        let has_weights = files.iter().any(|file| kind(file) == Some("safetensors"));
        if !has_config || !has_weights {
            return Err(Error::Directory(path));
        }
        files.sort();
    } else if kind(&path) == Some("gguf") {
        files.push(path.clone());
    } else {
        return Err(Error::Kind(path));
    }
    let mut seen = String::new();
    for file in &files {
        let (size, modified_ns) = fingerprint(file).map_err(io(file))?;
        seen.push_str(&format!("{} {size} {modified_ns}\n", file.display()));
    }
    let version = format!("local-{}", Sha256Hash::of(seen.as_bytes()).short(16));
    let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
    let name = name.unwrap_or(OsStr::new("model")).to_string_lossy().into_owned();
    Ok(Model { name, path, version })
}

fn kind(path: &Path) -> Option<&str> {
    path.extension().and_then(OsStr::to_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gguf_file_and_a_directory_of_safetensors_are_models() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("tiny.Q4_1.gguf");
        std::fs::write(&file, b"GGUF").unwrap();
        assert_eq!(open(&file).unwrap().name, "tiny.Q4_1");
        assert!(matches!(open(directory.path()), Err(Error::Directory(_))));

        std::fs::write(directory.path().join("config.json"), b"{}").unwrap();
        std::fs::write(directory.path().join("model.safetensors"), b"").unwrap();
        assert!(open(directory.path()).is_ok());
    }

    #[test]
    fn a_file_that_was_written_again_is_another_version() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("tiny.gguf");
        std::fs::write(&file, b"GGUF").unwrap();
        let before = open(&file).unwrap();

        std::fs::write(&file, b"GGUF2").unwrap();

        assert_ne!(open(&file).unwrap().version, before.version);
    }

    #[test]
    fn other_files_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pytorch_model.bin");
        std::fs::write(&file, b"").unwrap();

        assert!(matches!(open(&file), Err(Error::Kind(_))));
        assert!(matches!(open(&directory.path().join("none.gguf")), Err(Error::Io { .. })));
    }
}
