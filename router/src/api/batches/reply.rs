//! What the Batch API answers, as OpenAI defines it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::store::BatchRow;

/// A batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BatchObject {
    /// Its id.
    pub id: String,
    /// Always `batch`.
    pub object: String,
    /// Where its lines go.
    pub endpoint: String,
    /// What is wrong with its input, of a batch that failed.
    pub errors: Option<BatchErrors>,
    /// The file of its lines.
    pub input_file_id: String,
    /// Always `24h`.
    pub completion_window: String,
    /// `validating`, `in_progress`, `finalizing`, `completed`, `failed`, `expired`, `cancelling` or
    /// `cancelled`.
    pub status: String,
    /// The file of answers, if there are any.
    pub output_file_id: Option<String>,
    /// The file of errors, if there are any.
    pub error_file_id: Option<String>,
    /// When it was made, in Unix seconds, as all times here.
    pub created_at: i64,
    /// When its first line could be answered.
    pub in_progress_at: Option<i64>,
    /// When no line will be answered any more.
    pub expires_at: i64,
    /// When its last line was answered.
    pub finalizing_at: Option<i64>,
    /// When it was complete.
    pub completed_at: Option<i64>,
    /// When its input was found to be wrong.
    pub failed_at: Option<i64>,
    /// When it expired.
    pub expired_at: Option<i64>,
    /// When it was to be cancelled.
    pub cancelling_at: Option<i64>,
    /// When it was cancelled.
    pub cancelled_at: Option<i64>,
    /// How many lines there are.
    pub request_counts: RequestCounts,
    /// What the answers have cost.
    pub usage: BatchCost,
    /// As the client gave it.
    pub metadata: Option<BTreeMap<String, String>>,
}

/// How many lines there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RequestCounts {
    /// All of them; 0 until the input is checked.
    pub total: i64,
    /// Those that were answered.
    pub completed: i64,
    /// Those that were refused, or never answered.
    pub failed: i64,
}

/// What answers have cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BatchCost {
    /// Tokens of the prompts.
    pub input_tokens: i64,
    /// More of them.
    pub input_tokens_details: InputDetails,
    /// Tokens of the completions.
    pub output_tokens: i64,
    /// More of them.
    pub output_tokens_details: OutputDetails,
    /// Both.
    pub total_tokens: i64,
}

/// More of the prompts' tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = BatchInputDetails)]
pub struct InputDetails {
    /// Tokens found in the prefix cache.
    pub cached_tokens: i64,
}

/// More of the completions' tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = BatchOutputDetails)]
pub struct OutputDetails {
    /// Tokens of reasoning.
    pub reasoning_tokens: i64,
}

/// What is wrong with an input file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BatchErrors {
    /// Always `list`.
    pub object: String,
    /// The first errors.
    pub data: Vec<BatchError>,
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BatchError {
    /// For programs.
    pub code: String,
    /// For the developer who reads it.
    pub message: String,
    /// The field that is wrong.
    pub param: Option<String>,
    /// Which line, from 1 on.
    pub line: Option<i64>,
}

/// Some of a key's batches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BatchList {
    /// Always `list`.
    pub object: String,
    /// The batches, newest first.
    pub data: Vec<BatchObject>,
    /// The id of the first.
    pub first_id: Option<String>,
    /// The id of the last: `after` for the next page.
    pub last_id: Option<String>,
    /// Whether there are more.
    pub has_more: bool,
}

impl From<BatchRow> for BatchObject {
    fn from(row: BatchRow) -> Self {
        let ended = |status: &str| row.ended_at.filter(|_| row.status == status);
        // What was stored was written by this program; what can't be read is left out.
        let data = row.errors.as_deref().and_then(|errors| serde_json::from_str(errors).ok());
        let metadata = row.metadata.as_deref().and_then(|pairs| serde_json::from_str(pairs).ok());
        Self {
            object: "batch".into(),
            errors: data.map(|data| BatchErrors { object: "list".into(), data }),
            completion_window: "24h".into(),
            completed_at: ended("completed"),
            failed_at: ended("failed"),
            expired_at: ended("expired"),
            cancelled_at: ended("cancelled"),
            request_counts: RequestCounts {
                total: row.num_total,
                completed: row.num_completed,
                failed: row.num_failed,
            },
            usage: BatchCost {
                input_tokens: row.usage.input_tokens,
                input_tokens_details: InputDetails { cached_tokens: row.usage.cached_tokens },
                output_tokens: row.usage.output_tokens,
                output_tokens_details: OutputDetails {
                    reasoning_tokens: row.usage.reasoning_tokens,
                },
                total_tokens: row.usage.input_tokens + row.usage.output_tokens,
            },
            metadata,
            id: row.id,
            endpoint: row.endpoint,
            input_file_id: row.input_file,
            status: row.status,
            output_file_id: row.output_file,
            error_file_id: row.error_file,
            created_at: row.created_at,
            in_progress_at: row.in_progress_at,
            expires_at: row.expires_at,
            finalizing_at: row.finalizing_at,
            cancelling_at: row.cancelling_at,
        }
    }
}

impl BatchList {
    pub(super) fn new(rows: Vec<BatchRow>, has_more: bool) -> Self {
        let id = |row: Option<&BatchRow>| row.map(|row| row.id.clone());
        Self {
            object: "list".into(),
            first_id: id(rows.first()),
            last_id: id(rows.last()),
            data: rows.into_iter().map(BatchObject::from).collect(),
            has_more,
        }
    }
}
