//! The model store: which models are on this machine, and the files that no hub's cache holds.
//!
//! Paths are made of hashes, never of names. A manifest is written after its files, so that what
//! has one is whole.

pub(crate) mod files;
mod manifest;

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use manifest::{Check, Damage, Manifest, ManifestFile, Source};

use crate::digest::{Hashes, Sha256Hash};
use crate::lock::{Hold, LockFile};
use crate::name::RepoPath;
use files::{create_private, remove_if_exists, write_atomic};

/// A file that is on this machine and was checked.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// Where it is.
    pub path: PathBuf,
    /// What it is.
    pub hashes: Hashes,
    /// Who put it there.
    pub origin: Origin,
}

/// Who put a file where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// A pull: removing the model removes it.
    Pulled,
    /// It was there before, and others may rely on it.
    Found,
}

/// The store below one directory.
#[derive(Clone, Debug)]
pub struct Store {
    home: PathBuf,
}

/// Why the store cannot do what it should.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk said no.
    #[error("{}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A manifest that is damaged or of another version.
    #[error("{} is no manifest that this version can read", .0.display())]
    Manifest(PathBuf),
    /// No such model.
    #[error("no model `{0}` in the store")]
    Absent(String),
    /// The model is being served, or pulled.
    #[error("`{0}` is in use by another sconce")]
    InUse(String),
}

impl Error {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}

/// A model whose files were read again.
#[derive(Debug)]
pub struct Verified {
    /// What was pulled.
    pub manifest: Manifest,
    /// How the files differ from it.
    pub damage: Option<Damage>,
}

/// Keeps a model from being removed while it is served.
#[derive(Debug)]
pub struct InUse {
    _lock: LockFile,
}

impl Store {
    /// The store below `home`, which need not exist.
    pub fn new(home: PathBuf) -> Self {
        Self { home }
    }

