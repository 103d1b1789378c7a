//! The table of fields, in the order of the documentation.

use super::Treatment::{Ignored, Refused, Used};
use super::{Door, Field, Kind};

const CHAT: &[Door] = &[Door::Chat];
const COMPLETIONS: &[Door] = &[Door::Completions];
const BOTH: &[Door] = &[Door::Chat, Door::Completions];

const EMBEDDINGS: &[Door] = &[Door::Embeddings];
const RERANK: &[Door] = &[Door::Rerank];
const SCORE: &[Door] = &[Door::Score];
const VECTORS: &[Door] = &[Door::Embeddings, Door::Rerank, Door::Score];
const ALL: &[Door] = &[Door::Chat, Door::Completions, Door::Embeddings, Door::Rerank, Door::Score];

pub(super) const MAX_U32: i64 = u32::MAX as i64;
pub(super) const COUNT: Kind = Kind::Integer { min: 1, max: MAX_U32 };

/// How much a model may be told to think.
pub(crate) const EFFORTS: &[&str] = &["none", "minimal", "low", "medium", "high", "xhigh", "max"];

type Doors = &'static [Door];

pub(super) const fn used(
    name: &'static str,
    doors: Doors,
    kind: Kind,
    note: &'static str,
) -> Field {
    Field { name, doors, kind, treatment: Used, note }
}

pub(super) const fn ignored(
    name: &'static str,
    doors: Doors,
    kind: Kind,
    note: &'static str,
) -> Field {
    Field { name, doors, kind, treatment: Ignored, note }
}

/// A field that may only hold `null` or one of the JSON values in `neutral`.
pub(super) const fn refused(
    name: &'static str,
    doors: Doors,
    neutral: &'static [&'static str],
    note: &'static str,
) -> Field {
    Field { name, doors, kind: Kind::Own(None), treatment: Refused(neutral), note }
}

const STICKY: &str = "Requests of one user get one version of a model that is split among several.";

