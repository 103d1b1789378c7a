//! The messages of a conversation.

use crate::api::chat::request::{Content, Message, Part};
use crate::config::Limits;
use crate::error::ApiError;

/// Longest `name`, as OpenAI has it.
const MAX_NAME_CHARS: usize = 64;

/// One message with the text of all its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChatMessage {
    /// Who says it.
    pub role: Role,
    /// What is said.
    pub content: String,
    /// Who that is by name.
    pub name: Option<String>,
}

/// Who says a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The operator; OpenAI's newer name is `developer`.
    System,
    /// The user.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// As chat templates name it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

pub(super) fn parse(messages: Vec<Message>, limits: &Limits) -> Result<Vec<ChatMessage>, ApiError> {
    if messages.is_empty() {
        return Err(ApiError::invalid("messages", "empty_array", "`messages` is empty"));
    }
    if messages.len() > limits.max_messages {
        let (given, max) = (messages.len(), limits.max_messages);
        let message = format!("`messages` has {given} messages and may have {max}");
        return Err(ApiError::invalid("messages", "array_above_max_length", message));
    }
    messages.into_iter().enumerate().map(|(i, message)| parse_one(i, message)).collect()
}

fn parse_one(i: usize, message: Message) -> Result<ChatMessage, ApiError> {
    let role = role(i, message.role.as_deref())?;
    if message.tool_calls.is_some_and(|calls| !calls.is_empty()) {
        return Err(unsupported(format!("messages[{i}].tool_calls"), "tool calls"));
    }
    if message.function_call.is_some() {
        return Err(unsupported(format!("messages[{i}].function_call"), "function calls"));
    }
    let Some(content) = message.content else {
        let param = format!("messages[{i}].content");
        let message = format!("`{param}` is required");
        return Err(ApiError::invalid(param, "missing_required_parameter", message));
    };
    let content = match content {
        Content::Text(text) => text,
        Content::Parts(parts) => join(i, role, parts)?,
    };
    Ok(ChatMessage { role, content, name: name(i, message.name)? })
}

fn role(i: usize, role: Option<&str>) -> Result<Role, ApiError> {
    let param = || format!("messages[{i}].role");
    match role {
        Some("system" | "developer") => Ok(Role::System),
        Some("user") => Ok(Role::User),
        Some("assistant") => Ok(Role::Assistant),
        Some("tool" | "function") => Err(unsupported(param(), "messages of tools")),
        Some(other) => {
            let message = format!(
                "`{}` is {other:?} and must be one of: system, developer, user, assistant",
                param()
            );
            Err(ApiError::invalid(param(), "invalid_value", message))
        }
        None => {
            let message = format!("`{}` is required", param());
            Err(ApiError::invalid(param(), "missing_required_parameter", message))
        }
    }
}

fn name(i: usize, name: Option<String>) -> Result<Option<String>, ApiError> {
    match name {
        Some(name) if name.chars().count() > MAX_NAME_CHARS => {
            let param = format!("messages[{i}].name");
            let message = format!("`{param}` has more than {MAX_NAME_CHARS} characters");
            Err(ApiError::invalid(param, "string_above_max_length", message))
        }
        name => Ok(name),
    }
}

fn join(i: usize, role: Role, parts: Vec<Part>) -> Result<String, ApiError> {
    if parts.is_empty() {
        let param = format!("messages[{i}].content");
        return Err(ApiError::invalid(&*param, "empty_array", format!("`{param}` is empty")));
    }
    let texts = parts.into_iter().enumerate().map(|(j, part)| {
        let path = |field| format!("messages[{i}].content[{j}].{field}");
        let (field, text) = match (part.kind.as_deref(), role) {
            (Some("text"), _) => ("text", part.text),
            (Some("refusal"), Role::Assistant) => ("refusal", part.refusal),
            (Some(kind), _) => {
                let message =
                    format!("`{}`: content of type {kind:?} is not supported", path("type"));
                return Err(ApiError::invalid(path("type"), "unsupported_content_type", message));
            }
            (None, _) => ("type", None),
        };
        text.ok_or_else(|| {
            let message = format!("`{}` is required", path(field));
            ApiError::invalid(path(field), "missing_required_parameter", message)
        })
    });
    Ok(texts.collect::<Result<Vec<_>, _>>()?.join("\n"))
}

fn unsupported(param: String, what: &str) -> ApiError {
    let message = format!("`{param}`: {what} are not supported yet");
    ApiError::invalid(param, "unsupported_value", message)
}
