//! What a model may write if it has to call a tool, as a grammar for `llguidance`.
//!
//! Whatever the grammar allows, the format's parser reads as calls of the given tools. JSON is
//! written as in the templates that models are trained with, with one space after each comma and
//! colon, so that no model can spend its tokens on white space.

mod answer;
mod lark;
mod parameters;

use serde_json::{Value, json};

use super::format::{MISTRAL_THINK, THINK};
use super::json::named::ARGS;
use super::{ReasoningFormat, Start, Tool, ToolFormat, deepseek, harmony};
pub use answer::{answer, json};
use lark::{Lark, quoted};

/// A call that a request insists on.
#[derive(Clone, Copy)]
pub struct Forced<'a> {
    /// The tools that may be called; at least one.
    pub tools: &'a [Tool],
    /// How often.
    pub num_calls: NumCalls,
    /// How the model reasons before, if it does.
    pub reasoning: Option<ReasoningFormat>,
    /// Where the completion begins.
    pub start: Start,
    /// The id of a text that is a special token of the model. Of those alone: to the sampler, the
    /// text of any other token is just text.
    pub special: &'a dyn Fn(&str) -> Option<u32>,
}

/// How many calls a model may make at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumCalls {
    /// One.
    One,
    /// As many as it likes, but one at least.
    Any,
}

/// The grammar of calls in this format, in the dialect of Lark that `llguidance` reads.
///
/// Harmony's models stop after each call, so theirs is always one.
pub fn grammar(format: ToolFormat, forced: &Forced) -> String {
    let mut lark = Lark::new(forced.special);
    let thoughts = thoughts(forced, &mut lark);
    let calls = calls(format, forced, &mut lark);
    lark.finish(&format!("{thoughts}{calls}"))
}

fn calls(format: ToolFormat, forced: &Forced, lark: &mut Lark) -> String {
    match format {
        ToolFormat::Hermes => hermes(forced, lark),
        ToolFormat::Llama => llama(forced, lark),
        ToolFormat::Pythonic => parameters::pythonic(forced, lark),
        ToolFormat::Mistral => mistral(forced, lark),
        ToolFormat::MistralArgs => mistral_args(forced, lark),
        ToolFormat::QwenXml => parameters::qwen_xml(forced, lark),
        ToolFormat::DeepSeekV3 => deepseek_v3(forced, lark),
        ToolFormat::DeepSeekV31 => deepseek_v31(forced, lark),
        ToolFormat::Harmony => harmony(forced, lark),
        ToolFormat::Json => json_calls(forced, lark),
    }
}

/// Reasoning before the calls: what the prompt has begun must end, and more may begin.
fn thoughts(forced: &Forced, lark: &mut Lark) -> String {
    let ([open, close], space) = match forced.reasoning {
        Some(ReasoningFormat::Think | ReasoningFormat::DeepSeekR1) => (*THINK, "\"\\n\\n\"? "),
        Some(ReasoningFormat::Mistral) => (*MISTRAL_THINK, ""),
        Some(ReasoningFormat::Harmony) | None => return String::new(),
    };
    match (forced.start, forced.reasoning) {
        (Start::Reasoning, _) => format!("{} {space}", lark.until(close)),
        (Start::Answer, Some(ReasoningFormat::DeepSeekR1)) => String::new(),
        (Start::Answer, _) => {
            format!("({} {} {space})? ", lark.marker(open), lark.until(close))
        }
    }
}

impl Forced<'_> {
    /// Calls, each in a rule of its own, with something between.
    fn calls(
        &self,
        lark: &mut Lark,
        separator: &str,
        call: impl Fn(&Tool, &mut Lark) -> String,
    ) -> String {
        let rules = self.tools.iter().map(|tool| {
            let call = call(tool, lark);
            lark.rule("call", &call)
        });
        let any = rules.collect::<Vec<_>>().join(" | ");
        let any = lark.rule("any", &any);
        match self.num_calls {
            NumCalls::One => any,
            NumCalls::Any => format!("{any} ({separator} {any})*"),
        }
    }
}

/// The text that JSON objects with a name begin with.
fn named(tool: &Tool, arguments: &str) -> String {
    format!("{{\"name\": {}, \"{arguments}\": ", Value::from(&*tool.name))
}

/// An object with a name and arguments.
fn object(tool: &Tool, arguments: &str, lark: &mut Lark) -> String {
    let schema = lark.json(&schema(&tool.parameters, SPACED));
    format!("{} {schema} \"}}\"", quoted(&named(tool, arguments)))
}

