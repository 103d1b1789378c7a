//! Takes a model that lies somewhere on this machine into the store: hashed, under the name of its
//! content, by hard link where the file system allows it.

use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::files::{check_free_space, rename_durably};
use super::manifest::{Content, Manifest, Source};
use super::{Error, Fetched, Origin, Store};
use crate::digest::{Sha256Hash, hash_file};
use crate::hub;
use crate::hub::select::{Candidate, is_whole, select_files};
use crate::name::{self, ModelId, RepoPath};

/// How a file comes into the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// As a second name of the same file, or copied where the store is on another file system.
    Link,
    /// Copied: the store's is its own.
    Copy,
}

/// What was imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The version.
    pub manifest: Manifest,
    /// Files that had to be copied, or were to be.
    pub num_copied: usize,
}

/// Why a path can't be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// It can't be read.
    #[error("{}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Not a model.
    #[error("{} is neither a .gguf file nor a folder of safetensors", .0.display())]
    Kind(PathBuf),
    /// A folder without a model, or with several.
    #[error("{}", path.display())]
    Folder {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: hub::Error,
    },
    /// A folder without all of its model.
    #[error("{} lacks config.json or one of its shards", .0.display())]
    Incomplete(PathBuf),
    /// A file whose name a store can't carry.
    #[error("the name of {} can't be kept", path.display())]
    Name {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: name::Error,
    },
    /// The store can't take it.
    #[error(transparent)]
    Store(#[from] Error),
}

/// A file outside of the store.
struct Found {
    file: RepoPath,
    path: PathBuf,
    size: u64,
}

impl Candidate for Found {
    fn file(&self) -> &RepoPath {
        &self.file
    }

    fn size(&self) -> u64 {
        self.size
    }
}

impl ImportError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}

impl Store {
    /// Adds the GGUF file or the folder of safetensors at `path` to the versions of `model`.
    /// Blocking, and as slow as reading all of it.
    pub fn import(
        &self,
        path: &Path,
        model: ModelId,
        transfer: Transfer,
    ) -> Result<Imported, ImportError> {
        let path = std::fs::canonicalize(path).map_err(ImportError::io(path))?;
        let mut fetched = Vec::new();
        let mut num_copied = 0;
        for found in files_of(&path)? {
            let (taken, how) = self.take(&found, transfer)?;
            num_copied += usize::from(how == Transfer::Copy);
            fetched.push((found.file, taken));
        }
        let tree = self.lay_out(&fetched)?;
        let single = fetched.first().map(|(_, file)| file.path.clone());
        let place = tree.or(single).ok_or_else(|| ImportError::Kind(path.clone()))?;
        let source = Source::Import { path: path.display().to_string() };
        let content =
            Content::new(source, place.clone(), &fetched).map_err(ImportError::io(&place))?;
        let name = format!("import:{}", path.display());
        Ok(Imported { manifest: self.add(model, &name, content)?, num_copied })
    }

    /// A folder with links to files of one model, under their own names. `None`: a model of one
    /// GGUF file needs none.
    pub(crate) fn lay_out(&self, files: &[(RepoPath, Fetched)]) -> Result<Option<PathBuf>, Error> {
        if let [(name, _)] = files
            && name.kind() == "gguf"
        {
            return Ok(None);
        }
        let mut lines: Vec<_> =
            files.iter().map(|(name, it)| format!("{} {name}\n", it.hashes.sha256)).collect();
        lines.sort();
        let digest = Sha256Hash::of(lines.concat().as_bytes());
        let tree = self.home.join("trees").join(digest.to_string());
        if tree.is_dir() {
            return Ok(Some(tree));
        }
        // Whole or absent: it gets its name last.
        let scratch = self.scratch().map_err(Error::io(&tree))?;
        let growing = scratch.path().join("tree");
        for (name, file) in files {
            link_blob(&growing, name, &file.path).map_err(Error::io(&growing))?;
        }
        match rename_durably(&growing, &tree) {
            // Another import of the same files was faster.
            Err(_) if tree.is_dir() => Ok(Some(tree)),
            Err(error) => Err(Error::io(&tree)(error)),
            Ok(()) => Ok(Some(tree)),
        }
    }

