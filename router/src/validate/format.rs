//! What a completion's text must be, from any of the fields that say it.

use sconce_proto::worker::Grammar;
use sconce_proto::worker::grammar::Source;
use serde_json::value::RawValue;

use super::schema::{check_enforceable, check_schemas_of_grammar};
use crate::api::fields::{missing, mistyped};
use crate::api::format::{NamedSchema, ResponseFormat, StructuredOutputs};
use crate::api::messages::request::OutputFormat;
use crate::api::responses::request::TextFormat;
use crate::error::ApiError;

/// Most texts of `structured_outputs.choice`.
const MAX_CHOICES: usize = 1000;
/// Most bytes of a schema, an expression or a grammar. Workers have bounds of their own.
const MAX_GRAMMAR_BYTES: usize = 256 << 10;

/// What a completion's text must be, and the parameter that says so.
#[derive(Clone, Debug)]
pub(crate) struct Constraint {
    /// For errors.
    pub(crate) param: &'static str,
    pub(crate) grammar: Grammar,
}

/// What `response_format` and `structured_outputs` ask for together.
pub(super) fn lower(
    format: Option<ResponseFormat>,
    outputs: Option<StructuredOutputs>,
) -> Result<Option<Constraint>, ApiError> {
    let format = format.map(response_format).transpose()?.flatten();
    let outputs = outputs.map(structured_outputs).transpose()?;
    match (format, outputs) {
        (Some(_), Some(_)) => {
            let message = "`structured_outputs` and `response_format` can't both be given";
            Err(ApiError::invalid("structured_outputs", "invalid_value", message))
        }
        (constraint, None) | (None, constraint) => Ok(constraint),
    }
}

/// What Anthropic's `output_config` asks for.
pub(super) fn output(format: &OutputFormat) -> Result<Constraint, ApiError> {
    let param = "output_config.format.schema";
    match (format.kind.as_deref(), &format.schema) {
        (Some("json_schema"), Some(schema)) => {
            Ok(constraint("output_config", schema_of(param, schema)?))
        }
        (Some("json_schema"), None) => Err(missing(param)),
        (None, _) => Err(missing("output_config.format.type")),
        (Some(kind), _) => {
            let param = "output_config.format.type";
            let message = format!("`{param}` is {kind:?} and must be json_schema");
            Err(ApiError::invalid(param, "invalid_value", message))
        }
    }
}

/// What `text.format` of a response asks for.
pub(super) fn text(format: &TextFormat) -> Result<Option<Constraint>, ApiError> {
    const NAME: &str = "text.format.name";
    let source = match (format.kind.as_deref(), &format.schema) {
        (None, _) => return Err(missing("text.format.type")),
        (Some("text"), _) => return Ok(None),
        (Some("json_object"), _) => any_object(),
        (Some("json_schema"), schema) => {
            check_name(NAME, format.name.as_deref().ok_or_else(|| missing(NAME))?)?;
            let param = "text.format.schema";
            schema_of(param, schema.as_deref().ok_or_else(|| missing(param))?)?
        }
        (Some(kind), _) => {
            let param = "text.format.type";
            let message =
                format!("`{param}` is {kind:?} and must be one of: text, json_object, json_schema");
            return Err(ApiError::invalid(param, "invalid_value", message));
        }
    };
    Ok(Some(constraint("text.format", source)))
}

fn response_format(format: ResponseFormat) -> Result<Option<Constraint>, ApiError> {
    const PARAM: &str = "response_format";
    let source = match (format.kind.as_deref(), format.json_schema, format.schema) {
        (None, ..) => return Err(missing("response_format.type")),
        (Some("text"), None, None) => return Ok(None),
        (Some("json_object"), None, None) => any_object(),
        (Some("json_object"), None, Some(schema)) => schema_of("response_format.schema", &schema)?,
        (Some("json_schema"), Some(named), None) => named_schema(&named)?,
        (Some("json_schema"), None, _) => return Err(missing("response_format.json_schema")),
        (Some(kind @ ("text" | "json_object" | "json_schema")), ..) => {
            let message = format!("`{PARAM}` of type {kind:?} has a schema where it has no place");
            return Err(ApiError::invalid(PARAM, "invalid_value", message));
        }
        (Some(kind), ..) => {
            let message = format!(
                "`response_format.type` is {kind:?} and must be one of: text, json_object, \
                 json_schema"
            );
            return Err(ApiError::invalid("response_format.type", "invalid_value", message));
        }
    };
    Ok(Some(constraint(PARAM, source)))
}

