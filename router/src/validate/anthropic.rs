//! Anthropic's dialect: turns of blocks become messages, and the fields of other names what they
//! mean. What is allowed is decided where every dialect's requests are compared.

use serde_json::Value;

use super::messages::{self, Call, ChatMessage, MAX_CALLS, Role, add_line, short};
use super::tools::{self, Chosen, Tools, choose, distinct};
use super::{Chat, PromptEnd, template};
use crate::api::fields::missing;
use crate::api::messages::request::{
    BlockContent, BlockParam, Input, MessageParam, ThinkingParam, ToolChoiceParam, ToolParam,
};
use crate::config::Limits;
use crate::error::ApiError;

/// Smallest budget of thinking, as Anthropic has it.
const MIN_BUDGET: i64 = 1024;

const EFFORTS: &[&str] = &["low", "medium", "high", "xhigh", "max"];

/// The conversation, without the format of its answer.
pub(super) fn chat(
    input: &mut Input,
    max_tokens: Option<u32>,
    limits: &Limits,
) -> Result<Chat, ApiError> {
    let (messages, end) =
        conversation(input.system.take(), std::mem::take(&mut input.messages), limits)?;
    let effort = input.output_config.as_ref().and_then(|config| config.effort.as_deref());
    if effort.is_some_and(|effort| !EFFORTS.contains(&effort)) {
        let param = "output_config.effort";
        let message = format!("`{param}` must be one of: {}", EFFORTS.join(", "));
        return Err(ApiError::invalid(param, "invalid_value", message));
    }
    let mut variables = template::variables(None, effort)?;
    if let Some(is_on) = input.thinking.take().map(|it| thinking(&it, max_tokens)).transpose()? {
        variables.push(("enable_thinking".to_owned(), is_on.into()));
    }
    let tools = tools(input.tools.take(), input.tool_choice.take())?;
    Ok(Chat { messages, tools, end, variables, param: "messages" })
}

fn conversation(
    system: Option<BlockContent>,
    turns: Vec<MessageParam>,
    limits: &Limits,
) -> Result<(Vec<ChatMessage>, PromptEnd), ApiError> {
    messages::check_count(turns.len(), limits)?;
    let num_turns = turns.len();
    let mut conversation = Conversation::default();
    match system {
        Some(BlockContent::Text(text)) => conversation.say(Role::System, &text),
        Some(BlockContent::Blocks(blocks)) => {
            for (j, block) in blocks.into_iter().enumerate() {
                conversation.block(Role::System, &format!("system[{j}]"), block)?;
            }
        }
        None => {}
    }
    for (i, turn) in turns.into_iter().enumerate() {
        conversation.turn(i, turn)?;
    }
    // A turn with results of calls has become several messages.
    messages::check_count(conversation.messages.len(), limits)?;
    let end = match conversation.messages.last() {
        Some(last) if last.role == Role::Assistant && !last.calls.is_empty() => {
            let param = format!("messages[{}]", num_turns.saturating_sub(1));
            let message =
                format!("`{param}` calls tools: the next message must have their results");
            return Err(ApiError::invalid(param, "invalid_value", message));
        }
        Some(last) if last.role == Role::Assistant => PromptEnd::OpenMessage,
        _ => PromptEnd::Answer,
    };
    Ok((conversation.messages, end))
}

/// The messages so far. Turns of one role that follow each other are one.
#[derive(Default)]
struct Conversation {
    messages: Vec<ChatMessage>,
}

impl Conversation {
    fn turn(&mut self, i: usize, turn: MessageParam) -> Result<(), ApiError> {
        let role = role(i, turn.role.as_deref())?;
        let path = format!("messages[{i}].content");
        match turn.content {
            None => return Err(missing(&path)),
            Some(BlockContent::Text(text)) => self.say(role, &text),
            Some(BlockContent::Blocks(blocks)) if blocks.is_empty() => {
                return Err(ApiError::invalid(&*path, "empty_array", format!("`{path}` is empty")));
            }
            Some(BlockContent::Blocks(blocks)) => {
                for (j, block) in blocks.into_iter().enumerate() {
                    self.block(role, &format!("{path}[{j}]"), block)?;
                }
            }
        }
        match self.messages.last() {
            Some(last) if last.calls.len() > MAX_CALLS => {
                let message =
                    format!("`{path}` has {} calls and may have {MAX_CALLS}", last.calls.len());
                Err(ApiError::invalid(path, "array_above_max_length", message))
            }
            _ => Ok(()),
        }
    }

