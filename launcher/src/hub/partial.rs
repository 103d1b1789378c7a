//! A file that is still being fetched. What an earlier run left of it counts.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::digest::{Hasher, Hashes, update_from};

/// A file that is still being fetched, and the hash of what is there.
pub(crate) struct Partial {
    path: PathBuf,
    file: File,
    hasher: Hasher,
    size: u64,
}

impl Partial {
    /// Opens what an earlier run left at `path`, or an empty file. Blocking: hashes what is there.
    pub(crate) fn open(path: &Path, size: u64) -> io::Result<Self> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        let mut partial = Self { path: path.to_owned(), file, hasher: Hasher::new(size), size };
        update_from(&mut partial.hasher, &mut partial.file)?;
        if partial.hasher.num_bytes() > size {
            partial.restart()?;
        }
        Ok(partial)
    }

    /// Bytes that are there.
    pub(crate) fn num_bytes(&self) -> u64 {
        self.hasher.num_bytes()
    }

    /// Whether everything is there.
    pub(crate) fn is_complete(&self) -> bool {
        self.num_bytes() == self.size
    }

    /// Forgets what is there.
    pub(crate) fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.hasher = Hasher::new(self.size);
        Ok(())
    }

    /// Appends `bytes`, unless they are more than the file may have: then returns how many it
    /// would have.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<Result<(), u64>> {
        let grown = self.num_bytes() + bytes.len() as u64;
        if grown > self.size {
            return Ok(Err(grown));
        }
        self.file.write_all(bytes)?;
        self.hasher.update(bytes);
        Ok(Ok(()))
    }

    /// Makes the bytes survive a power cut, and says what they are. Blocking.
    pub(crate) fn finish(self) -> io::Result<(PathBuf, Hashes)> {
        self.file.sync_all()?;
        Ok((self.path, self.hasher.finish()))
    }

    /// Deletes the file.
    pub(crate) fn discard(self) -> io::Result<()> {
        std::fs::remove_file(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::{ContentId, Sha256Hash};

    #[test]
    fn what_an_earlier_run_left_is_part_of_the_hash() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.incomplete");
        let mut first = Partial::open(&path, 11).unwrap();
        first.write(b"hello ").unwrap().unwrap();
        drop(first);

        let mut second = Partial::open(&path, 11).unwrap();
        assert_eq!(second.num_bytes(), 6);
        second.write(b"world").unwrap().unwrap();
        assert!(second.is_complete());

        let (_, hashes) = second.finish().unwrap();
        assert!(hashes.matches(&ContentId::Sha256(Sha256Hash::of(b"hello world"))));
    }

    #[test]
    fn a_byte_too_many_is_refused_and_a_leftover_too_long_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.incomplete");

        let mut partial = Partial::open(&path, 3).unwrap();
        assert_eq!(partial.write(b"four").unwrap(), Err(4));

        std::fs::write(&path, b"four").unwrap();
        assert_eq!(Partial::open(&path, 3).unwrap().num_bytes(), 0);
    }

    #[test]
    fn a_link_is_not_written_through() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.incomplete");
        std::os::unix::fs::symlink(directory.path().join("victim"), &path).unwrap();

        assert!(Partial::open(&path, 3).is_err());
    }
}
