//! The table of fields of the Responses API, in the order of the documentation.

use super::Kind;
use super::table::{COUNT, MAX_U32, ignored, refused, used};
use super::{Door, Field};

const RESPONSES: &[Door] = &[Door::Responses];
const BOTH: &[Door] = &[Door::Responses, Door::InputTokens];

const STRUCTURED: &str = "Use `text.format` or `structured_outputs`.";

/// Every field that is known.
pub(crate) const RESPONSE_FIELDS: &[Field] = &[
    used("model", BOTH, Kind::Text { max: 256 }, "Required. A name from `GET /v1/models`."),
    used(
        "input",
        BOTH,
        Kind::Own(Some("Input")),
        "Required. Text, or items: messages of the roles `system`, `developer`, `user` and \
         `assistant`, `function_call`, `function_call_output`, `reasoning`, and `item_reference` to \
         any item of a stored response. Content as text or as text parts, which are joined by line \
         breaks.",
    ),
    used("instructions", BOTH, Kind::Own(None), "Text. A system message before everything else."),
    used(
        "previous_response_id",
        BOTH,
        Kind::Text { max: 256 },
        "A stored response, whose conversation goes on. Its `instructions` do not.",
    ),
    used(
        "store",
        RESPONSES,
        Kind::Boolean,
        "Default true, unless the server stores nothing. Only what is stored can be continued.",
    ),
    used(
        "background",
        RESPONSES,
        Kind::Boolean,
        "Answers at once; the response is made whether anyone waits for it or not. Needs `store`.",
    ),
    used("max_output_tokens", RESPONSES, COUNT, "Default: what is left of the model's context."),
    used("temperature", RESPONSES, Kind::Number { min: 0.0, max: 2.0 }, "Default 1; 0 is greedy."),
    used(
        "top_p",
        RESPONSES,
        Kind::Number { min: 0.0, max: 1.0 },
        "Above 0. Default 1: all tokens.",
    ),
    used(
        "top_logprobs",
        RESPONSES,
        Kind::Integer { min: 0, max: 20 },
        "Needs `message.output_text.logprobs` in `include`. At most what the model's workers report.",
    ),
    used(
        "include",
        RESPONSES,
        Kind::Own(Some("Include")),
        "`message.output_text.logprobs`. `reasoning.encrypted_content` is accepted: thoughts are in \
         their items in plain text, to be sent back. What belongs to tools that are not here is \
         accepted, and never there.",
    ),
    used(
        "tools",
        BOTH,
        Kind::Own(Some("FunctionTool")),
        "At most 128 functions. OpenAI's own tools are refused. A model whose chat template has no \
         place for tools is told of them in a system message.",
    ),
    used(
        "tool_choice",
        BOTH,
        Kind::Own(Some("ResponseToolChoice")),
        "`none`, `auto`, `required`, a function, or `allowed_tools`. Where a call is forced, the \
         answer is one, with arguments of the function's schema.",
    ),
    used("parallel_tool_calls", BOTH, Kind::Boolean, "Default true. False: at most one call."),
    used(
        "text",
        BOTH,
        Kind::Own(Some("TextConfig")),
        "`format`: `text`, `json_object` or `json_schema`, which is enforced whether `strict` or \
         not. `verbosity` may only be `medium`.",
    ),
    used(
        "reasoning",
        BOTH,
        Kind::Own(Some("ReasoningConfig")),
        "`effort`, for chat templates that ask for it; `none` also sets their `enable_thinking` to \
         false. `summary` may only be `auto`: there are no summaries, thoughts are sent as they are.",
    ),
    used("stream", RESPONSES, Kind::Boolean, "Answers with server-sent events."),
    used(
        "stream_options",
        RESPONSES,
        Kind::Own(Some("ResponseStreamOptions")),
        "Needs `stream`. `include_obfuscation` is accepted and nothing is obfuscated.",
    ),
    used("metadata", RESPONSES, Kind::Metadata, "Comes back with the response."),
    used("top_k", RESPONSES, Kind::Integer { min: -1, max: MAX_U32 }, OURS),
    used("min_p", RESPONSES, Kind::Number { min: 0.0, max: 1.0 }, OURS),
    used("typical_p", RESPONSES, Kind::Number { min: 0.0, max: 1.0 }, OURS),
    used("repetition_penalty", RESPONSES, Kind::Number { min: 0.01, max: 100.0 }, OURS),
    used("frequency_penalty", RESPONSES, Kind::Number { min: -2.0, max: 2.0 }, OURS),
    used("presence_penalty", RESPONSES, Kind::Number { min: -2.0, max: 2.0 }, OURS),
    used("logit_bias", RESPONSES, Kind::Own(Some("LogitBias")), OURS),
    used("seed", RESPONSES, Kind::Integer { min: i64::MIN, max: i64::MAX }, OURS),
    used("stop", RESPONSES, Kind::Own(Some("Stop")), OURS),
    used("include_stop_str_in_output", RESPONSES, Kind::Boolean, OURS),
    used("skip_special_tokens", RESPONSES, Kind::Boolean, OURS),
    used("bad_words", RESPONSES, Kind::Own(Some("BadWords")), OURS),
    used("priority", RESPONSES, Kind::Integer { min: -1000, max: 1000 }, OURS),
    used("stop_token_ids", RESPONSES, Kind::Own(Some("TokenIds")), OURS),
    used("min_tokens", RESPONSES, Kind::Integer { min: 0, max: MAX_U32 }, OURS),
    used("ignore_eos", RESPONSES, Kind::Boolean, OURS),
    used("allowed_token_ids", RESPONSES, Kind::Own(Some("TokenIds")), OURS),
    used("structured_outputs", RESPONSES, Kind::Own(Some("StructuredOutputs")), OURS),
    used("chat_template_kwargs", RESPONSES, Kind::Own(None), OURS),
    used(
        "max_tool_calls",
        RESPONSES,
        COUNT,
        "Comes back with the response. It would limit OpenAI's own tools.",
    ),
    used(
        "user",
        RESPONSES,
        Kind::Text { max: 1024 },
        "Comes back with the response. Requests of one user get one version of a model that is split \
         among several.",
    ),
    used(
        "safety_identifier",
        RESPONSES,
        Kind::Text { max: 1024 },
        "Comes back with the response. As `user`, which it replaces.",
    ),
    used(
        "prompt_cache_key",
        RESPONSES,
        Kind::Text { max: 1024 },
        "Comes back with the response. Prefixes are always cached. Without `user`, it stands for it.",
    ),
    ignored("prompt_cache_retention", RESPONSES, Kind::Text { max: 64 }, ""),
    ignored(
        "service_tier",
        RESPONSES,
        Kind::OneOf(&["auto", "default", "flex", "scale", "priority", "fast"]),
        "There is one tier.",
    ),
    refused("background_options", RESPONSES, &[], ""),
    refused("truncation", BOTH, &["\"disabled\""], "Nothing is ever cut."),
    refused("conversation", BOTH, &[], "Use `previous_response_id`."),
    refused("prompt", BOTH, &[], ""),
    refused("moderation", RESPONSES, &[], ""),
    refused("context_management", RESPONSES, &["[]"], "Nothing is ever cut."),
    refused("prompt_cache_options", RESPONSES, &["{}"], ""),
    refused("access_programs", RESPONSES, &[], ""),
    refused("image", RESPONSES, &["{}"], ""),
    refused("n", RESPONSES, &["1"], "A response is one answer."),
    refused("response_format", RESPONSES, &[], STRUCTURED),
    refused("max_tokens", RESPONSES, &[], "Use `max_output_tokens`."),
    refused("messages", BOTH, &[], "Use `input`."),
];

const OURS: &str = "Not of OpenAI. As `/v1/chat/completions` has it.";