    /// Links or copies a file, and hashes what came: not what may have been there before.
    fn take(&self, found: &Found, transfer: Transfer) -> Result<(Fetched, Transfer), ImportError> {
        let blobs = self.blobs();
        std::fs::create_dir_all(&blobs).map_err(ImportError::io(&blobs))?;
        let temporary = tempfile::Builder::new().prefix(".import-").tempdir_in(&blobs);
        let temporary = temporary.map_err(ImportError::io(&blobs))?;
        let growing = temporary.path().join("file");
        let failed = || ImportError::io(&found.path);
        let how = match transfer {
            Transfer::Link if std::fs::hard_link(&found.path, &growing).is_ok() => Transfer::Link,
            Transfer::Link | Transfer::Copy => {
                check_free_space(&growing, found.size).map_err(failed())?;
                copy(&found.path, &growing).map_err(failed())?;
                Transfer::Copy
            }
        };
        let hashes = hash_file(&growing).map_err(failed())?;
        let path = self.blob(&hashes.sha256, found.file.kind());
        rename_durably(&growing, &path).map_err(ImportError::io(&path))?;
        Ok((Fetched { path, hashes, origin: Origin::Pulled }, how))
    }
}

fn files_of(path: &Path) -> Result<Vec<Found>, ImportError> {
    if path.is_dir() {
        return files_of_folder(path);
    }
    let file = found(path, Path::new(path.file_name().unwrap_or_default()))?;
    match file {
        Some(file) if file.file.kind() == "gguf" => Ok(vec![file]),
        Some(_) | None => Err(ImportError::Kind(path.to_owned())),
    }
}

fn files_of_folder(folder: &Path) -> Result<Vec<Found>, ImportError> {
    let mut files = Vec::new();
    for relative in [Path::new(""), Path::new("1_Pooling")] {
        let directory = folder.join(relative);
        if !directory.is_dir() {
            continue;
        }
        for entry in std::fs::read_dir(&directory).map_err(ImportError::io(&directory))? {
            let entry = entry.map_err(ImportError::io(&directory))?;
            files.extend(found(&entry.path(), &relative.join(entry.file_name()))?);
        }
    }
    files.sort_by(|a, b| a.file.cmp(&b.file));
    let failed = |source| ImportError::Folder { path: folder.to_owned(), source };
    let files = select_files(files).map_err(failed)?;
    if !is_whole(&files) {
        return Err(ImportError::Incomplete(folder.to_owned()));
    }
    Ok(files)
}

/// A file of a kind that models are made of; links are followed. Other files are none.
fn found(path: &Path, name: &Path) -> Result<Option<Found>, ImportError> {
    let path = std::fs::canonicalize(path).map_err(ImportError::io(path))?;
    let metadata = std::fs::metadata(&path).map_err(ImportError::io(&path))?;
    if !metadata.is_file() {
        return Ok(None);
    }
    match name.to_string_lossy().parse::<RepoPath>() {
        Ok(file) => Ok(Some(Found { file, path, size: metadata.len() })),
        Err(name::Error::FileKind(_)) => Ok(None),
        // Hidden files and the like are no part of a model; weights with strange names may be.
        Err(_) if !is_weights(name) => Ok(None),
        Err(source) => Err(ImportError::Name { path, source }),
    }
}

fn is_weights(name: &Path) -> bool {
    name.extension().is_some_and(|kind| kind == "gguf" || kind == "safetensors")
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::copy(from, to)?;
    std::fs::File::open(to)?.sync_all()
}

/// Links `name` in `tree` to a blob, relative, so that the store can be moved.
fn link_blob(tree: &Path, name: &RepoPath, blob: &Path) -> io::Result<()> {
    let path = tree.join(name.as_ref());
    std::fs::create_dir_all(path.parent().unwrap_or(tree))?;
    // From trees/DIGEST/NAME up to the store.
    let depth = name.as_ref().split('/').count() + 1;
    let mut target: PathBuf = std::iter::repeat_n("..", depth).collect();
    target.push("blobs");
    target.push(blob.file_name().unwrap_or_default());
    symlink(target, path)
}
