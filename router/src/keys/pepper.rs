//! The secret outside the database: without it, a stolen database says nothing about the keys.
//!
//! It lies in a file that only its owner can read, and it also derives the salts that keep the
//! prefix caches of different keys apart.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hmac::{Hmac, Mac};
use rand::RngCore;
use sha2::Sha256;

const PEPPER_BYTES: usize = 32;

/// The key of the HMACs. Cheap to clone.
#[derive(Clone)]
pub struct Pepper(Arc<[u8; PEPPER_BYTES]>);

/// Why the pepper's file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Someone else may read the file.
    #[error("others can read it (mode {0:03o}); it must be private: chmod 600")]
    Exposed(u32),
    /// The file is not what was written.
    #[error("it has {0} bytes instead of {PEPPER_BYTES}")]
    Size(usize),
}

impl Pepper {
    /// A pepper that is forgotten with the process.
    pub fn ephemeral() -> Self {
        let mut bytes = [0; PEPPER_BYTES];
        rand::rng().fill_bytes(&mut bytes);
        Self(Arc::new(bytes))
    }

    /// HMAC-SHA-256 of a key's secret.
    pub fn hmac(&self, secret: &[u8]) -> [u8; 32] {
        self.derive(b"key\0", secret)
    }

    /// What recognizes this pepper without telling anything of it.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.derive(b"fingerprint\0", b"")
    }

    /// The salt of a key's prefix-cache entries.
    pub fn cache_salt(&self, key_id: &str) -> [u8; 16] {
        let mut salt = [0; 16];
        salt.copy_from_slice(&self.derive(b"cache-salt\0", key_id.as_bytes())[..16]);
        salt
    }

    fn derive(&self, purpose: &[u8], message: &[u8]) -> [u8; 32] {
        // HMAC takes a key of any length; this one fits into a block, so there is nothing to fail.
        let mut key = [0; 64];
        key[..PEPPER_BYTES].copy_from_slice(&*self.0);
        let mut mac = <Hmac<Sha256> as Mac>::new(&key.into());
        mac.update(purpose);
        mac.update(message);
        mac.finalize().into_bytes().into()
    }
}

/// Reads the pepper, or makes one. The returned file is locked until it is dropped.
pub(super) fn open(path: &Path) -> Result<(Pepper, File), Error> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create(path)?;
            File::open(path)?
        }
        Err(error) => return Err(error.into()),
    };
    file.lock()?;
    let mode = file.metadata()?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(Error::Exposed(mode));
    }
    let mut bytes = Vec::with_capacity(PEPPER_BYTES + 1);
    Read::by_ref(&mut file).take(PEPPER_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    let size = bytes.len();
    let bytes = <[u8; PEPPER_BYTES]>::try_from(bytes).map_err(|_| Error::Size(size))?;
    Ok((Pepper(Arc::new(bytes)), file))
}

/// Writes a new pepper under a name of its own and links it into place: whoever comes second finds
/// the first one's, whole.
fn create(path: &Path) -> Result<(), Error> {
    if let Some(directory) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        crate::store::create_private_directory(directory)?;
    }
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.tmp", uuid::Uuid::now_v7().simple()));
    let temporary = PathBuf::from(temporary);
    let written = write_private(&temporary, &*Pepper::ephemeral().0);
    let linked = written.and_then(|()| fs::hard_link(&temporary, path));
    let removed = fs::remove_file(&temporary);
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error.into()),
        Ok(()) | Err(_) => Ok(removed?),
    }
}

fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hmac_is_the_standard_one() {
        // RFC 4231's construction, checked against an independent implementation:
        // hmac.new(bytes(range(32)), b"key\0" + b"secret", "sha256").
        let mut bytes = [0; PEPPER_BYTES];
        for (byte, value) in bytes.iter_mut().zip(0..) {
            *byte = value;
        }
        let pepper = Pepper(Arc::new(bytes));

        let hex: String = pepper.hmac(b"secret").iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "a1240e6a74e1e7eece4d57cffcbba11e7151e96e679491478f0e20c41434c0d2");
    }

    #[test]
    fn a_pepper_is_made_once_and_private() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new").join("keys.db.pepper");

        let first = open(&path).unwrap().0;
        let second = open(&path).unwrap().0;

        assert_eq!(first.fingerprint(), second.fingerprint());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_pepper_that_others_can_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.db.pepper");
        open(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();

        assert!(matches!(open(&path), Err(Error::Exposed(0o640))));
    }

    #[test]
    fn a_truncated_pepper_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.db.pepper");
        write_private(&path, b"short").unwrap();

        assert!(matches!(open(&path), Err(Error::Size(5))));
    }
}
