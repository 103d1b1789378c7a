//! Where a request meets the model's own formats: how its completions are read, and what they may be
//! where a call or a text is forced.

use std::sync::Arc;

use sconce_proto::worker::Grammar;
use sconce_proto::worker::grammar::Source;

use crate::error::ApiError;
use crate::generation::{CallIds, Reading};
use crate::model::Model;
use crate::parse::{self, Forced, Formats, NumCalls, Tool, ToolFormat};
use crate::prompt::Encoded;
use crate::validate::schema::check_enforceable;
use crate::validate::tools::{Choice, Tools};
use crate::validate::{Prompts, constrain};

/// How the completions of a chat are read; `None`: all of them is content. Forces what must be
/// forced.
pub(crate) fn prepare(model: &Model, encoded: &mut Encoded) -> Result<Option<Reading>, ApiError> {
    let Prompts::Chat(chat) = &encoded.request.prompts else { return Ok(None) };
    let tools = chat.tools.clone();
    let has_tools = !tools.functions.is_empty();
    let formats = Formats {
        tools: has_tools.then(|| tool_format(model)),
        reasoning: model.formats.reasoning,
    };
    if formats == Formats::default() {
        return Ok(None);
    }
    let functions = tools.functions.iter().map(|function| Tool {
        name: function.name.clone(),
        parameters: function.parameters.clone().into(),
    });
    let reading = Reading {
        formats,
        start: encoded.start,
        tools: functions.collect(),
        markers: Arc::clone(&model.markers),
        parallel: tools.parallel,
        ids: match formats.tools {
            Some(ToolFormat::Mistral | ToolFormat::MistralArgs) => CallIds::Mistral,
            _ => CallIds::OpenAi,
        },
    };
    force(model, encoded, (&tools, &reading))?;
    Ok(Some(reading))
}

/// The format that the model was trained with, or the one that it is told of.
fn tool_format(model: &Model) -> ToolFormat {
    model.formats.tools.unwrap_or(ToolFormat::Hermes)
}

/// Makes a grammar of what the answer must be.
fn force(
    model: &Model,
    encoded: &mut Encoded,
    (tools, reading): (&Tools, &Reading),
) -> Result<(), ApiError> {
    let special = |text: &str| model.special(text);
    let forced = Forced {
        tools: &reading.tools,
        num_calls: if tools.parallel { NumCalls::Any } else { NumCalls::One },
        reasoning: reading.formats.reasoning,
        start: reading.start,
        special: &special,
    };
    let sampling = &mut encoded.request.sampling;
    match (reading.formats.tools, tools.choice, sampling.grammar.take()) {
        (_, _, None) if tools.choice == Choice::Auto => {}
        (Some(format), Choice::Required, None) => {
            let source = Source::Lark(parse::grammar(format, &forced));
            let grammar = Grammar { source: Some(source) };
            check_schemas(tools, reading)?;
            constrain(sampling, ("tool_choice", grammar))?;
            encoded.request.grammar_param = Some("tool_choice");
        }
        (_, Choice::Required, Some(_)) => {
            let param = encoded.request.grammar_param.unwrap_or("response_format");
            let message = format!("`{param}` can't be had with a `tool_choice` that forces a call");
            return Err(ApiError::invalid(param, "invalid_value", message));
        }
        (format, Choice::Auto, Some(grammar)) => {
            check_schemas(tools, reading)?;
            let answer = expression(&grammar);
            let source = Source::Lark(parse::answer(&answer, format, &forced));
            sampling.grammar = Some(Grammar { source: Some(source) });
        }
        (None, Choice::Required, None) | (_, Choice::Auto, None) => {}
    }
    Ok(())
}

/// Refuses functions whose schemas would be part of a grammar and can't be.
fn check_schemas(tools: &Tools, reading: &Reading) -> Result<(), ApiError> {
    let mut schemas = tools.functions.iter().zip(reading.tools.iter());
    schemas.try_for_each(|(function, tool)| check_enforceable(&function.param, &tool.parameters))
}

/// A grammar as part of a larger one, in Lark.
fn expression(grammar: &Grammar) -> String {
    match &grammar.source {
        Some(Source::JsonSchema(schema)) => {
            parse::json(serde_json::from_str(schema).unwrap_or_default())
        }
        Some(Source::Regex(regex)) => format!("/{}/", in_slashes(regex)),
        Some(Source::Lark(lark)) => format!("%lark {{\n{lark}\n}}"),
        None => "/(?s:.*)/".to_owned(),
    }
}

/// An expression as Lark writes it, between slashes and on one line.
fn in_slashes(regex: &str) -> String {
    let mut written = String::with_capacity(regex.len());
    let mut is_escaped = false;
    for c in regex.chars() {
        match c {
            '/' if !is_escaped => written.push_str("\\/"),
            '\n' => written.push_str("\\n"),
            '\r' => written.push_str("\\r"),
            c => written.push(c),
        }
        is_escaped = c == '\\' && !is_escaped;
    }
    written
}
