//! The items that a response is made of: what goes in and what comes out have the same shape, so
//! that an answer can be sent back as it came.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::chat::reply::ChatTokenLogprob;

/// A message, what the model thought, a call, or a call's result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Item {
    /// A message.
    Message {
        /// Unique.
        id: String,
        /// `completed`; `in_progress` where it goes on, `incomplete` where it was cut.
        status: String,
        /// `system`, `developer`, `user` or `assistant`.
        role: String,
        /// What it says.
        content: Vec<ItemPart>,
    },
    /// What the model thought.
    Reasoning {
        /// Unique.
        id: String,
        /// As a message has it.
        status: String,
        /// Always empty: what is sent is not a summary but all of it.
        summary: Vec<ItemPart>,
        /// The thoughts.
        content: Vec<ItemPart>,
    },
    /// A call of a function.
    FunctionCall {
        /// Unique.
        id: String,
        /// As a message has it.
        status: String,
        /// What its result is sent back with.
        call_id: String,
        /// The function.
        name: String,
        /// The text of a JSON object.
        arguments: String,
    },
    /// What a function has returned.
    FunctionCallOutput {
        /// Unique.
        id: String,
        /// As a message has it.
        status: String,
        /// The call that it answers.
        call_id: String,
        /// What came back.
        output: String,
    },
}

/// A part of an item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ItemPart {
    /// What someone else than the model says.
    InputText {
        /// The text.
        text: String,
    },
    /// What the model says.
    OutputText {
        /// The text.
        text: String,
        /// Always empty.
        annotations: Vec<Annotation>,
        /// Its tokens, if they were asked for.
        logprobs: Vec<ChatTokenLogprob>,
    },
    /// Why the model said nothing.
    Refusal {
        /// The text.
        refusal: String,
    },
    /// What the model thought.
    ReasoningText {
        /// The text.
        text: String,
    },
    /// What the model thought, in short.
    SummaryText {
        /// The text.
        text: String,
    },
}

/// Something that a text is about. There are none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum Annotation {}

impl Item {
    /// Its id.
    pub(crate) fn id(&self) -> &str {
        match self {
            Self::Message { id, .. }
            | Self::Reasoning { id, .. }
            | Self::FunctionCall { id, .. }
            | Self::FunctionCallOutput { id, .. } => id,
        }
    }

    /// How far it has come.
    pub(crate) fn status(&mut self) -> &mut String {
        match self {
            Self::Message { status, .. }
            | Self::Reasoning { status, .. }
            | Self::FunctionCall { status, .. }
            | Self::FunctionCallOutput { status, .. } => status,
        }
    }
}

impl ItemPart {
    /// What the model says.
    pub(crate) fn output(text: String) -> Self {
        Self::OutputText { text, annotations: Vec::new(), logprobs: Vec::new() }
    }

    /// Its text, whatever it is.
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::InputText { text }
            | Self::OutputText { text, .. }
            | Self::Refusal { refusal: text }
            | Self::ReasoningText { text }
            | Self::SummaryText { text } => text,
        }
    }
}

/// The id of a new item of this kind.
pub(crate) fn new_id(prefix: &str) -> String {
    format!("{prefix}_{}", uuid::Uuid::now_v7().simple())
}
