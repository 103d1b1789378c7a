//! Calls whose parameters are written one by one, and not as one JSON object.

use serde_json::Value;

use super::lark::{Lark, quoted};
use super::{Forced, SPACED, written};
use crate::parse::{Tool, xml};

struct Parameter<'a> {
    name: &'a str,
    /// With the definitions that it may refer to.
    schema: Value,
    is_required: bool,
}

fn parameters(tool: &Tool) -> Vec<Parameter<'_>> {
    let properties = tool.parameters.get("properties").and_then(Value::as_object);
    let required = tool.parameters.get("required").and_then(Value::as_array);
    let is_required = |name: &str| {
        required.is_some_and(|required| required.iter().any(|required| required == name))
    };
    let parameters = properties.into_iter().flatten().map(|(name, schema)| Parameter {
        name,
        schema: with_definitions(schema, &tool.parameters),
        is_required: is_required(name),
    });
    parameters.collect()
}

fn with_definitions(schema: &Value, root: &Value) -> Value {
    let mut schema = match schema {
        Value::Object(schema) => schema.clone(),
        // `true` allows everything, as does a schema that says nothing.
        _ => serde_json::Map::new(),
    };
    for key in ["$defs", "definitions"] {
        if let Some(definitions) = root.get(key) {
            schema.entry(key).or_insert_with(|| definitions.clone());
        }
    }
    written(Value::Object(schema), SPACED)
}

/// `[name(key=value, …), …]`, with JSON for Python's values, which the parser reads as well.
pub(super) fn pythonic(forced: &Forced, lark: &mut Lark) -> String {
    let calls = forced.calls(lark, r#"", ""#, |tool, lark| {
        let arguments = keyword_arguments(tool, lark);
        format!("{} {arguments} \")\"", quoted(&format!("{}(", tool.name)))
    });
    format!(r#""[" {calls} "]""#)
}

fn keyword_arguments(tool: &Tool, lark: &mut Lark) -> String {
    let (required, optional): (Vec<_>, Vec<_>) =
        parameters(tool).into_iter().partition(|parameter| parameter.is_required);
    let mut argument = |parameter: &Parameter| {
        let value = lark.json(&parameter.schema);
        format!("{} {value}", quoted(&format!("{}=", parameter.name)))
    };
    let required: Vec<_> = required.iter().map(&mut argument).collect();
    let optional: Vec<_> = optional.iter().map(&mut argument).collect();
    let mut rest = optional.iter().map(|argument| format!("(\", \" {argument})?"));
    if !required.is_empty() {
        let rest = rest.collect::<Vec<_>>().join(" ");
        return format!("{} {rest}", required.join(" \", \" "));
    }
    // Whichever comes first has no comma before it.
    let mut alternatives = Vec::new();
    for first in &optional {
        rest.next();
        let rest = rest.clone().collect::<Vec<_>>().join(" ");
        alternatives.push(format!("{first} {rest}"));
    }
    if alternatives.is_empty() {
        return String::new();
    }
    format!("({})?", alternatives.join(" | "))
}

/// `<tool_call><function=name><parameter=key>value</parameter></function></tool_call>`
pub(super) fn qwen_xml(forced: &Forced, lark: &mut Lark) -> String {
    forced.calls(lark, r#""\n""#, |tool, lark| {
        let parameters = parameters(tool).into_iter().map(|parameter| {
            let written = xml_parameter(tool, &parameter, lark);
            if parameter.is_required { written } else { format!("({written})?") }
        });
        let parameters = parameters.collect::<Vec<_>>().join(" ");
        let begin = quoted(&format!("\n{}{}>\n", xml::FUNCTION, tool.name));
        let end = quoted(&format!("{}\n", xml::FUNCTION_END));
        let (open, close) = (lark.marker(xml::OPEN), lark.marker(xml::CLOSE));
        format!("{open} {begin} {parameters} {end} {close}")
    })
}

fn xml_parameter(tool: &Tool, parameter: &Parameter, lark: &mut Lark) -> String {
    let begin = quoted(&format!("{}{}>\n", xml::PARAMETER, parameter.name));
    let end = quoted(&format!("\n{}\n", xml::PARAMETER_END));
    if !xml::is_text(&tool.parameters, parameter.name) {
        let value = lark.json(&parameter.schema);
        return format!("{begin} {value} {end}");
    }
    let values = match parameter.schema.get("enum") {
        Some(Value::Array(values)) => values.as_slice(),
        _ => parameter.schema.get("const").map(std::slice::from_ref).unwrap_or_default(),
    };
    let values: Vec<_> = values.iter().filter_map(Value::as_str).map(quoted).collect();
    if values.is_empty() {
        return format!("{begin} {} \"\\n\"", lark.until(xml::PARAMETER_END));
    }
    format!("{begin} ({}) {end}", values.join(" | "))
}
