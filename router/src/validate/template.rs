//! What a client may tell the model's chat template beside the messages.

use serde_json::{Map, Value};

use super::PromptEnd;
use crate::error::ApiError;

/// Most variables.
const MAX_VARIABLES: usize = 16;
/// Longest name and text of one.
const MAX_CHARS: usize = 256;

/// Variables that are the server's.
const RESERVED: &[&str] = &[
    "messages",
    "tools",
    "documents",
    "add_generation_prompt",
    "continue_final_message",
    "bos_token",
    "eos_token",
    "unk_token",
    "pad_token",
    "raise_exception",
    "strftime_now",
];

/// Where the prompt ends.
pub(super) fn end(
    add_generation_prompt: Option<bool>,
    continue_final_message: bool,
) -> Result<PromptEnd, ApiError> {
    match (add_generation_prompt, continue_final_message) {
        (Some(true), true) => {
            let message = "`continue_final_message` and `add_generation_prompt` can't both be true";
            Err(ApiError::invalid("continue_final_message", "invalid_value", message))
        }
        (_, true) => Ok(PromptEnd::OpenMessage),
        (Some(false), false) => Ok(PromptEnd::Message),
        (None | Some(true), false) => Ok(PromptEnd::Answer),
    }
}

/// The variables of `chat_template_kwargs` and of `reasoning_effort`; the former win.
pub(super) fn variables(
    given: Option<Map<String, Value>>,
    reasoning_effort: Option<&str>,
) -> Result<Vec<(String, Value)>, ApiError> {
    const PARAM: &str = "chat_template_kwargs";
    let given = given.unwrap_or_default();
    if given.len() > MAX_VARIABLES {
        let message = format!("`{PARAM}` has {} entries and may have {MAX_VARIABLES}", given.len());
        return Err(ApiError::invalid(PARAM, "object_above_max_properties", message));
    }
    for (name, value) in &given {
        check(name, value)?;
    }
    let mut variables = Vec::new();
    if let Some(effort) = reasoning_effort {
        variables.push(("reasoning_effort".to_owned(), effort.into()));
        if effort == "none" {
            variables.push(("enable_thinking".to_owned(), false.into()));
        }
    }
    variables.retain(|(name, _)| !given.contains_key(name));
    variables.extend(given);
    Ok(variables)
}

fn check(name: &str, value: &Value) -> Result<(), ApiError> {
    let param = || format!("chat_template_kwargs.{name}");
    if name.chars().count() > MAX_CHARS {
        let message =
            format!("a name in `chat_template_kwargs` has more than {MAX_CHARS} characters");
        return Err(ApiError::invalid("chat_template_kwargs", "string_above_max_length", message));
    }
    if RESERVED.contains(&name) {
        let message = format!("`{}` is set by the server", param());
        return Err(ApiError::invalid(param(), "unsupported_value", message));
    }
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
        Value::String(text) if text.chars().count() <= MAX_CHARS => Ok(()),
        Value::String(_) => {
            let message = format!("`{}` has more than {MAX_CHARS} characters", param());
            Err(ApiError::invalid(param(), "string_above_max_length", message))
        }
        Value::Array(_) | Value::Object(_) => {
            let message = format!("`{}` must be a text, a number or a boolean", param());
            Err(ApiError::invalid(param(), "invalid_type", message))
        }
    }
}
