//! A conversation as chat templates see it: JSON, in which nothing that a client wrote can be read
//! as one of the model's own tokens.

#[cfg(test)]
mod tests;

use serde_json::{Map, Value, json};

use super::added::{AddedTokens, Mark, Trust};
use crate::validate::tools::Function;
use crate::validate::{Call, Chat, ChatMessage, PromptEnd, Role};

/// What is rendered.
#[derive(Debug)]
pub(crate) struct Conversation {
    /// Objects with `role`, `content` and what else templates know.
    pub(crate) messages: Vec<Value>,
    /// As clients give them; empty when there are none.
    pub(crate) tools: Vec<Value>,
    /// More that the template may ask for.
    pub(crate) variables: Vec<(String, Value)>,
    pub(crate) end: PromptEnd,
    pub(crate) fuel: u64,
}

/// Whether a chat template has a place for tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ToolSupport {
    /// It has.
    Template,
    /// It has none: tools, calls and their results are written as text.
    Text,
}

impl Conversation {
    pub(crate) fn new(chat: &Chat, support: ToolSupport, fuel: u64) -> Self {
        let tools: Vec<_> = chat.tools.functions.iter().map(Function::as_json).collect();
        let messages = chat.messages.iter();
        let (messages, tools) = match support {
            ToolSupport::Template => (messages.map(message).collect(), tools),
            ToolSupport::Text => {
                let messages = messages.map(plain_message).collect();
                (introduce(messages, &tools), Vec::new())
            }
        };
        Self { messages, tools, variables: chat.variables.clone(), end: chat.end, fuel }
    }

    /// Breaks up every added token that a client spells out, and marks where an open message ends.
    /// `Err` when no character is left to do it with.
    pub(crate) fn protect(&mut self, added: &AddedTokens) -> Result<Option<Mark>, ()> {
        let mut is_spelled = false;
        self.each_text(&mut |text| is_spelled |= added.is_spelled_in(text));
        if !is_spelled && self.end != PromptEnd::OpenMessage {
            return Ok(None);
        }
        let mut taken = String::new();
        self.each_text(&mut |text| taken.extend(text.chars().filter(Mark::is_candidate)));
        let mark = Mark::absent_from([taken.as_str()]).ok_or(())?;
        if is_spelled {
            for message in &mut self.messages {
                // Templates look for tokens such as `</think>` in what the model said before.
                let is_model = message["role"] == Role::Assistant.as_str();
                let trust = if is_model { Trust::Markup } else { Trust::Nothing };
                replace(message, &|text| added.break_up(text, trust, mark).into_owned());
            }
            let untrusted = |text: &str| added.break_up(text, Trust::Nothing, mark).into_owned();
            self.tools.iter_mut().for_each(|tool| replace(tool, &untrusted));
            self.variables.iter_mut().for_each(|(_, value)| replace(value, &untrusted));
        }
        if self.end == PromptEnd::OpenMessage
            && let Some(message) = self.messages.last_mut()
        {
            let content = message["content"].as_str().unwrap_or_default();
            message["content"] = format!("{content}{}", mark.end()).into();
        }
        Ok(Some(mark))
    }

    fn each_text(&self, visit: &mut dyn FnMut(&str)) {
        let variables = self.variables.iter().map(|(_, value)| value);
        for value in self.messages.iter().chain(&self.tools).chain(variables) {
            each_text(value, visit);
        }
    }
}

fn message(message: &ChatMessage) -> Value {
    let mut fields = Map::new();
    fields.insert("role".into(), message.role.as_str().into());
    fields.insert("content".into(), message.content.clone().into());
    if let Some(name) = &message.name {
        fields.insert("name".into(), name.clone().into());
    }
    if let Some(reasoning) = &message.reasoning {
        fields.insert("reasoning_content".into(), reasoning.clone().into());
    }
    if !message.calls.is_empty() {
        fields.insert("tool_calls".into(), message.calls.iter().map(call).collect());
    }
    if let Some(id) = &message.call_id {
        fields.insert("tool_call_id".into(), id.clone().into());
    }
    Value::Object(fields)
}

fn call(call: &Call) -> Value {
    json!({
        "id": call.id,
        "type": "function",
        "function": { "name": call.name, "arguments": call.arguments },
    })
}

/// A message of a template without tools: calls and their results are texts.
fn plain_message(given: &ChatMessage) -> Value {
    let mut plain = given.clone();
    for Call { name, arguments, .. } in std::mem::take(&mut plain.calls) {
        let call = json!({ "name": name, "arguments": arguments });
        if !plain.content.is_empty() {
            plain.content.push('\n');
        }
        plain.content.push_str(&format!("<tool_call>\n{call}\n</tool_call>"));
    }
    if plain.role == Role::Tool {
        plain.role = Role::User;
        plain.call_id = None;
        plain.content = format!("<tool_response>\n{}\n</tool_response>", plain.content);
    }
    message(&plain)
}

/// Tells the model of its tools in the system message.
fn introduce(mut messages: Vec<Value>, tools: &[Value]) -> Vec<Value> {
    if tools.is_empty() {
        return messages;
    }
    let functions: Vec<_> = tools.iter().map(|tool| tool["function"].to_string()).collect();
    let text = format!(
        "You can call functions. Each line is one, with the JSON schema of its arguments:\n{}\n\
         To call a function, write nothing but this, with its name and a JSON object of \
         arguments:\n<tool_call>\n{{\"name\": \"...\", \"arguments\": {{...}}}}\n</tool_call>",
        functions.join("\n")
    );
    match messages.first_mut() {
        Some(first) if first["role"] == Role::System.as_str() => {
            let content = first["content"].as_str().unwrap_or_default();
            first["content"] = format!("{content}\n\n{text}").into();
        }
        _ => messages.insert(0, json!({ "role": "system", "content": text })),
    }
    messages
}

fn each_text(value: &Value, visit: &mut dyn FnMut(&str)) {
    match value {
        Value::String(text) => visit(text),
        Value::Array(values) => values.iter().for_each(|value| each_text(value, visit)),
        Value::Object(fields) => fields.iter().for_each(|(name, value)| {
            visit(name);
            each_text(value, visit);
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Replaces every text, names of fields included.
fn replace(value: &mut Value, by: &dyn Fn(&str) -> String) {
    match value {
        Value::String(text) => *text = by(text),
        Value::Array(values) => values.iter_mut().for_each(|value| replace(value, by)),
        Value::Object(fields) => {
            *fields = std::mem::take(fields)
                .into_iter()
                .map(|(name, mut value)| {
                    replace(&mut value, by);
                    (by(&name), value)
                })
                .collect();
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
