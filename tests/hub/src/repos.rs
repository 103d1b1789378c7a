//! What the hub has: repositories, their branches and commits, files and their names.

use std::collections::BTreeMap;

use axum::body::Bytes;
use sha1::Digest;

/// The first commit of every repository.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

pub(crate) type Files = BTreeMap<String, Bytes>;

/// A repository with one branch, `main`.
pub(crate) struct Repo {
    commits: BTreeMap<String, Files>,
    main: String,
    /// The token that opens it.
    pub(crate) gate: Option<String>,
}

impl Default for Repo {
    fn default() -> Self {
        let commits = BTreeMap::from([(COMMIT.to_owned(), Files::new())]);
        Self { commits, main: COMMIT.to_owned(), gate: None }
    }
}

impl Repo {
    pub(crate) fn put(&mut self, file: &str, content: Bytes) {
        self.commits.entry(self.main.clone()).or_default().insert(file.to_owned(), content);
    }

    pub(crate) fn move_to(&mut self, commit: &str) {
        let files = self.commits.get(&self.main).cloned().unwrap_or_default();
        self.commits.entry(commit.to_owned()).or_insert(files);
        commit.clone_into(&mut self.main);
    }

    /// The commit that `revision` stands for, and its files.
    pub(crate) fn at(&self, revision: &str) -> Option<(&str, &Files)> {
        let commit = if revision == "main" { &self.main } else { revision };
        self.commits.get_key_value(commit).map(|(commit, files)| (commit.as_str(), files))
    }
}

/// Whether a file's content is on the second host.
pub(crate) fn is_large(file: &str) -> bool {
    [".gguf", ".safetensors", ".bin"].iter().any(|kind| file.ends_with(kind))
}

/// The name of a large file's content.
pub fn sha256(content: &[u8]) -> String {
    use sha2::Digest;

    hex(&sha2::Sha256::digest(content))
}

/// The name of a small file's content: that of a git blob.
pub(crate) fn git_hash(content: &[u8]) -> String {
    let mut hash = sha1::Sha1::new();
    hash.update(format!("blob {}\0", content.len()));
    hash.update(content);
    hex(&hash.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