    /// The model called `name`, if it was pulled.
    pub fn find(&self, name: &str) -> Result<Option<Manifest>, Error> {
        let path = self.manifest_path(name);
        match std::fs::read(&path) {
            Ok(bytes) => parse(&path, &bytes).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io(&path)(error)),
        }
    }

    /// Every model, by name.
    pub fn list(&self) -> Result<Vec<Manifest>, Error> {
        let directory = self.home.join("models");
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::io(&directory)(error)),
        };
        let mut manifests = Vec::new();
        for entry in entries {
            let path = entry.map_err(Error::io(&directory))?.path();
            if path.extension().is_some_and(|kind| kind == "json") {
                let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
                manifests.push(parse(&path, &bytes)?);
            }
        }
        manifests.sort_by(|a: &Manifest, b| a.name.cmp(&b.name));
        Ok(manifests)
    }

    /// Reads the files of these models again, or of all. Blocking.
    pub fn verify(&self, names: &[String]) -> Result<Vec<Verified>, Error> {
        let manifests = match names {
            [] => self.list()?,
            names => {
                let find = |name: &String| self.find(name)?.ok_or(Error::Absent(name.clone()));
                names.iter().map(find).collect::<Result<_, _>>()?
            }
        };
        let verify = |mut manifest: Manifest| {
            let checked = manifest.check(Check::Always);
            if let Ok(true) = checked {
                self.write(&manifest)?;
            }
            Ok(Verified { manifest, damage: checked.err() })
        };
        manifests.into_iter().map(verify).collect()
    }

    /// Notes a model whose files are all there.
    pub(crate) fn write(&self, manifest: &Manifest) -> Result<(), Error> {
        let path = self.manifest_path(&manifest.name);
        let json = serde_json::to_vec_pretty(manifest).map_err(|e| Error::io(&path)(e.into()))?;
        write_atomic(&path, &json).map_err(Error::io(&path))
    }

    /// Forgets a model, and removes the files that only it needed: `remove` those in a hub's cache,
    /// the store its own. Returns how many bytes that freed.
    pub fn remove(
        &self,
        name: &str,
        remove: impl Fn(&Manifest, &ManifestFile) -> io::Result<()>,
    ) -> Result<u64, Error> {
        let in_use = || Error::InUse(name.to_owned());
        let _pull = self.try_lock(name, "pull")?.ok_or_else(in_use)?;
        let _use = self.try_lock(name, "use")?.ok_or_else(in_use)?;
        let manifest = self.find(name)?.ok_or_else(|| Error::Absent(name.to_owned()))?;
        let others: Vec<_> =
            self.list()?.into_iter().filter(|other| other.name != manifest.name).collect();
        let path = self.manifest_path(name);
        remove_if_exists(&path).map_err(Error::io(&path))?;

        let mut freed = 0;
        let is_shared = |path: &Path| {
            others.iter().any(|other| other.files.iter().any(|file| file.path == path))
        };
        for file in &manifest.files {
            if file.origin == Origin::Found || is_shared(&file.path) {
                continue;
            }
            match &manifest.source {
                Source::Hub { .. } => remove(&manifest, file),
                Source::Pypi { .. } => remove_if_exists(&file.path),
            }
            .map_err(Error::io(&file.path))?;
            freed += file.size;
        }
        Ok(freed)
    }

    /// Keeps `name` from being removed until the returned value is dropped.
    pub fn hold(&self, name: &str) -> Result<InUse, Error> {
        let path = self.lock_path(name, "use");
        let lock = LockFile::try_take(&path, Hold::Shared).map_err(Error::io(&path))?;
        lock.map(|lock| InUse { _lock: lock }).ok_or_else(|| Error::InUse(name.to_owned()))
    }

    /// Waits until no other pull of `name` is under way.
    pub(crate) async fn lock_pull(
        &self,
        name: &str,
        on_wait: impl FnOnce(),
    ) -> Result<LockFile, Error> {
        // The router's database will lie here too, and sockets: nobody else's business.
        create_private(&self.home).map_err(Error::io(&self.home))?;
        let path = self.lock_path(name, "pull");
        LockFile::take(&path, Hold::Exclusive, on_wait).await.map_err(Error::io(&path))
    }

    /// Where a file with this content is, or would be, if it came from a mirror.
    pub(crate) fn blob(&self, sha256: &Sha256Hash, name: &RepoPath) -> PathBuf {
        self.home.join("blobs").join(format!("{sha256}.{}", name.kind()))
    }

    /// A directory for what is under way, on the same disk as the files.
    pub(crate) fn scratch(&self) -> io::Result<tempfile::TempDir> {
        let directory = self.home.join("partial");
        std::fs::create_dir_all(&directory)?;
        tempfile::Builder::new().prefix("mirror-").tempdir_in(directory)
    }

    /// Where notes about interrupted transfers go.
    pub(crate) fn transfers(&self) -> PathBuf {
        self.home.join("partial")
    }

    fn try_lock(&self, name: &str, kind: &str) -> Result<Option<LockFile>, Error> {
        let path = self.lock_path(name, kind);
        LockFile::try_take(&path, Hold::Exclusive).map_err(Error::io(&path))
    }

    fn manifest_path(&self, name: &str) -> PathBuf {
        self.home.join("models").join(format!("{}.json", key(name)))
    }

    fn lock_path(&self, name: &str, kind: &str) -> PathBuf {
        self.home.join("locks").join(format!("{}.{kind}", key(name)))
    }
}