    fn block(&mut self, role: Role, path: &str, block: BlockParam) -> Result<(), ApiError> {
        let field = |name: &str| format!("{path}.{name}");
        match (block.kind.as_deref(), role) {
            (Some("text"), _) => {
                let text = block.text.ok_or_else(|| missing(&field("text")))?;
                self.say(role, &text);
            }
            (Some("tool_use"), Role::Assistant) => {
                let call = call(path, block)?;
                self.amend(role, |message| message.calls.push(call));
            }
            (Some("thinking"), Role::Assistant) => {
                let thinking = block.thinking.ok_or_else(|| missing(&field("thinking")))?;
                self.amend(role, |message| match &mut message.reasoning {
                    Some(reasoning) => add_line(reasoning, &thinking),
                    none => *none = Some(thinking),
                });
            }
            // Only who has encrypted it could read it.
            (Some("redacted_thinking"), Role::Assistant) => self.amend(role, |_| {}),
            (Some("tool_result"), Role::User) => self.messages.push(result(path, block)?),
            (Some(kind @ ("tool_use" | "thinking" | "redacted_thinking" | "tool_result")), _) => {
                let whose = if kind == "tool_result" { "a user's" } else { "an assistant's" };
                let message = format!("`{path}`: a `{kind}` has its place in {whose} message");
                return Err(ApiError::invalid(field("type"), "invalid_value", message));
            }
            (Some(kind), _) => return Err(unsupported(path, kind)),
            (None, _) => return Err(missing(&field("type"))),
        }
        Ok(())
    }

    fn say(&mut self, role: Role, text: &str) {
        self.amend(role, |message| add_line(&mut message.content, text));
    }

    /// Changes the last message, or a new one if the last is another role's.
    fn amend(&mut self, role: Role, change: impl FnOnce(&mut ChatMessage)) {
        match self.messages.last_mut() {
            Some(last) if last.role == role => change(last),
            _ => {
                let mut message = new(role);
                change(&mut message);
                self.messages.push(message);
            }
        }
    }
}

fn new(role: Role) -> ChatMessage {
    ChatMessage {
        role,
        content: String::new(),
        name: None,
        calls: Vec::new(),
        call_id: None,
        reasoning: None,
    }
}

fn role(i: usize, role: Option<&str>) -> Result<Role, ApiError> {
    let param = format!("messages[{i}].role");
    match role {
        Some("user") => Ok(Role::User),
        Some("assistant") => Ok(Role::Assistant),
        Some("system") => Ok(Role::System),
        Some(other) => {
            let message =
                format!("`{param}` is {other:?} and must be one of: user, assistant, system");
            Err(ApiError::invalid(param, "invalid_value", message))
        }
        None => Err(missing(&param)),
    }
}

fn call(path: &str, block: BlockParam) -> Result<Call, ApiError> {
    let field = |name: &str| format!("{path}.{name}");
    let id = block.id.ok_or_else(|| missing(&field("id")))?;
    let name = block.name.ok_or_else(|| missing(&field("name")))?;
    let input = block.input.ok_or_else(|| missing(&field("input")))?;
    Ok(Call {
        id: short(&field("id"), id)?,
        name: short(&field("name"), name)?,
        arguments: Value::Object(input),
    })
}

fn result(path: &str, block: BlockParam) -> Result<ChatMessage, ApiError> {
    let id = format!("{path}.tool_use_id");
    let call_id = short(&id, block.tool_use_id.ok_or_else(|| missing(&id))?)?;
    let mut content = String::new();
    match block.content {
        None => {}
        Some(BlockContent::Text(text)) => content = text,
        Some(BlockContent::Blocks(blocks)) => {
            for (k, block) in blocks.into_iter().enumerate() {
                let path = format!("{path}.content[{k}]");
                match (block.kind.as_deref(), block.text) {
                    (Some("text"), Some(text)) => add_line(&mut content, &text),
                    (Some("text"), None) => return Err(missing(&format!("{path}.text"))),
                    (Some(kind), _) => return Err(unsupported(&path, kind)),
                    (None, _) => return Err(missing(&format!("{path}.type"))),
                }
            }
        }
    }
    if block.is_error == Some(true) {
        content.insert_str(0, "Error: ");
    }
    Ok(ChatMessage { content, call_id: Some(call_id), ..new(Role::Tool) })
}

