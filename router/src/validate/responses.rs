//! The dialect of the Responses API: items become messages, and the fields of other names what they
//! mean. What is allowed is decided where every dialect's requests are compared.

use super::messages::{self, Call, ChatMessage, MAX_CALLS, Role, add_line, short};
use super::tools::{self, Chosen, Tools, choose, distinct};
use super::{Bounds, Chat, PromptEnd, format, template};
use crate::api::chat::request::{Content, Part};
use crate::api::fields::{EFFORTS, missing};
use crate::api::responses::item::{Item, ItemPart, new_id};
use crate::api::responses::request::{
    FunctionTool, InputItem, ReasoningConfig, ResponseToolChoice, ResponseToolChoiceObject,
    ResponsesRequest, TextConfig,
};
use crate::config::Limits;
use crate::error::ApiError;

const LOGPROBS: &str = "message.output_text.logprobs";

/// What a response may be asked to include beside log-probabilities. None of it is ever there but
/// the thoughts, which always are.
const INCLUDABLE: &[&str] = &[
    "reasoning.encrypted_content",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
];

/// An input that was checked: items, and references that are still to be looked up.
#[derive(Debug)]
pub(crate) enum Checked {
    Item(Item),
    Reference { path: String, id: String },
}

/// Checks what goes in. Items that have no id get one.
pub(crate) fn input(items: Vec<InputItem>, limits: &Limits) -> Result<Vec<Checked>, ApiError> {
    check_count(items.len(), limits)?;
    items.into_iter().enumerate().map(|(i, item)| checked(&format!("input[{i}]"), item)).collect()
}

/// What a user says.
pub(crate) fn user(text: String) -> Item {
    Item::Message {
        id: new_id("msg"),
        status: "completed".into(),
        role: "user".into(),
        content: vec![ItemPart::InputText { text }],
    }
}

/// The conversation of these items, without the format of its answer.
pub(super) fn chat(
    request: &mut ResponsesRequest,
    items: &[Item],
    limits: &Limits,
) -> Result<Chat, ApiError> {
    check_count(items.len(), limits)?;
    let mut messages = Vec::new();
    if let Some(instructions) = request.instructions.clone() {
        messages.push(message(Role::System, instructions));
    }
    items.iter().for_each(|item| add(&mut messages, item));
    let choice = request.tool_choice.take();
    let tools = tools(std::mem::take(&mut request.tools), choice, request.parallel_tool_calls)?;
    let effort = effort(request.reasoning.as_ref())?;
    let variables = template::variables(request.chat_template_kwargs.take(), effort)?;
    Ok(Chat { messages, tools, end: PromptEnd::Answer, variables, param: "input" })
}

/// The number of alternatives to each token, if log-probabilities are asked for.
pub(super) fn logprobs(
    request: &ResponsesRequest,
    bounds: &Bounds,
) -> Result<Option<u32>, ApiError> {
    for (i, name) in request.include.iter().enumerate() {
        if name != LOGPROBS && !INCLUDABLE.contains(&name.as_str()) {
            let param = format!("include[{i}]");
            let message =
                format!("`{param}` must be one of: {LOGPROBS}, {}", INCLUDABLE.join(", "));
            return Err(ApiError::invalid(param, "invalid_value", message));
        }
    }
    let is_included = request.include.iter().any(|name| name == LOGPROBS);
    match request.top_logprobs {
        top if is_included => bounds.logprobs("top_logprobs", Some(top.unwrap_or(0))),
        None | Some(0) => Ok(None),
        Some(_) => {
            let message = format!("`top_logprobs` needs `{LOGPROBS}` in `include`");
            Err(ApiError::invalid("top_logprobs", "invalid_value", message))
        }
    }
}

/// What `text` asks for.
pub(super) fn text(text: Option<&TextConfig>) -> Result<Option<format::Constraint>, ApiError> {
    let Some(text) = text else { return Ok(None) };
    if let Some(verbosity) = text.verbosity.as_deref().filter(|it| *it != "medium") {
        let param = "text.verbosity";
        let message = format!("`{param}` is {verbosity:?}, and only medium is supported");
        return Err(ApiError::invalid(param, "unsupported_value", message));
    }
    text.format.as_ref().map_or(Ok(None), format::text)
}

fn check_count(given: usize, limits: &Limits) -> Result<(), ApiError> {
    if given == 0 {
        return Err(ApiError::invalid("input", "empty_array", "`input` is empty"));
    }
    let max = limits.max_messages;
    if given > max {
        let message = format!("the conversation has {given} items and may have {max}");
        return Err(ApiError::invalid("input", "array_above_max_length", message));
    }
    Ok(())
}

