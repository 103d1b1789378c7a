//! A model's chat template: code of the model's maker, run with bounds on time and output.

use std::collections::HashMap;
use std::io;

use super::conversation::{Conversation, ToolSupport};
use super::{json, strftime};
use crate::validate::PromptEnd;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{AutoEscape, Environment, Error, ErrorKind};
use serde::Serialize;

const NAME: &str = "chat_template";

/// Instructions that a template may run unless the configuration says otherwise.
const DEFAULT_FUEL: u64 = 1_000_000;

/// A compiled chat template.
pub(crate) struct Template {
    environment: Environment<'static>,
    tokens: HashMap<String, String>,
    tools: ToolSupport,
}

/// Why a conversation has no prompt.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RenderError {
    /// The template says no, or can't cope with these messages.
    Refused(String),
    /// It ran too long.
    OutOfFuel,
    /// It wrote too much.
    TooLong,
}

impl Template {
    /// Compiles the Jinja source of a template that may name these tokens.
    pub(crate) fn compile(source: &str, tokens: &HashMap<String, String>) -> Result<Self, Error> {
        let mut environment = Environment::new();
        environment.set_fuel(Some(DEFAULT_FUEL));
        environment.set_recursion_limit(64);
        environment
            .set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", json::to_json);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime::now);
        environment.add_template_owned(NAME, without_generation_tags(source))?;
        let tools =
            if source.contains("tools") { ToolSupport::Template } else { ToolSupport::Text };
        Ok(Self { environment, tokens: tokens.clone(), tools })
    }

    /// Whether it has a place for tools.
    pub(crate) fn tool_support(&self) -> ToolSupport {
        self.tools
    }

    /// Writes a conversation as the prompt that the model was trained with.
    pub(crate) fn render(
        &self,
        conversation: &Conversation,
        max_bytes: usize,
    ) -> Result<String, RenderError> {
        let messages = as_value(&conversation.messages);
        // transformers passes these two as none when there are none.
        let tools = match &conversation.tools[..] {
            [] => Value::from(()),
            tools => as_value(tools),
        };
        let variables = conversation.variables.iter();
        let variables = variables.map(|(name, value)| (name.clone(), as_value(value)));
        let tokens = self.tokens.iter().map(|(name, token)| (name.clone(), Value::from(&**token)));
        let rest = [
            ("messages".to_owned(), messages),
            ("tools".to_owned(), tools),
            ("documents".to_owned(), Value::from(())),
            ("add_generation_prompt".to_owned(), (conversation.end == PromptEnd::Answer).into()),
        ];
        let context = Value::from_pairs(variables.chain(tokens).chain(rest));
        if conversation.fuel == DEFAULT_FUEL {
            return render(&self.environment, context, max_bytes);
        }
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(conversation.fuel));
        render(&environment, context, max_bytes)
    }
}

/// JSON as templates see it.
fn as_value(json: impl Serialize) -> Value {
    Value::from(Serde(json))
}

fn render(
    environment: &Environment,
    context: Value,
    max_bytes: usize,
) -> Result<String, RenderError> {
    let mut prompt = Prompt { text: Vec::new(), max_bytes, is_full: false };
    let rendered = environment
        .get_template(NAME)
        .and_then(|template| template.render_captured_to(context, &mut prompt).map(drop));
    match rendered {
        Ok(()) => String::from_utf8(prompt.text)
            .map_err(|_| RenderError::Refused("it wrote something else than text".into())),
        Err(_) if prompt.is_full => Err(RenderError::TooLong),
        Err(error) if error.kind() == ErrorKind::OutOfFuel => Err(RenderError::OutOfFuel),
        Err(error) => Err(RenderError::Refused(reason(&error))),
    }
}

/// What went wrong, without the template's own text.
fn reason(error: &Error) -> String {
    match error.detail() {
        Some(detail) => detail.to_owned(),
        None => error.kind().to_string(),
    }
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// Rewrites `{% generation %}` blocks, which mark what the model is trained on, as blocks that are
/// always rendered.
fn without_generation_tags(source: &str) -> String {
    let mut rewritten = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        rewritten.push_str(before);
        let end = tag.find("%}").map_or(tag.len(), |end| end + 2);
        let (tag, after) = tag.split_at(end);
        let inner = tag.trim_start_matches("{%").trim_end_matches("%}");
        match inner.trim_matches(['-', '+']).trim() {
            "generation" => rewritten.push_str(&tag.replacen("generation", "if true", 1)),
            "endgeneration" => rewritten.push_str(&tag.replacen("endgeneration", "endif", 1)),
            _ => rewritten.push_str(tag),
        }
        rest = after;
    }
    rewritten.push_str(rest);
    rewritten
}

/// What was rendered, up to a limit.
struct Prompt {
    text: Vec<u8>,
    max_bytes: usize,
    is_full: bool,
}

impl io::Write for Prompt {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.text.len() + bytes.len() > self.max_bytes {
            self.is_full = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
