//! Batches: many requests in a file, answered when there is room.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Extra;

/// A batch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Batch {
    /// Its id.
    pub id: String,
    /// Where its requests go, such as `/v1/chat/completions`.
    #[serde(default)]
    pub endpoint: String,
    /// The file of its requests.
    #[serde(default)]
    pub input_file_id: String,
    /// How far it is.
    pub status: BatchStatus,
    /// The file of its answers, once there is one.
    #[serde(default)]
    pub output_file_id: Option<String>,
    /// The file of the requests that failed, once there is one.
    #[serde(default)]
    pub error_file_id: Option<String>,
    /// What was wrong with the batch as a whole.
    #[serde(default)]
    pub errors: Option<BatchErrors>,
    /// How many requests there are, and how many of them are done.
    #[serde(default)]
    pub request_counts: Option<RequestCounts>,
    /// When it was made: seconds since 1970.
    #[serde(default)]
    pub created_at: i64,
    /// What else the server says, such as `expires_at` and `metadata`.
    #[serde(flatten)]
    pub extra: Extra,
}

/// How far a batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchStatus {
    /// Its file is being read.
    Validating,
    /// Its file was wrong.
    Failed,
    /// Its requests are being answered.
    InProgress,
    /// Its files are being written.
    Finalizing,
    /// It is done.
    Completed,
    /// Its time was over before it was done.
    Expired,
    /// It is being cancelled.
    Cancelling,
    /// It was cancelled.
    Cancelled,
    /// Something that this client does not know.
    #[serde(other)]
    Unknown,
}

impl BatchStatus {
    /// Whether nothing more will become of it.
    pub fn is_final(self) -> bool {
        match self {
            Self::Failed | Self::Completed | Self::Expired | Self::Cancelled => true,
            Self::Validating
            | Self::InProgress
            | Self::Finalizing
            | Self::Cancelling
            | Self::Unknown => false,
        }
    }

    /// The word that servers have for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Validating => "validating",
            Self::Failed => "failed",
            Self::InProgress => "in_progress",
            Self::Finalizing => "finalizing",
            Self::Completed => "completed",
            Self::Expired => "expired",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
            Self::Unknown => "unknown",
        }
    }
}

/// What was wrong with a batch as a whole.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct BatchErrors {
    /// One after the other.
    #[serde(default)]
    pub data: Vec<BatchError>,
}

/// One thing that was wrong with a batch.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct BatchError {
    /// A word for programs.
    #[serde(default)]
    pub code: Option<String>,
    /// What it is, for people.
    #[serde(default)]
    pub message: Option<String>,
    /// The line of the file.
    #[serde(default)]
    pub line: Option<u64>,
    /// The parameter.
    #[serde(default)]
    pub param: Option<String>,
}

/// How many requests a batch has, and how many of them are done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestCounts {
    /// All of them.
    pub total: u64,
    /// Those with an answer.
    pub completed: u64,
    /// Those that failed.
    pub failed: u64,
}

/// A batch to be made.
#[derive(Clone, Debug, Serialize)]
pub struct BatchRequest {
    /// The file of its requests.
    pub input_file_id: String,
    /// Where its requests go, such as `/v1/chat/completions`.
    pub endpoint: String,
    /// The time that it may take: `24h`.
    pub completion_window: String,
    /// What the server shall remember with it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Fields that have no type here.
    #[serde(flatten)]
    pub extra: Extra,
}

impl BatchRequest {
    /// A batch of the requests of an uploaded file, within a day.
    pub fn new(input_file_id: impl Into<String>, endpoint: impl Into<String>) -> Self {
        Self {
            input_file_id: input_file_id.into(),
            endpoint: endpoint.into(),
            completion_window: "24h".into(),
            metadata: BTreeMap::new(),
            extra: Extra::new(),
        }
    }

    /// The same, with a word that the server shall remember.
    #[must_use]
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }
}
