//! The events of a streamed response, as OpenAI defines them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::item::{Item, ItemPart};
use super::reply::ResponseObject;
use crate::api::chat::reply::ChatTokenLogprob;
use crate::api::reply::ErrorReport;
use crate::error::ApiError;

/// One event of a streamed response. Their `sequence_number` counts from 0.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type")]
pub enum ResponseEvent {
    /// It begins.
    #[serde(rename = "response.created")]
    Created {
        /// Without output.
        response: ResponseObject,
    },
    /// It was made in the background, and waited for its turn.
    #[serde(rename = "response.queued")]
    Queued {
        /// Without output.
        response: ResponseObject,
    },
    /// It is being made.
    #[serde(rename = "response.in_progress")]
    InProgress {
        /// Without output.
        response: ResponseObject,
    },
    /// An item begins.
    #[serde(rename = "response.output_item.added")]
    ItemAdded {
        /// Which.
        output_index: usize,
        /// Without text or arguments.
        item: Item,
    },
    /// A part of an item begins.
    #[serde(rename = "response.content_part.added")]
    PartAdded {
        /// Of this item.
        item_id: String,
        /// Of this item.
        output_index: usize,
        /// Which of its parts.
        content_index: usize,
        /// Without text.
        part: ItemPart,
    },
    /// A text goes on.
    #[serde(rename = "response.output_text.delta")]
    TextDelta {
        /// Of this item.
        item_id: String,
        /// Of this item.
        output_index: usize,
        /// Of this part.
        content_index: usize,
        /// What is new.
        delta: String,
        /// Its tokens, if they were asked for.
        logprobs: Vec<ChatTokenLogprob>,
    },
    /// A text is complete.
    #[serde(rename = "response.output_text.done")]
    TextDone {
        /// Of this item.
        item_id: String,
        /// Of this item.
        output_index: usize,
        /// Of this part.
        content_index: usize,
        /// All of it.
        text: String,
        /// Its tokens, if they were asked for.
        logprobs: Vec<ChatTokenLogprob>,
    },
    /// The model goes on thinking.
    #[serde(rename = "response.reasoning_text.delta")]
    ReasoningDelta {
        /// Of this item.
        item_id: String,
        /// Of this item.
        output_index: usize,
        /// Of this part.
        content_index: usize,
        /// What is new.
        delta: String,
    },
    /// The model has thought.
    #[serde(rename = "response.reasoning_text.done")]
    ReasoningDone {
        /// Of this item.
        item_id: String,
        /// Of this item.
        output_index: usize,
        /// Of this part.
        content_index: usize,
        /// All of it.
        text: String,
    },
    /// A call's arguments go on.
    #[serde(rename = "response.function_call_arguments.delta")]
    ArgumentsDelta {
        /// Of this item.
        item_id: String,
        /// Of this item.
        output_index: usize,
        /// What is new of their JSON.
        delta: String,
    },
    /// A call's arguments are complete.
    #[serde(rename = "response.function_call_arguments.done")]
    ArgumentsDone {
        /// Of this item.
        item_id: String,
        /// Of this item.
        output_index: usize,
        /// What is called.
        name: String,
        /// All of them.
        arguments: String,
    },
    /// A part is complete.
    #[serde(rename = "response.content_part.done")]
    PartDone {
        /// Of this item.
        item_id: String,
        /// Of this item.
        output_index: usize,
        /// Which of its parts.
        content_index: usize,
        /// All of it.
        part: ItemPart,
    },
    /// An item is complete.
    #[serde(rename = "response.output_item.done")]
    ItemDone {
        /// Which.
        output_index: usize,
        /// All of it.
        item: Item,
    },
    /// It is complete.
    #[serde(rename = "response.completed")]
    Completed {
        /// All of it.
        response: ResponseObject,
    },
    /// It was cut.
    #[serde(rename = "response.incomplete")]
    Incomplete {
        /// All there is of it.
        response: ResponseObject,
    },
    /// It broke off.
    #[serde(rename = "response.failed")]
    Failed {
        /// All there is of it.
        response: ResponseObject,
    },
    /// Nothing more comes, because of this.
    #[serde(rename = "error")]
    Error {
        /// For programs.
        code: Option<String>,
        /// For the developer who reads it.
        message: String,
        /// Path of the wrong parameter.
        param: Option<String>,
        /// The same once more, as the other APIs have it.
        error: ErrorReport,
    },
}

impl ResponseEvent {
    /// An error, in the words of this API and of the others.
    pub(crate) fn error(error: &ApiError) -> Self {
        let report = error.report();
        Self::Error {
            code: report.code.clone(),
            message: report.message.clone(),
            param: report.param.clone(),
            error: report,
        }
    }

    /// Its type, as the event's own line names it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Created { .. } => "response.created",
            Self::Queued { .. } => "response.queued",
            Self::InProgress { .. } => "response.in_progress",
            Self::ItemAdded { .. } => "response.output_item.added",
            Self::PartAdded { .. } => "response.content_part.added",
            Self::TextDelta { .. } => "response.output_text.delta",
            Self::TextDone { .. } => "response.output_text.done",
            Self::ReasoningDelta { .. } => "response.reasoning_text.delta",
            Self::ReasoningDone { .. } => "response.reasoning_text.done",
            Self::ArgumentsDelta { .. } => "response.function_call_arguments.delta",
            Self::ArgumentsDone { .. } => "response.function_call_arguments.done",
            Self::PartDone { .. } => "response.content_part.done",
            Self::ItemDone { .. } => "response.output_item.done",
            Self::Completed { .. } => "response.completed",
            Self::Incomplete { .. } => "response.incomplete",
            Self::Failed { .. } => "response.failed",
            Self::Error { .. } => "error",
        }
    }
}
