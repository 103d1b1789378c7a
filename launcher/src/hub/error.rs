//! Why the hub did not give a file.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::digest::{ContentId, Sha256Hash};
use crate::name::{RepoPath, Revision};

/// Why the hub did not give a file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The network may not be used, and the cache does not have it.
    #[error("offline, and the cache at {} does not have it", cache.display())]
    Offline {
        /// The hub's cache.
        cache: PathBuf,
    },
    /// The file of the cache cannot be checked without the network.
    #[error("offline, and nothing says what {} should hold", .0.display())]
    Unverifiable(PathBuf),
    /// No HTTP client could be made: mostly, no root certificates.
    #[error("no HTTP client")]
    Client(#[source] reqwest::Error),
    /// The request or its answer broke off.
    #[error("{url}: the connection failed")]
    Transport {
        /// Without its query, which may be signed.
        url: String,
        /// What the network said.
        #[source]
        source: reqwest::Error,
    },
    /// The body ended early.
    #[error("{url}: the body ended after {received} of {size} bytes")]
    CutShort {
        /// Without its query.
        url: String,
        /// Bytes that are here.
        received: u64,
        /// Bytes of the file.
        size: u64,
    },
    /// A status that says that it may work later.
    #[error("{url}: status {status}")]
    Busy {
        /// Without its query.
        url: String,
        /// The status.
        status: u16,
        /// What the server asks to wait.
        retry_after: Option<Duration>,
    },
    /// A status that says no.
    #[error("{url}: status {status}: {reason}")]
    Refused {
        /// Without its query.
        url: String,
        /// The status.
        status: u16,
        /// The hub's own words, or ours.
        reason: String,
    },
    /// The server wants a longer pause than we make.
    #[error("{url}: status {status}, and the server asks to wait {} s", wait.as_secs())]
    AskedToWait {
        /// Without its query.
        url: String,
        /// The status.
        status: u16,
        /// What it asks for.
        wait: Duration,
    },
    /// All attempts failed.
    #[error("gave up after {attempts} attempts")]
    GaveUp {
        /// Attempts in a row that brought nothing.
        attempts: u32,
        /// Why the last one failed.
        #[source]
        last: Box<Self>,
    },
    /// A redirect in circles, to a lesser protocol, or to no URL.
    #[error("{url}: {reason}")]
    Redirect {
        /// Without its query.
        url: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An answer that is not what the protocol says.
    #[error("{url}: the answer has no valid {what}")]
    Protocol {
        /// Without its query.
        url: String,
        /// What is missing or makes no sense.
        what: &'static str,
    },
    /// The hub has another commit than the one that was asked for.
    #[error("the hub answers with commit {got} where {asked} was asked for")]
    WrongCommit {
        /// The pinned commit.
        asked: Revision,
        /// The hub's.
        got: Revision,
    },
    /// The hub announces another content than the catalogue.
    #[error("the hub announces {got} for {file}, which must be {expected}")]
    WrongAnnouncement {
        /// The file.
        file: RepoPath,
        /// The catalogue's.
        expected: Sha256Hash,
        /// The hub's.
        got: ContentId,
    },
    /// The file is shorter or longer than it must be.
    #[error("{file} has {got} bytes and must have {expected}")]
    WrongSize {
        /// The file.
        file: RepoPath,
        /// What it must have.
        expected: u64,
        /// What it has.
        got: u64,
    },
    /// The content is not what was announced. What had been fetched is deleted.
    #[error("{file} is corrupt: its sha256 is {got}, expected content {expected}")]
    WrongHash {
        /// The file.
        file: RepoPath,
        /// What was announced.
        expected: ContentId,
        /// What came.
        got: Sha256Hash,
    },
    /// The repository has no weights in a format that is served.
    #[error("the repository has neither .safetensors nor .gguf files at its root")]
    NoWeights,
    /// The repository's weights could run code.
    #[error(
        "the repository has its weights only as {0}: such files can run code when they are opened, \
         and are refused; .safetensors and .gguf are fetched"
    )]
    OnlyPickles(String),
    /// Several models in one repository.
    #[error(
        "the repository has several models; name a file with `:FILE`, or choose with --include: {}",
        .0.join(", ")
    )]
    Ambiguous(Vec<String>),
    /// The filter wants nothing of what there is.
    #[error("--include and --exclude leave nothing of what is fetched: {}", .0.join(", "))]
    NoMatch(Vec<String>),
    /// The filter leaves out what a model can't do without.
    #[error(
        "--include and --exclude leave no whole model: a shard or config.json is missing of {}",
        .0.join(", ")
    )]
    NotWhole(Vec<String>),
    /// The disk said no.
    #[error("{}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    /// Whether the same request may work later.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Transport { .. } | Self::CutShort { .. } | Self::Busy { .. } => true,
            Self::Offline { .. }
            | Self::Unverifiable(_)
            | Self::Client(_)
            | Self::Refused { .. }
            | Self::AskedToWait { .. }
            | Self::GaveUp { .. }
            | Self::Redirect { .. }
            | Self::Protocol { .. }
            | Self::WrongCommit { .. }
            | Self::WrongAnnouncement { .. }
            | Self::WrongSize { .. }
            | Self::WrongHash { .. }
            | Self::NoWeights
            | Self::OnlyPickles(_)
            | Self::Ambiguous(_)
            | Self::NoMatch(_)
            | Self::NotWhole(_)
            | Self::Io { .. } => false,
        }
    }
}
