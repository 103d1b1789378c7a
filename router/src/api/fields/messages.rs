//! The table of fields of Anthropic's Messages API, in the order of the documentation.

use super::Kind;
use super::table::{COUNT, MAX_U32, ignored, refused, used};
use super::{Door, Field};

const MESSAGES: &[Door] = &[Door::Messages];
const BOTH: &[Door] = &[Door::Messages, Door::CountTokens];

/// Every field that is known.
pub(crate) const MESSAGE_FIELDS: &[Field] = &[
    used("model", BOTH, Kind::Text { max: 256 }, "Required. A name from `GET /v1/models`."),
    used(
        "messages",
        BOTH,
        Kind::Own(Some("MessageParam")),
        "Required. Roles `user`, `assistant` and `system`; content as text or as blocks of type \
         `text`, `tool_use`, `tool_result`, `thinking` and `redacted_thinking` (which nobody here \
         can read: it is left out). Texts of one turn are joined by line breaks, and so are turns \
         of one role that follow each other. The result of a call that failed (`is_error`) begins \
         with `Error: `. If the last message is the assistant's, the answer continues it.",
    ),
    used("max_tokens", MESSAGES, COUNT, "Required. Thinking counts."),
    used(
        "system",
        BOTH,
        Kind::Own(Some("BlockContent")),
        "Text, or blocks of type `text`, which are joined by line breaks.",
    ),
    used(
        "stop_sequences",
        MESSAGES,
        Kind::Own(Some("StopSequences")),
        "At most 4 texts of 1 to 256 bytes. They are not part of the answer.",
    ),
    used("stream", MESSAGES, Kind::Boolean, "Answers with server-sent events."),
    used("temperature", MESSAGES, Kind::Number { min: 0.0, max: 1.0 }, "Default 1; 0 is greedy."),
    used("top_p", MESSAGES, Kind::Number { min: 0.0, max: 1.0 }, "Above 0. Default 1: all tokens."),
    used("top_k", MESSAGES, Kind::Integer { min: 0, max: MAX_U32 }, "Default 0: all tokens."),
    used(
        "tools",
        BOTH,
        Kind::Own(Some("ToolParam")),
        "At most 128, of type `custom`: `name`, `description`, `input_schema`. Anthropic's own \
         tools are refused. A model whose chat template has no place for tools is told of them in \
         a system message.",
    ),
    used(
        "tool_choice",
        BOTH,
        Kind::Own(Some("ToolChoiceParam")),
        "`auto`, `any`, `tool` or `none`; `disable_parallel_tool_use`. Where a call is forced, the \
         answer is one, with input of the tool's schema.",
    ),
    used(
        "thinking",
        BOTH,
        Kind::Own(Some("ThinkingParam")),
        "`enabled` and `adaptive` set the chat template's `enable_thinking` to true, `disabled` to \
         false; left out, the model does what it does by default. `budget_tokens` (required with \
         `enabled`, from 1024, below `max_tokens`) is checked and can't be enforced: thinking ends \
         at `max_tokens`. `display` may be `summarized`; what is sent is not a summary but all of \
         it.",
    ),
    used(
        "output_config",
        BOTH,
        Kind::Own(Some("OutputConfig")),
        "`format` of type `json_schema`, which is enforced; `effort`, for chat templates that ask \
         for a `reasoning_effort`.",
    ),
    used(
        "metadata",
        MESSAGES,
        Kind::Own(None),
        "`user_id`: requests of one user get one version of a model that is split among several. \
         Whatever else it holds is ignored.",
    ),
    ignored(
        "service_tier",
        MESSAGES,
        Kind::OneOf(&["auto", "standard_only"]),
        "There is one tier.",
    ),
    ignored(
        "cache_control",
        BOTH,
        Kind::Own(None),
        "Here, in blocks and in tools: prefixes are always cached.",
    ),
    ignored("diagnostics", MESSAGES, Kind::Own(None), ""),
    ignored("user_profile_id", BOTH, Kind::Text { max: 1024 }, ""),
    ignored("workspace_id", BOTH, Kind::Text { max: 1024 }, ""),
    refused("speed", BOTH, &["\"standard\""], ""),
    refused("container", MESSAGES, &[], ""),
    refused("context_management", BOTH, &[], "Nothing is ever cut."),
    refused("mcp_servers", BOTH, &["[]"], ""),
    refused("inference_geo", MESSAGES, &["\"global\""], ""),
    refused("output_format", BOTH, &[], "Use `output_config`."),
];
