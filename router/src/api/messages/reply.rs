//! Answers of the Messages API, as Anthropic defines them.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::api::blocks::{Block, Blocks, Start, Step};
use crate::error::ApiError;
use crate::generation::{FinishReason, TextStream, TokenUsage};

/// The answer to a request for a message, or the beginning of one that is streamed.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct MessageObject {
    /// Unique.
    pub id: String,
    /// `message`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `assistant`.
    pub role: String,
    /// The model that answers.
    pub model: String,
    /// What it thinks, says and calls.
    pub content: Vec<ContentBlock>,
    /// `end_turn`, `max_tokens`, `stop_sequence` or `tool_use`; `null` where it goes on.
    pub stop_reason: Option<String>,
    /// The text that ended it, if one of `stop_sequences` did.
    pub stop_sequence: Option<String>,
    /// What it cost.
    pub usage: MessageUsage,
}

/// A part of an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ContentBlock {
    /// What the model thinks before it answers.
    Thinking {
        /// All of it.
        thinking: String,
        /// Always empty: nothing is signed.
        signature: String,
    },
    /// What it says.
    Text {
        /// The text.
        text: String,
    },
    /// What it calls.
    ToolUse {
        /// To name it in the block with its result.
        id: String,
        /// The tool.
        name: String,
        /// Its arguments; empty where `max_tokens` cut them.
        input: Map<String, Value>,
    },
}

/// Tokens that a message has cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MessageUsage {
    /// Tokens of the prompt that were not in the prefix cache.
    pub input_tokens: u64,
    /// Always 0: what is computed is cached without being asked.
    pub cache_creation_input_tokens: u64,
    /// Tokens of the prompt that were found in the prefix cache.
    pub cache_read_input_tokens: u64,
    /// Tokens of the answer, thoughts included.
    pub output_tokens: u64,
    /// Of those.
    pub output_tokens_details: OutputTokensDetails,
}

/// More of an answer's tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OutputTokensDetails {
    /// Tokens of the model's reasoning.
    pub thinking_tokens: u64,
}

/// How an answer ended.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct MessageEnd {
    /// As in a whole answer.
    pub stop_reason: Option<String>,
    /// As in a whole answer.
    pub stop_sequence: Option<String>,
}

/// One event of a streamed answer.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum MessageEvent {
    /// The answer begins.
    MessageStart {
        /// Without content.
        message: MessageObject,
    },
    /// A block begins.
    ContentBlockStart {
        /// Which.
        index: usize,
        /// Without text or arguments.
        content_block: ContentBlock,
    },
    /// A block goes on.
    ContentBlockDelta {
        /// Which.
        index: usize,
        /// More of it.
        delta: BlockDelta,
    },
    /// A block is complete.
    ContentBlockStop {
        /// Which.
        index: usize,
    },
    /// The answer has ended.
    MessageDelta {
        /// Why.
        delta: MessageEnd,
        /// Of all of it.
        usage: MessageUsage,
    },
    /// Nothing follows.
    MessageStop,
    /// The answer is being worked on.
    Ping,
}

/// What is new of a block.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum BlockDelta {
    /// More text.
    TextDelta {
        /// What is new.
        text: String,
    },
    /// More of what the model thinks.
    ThinkingDelta {
        /// What is new.
        thinking: String,
    },
    /// Comes once, after the thoughts.
    SignatureDelta {
        /// Always empty: nothing is signed.
        signature: String,
    },
    /// More of a call's arguments.
    InputJsonDelta {
        /// What is new of their JSON.
        partial_json: String,
    },
}

/// The answer to a request for a count.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct TokenCount {
    /// Tokens of the prompt.
    pub input_tokens: u64,
}

/// An error as Anthropic words it.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct MessageError {
    /// `error`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What is wrong.
    pub error: MessageErrorReport,
    /// The answer's `request-id`.
    pub request_id: Option<String>,
}