fn checked(path: &str, item: InputItem) -> Result<Checked, ApiError> {
    let field = |name: &str| format!("{path}.{name}");
    let InputItem { kind, id, role, content, summary, call_id, name, arguments, output } = item;
    let own_id = |prefix: &str| match id.clone() {
        Some(id) => short(&field("id"), id),
        None => Ok(new_id(prefix)),
    };
    let named = |name: &str, text: Option<String>| {
        let param = field(name);
        let text = text.ok_or_else(|| missing(&param))?;
        short(&param, text)
    };
    let status = "completed".to_owned();
    Ok(Checked::Item(match kind.as_deref() {
        None | Some("message") => {
            let speaker = messages::role(&field("role"), role.as_deref())?;
            if speaker == Role::Tool {
                let message = format!(
                    "`{}`: results of calls are items of type `function_call_output`",
                    field("role")
                );
                return Err(ApiError::invalid(field("role"), "invalid_value", message));
            }
            let content = content.ok_or_else(|| missing(&field("content")))?;
            let content = parts(&field("content"), speaker, content)?;
            Item::Message { id: own_id("msg")?, status, role: role.unwrap_or_default(), content }
        }
        Some("reasoning") => {
            let summary = thoughts(&field("summary"), summary)?;
            let content = thoughts(&field("content"), content)?;
            Item::Reasoning {
                id: own_id("rs")?,
                status,
                summary: summary.map(|text| ItemPart::SummaryText { text }).into_iter().collect(),
                content: content.map(|text| ItemPart::ReasoningText { text }).into_iter().collect(),
            }
        }
        Some("function_call") => Item::FunctionCall {
            id: own_id("fc")?,
            status,
            call_id: named("call_id", call_id)?,
            name: named("name", name)?,
            arguments: arguments.unwrap_or_default(),
        },
        Some("function_call_output") => {
            let output = output.ok_or_else(|| missing(&field("output")))?;
            let output = joined(&parts(&field("output"), Role::Tool, output)?);
            let call_id = named("call_id", call_id)?;
            Item::FunctionCallOutput { id: own_id("fco")?, status, call_id, output }
        }
        Some("item_reference") => {
            let id = named("id", id.clone())?;
            return Ok(Checked::Reference { path: field("id"), id });
        }
        Some(kind) => {
            let param = field("type");
            let message = format!("`{param}`: items of type {kind:?} are not supported");
            return Err(ApiError::invalid(param, "unsupported_value", message));
        }
    }))
}

/// The text parts of a message or of a result.
fn parts(path: &str, role: Role, content: Content) -> Result<Vec<ItemPart>, ApiError> {
    let part = |text: String| match role {
        Role::Assistant => ItemPart::output(text),
        Role::System | Role::User | Role::Tool => ItemPart::InputText { text },
    };
    let parts = match content {
        Content::Text(text) => return Ok(vec![part(text)]),
        Content::Parts(parts) => parts,
    };
    if parts.is_empty() {
        return Err(ApiError::invalid(path, "empty_array", format!("`{path}` is empty")));
    }
    let parts = parts.into_iter().enumerate().map(|(j, Part { kind, text, refusal })| {
        let field = |name: &str| format!("{path}[{j}].{name}");
        match (kind.as_deref(), role) {
            (Some("input_text" | "output_text" | "text"), _) => {
                text.map(part).ok_or_else(|| missing(&field("text")))
            }
            (Some("refusal"), Role::Assistant) => {
                let refusal = refusal.ok_or_else(|| missing(&field("refusal")))?;
                Ok(ItemPart::Refusal { refusal })
            }
            (Some(kind), _) => Err(unsupported(&field("type"), kind)),
            (None, _) => Err(missing(&field("type"))),
        }
    });
    parts.collect()
}

/// What a model thought.
fn thoughts(path: &str, content: Option<Content>) -> Result<Option<String>, ApiError> {
    let parts = match content {
        None => return Ok(None),
        Some(Content::Text(text)) => return Ok(Some(text)),
        Some(Content::Parts(parts)) => parts.into_iter().enumerate(),
    };
    let texts = parts.map(|(j, part)| {
        let field = |name: &str| format!("{path}[{j}].{name}");
        match part.kind.as_deref() {
            Some("reasoning_text" | "summary_text") => {
                part.text.ok_or_else(|| missing(&field("text")))
            }
            Some(kind) => Err(unsupported(&field("type"), kind)),
            None => Err(missing(&field("type"))),
        }
    });
    let texts = texts.collect::<Result<Vec<_>, _>>()?;
    Ok((!texts.is_empty()).then(|| texts.join("\n")))
}

fn unsupported(param: &str, kind: &str) -> ApiError {
    let message = format!("`{param}`: content of type {kind:?} is not supported");
    ApiError::invalid(param, "unsupported_content_type", message)
}

fn message(role: Role, content: String) -> ChatMessage {
    ChatMessage { role, content, name: None, calls: Vec::new(), call_id: None, reasoning: None }
}

