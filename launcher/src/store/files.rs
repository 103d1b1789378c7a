//! Files that are whole or absent, whatever happens in between.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::UNIX_EPOCH;

use indicatif::BinaryBytes;

/// Left free on a disk, so that the rest of the machine goes on.
const SPARE_BYTES: u64 = 64 << 20;

/// Writes `bytes` to `path`: a reader sees the old content or the new one.
pub(crate) fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent)?;
    let mut file = tempfile::NamedTempFile::new_in(parent)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|failed| failed.error)?;
    File::open(parent)?.sync_all()
}

/// Makes a directory that only its owner can enter; one that is there stays as it is.
pub(crate) fn create_private(directory: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

/// Moves a file that is synced already, so that the move survives a power cut too.
pub(crate) fn rename_durably(from: &Path, to: &Path) -> io::Result<()> {
    let parent = to.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent)?;
    std::fs::rename(from, to)?;
    File::open(parent)?.sync_all()
}

/// Removes a file. One that is not there is as good.
pub(crate) fn remove_if_exists(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Refuses to start what would fill the disk of `path`'s directory, which exists.
pub(crate) fn check_free_space(path: &Path, needed: u64) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let disk = rustix::fs::statvfs(directory)?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let needed = needed.saturating_add(SPARE_BYTES);
    if free < needed {
        let (free, needed) = (BinaryBytes(free), BinaryBytes(needed));
        let text = format!("{free} are free on its disk and {needed} are needed");
        return Err(io::Error::new(io::ErrorKind::StorageFull, text));
    }
    Ok(())
}

/// What tells cheaply that a file was not touched: its length and when it was last written, in
/// nanoseconds since 1970. Follows links; anything but a regular file is an error.
pub(crate) fn fingerprint(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let modified = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok((metadata.len(), u64::try_from(modified.as_nanos()).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_is_too_small_is_refused_before_anything_is_fetched() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.gguf");

        assert!(check_free_space(&path, 1).is_ok());
        let error = check_free_space(&path, u64::MAX / 2).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