/// What is wrong.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct MessageErrorReport {
    /// The kind of error.
    #[serde(rename = "type")]
    pub kind: String,
    /// For the developer who reads it.
    pub message: String,
}

impl From<TokenUsage> for MessageUsage {
    fn from(usage: TokenUsage) -> Self {
        Self {
            input_tokens: usage.num_prompt.saturating_sub(usage.num_cached),
            cache_creation_input_tokens: 0,
            cache_read_input_tokens: usage.num_cached,
            output_tokens: usage.num_completion,
            output_tokens_details: OutputTokensDetails { thinking_tokens: usage.num_reasoning },
        }
    }
}

impl MessageEnd {
    /// Why an answer ended. `stop` is the request's stop texts.
    pub(crate) fn new(finish: FinishReason, stop: &[String]) -> Self {
        let (reason, sequence) = match finish {
            FinishReason::Stop => ("end_turn", None),
            FinishReason::StopText(i) => ("stop_sequence", stop.get(i).cloned()),
            FinishReason::Length => ("max_tokens", None),
            FinishReason::ToolCalls => ("tool_use", None),
        };
        Self { stop_reason: Some(reason.into()), stop_sequence: sequence }
    }
}

impl MessageEvent {
    /// As the event's own line names it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::MessageStart { .. } => "message_start",
            Self::ContentBlockStart { .. } => "content_block_start",
            Self::ContentBlockDelta { .. } => "content_block_delta",
            Self::ContentBlockStop { .. } => "content_block_stop",
            Self::MessageDelta { .. } => "message_delta",
            Self::MessageStop => "message_stop",
            Self::Ping => "ping",
        }
    }
}

impl MessageObject {
    /// A message that begins.
    pub(crate) fn begin(id: String, model: String, usage: TokenUsage) -> Self {
        Self {
            id,
            kind: "message".into(),
            role: "assistant".into(),
            model,
            content: Vec::new(),
            stop_reason: None,
            stop_sequence: None,
            usage: usage.into(),
        }
    }
}

/// Waits for the whole answer: the steps of its blocks, collected, and why it ended.
pub(super) async fn collect(
    stream: &mut TextStream,
) -> Result<(Vec<ContentBlock>, FinishReason), ApiError> {
    let (mut blocks, mut content) = (Blocks::default(), Content::default());
    let mut finish = None;
    while let Some(delta) = stream.next().await {
        let delta = delta?;
        blocks.take(&delta, &mut |_, step| content.take(step));
        finish = delta.finish.or(finish);
    }
    Ok((content.blocks, finish.ok_or(ApiError::Internal)?))
}

/// The blocks so far.
#[derive(Default)]
struct Content {
    blocks: Vec<ContentBlock>,
    /// Of the call that is open.
    json: String,
}

impl Content {
    fn take(&mut self, step: Step) {
        match (step, self.blocks.last_mut()) {
            (Step::Start(start), _) => self.blocks.push(start.into()),
            (Step::Thinking(more), Some(ContentBlock::Thinking { thinking, .. })) => {
                thinking.push_str(more);
            }
            (Step::Text(more), Some(ContentBlock::Text { text })) => text.push_str(more),
            (Step::Input(more), Some(ContentBlock::ToolUse { .. })) => self.json.push_str(more),
            (Step::Stop(Block::ToolUse(_), _), Some(ContentBlock::ToolUse { input, .. })) => {
                // What was cut is no object; clients take nothing else.
                *input = serde_json::from_str(&self.json).unwrap_or_default();
                self.json.clear();
            }
            (Step::Thinking(_) | Step::Text(_) | Step::Input(_) | Step::Stop(..), _) => {}
        }
    }
}

impl From<Start<'_>> for ContentBlock {
    fn from(start: Start) -> Self {
        match start {
            Start::Thinking => Self::Thinking { thinking: String::new(), signature: String::new() },
            Start::Text => Self::Text { text: String::new() },
            Start::ToolUse { id, name } => {
                Self::ToolUse { id: id.into(), name: name.into(), input: Map::new() }
            }
        }
    }
}
