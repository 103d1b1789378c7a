//! Why a checkpoint cannot be opened or read.

use std::path::{Path, PathBuf};

use sconce_kernels::dtype::Dtype;

/// Why a checkpoint cannot be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be opened or read.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file breaks its format, or two of its statements contradict each other.
    #[error("{} is broken: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the numbers.
        reason: String,
    },
    /// The file is fine, and asks for what we do not have.
    #[error("{what} is {found}, supported: {supported}")]
    Unsupported {
        /// The property.
        what: String,
        /// Its value.
        found: String,
        /// The values that would do.
        supported: String,
    },
    /// Neither kind of checkpoint lies at the path.
    #[error("no checkpoint at {}: {reason}", path.display())]
    NotFound {
        /// The path.
        path: PathBuf,
        /// What was looked for.
        reason: String,
    },
    /// The checkpoint has no such tensor.
    #[error("the checkpoint has no tensor {0}")]
    MissingTensor(String),
    /// The tensor's shape contradicts the configuration.
    #[error("{name} has shape {found:?}, the configuration needs {expected:?}")]
    Shape {
        /// The tensor, by its Hugging Face name.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape that follows from the configuration.
        expected: Vec<usize>,
    },
    /// A quantised tensor where only floats will do.
    #[error("{name} is stored as {dtype:?}, supported: F32, F16, BF16")]
    NotFloat {
        /// The tensor, by its Hugging Face name.
        name: String,
        /// Its element type.
        dtype: Dtype,
    },
    /// candle's reader refused the header.
    #[error("cannot parse the header of {}", path.display())]
    Candle {
        /// The file.
        path: PathBuf,
        /// candle's reason.
        #[source]
        source: candle_core::Error,
    },
}

impl Error {
    pub(super) fn malformed(path: &Path, reason: impl Into<String>) -> Self {
        Self::Malformed { path: path.to_owned(), reason: reason.into() }
    }

    pub(super) fn unsupported(
        what: impl Into<String>,
        found: impl Into<String>,
        supported: impl Into<String>,
    ) -> Self {
        Self::Unsupported { what: what.into(), found: found.into(), supported: supported.into() }
    }
}
