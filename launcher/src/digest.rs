//! Content hashes: of a file as it streams, and as a hub or a catalogue states it.

use std::fmt;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// A sha256, written as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sha256Hash([u8; 32]);

impl Sha256Hash {
    /// The hash of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The first `digits` hex digits.
    pub fn short(&self, digits: usize) -> String {
        let mut hex = self.to_string();
        hex.truncate(digits);
        hex
    }
}

impl fmt::Display for Sha256Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Sha256Hash> for String {
    fn from(hash: Sha256Hash) -> Self {
        hash.to_string()
    }
}

impl TryFrom<String> for Sha256Hash {
    type Error = InvalidHash;

    fn try_from(text: String) -> Result<Self, InvalidHash> {
        text.parse()
    }
}

impl std::str::FromStr for Sha256Hash {
    type Err = InvalidHash;

    fn from_str(text: &str) -> Result<Self, InvalidHash> {
        decode_hex(text).map(Self).ok_or_else(|| InvalidHash(text.chars().take(80).collect()))
    }
}

/// Text that is not a hash in hex.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a hash in hexadecimal")]
pub struct InvalidHash(String);

/// How the hub names a file's content: large files by sha256, small ones as git does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ContentId {
    /// Of the content alone (Git LFS).
    Sha256(Sha256Hash),
    /// Of a header with the length, then the content (a git blob).
    GitSha1([u8; 20]),
}

impl fmt::Display for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha256(hash) => hash.fmt(f),
            Self::GitSha1(bytes) => bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}")),
        }
    }
}

impl std::str::FromStr for ContentId {
    type Err = InvalidHash;

    fn from_str(text: &str) -> Result<Self, InvalidHash> {
        if let Some(bytes) = decode_hex(text) {
            return Ok(Self::GitSha1(bytes));
        }
        text.parse().map(Self::Sha256)
    }
}

/// Takes a file's bytes as they pass and knows its hashes at the end.
pub struct Hasher {
    sha256: Sha256,
    git: Sha1,
    num_bytes: u64,
}

impl Hasher {
    /// `size` is the length that the file will have: a git hash starts with it.
    pub fn new(size: u64) -> Self {
        let mut git = Sha1::default();
        sha1::Digest::update(&mut git, format!("blob {size}\0").as_bytes());
        Self { sha256: Sha256::new(), git, num_bytes: 0 }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        // Only files that git itself holds are named by a git hash, and those are small.
        if self.num_bytes < MAX_GIT_BYTES {
            sha1::Digest::update(&mut self.git, bytes);
        }
        self.num_bytes += bytes.len() as u64;
    }

    /// Bytes taken so far.
    pub fn num_bytes(&self) -> u64 {
        self.num_bytes
    }

    /// The hashes of what was taken.
    pub fn finish(self) -> Hashes {
        let git =
            (self.num_bytes <= MAX_GIT_BYTES).then(|| sha1::Digest::finalize(self.git).into());
        Hashes { sha256: Sha256Hash(self.sha256.finalize().into()), git, size: self.num_bytes }
    }
}

/// Most bytes of a file that the hub keeps in git itself is 10 MiB; this leaves room.
const MAX_GIT_BYTES: u64 = 64 << 20;

/// What a file's content turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hashes {
    /// The sha256 of the content.
    pub sha256: Sha256Hash,
    /// Its length.
    pub size: u64,
    git: Option<[u8; 20]>,
}

impl Hashes {
    /// Whether this is the content that `id` names.
    pub fn matches(&self, id: &ContentId) -> bool {
        match id {
            ContentId::Sha256(hash) => self.sha256 == *hash,
            ContentId::GitSha1(hash) => self.git == Some(*hash),
        }
    }
}

/// Hashes the whole file at `path`. Blocking, and as slow as the disk.
pub fn hash_file(path: &Path) -> std::io::Result<Hashes> {
    let mut file = std::fs::File::open(path)?;
    let mut hasher = Hasher::new(file.metadata()?.len());
    update_from(&mut hasher, &mut file)?;
    Ok(hasher.finish())
}

/// Feeds everything that `reader` yields to `hasher`.
pub fn update_from(hasher: &mut Hasher, reader: &mut impl Read) -> std::io::Result<()> {
    let mut buffer = vec![0; 1 << 18];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => hasher.update(&buffer[..n]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn decode_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

fn digit(ascii: u8) -> Option<u8> {
    match ascii {
        b'0'..=b'9' => Some(ascii - b'0'),
        b'a'..=b'f' => Some(ascii - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_git_hash_is_what_git_computes() {
        let mut hasher = Hasher::new(6);
        hasher.update(b"hel");
        hasher.update(b"lo\n");

        let hashes = hasher.finish();

        let id: ContentId = "ce013625030ba8dba906f756967f9e9ca394464a".parse().unwrap();
        assert!(hashes.matches(&id));
        assert!(hashes.matches(&ContentId::Sha256(Sha256Hash::of(b"hello\n"))));
    }

    #[test]
    fn only_lower_case_hex_of_the_right_length_is_a_hash() {
        let good = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";
        assert_eq!(good.parse::<Sha256Hash>().unwrap().to_string(), good);
        for bad in ["", "ab", &good[1..], &good.to_uppercase(), "../../../../etc/passwd"] {
            assert!(bad.parse::<ContentId>().is_err(), "{bad}");
        }
    }
}
