//! What commands find wrong that no other part of the launcher does.

use crate::name::Tag;
use crate::store::ImportError;

/// What commands find wrong that no other part of the launcher does.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// Files differ from what was pulled.
    #[error("{num_damaged} of {num_models} versions differ from what was pulled")]
    Damaged {
        /// Versions that do.
        num_damaged: usize,
        /// Versions that were looked at.
        num_models: usize,
    },
    /// A path was named where a model of the store is needed.
    #[error("{0} is a file of your own, not a model of the store")]
    Path(String),
    /// A name of the catalogue always means what the catalogue says.
    #[error("`{0}` is a name of the catalogue")]
    Catalogue(Tag),
    /// What may not go takes more room than it should.
    #[error("{after} bytes are left and {max_size} were asked for: the rest may not go")]
    OverBudget {
        /// Bytes that stay.
        after: u64,
        /// Bytes that were asked for.
        max_size: u64,
    },
    /// A file can't be imported.
    #[error("can't import")]
    Import(#[source] ImportError),
}

impl Fault {
    pub(crate) fn status(&self) -> u8 {
        match self {
            Self::Damaged { .. } => 6,
            Self::Path(_) | Self::Import(_) => 1,
            Self::Catalogue(_) | Self::OverBudget { .. } => 4,
        }
    }

    pub(crate) fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Damaged { .. } => "`sconce pull --verify NAME` mends one",
            Self::Path(_) => "`sconce import PATH` takes it into the store",
            Self::Catalogue(_) => "choose another tag",
            Self::OverBudget { .. } => {
                "stop what serves a version, or take its alias away with `sconce alias rm`"
            }
            Self::Import(_) => return None,
        };
        Some(text.to_owned())
    }
}