fn hermes(forced: &Forced, lark: &mut Lark) -> String {
    forced.calls(lark, r#""\n""#, |tool, lark| {
        let object = object(tool, "arguments", lark);
        let (open, close) = (lark.marker("<tool_call>"), lark.marker("</tool_call>"));
        format!(r#"{open} "\n" {object} "\n" {close}"#)
    })
}

fn llama(forced: &Forced, lark: &mut Lark) -> String {
    forced.calls(lark, r#""; ""#, |tool, lark| object(tool, "parameters", lark))
}

fn json_calls(forced: &Forced, lark: &mut Lark) -> String {
    let calls = forced.calls(lark, r#"", ""#, |tool, lark| object(tool, "arguments", lark));
    match forced.num_calls {
        NumCalls::One => calls,
        NumCalls::Any => format!(r#""[" {calls} "]""#),
    }
}

fn mistral(forced: &Forced, lark: &mut Lark) -> String {
    let calls = forced.calls(lark, r#"", ""#, |tool, lark| object(tool, "arguments", lark));
    format!(r#"{} "[" {calls} "]""#, lark.marker("[TOOL_CALLS]"))
}

fn mistral_args(forced: &Forced, lark: &mut Lark) -> String {
    forced.calls(lark, "", |tool, lark| {
        let (open, arguments) = (lark.marker("[TOOL_CALLS]"), lark.marker(ARGS));
        let schema = lark.json(&schema(&tool.parameters, SPACED));
        format!("{open} {} {arguments} {schema}", quoted(&tool.name))
    })
}

fn deepseek_v3(forced: &Forced, lark: &mut Lark) -> String {
    let calls = forced.calls(lark, r#""\n""#, |tool, lark| {
        let schema = lark.json(&schema(&tool.parameters, SPACED));
        let [open, separator, close] =
            [deepseek::CALL_BEGIN, deepseek::SEPARATOR, deepseek::CALL_END]
                .map(|marker| lark.marker(marker));
        let name = quoted(&format!("{}\n```json\n", tool.name));
        format!(r#"{open} "function" {separator} {name} {schema} "\n```" {close}"#)
    });
    in_calls(&calls, lark)
}

fn deepseek_v31(forced: &Forced, lark: &mut Lark) -> String {
    let calls = forced.calls(lark, "", |tool, lark| {
        let schema = lark.json(&schema(&tool.parameters, SPACED));
        let [open, separator, close] =
            [deepseek::CALL_BEGIN, deepseek::SEPARATOR, deepseek::CALL_END]
                .map(|marker| lark.marker(marker));
        format!("{open} {} {separator} {schema} {close}", quoted(&tool.name))
    });
    in_calls(&calls, lark)
}

fn in_calls(calls: &str, lark: &Lark) -> String {
    let (begin, end) = (lark.marker(deepseek::CALLS_BEGIN), lark.marker(deepseek::CALLS_END));
    format!("{begin} {calls} {end}")
}

fn harmony(forced: &Forced, lark: &mut Lark) -> String {
    let [channel, constrain, message] =
        [harmony::CHANNEL, harmony::CONSTRAIN, harmony::MESSAGE].map(|marker| lark.marker(marker));
    let analysis = analysis(lark);
    let one = Forced { num_calls: NumCalls::One, ..*forced };
    let calls = one.calls(lark, "", |tool, lark| {
        let schema = lark.json(&schema(&tool.parameters, COMPACT));
        let to = quoted(&format!("commentary to=functions.{} ", tool.name));
        format!(r#"{channel} {to} {constrain} "json" {message} {schema}"#)
    });
    format!("{analysis} {calls}")
}

/// Harmony's reasoning, if there is some.
fn analysis(lark: &mut Lark) -> String {
    let [start, channel, message] =
        [harmony::START, harmony::CHANNEL, harmony::MESSAGE].map(|marker| lark.marker(marker));
    let text = lark.until(harmony::END);
    format!(r#"({channel} "analysis" {message} {text} {start} "assistant")?"#)
}

/// What stands after commas and after colons.
type Separators = (&'static str, &'static str);

const SPACED: Separators = (", ", ": ");
const COMPACT: Separators = (",", ":");

/// A tool's schema, for an object in any case, with fixed white space.
fn schema(parameters: &Value, separators: Separators) -> Value {
    let mut schema = parameters.as_object().cloned().unwrap_or_default();
    schema.entry("type").or_insert_with(|| "object".into());
    written(Value::Object(schema), separators)
}

/// A schema whose JSON is written like this.
fn written(mut schema: Value, (item, key): Separators) -> Value {
    if let Value::Object(schema) = &mut schema {
        let options = json!({
            "whitespace_flexible": false, "item_separator": item, "key_separator": key,
        });
        schema.insert("x-guidance".to_owned(), options);
    }
    schema
}