/// Adds an item to a conversation. What the model thinks, says and calls in a row is one message.
fn add(messages: &mut Vec<ChatMessage>, item: &Item) {
    let (role, content, call_id) = match item {
        Item::Message { role, content, .. } => match messages::role("", Some(role)) {
            Ok(Role::Assistant) => {
                let said = &mut answer(messages).content;
                add_line(said, &joined(content));
                return;
            }
            Ok(role) => (role, joined(content), None),
            // Items of other roles are not made.
            Err(_) => return,
        },
        Item::Reasoning { summary, content, .. } => {
            let thought = joined(if content.is_empty() { summary } else { content });
            // Sent back without its text: nothing can be known of it.
            if !thought.is_empty() {
                add_line(answer(messages).reasoning.get_or_insert_default(), &thought);
            }
            return;
        }
        Item::FunctionCall { call_id, name, arguments, .. } => {
            let call = Call::new(call_id.clone(), name.clone(), arguments);
            answer(messages).calls.push(call);
            return;
        }
        Item::FunctionCallOutput { call_id, output, .. } => {
            (Role::Tool, output.clone(), Some(call_id.clone()))
        }
    };
    messages.push(ChatMessage { call_id, ..message(role, content) });
}

/// The assistant's message at the end.
fn answer(messages: &mut Vec<ChatMessage>) -> &mut ChatMessage {
    let is_answer =
        |last: &ChatMessage| last.role == Role::Assistant && last.calls.len() < MAX_CALLS;
    if !messages.last().is_some_and(is_answer) {
        messages.push(message(Role::Assistant, String::new()));
    }
    let last = messages.len() - 1;
    &mut messages[last]
}

fn joined(parts: &[ItemPart]) -> String {
    parts.iter().map(ItemPart::text).collect::<Vec<_>>().join("\n")
}

fn effort(reasoning: Option<&ReasoningConfig>) -> Result<Option<&str>, ApiError> {
    let Some(reasoning) = reasoning else { return Ok(None) };
    for (param, summary) in [
        ("reasoning.summary", &reasoning.summary),
        ("reasoning.generate_summary", &reasoning.generate_summary),
    ] {
        if let Some(summary) = summary.as_deref().filter(|it| *it != "auto") {
            let message = format!("`{param}` is {summary:?}, and only auto is supported");
            return Err(ApiError::invalid(param, "unsupported_value", message));
        }
    }
    match reasoning.effort.as_deref() {
        Some(effort) if !EFFORTS.contains(&effort) => {
            let param = "reasoning.effort";
            let message = format!("`{param}` must be one of: {}", EFFORTS.join(", "));
            Err(ApiError::invalid(param, "invalid_value", message))
        }
        effort => Ok(effort),
    }
}

fn tools(
    tools: Vec<FunctionTool>,
    choice: Option<ResponseToolChoice>,
    parallel: Option<bool>,
) -> Result<Tools, ApiError> {
    let functions = distinct(tools, function)?;
    // A function that is named is called once.
    let is_named = matches!(
        &choice,
        Some(ResponseToolChoice::Object(object)) if object.kind.as_deref() == Some("function")
    );
    let chosen = choice.map_or(Ok(Chosen::Any(tools::Choice::Auto)), chosen)?;
    let (functions, choice) = choose(functions, chosen)?;
    Ok(Tools { functions, choice, parallel: parallel.unwrap_or(true) && !is_named })
}

fn function(i: usize, tool: FunctionTool) -> Result<(String, tools::Function), ApiError> {
    let path = |field: &str| format!("tools[{i}].{field}");
    tools::check_kind(path("type"), tool.kind.as_deref())?;
    let param = path("name");
    let name = tool.name.ok_or_else(|| missing(&param))?;
    let parameters = (path("parameters"), tool.parameters);
    let function = tools::Function::new((&param, name), tool.description, parameters)?;
    Ok((param, function))
}

fn chosen(choice: ResponseToolChoice) -> Result<Chosen, ApiError> {
    let ResponseToolChoiceObject { kind, name, mode, tools } = match choice {
        ResponseToolChoice::Mode(mode) => return tools::mode(&mode),
        ResponseToolChoice::Object(object) => object,
    };
    match kind.as_deref() {
        Some("function") => {
            let param = "tool_choice.name";
            let name = name.ok_or_else(|| missing(param))?;
            Ok(Chosen::Named(vec![(param.to_owned(), name)], tools::Choice::Required))
        }
        Some("allowed_tools") => {
            let choice = tools::allowed_mode("tool_choice.mode", mode.as_deref())?;
            let names = tools.unwrap_or_default().into_iter().enumerate().map(|(i, tool)| {
                let param = format!("tool_choice.tools[{i}].name");
                let name = tool.name.ok_or_else(|| missing(&param))?;
                Ok((param, name))
            });
            let names: Vec<_> = names.collect::<Result<_, ApiError>>()?;
            if names.is_empty() {
                return Err(missing("tool_choice.tools"));
            }
            Ok(Chosen::Named(names, choice))
        }
        None => Err(missing("tool_choice.type")),
        Some(kind) => {
            let param = "tool_choice.type";
            let message = format!("`{param}` is {kind:?} and must be function or allowed_tools");
            Err(ApiError::invalid(param, "unsupported_value", message))
        }
    }
}
