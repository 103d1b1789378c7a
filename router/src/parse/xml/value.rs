//! Bare values as JSON, by the schema of their parameter.

use serde_json::Value;

use crate::parse::out::Out;
use crate::parse::{Tool, python};

/// How deep a schema may nest its alternatives.
const MAX_DEPTH: usize = 8;

/// What a parameter may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text and nothing else.
    Text,
    /// One of these types of JSON schema, or anything where none is named.
    AnyOf(Vec<String>),
}

/// What a function's parameter may be.
pub(super) fn kind(tools: &[Tool], function: &str, parameter: &str) -> Kind {
    match tools.iter().find(|tool| tool.name == function) {
        Some(tool) => of_parameter(&tool.parameters, parameter),
        None => Kind::AnyOf(Vec::new()),
    }
}

/// What a parameter of this schema of a function may be.
pub(super) fn of_parameter(schema: &Value, parameter: &str) -> Kind {
    let schema = schema.get("properties").and_then(|properties| properties.get(parameter));
    let mut types = Vec::new();
    if let Some(schema) = schema {
        collect(schema, &mut types, MAX_DEPTH);
    }
    if types == ["string"] { Kind::Text } else { Kind::AnyOf(types) }
}

fn collect(schema: &Value, types: &mut Vec<String>, depth: usize) {
    if depth == 0 {
        return;
    }
    let mut add = |name: &str| {
        if !types.iter().any(|known| known == name) {
            types.push(name.to_owned());
        }
    };
    match schema.get("type") {
        Some(Value::String(name)) => add(name),
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).for_each(&mut add),
        _ => {
            let values = schema.get("enum").and_then(Value::as_array);
            let values = values.into_iter().flatten().chain(schema.get("const"));
            values.map(type_of).for_each(&mut add);
        }
    }
    for key in ["anyOf", "oneOf", "allOf"] {
        let alternatives = schema.get(key).and_then(Value::as_array);
        for alternative in alternatives.into_iter().flatten() {
            collect(alternative, types, depth - 1);
        }
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

impl Kind {
    /// Whether it must be JSON, in whose strings a marker is text.
    pub(super) fn is_json(&self) -> bool {
        match self {
            Self::Text => false,
            Self::AnyOf(types) => !types.is_empty() && !types.iter().any(|name| name == "string"),
        }
    }

    /// The JSON that a bare value stands for: what it looks like where that is allowed, and else
    /// text.
    pub(super) fn convert(&self, bare: &str) -> String {
        let trimmed = bare.trim();
        if self.allows(trimmed) {
            return trimmed.to_owned();
        }
        match python::value(trimmed) {
            Some(json) if self.allows(&json) => json,
            _ => Value::from(bare).to_string(),
        }
    }

    fn allows(&self, json: &str) -> bool {
        let Self::AnyOf(types) = self else { return false };
        let Ok(value) = serde_json::from_str::<Value>(json) else { return false };
        let given = type_of(&value);
        // A whole number may be larger than any integer of ours.
        let is_whole = value.as_f64().is_some_and(|number| number.fract() == 0.0);
        let is_named = |name: &String| match name.as_str() {
            "integer" => is_whole,
            "number" => value.is_number(),
            name => name == given,
        };
        types.is_empty() || types.iter().any(is_named)
    }
}

/// Adds a character to a JSON string.
pub(super) fn escape(c: char, out: &mut Out) {
    match c {
        '"' => out.arguments("\\\""),
        '\\' => out.arguments("\\\\"),
        '\n' => out.arguments("\\n"),
        '\r' => out.arguments("\\r"),
        '\t' => out.arguments("\\t"),
        c if c < ' ' => out.arguments(&format!("\\u{:04x}", u32::from(c))),
        c => out.argument(c),
    }
}
