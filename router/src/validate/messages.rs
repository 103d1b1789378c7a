//! The messages of a conversation.

use serde_json::Value;

use crate::api::chat::request::{Content, Message, Part};
use crate::api::chat::tools::{FunctionCall, ToolCall};
use crate::api::fields::missing;
use crate::config::Limits;
use crate::error::ApiError;

/// Longest `name`, as OpenAI has it.
const MAX_NAME_CHARS: usize = 64;
/// Longest id of a call.
const MAX_ID_CHARS: usize = 256;
/// Most calls of one message.
pub(super) const MAX_CALLS: usize = 128;

/// One message with the text of all its parts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ChatMessage {
    /// Who says it.
    pub role: Role,
    /// What is said.
    pub content: String,
    /// Who that is by name.
    pub name: Option<String>,
    /// What the assistant calls.
    pub calls: Vec<Call>,
    /// The call that a tool answers.
    pub call_id: Option<String>,
    /// What the assistant thought.
    pub reasoning: Option<String>,
}

/// A call that the model made before.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Call {
    /// As it was given.
    pub id: String,
    /// The function.
    pub name: String,
    /// An object; a text where they are none.
    pub arguments: Value,
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
    /// What the model called.
    Tool,
}

impl Role {
    /// As chat templates name it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

pub(super) fn check_count(given: usize, limits: &Limits) -> Result<(), ApiError> {
    if given == 0 {
        return Err(ApiError::invalid("messages", "empty_array", "`messages` is empty"));
    }
    let max = limits.max_messages;
    if given > max {
        let message = format!("`messages` has {given} messages and may have {max}");
        return Err(ApiError::invalid("messages", "array_above_max_length", message));
    }
    Ok(())
}

pub(super) fn parse(messages: Vec<Message>, limits: &Limits) -> Result<Vec<ChatMessage>, ApiError> {
    check_count(messages.len(), limits)?;
    let mut parsed = Vec::with_capacity(messages.len());
    for (i, message) in messages.into_iter().enumerate() {
        let message = parse_one(i, message, &parsed)?;
        parsed.push(message);
    }
    Ok(parsed)
}

fn parse_one(i: usize, message: Message, before: &[ChatMessage]) -> Result<ChatMessage, ApiError> {
    let path = |field: &str| format!("messages[{i}].{field}");
    let role = role(&path("role"), message.role.as_deref())?;
    if message.function_call.is_some() && role != Role::Assistant {
        return Err(misplaced(&path("function_call"), "an assistant's"));
    }
    let calls = message.tool_calls.unwrap_or_default();
    if !calls.is_empty() && role != Role::Assistant {
        return Err(misplaced(&path("tool_calls"), "an assistant's"));
    }
    if message.reasoning_content.is_some() && role != Role::Assistant {
        return Err(misplaced(&path("reasoning_content"), "an assistant's"));
    }
    let has_calls = !calls.is_empty() || message.function_call.is_some();
    let is_function = message.role.as_deref() == Some("function");
    let call_id = match (role, message.tool_call_id) {
        (Role::Tool, None) if is_function => {
            let name = message.name.as_deref().ok_or_else(|| missing(&path("name")))?;
            Some(called(name, before).unwrap_or_else(|| function_call_id(i)))
        }
        (Role::Tool, None) => return Err(missing(&path("tool_call_id"))),
        (Role::Tool, Some(id)) => Some(short(&path("tool_call_id"), id)?),
        (_, None) => None,
        (_, Some(_)) => return Err(misplaced(&path("tool_call_id"), "a tool's")),
    };
    let content = match message.content {
        Some(Content::Text(text)) => text,
        Some(Content::Parts(parts)) => join(i, role, parts)?,
        None if has_calls => String::new(),
        None => return Err(missing(&path("content"))),
    };
    let mut calls = self::calls(i, calls)?;
    if let Some(function) = message.function_call {
        calls.push(function_call(i, function)?);
    }
    Ok(ChatMessage {
        role,
        content,
        name: name(i, message.name)?,
        calls,
        call_id,
        reasoning: message.reasoning_content,
    })
}

fn calls(i: usize, calls: Vec<ToolCall>) -> Result<Vec<Call>, ApiError> {
    if calls.len() > MAX_CALLS {
        let param = format!("messages[{i}].tool_calls");
        let message = format!("`{param}` has {} calls and may have {MAX_CALLS}", calls.len());
        return Err(ApiError::invalid(param, "array_above_max_length", message));
    }
    calls.into_iter().enumerate().map(|(j, call)| self::call((i, j), call)).collect()
}

fn call((i, j): (usize, usize), call: ToolCall) -> Result<Call, ApiError> {
    let path = |field: &str| format!("messages[{i}].tool_calls[{j}].{field}");
    if let Some(kind) = call.kind.filter(|kind| kind != "function") {
        let message = format!("`{}` is {kind:?} and must be function", path("type"));
        return Err(ApiError::invalid(path("type"), "unsupported_value", message));
    }
    let id = call.id.ok_or_else(|| missing(&path("id")))?;
    let function = call.function.ok_or_else(|| missing(&path("function")))?;
    let name = function.name.ok_or_else(|| missing(&path("function.name")))?;
    let arguments = function.arguments.unwrap_or_default();
    let (id, name) = (short(&path("id"), id)?, short(&path("function.name"), name)?);
    Ok(Call::new(id, name, &arguments))
}

/// A call of one of `functions`, which has no id.
fn function_call(i: usize, call: FunctionCall) -> Result<Call, ApiError> {
    let param = format!("messages[{i}].function_call.name");
    let name = call.name.ok_or_else(|| missing(&param))?;
    let arguments = call.arguments.unwrap_or_default();
    Ok(Call::new(function_call_id(i), short(&param, name)?, &arguments))
}

/// The id of a message's call, which has none. Of nine characters, as some templates want it.
fn function_call_id(i: usize) -> String {
    format!("fc{i:07}")
}

/// The id of the last call of this name.
fn called(name: &str, before: &[ChatMessage]) -> Option<String> {
    let calls = before.iter().rev().flat_map(|message| message.calls.iter().rev());
    let mut called = calls.filter(|call| call.name == name);
    called.next().map(|call| call.id.clone())
}

impl Call {
    /// A call with arguments as text. Templates write them as JSON; a text that is none is passed
    /// on as what it is.
    pub(super) fn new(id: String, name: String, arguments: &str) -> Self {
        let arguments = match serde_json::from_str(arguments) {
            Ok(arguments @ Value::Object(_)) => arguments,
            Ok(_) | Err(_) if arguments.trim().is_empty() => Value::Object(serde_json::Map::new()),
            Ok(_) | Err(_) => Value::String(arguments.to_owned()),
        };
        Self { id, name, arguments }
    }
}

/// Adds to a text what was said after it.
pub(super) fn add_line(text: &mut String, more: &str) {
    if !text.is_empty() {
        text.push('\n');
    }
    text.push_str(more);
}

pub(super) fn short(param: &str, text: String) -> Result<String, ApiError> {
    if text.chars().count() <= MAX_ID_CHARS {
        return Ok(text);
    }
    let message = format!("`{param}` has more than {MAX_ID_CHARS} characters");
    Err(ApiError::invalid(param, "string_above_max_length", message))
}

fn misplaced(param: &str, whose: &str) -> ApiError {
    let message = format!("`{param}` has its place in {whose} message");
    ApiError::invalid(param, "invalid_value", message)
}

pub(super) fn role(param: &str, role: Option<&str>) -> Result<Role, ApiError> {
    match role {
        Some("system" | "developer") => Ok(Role::System),
        Some("user") => Ok(Role::User),
        Some("assistant") => Ok(Role::Assistant),
        Some("tool" | "function") => Ok(Role::Tool),
        Some(other) => {
            let message = format!(
                "`{param}` is {other:?} and must be one of: system, developer, user, assistant, tool, \
                 function"
            );
            Err(ApiError::invalid(param, "invalid_value", message))
        }
        None => Err(missing(param)),
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