/// Every field that is known.
pub(crate) const FIELDS: &[Field] = &[
    used("model", ALL, Kind::Text { max: 256 }, "Required. A name from `GET /v1/models`."),
    used(
        "messages",
        CHAT,
        Kind::Own(Some("Message")),
        "Required. Roles `system`, `developer` (the same), `user`, `assistant` (with `tool_calls`, \
         `function_call` and `reasoning_content`), `tool` and `function`; content as text or as text parts, which are joined by \
         line breaks.",
    ),
    used(
        "prompt",
        COMPLETIONS,
        Kind::Own(Some("Prompt")),
        "Required. Text, token ids, or a list of either. Special tokens in text are plain text; \
         token ids can name them.",
    ),
    used("max_completion_tokens", CHAT, COUNT, "Default: what is left of the model's context."),
    used("max_tokens", CHAT, COUNT, "The older name of `max_completion_tokens`, which wins."),
    used(
        "max_tokens",
        COMPLETIONS,
        Kind::Integer { min: 0, max: MAX_U32 },
        "Default 16. 0 with `echo` alone: the answer is the prompt.",
    ),
    used("n", BOTH, COUNT, "Default 1, at most 8 unless the server is told otherwise."),
    used(
        "best_of",
        COMPLETIONS,
        COUNT,
        "Default `n`, at least `n` and at most what `n` may be. So many completions are generated, \
         and the `n` of them with the likeliest tokens are the answer. Not with `stream`, unless it \
         is `n`.",
    ),
    used(
        "priority",
        BOTH,
        Kind::Integer { min: -1000, max: 1000 },
        "Not of OpenAI. Default 0. A request takes the place in the queue of requests of higher \
         numbers that came before it, of the same API key only, and is preempted after them.",
    ),
    used("temperature", BOTH, Kind::Number { min: 0.0, max: 2.0 }, "Default 1; 0 is greedy."),
    used("top_p", BOTH, Kind::Number { min: 0.0, max: 1.0 }, "Above 0. Default 1: all tokens."),
    used(
        "top_k",
        BOTH,
        Kind::Integer { min: -1, max: MAX_U32 },
        "Not of OpenAI. Default 0: all tokens; -1 means the same.",
    ),
    used("min_p", BOTH, Kind::Number { min: 0.0, max: 1.0 }, "Not of OpenAI. Default 0."),
    used(
        "typical_p",
        BOTH,
        Kind::Number { min: 0.0, max: 1.0 },
        "Not of OpenAI. Above 0. Default 1: all tokens.",
    ),
    used(
        "repetition_penalty",
        BOTH,
        Kind::Number { min: 0.01, max: 100.0 },
        "Not of OpenAI. Default 1: none.",
    ),
    used("frequency_penalty", BOTH, Kind::Number { min: -2.0, max: 2.0 }, "Default 0."),
    used("presence_penalty", BOTH, Kind::Number { min: -2.0, max: 2.0 }, "Default 0."),
    used(
        "logit_bias",
        BOTH,
        Kind::Own(Some("LogitBias")),
        "Token ids below the width of the logits, to a bias from -100 to 100; at most 1024.",
    ),
    used(
        "seed",
        BOTH,
        Kind::Integer { min: i64::MIN, max: i64::MAX },
        "Equal requests with equal seeds get equal answers.",
    ),
    used(
        "stop",
        BOTH,
        Kind::Own(Some("Stop")),
        "At most 4 texts of 1 to 256 bytes, unless the server is told otherwise. They are not part of \
         the answer.",
    ),
    used(
        "include_stop_str_in_output",
        BOTH,
        Kind::Boolean,
        "Not of OpenAI. The stop text that was met is part of the answer.",
    ),
    used(
        "skip_special_tokens",
        BOTH,
        Kind::Boolean,
        "Not of OpenAI. Default true. False: special tokens are written as they are called, but for \
         the one that ends the completion.",
    ),
    used(
        "echo",
        COMPLETIONS,
        Kind::Boolean,
        "The answer begins with the prompt; with `logprobs`, so do they, `null` for its first token.",
    ),
    used(
        "suffix",
        COMPLETIONS,
        Kind::Text { max: 1 << 20 },
        "What follows the completion, for models whose tokenizers have tokens for that. Not with \
         `echo`.",
    ),
    used(
        "stop_token_ids",
        BOTH,
        Kind::Own(Some("TokenIds")),
        "Not of OpenAI. More tokens that end a completion; at most 64.",
    ),
    used(
        "min_tokens",
        BOTH,
        Kind::Integer { min: 0, max: MAX_U32 },
        "Not of OpenAI. No end token before so many; at most `max_tokens`.",
    ),
    used("ignore_eos", BOTH, Kind::Boolean, "Not of OpenAI. Goes on after the model's end token."),
    used(
        "allowed_token_ids",
        BOTH,
        Kind::Own(Some("TokenIds")),
        "Not of OpenAI. The only tokens that are sampled, end tokens included; at most 1024.",
    ),
    used(
        "bad_words",
        BOTH,
        Kind::Own(Some("BadWords")),
        "Not of OpenAI. At most 128 texts of 1 to 256 bytes that are not generated, neither at the \
         beginning of a word nor within one; with `tools` and formats as well.",
    ),
    used(
        "response_format",
        BOTH,
        Kind::Own(Some("ResponseFormat")),
        "`text`, `json_object`, or `json_schema`, which is enforced whether `strict` or not. A \
         schema that can't be enforced is refused.",
    ),
    used(
        "structured_outputs",
        BOTH,
        Kind::Own(Some("StructuredOutputs")),
        "Not of OpenAI. One of `json`, `json_object`, `regex`, `choice`, `grammar` (Lark).",
    ),
    used("logprobs", CHAT, Kind::Boolean, "Log-probabilities of the completion's tokens."),
    used(
        "top_logprobs",
        CHAT,
        Kind::Integer { min: 0, max: 20 },
        "Needs `logprobs`. At most what the model's workers report.",
    ),
    used(
        "logprobs",
        COMPLETIONS,
        Kind::Integer { min: 0, max: 20 },
        "Log-probabilities of the tokens and of so many alternatives.",
    ),
    used(
        "prompt_logprobs",
        BOTH,
        Kind::Integer { min: 0, max: 20 },
        "Not of OpenAI. Log-probabilities of the prompt's tokens and of so many alternatives, as \
         vLLM answers them. Not with `stream`. At most 262,144 numbers in all.",
    ),
    used("stream", BOTH, Kind::Boolean, "Answers with server-sent events."),
    used(
        "stream_options",
        BOTH,
        Kind::Own(Some("StreamOptions")),
        "Needs `stream`. `include_usage`; `continuous_usage_stats` and `include_progress` (not of \
         OpenAI); `include_obfuscation` is accepted and nothing is obfuscated.",
    ),
    used(
        "include_timings",
        BOTH,
        Kind::Boolean,
        "Not of OpenAI. The answer, or a chunk without choices near its end, has `timings`.",
    ),
    used(
        "add_generation_prompt",
        CHAT,
        Kind::Boolean,
        "Not of OpenAI. Default true: the prompt ends where the assistant's answer begins.",
    ),
    used(
        "continue_final_message",
        CHAT,
        Kind::Boolean,
        "Not of OpenAI. The prompt ends in the last message, which the answer continues; then \
         `add_generation_prompt` must be false.",
    ),
    used(
        "chat_template_kwargs",
        CHAT,
        Kind::Own(None),
        "Not of OpenAI. At most 16 texts, numbers and booleans by name, for the model's chat \
         template.",
    ),
    used(
        "reasoning_effort",
        CHAT,
        Kind::OneOf(EFFORTS),
        "For chat templates that ask for it; `none` also sets their `enable_thinking` to false.",
    ),
    used(
        "tools",
        CHAT,
        Kind::Own(Some("Tool")),
        "At most 128 functions. A model whose chat template has no place for tools is told of them \
         in a system message.",
    ),
    used(
        "tool_choice",
        CHAT,
        Kind::Own(Some("ToolChoice")),
        "`none`, `auto`, `required`, a function, or `allowed_tools`. Where a call is forced, the \
         answer is one, with arguments of the function's schema.",
    ),
    used("parallel_tool_calls", CHAT, Kind::Boolean, "Default true. False: at most one call."),
    used(
        "functions",
        CHAT,
        Kind::Own(Some("Function")),
        "Deprecated by OpenAI; not together with `tools`. At most 128. The answer calls one of them at \
         most, in its `function_call`.",
    ),
    used(
        "function_call",
        CHAT,
        Kind::Own(Some("FunctionCallOption")),
        "Deprecated by OpenAI. `none`, `auto`, or the name of one of `functions`, whose call is \
         forced.",
    ),
    used("user", ALL, Kind::Text { max: 1024 }, STICKY),
    used("safety_identifier", BOTH, Kind::Text { max: 1024 }, "As `user`, which it replaces."),
    ignored("metadata", BOTH, Kind::Metadata, ""),
    ignored(
        "prediction",
        CHAT,
        Kind::Own(Some("Prediction")),
        "It never changes an answer. Answers are sped up by what prompt and completion repeat; \
         none of its tokens are counted.",
    ),
    ignored("store", CHAT, Kind::Boolean, "Nothing is stored."),
    ignored(
        "service_tier",
        CHAT,
        Kind::OneOf(&["auto", "default", "flex", "scale", "priority", "fast"]),
        "",
    ),
    used(
        "prompt_cache_key",
        CHAT,
        Kind::Text { max: 1024 },
        "Prefixes are always cached. Without `user`, it stands for it.",
    ),
    ignored("prompt_cache_retention", CHAT, Kind::Text { max: 64 }, ""),
    refused("modalities", CHAT, &["[\"text\"]"], ""),
    refused("audio", CHAT, &[], ""),
    refused("web_search_options", CHAT, &[], ""),
    refused("moderation", CHAT, &[], ""),
    refused("prompt_cache_options", CHAT, &["{}"], ""),
    refused("verbosity", CHAT, &["\"medium\""], ""),
    refused("chat_template", CHAT, &[], "The template is the model's."),
    refused("documents", CHAT, &["[]"], ""),
    refused("return_token_ids", BOTH, &["false"], ""),
    refused("add_special_tokens", COMPLETIONS, &["true"], "Send token ids instead."),
    refused("truncate_prompt_tokens", BOTH, &[], "Nothing is ever cut."),
    refused("use_beam_search", BOTH, &["false"], ""),
    refused("guided_json", BOTH, &[], "Use `structured_outputs`."),
    refused("guided_regex", BOTH, &[], "Use `structured_outputs`."),
    refused("guided_choice", BOTH, &[], "Use `structured_outputs`."),
    refused("guided_grammar", BOTH, &[], "Use `structured_outputs`."),
    refused("grammar", BOTH, &[], "Use `structured_outputs`."),
    refused("json_schema", BOTH, &[], "Use `response_format`."),
    refused("cache_salt", BOTH, &[], "Prefixes are shared only between requests of one key."),
    used(
        "input",
        EMBEDDINGS,
        Kind::Own(Some("Prompt")),
        "Required. Text, token ids, or a list of at most 2048 of either, none of them empty. Special \
         tokens in text are plain text, and the model's own are put around it; token ids are taken \
         as they are.",
    ),
    used(
        "encoding_format",
        EMBEDDINGS,
        Kind::OneOf(&["float", "base64"]),
        "Default `float`. `base64` is of little-endian floats of 32 bits.",
    ),
    used(
        "dimensions",
        EMBEDDINGS,
        COUNT,
        "At most the model's, the default. So many of the first elements, made a vector of length \
         1, for models that were trained for it.",
    ),
    used("query", RERANK, Kind::Own(None), "Required. Text. What the documents are compared with."),
    used(
        "documents",
        RERANK,
        Kind::Own(Some("Documents")),
        "Required. At most 2048 texts, or objects with a `text`, none of them empty.",
    ),
    used("top_n", RERANK, COUNT, "Only so many of the best. Default: all."),
    used("return_documents", RERANK, Kind::Boolean, "Default false: only their indices."),
    used(
        "text_1",
        SCORE,
        Kind::Own(Some("Texts")),
        "Required. A text, or a list with as many as `text_2` has.",
    ),
    used("text_2", SCORE, Kind::Own(Some("Texts")), "Required. A text, or a list of at most 2048."),
    refused("truncate_prompt_tokens", VECTORS, &[], "Nothing is ever cut."),
    refused("add_special_tokens", VECTORS, &["true"], "Send token ids instead."),
    refused("max_tokens_per_doc", RERANK, &[], "Nothing is ever cut."),
    refused("max_chunks_per_doc", RERANK, &[], "Nothing is ever cut."),
    refused("rank_fields", RERANK, &["[\"text\"]"], ""),
];