fn named_schema(named: &NamedSchema) -> Result<Source, ApiError> {
    const NAME: &str = "response_format.json_schema.name";
    let Some(name) = &named.name else { return Err(missing(NAME)) };
    check_name(NAME, name)?;
    let param = "response_format.json_schema.schema";
    let Some(schema) = &named.schema else { return Err(missing(param)) };
    schema_of(param, schema)
}

/// A name as OpenAI allows it, of a schema or a function.
pub(super) fn check_name(param: &str, name: &str) -> Result<(), ApiError> {
    let is_allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-');
    if (1..=64).contains(&name.len()) && name.bytes().all(is_allowed) {
        return Ok(());
    }
    let message = format!("`{param}` must be 1 to 64 letters, digits, underscores and dashes");
    Err(ApiError::invalid(param, "invalid_value", message))
}

fn structured_outputs(outputs: StructuredOutputs) -> Result<Constraint, ApiError> {
    const PARAM: &str = "structured_outputs";
    let json = outputs.json.as_deref().map(json_or_text).transpose()?;
    let object = outputs.json_object.filter(|is_asked| *is_asked).map(|_| any_object());
    let regex = outputs.regex.map(Source::Regex);
    let choice = outputs.choice.map(|texts| choice(&texts)).transpose()?;
    if let Some(lark) = &outputs.grammar {
        check_size(PARAM, lark)?;
        check_schemas_of_grammar("structured_outputs.grammar", lark)?;
    }
    let grammar = outputs.grammar.map(Source::Lark);
    let mut sources = [json, object, regex, choice, grammar].into_iter().flatten();
    let (Some(source), None) = (sources.next(), sources.next()) else {
        let message =
            format!("`{PARAM}` must have one of: json, json_object, regex, choice, grammar");
        return Err(ApiError::invalid(PARAM, "invalid_value", message));
    };
    let (Source::JsonSchema(text) | Source::Regex(text) | Source::Lark(text)) = &source;
    check_size(PARAM, text)?;
    Ok(constraint(PARAM, source))
}

/// vLLM takes a schema, and also its text.
fn json_or_text(json: &RawValue) -> Result<Source, ApiError> {
    let param = "structured_outputs.json";
    let Ok(text) = serde_json::from_str::<String>(json.get()) else {
        return schema_of(param, json);
    };
    match serde_json::from_str::<&RawValue>(&text) {
        Ok(schema) => schema_of(param, schema),
        Err(error) => {
            let message = format!("`{param}` is no JSON: {error}");
            Err(ApiError::invalid(param, "invalid_json", message))
        }
    }
}

fn choice(texts: &[String]) -> Result<Source, ApiError> {
    let param = "structured_outputs.choice";
    if texts.is_empty() {
        return Err(ApiError::invalid(param, "empty_array", format!("`{param}` is empty")));
    }
    if texts.len() > MAX_CHOICES {
        let message = format!("`{param}` has {} texts and may have {MAX_CHOICES}", texts.len());
        return Err(ApiError::invalid(param, "array_above_max_length", message));
    }
    if let Some(at) = texts.iter().position(String::is_empty) {
        let param = format!("{param}[{at}]");
        let message = format!("`{param}` is empty");
        return Err(ApiError::invalid(param, "empty_string", message));
    }
    // Texts of the grammar are written as in JSON.
    let texts: Vec<_> = texts.iter().map(|text| serde_json::Value::from(&**text)).collect();
    let texts: Vec<_> = texts.iter().map(ToString::to_string).collect();
    Ok(Source::Lark(format!("start: {}", texts.join(" | "))))
}

pub(super) fn schema_of(param: &str, schema: &RawValue) -> Result<Source, ApiError> {
    let schema = schema.get();
    check_size(param, schema)?;
    if !schema.starts_with('{') {
        let message = format!("`{param}` must be an object");
        return Err(ApiError::invalid(param, "invalid_type", message));
    }
    let value = serde_json::from_str(schema).map_err(|error| mistyped(param, &error))?;
    check_enforceable(param, &value)?;
    Ok(Source::JsonSchema(schema.to_owned()))
}

fn check_size(param: &str, text: &str) -> Result<(), ApiError> {
    if text.len() <= MAX_GRAMMAR_BYTES {
        return Ok(());
    }
    let message =
        format!("`{param}` has {} bytes and may have at most {MAX_GRAMMAR_BYTES}", text.len());
    Err(ApiError::invalid(param, "string_above_max_length", message))
}

fn any_object() -> Source {
    Source::JsonSchema(r#"{"type":"object"}"#.to_owned())
}

pub(super) fn constraint(param: &'static str, source: Source) -> Constraint {
    Constraint { param, grammar: Grammar { source: Some(source) } }
}