fn unsupported(path: &str, kind: &str) -> ApiError {
    let param = format!("{path}.type");
    let message = format!("`{path}`: content of type {kind:?} is not supported");
    ApiError::invalid(param, "unsupported_content_type", message)
}

/// Whether the model is told to think; `None`: it does as it likes.
fn thinking(thinking: &ThinkingParam, max_tokens: Option<u32>) -> Result<bool, ApiError> {
    if let Some(display) = thinking.display.as_deref().filter(|it| *it != "summarized") {
        let param = "thinking.display";
        let message = format!("`{param}` is {display:?}, and only summarized is supported");
        return Err(ApiError::invalid(param, "unsupported_value", message));
    }
    match thinking.kind.as_deref() {
        Some("enabled") => {
            let param = "thinking.budget_tokens";
            let budget = thinking.budget_tokens.ok_or_else(|| missing(param))?;
            let max = max_tokens.map_or(i64::from(u32::MAX), |max| i64::from(max) - 1);
            budget.within(param, MIN_BUDGET, max).map(|_| true)
        }
        Some("adaptive") => Ok(true),
        Some("disabled") => Ok(false),
        Some(kind) => {
            let param = "thinking.type";
            let message =
                format!("`{param}` is {kind:?} and must be one of: enabled, disabled, adaptive");
            Err(ApiError::invalid(param, "unsupported_value", message))
        }
        None => Err(missing("thinking.type")),
    }
}

fn tools(
    tools: Option<Vec<ToolParam>>,
    choice: Option<ToolChoiceParam>,
) -> Result<Tools, ApiError> {
    let functions = distinct(tools.unwrap_or_default(), function)?;
    let is_serial = choice.as_ref().and_then(|choice| choice.disable_parallel_tool_use);
    let chosen = choice.map_or(Ok(Chosen::Any(tools::Choice::Auto)), chosen)?;
    let is_named = matches!(chosen, Chosen::Named(..));
    let (functions, choice) = choose(functions, chosen)?;
    Ok(Tools { functions, choice, parallel: is_serial != Some(true) && !is_named })
}

fn function(i: usize, tool: ToolParam) -> Result<(String, tools::Function), ApiError> {
    let path = |field: &str| format!("tools[{i}].{field}");
    if let Some(kind) = tool.kind.filter(|kind| kind != "custom") {
        let message = format!(
            "`{}` is {kind:?}, and only tools of type `custom` are supported",
            path("type")
        );
        return Err(ApiError::invalid(path("type"), "unsupported_value", message));
    }
    let param = path("name");
    let name = tool.name.ok_or_else(|| missing(&param))?;
    let schema = tool.input_schema.ok_or_else(|| missing(&path("input_schema")))?;
    let schema = (path("input_schema"), Some(schema));
    let function = tools::Function::new((&param, name), tool.description, schema)?;
    Ok((param, function))
}

fn chosen(choice: ToolChoiceParam) -> Result<Chosen, ApiError> {
    match choice.kind.as_deref() {
        Some("auto") => Ok(Chosen::Any(tools::Choice::Auto)),
        Some("any") => Ok(Chosen::Any(tools::Choice::Required)),
        Some("none") => Ok(Chosen::None),
        Some("tool") => {
            let param = "tool_choice.name";
            let name = choice.name.ok_or_else(|| missing(param))?;
            Ok(Chosen::Named(vec![(param.to_owned(), name)], tools::Choice::Required))
        }
        Some(kind) => {
            let param = "tool_choice.type";
            let message =
                format!("`{param}` is {kind:?} and must be one of: auto, any, tool, none");
            Err(ApiError::invalid(param, "invalid_value", message))
        }
        None => Err(missing("tool_choice.type")),
    }
}