fn key(name: &str) -> String {
    Sha256Hash::of(name.as_bytes()).short(32)
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Manifest, Error> {
    let manifest: Option<Manifest> = serde_json::from_slice(bytes).ok();
    manifest.filter(Manifest::is_readable).ok_or_else(|| Error::Manifest(path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::hash_file;

    fn add(store: &Store, name: &str, content: &[u8]) -> Manifest {
        let file: RepoPath = "model.gguf".parse().unwrap();
        let path = store.blob(&Sha256Hash::of(content), &file);
        write_atomic(&path, content).unwrap();
        let hashes = hash_file(&path).unwrap();
        let fetched = Fetched { path: path.clone(), hashes, origin: Origin::Pulled };
        let source = Source::Pypi { package: "p".into(), version: "1".into() };
        let manifest = Manifest::new(name.into(), source, path, &[(file, fetched)]).unwrap();
        store.write(&manifest).unwrap();
        manifest
    }

    #[test]
    fn removing_a_model_keeps_files_that_another_needs() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::new(home.path().to_owned());
        let path = add(&store, "a:1", b"weights").model;
        add(&store, "b:1", b"weights");

        assert_eq!(store.remove("a:1", |_, _| Ok(())).unwrap(), 0);
        assert!(path.exists());
        assert_eq!(store.remove("b:1", |_, _| Ok(())).unwrap(), 7);
        assert!(!path.exists());
        assert!(matches!(store.remove("b:1", |_, _| Ok(())), Err(Error::Absent(_))));
    }

    #[test]
    fn a_model_in_use_is_not_removed() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::new(home.path().to_owned());
        add(&store, "a:1", b"weights");

        let held = store.hold("a:1").unwrap();
        assert!(matches!(store.remove("a:1", |_, _| Ok(())), Err(Error::InUse(_))));

        drop(held);
        assert_eq!(store.remove("a:1", |_, _| Ok(())).unwrap(), 7);
    }

    #[test]
    fn a_touched_file_is_hashed_again_and_a_changed_one_is_damage() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::new(home.path().to_owned());
        let mut manifest = add(&store, "a:1", b"weights");
        assert!(!manifest.check(Check::IfTouched).unwrap());

        std::fs::write(&manifest.model, b"weights").unwrap();
        assert!(manifest.check(Check::IfTouched).unwrap());
        assert!(!manifest.check(Check::IfTouched).unwrap());

        std::fs::write(&manifest.model, b"weighty").unwrap();
        assert!(matches!(manifest.check(Check::IfTouched), Err(Damage::Changed { .. })));
    }

    #[test]
    fn every_byte_is_read_to_verify_a_model() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::new(home.path().to_owned());
        let (a, b) = (add(&store, "a:1", b"weights"), add(&store, "b:1", b"others"));
        let damaged = |names: &[&str]| -> Vec<_> {
            let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
            let verified = store.verify(&names).unwrap().into_iter();
            verified.map(|it| (it.manifest.name, it.damage.is_some())).collect()
        };
        assert_eq!(damaged(&[]), [("a:1".into(), false), ("b:1".into(), false)]);

        // Of the same length and time: only its content tells.
        std::fs::write(&a.model, b"weighty").unwrap();
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_nanos(a.files[0].modified_ns);
        std::fs::File::open(&a.model).unwrap().set_modified(time).unwrap();
        std::fs::remove_file(&b.model).unwrap();

        assert_eq!(damaged(&["a:1"]), [("a:1".into(), true)]);
        assert_eq!(damaged(&[]), [("a:1".into(), true), ("b:1".into(), true)]);
        assert!(matches!(store.verify(&["c:1".into()]), Err(Error::Absent(_))));
    }

    #[test]
    fn the_version_is_that_of_the_content() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::new(home.path().to_owned());

        let (a, b, c) = (
            add(&store, "a:1", b"weights"),
            add(&store, "b:1", b"weights"),
            add(&store, "c:1", b"other"),
        );

        assert_eq!(a.version, b.version);
        assert_ne!(a.version, c.version);
    }

    #[test]
    fn a_foreign_manifest_is_an_error_not_an_absence() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::new(home.path().to_owned());
        std::fs::create_dir(home.path().join("models")).unwrap();
        std::fs::write(store.manifest_path("a:1"), b"{\"format\":2}").unwrap();

        assert!(matches!(store.find("a:1"), Err(Error::Manifest(_))));
        assert!(matches!(store.list(), Err(Error::Manifest(_))));
    }
}
