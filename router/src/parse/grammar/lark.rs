//! Writes a grammar, rule by rule.

use std::fmt::Write;

use serde_json::Value;

/// A grammar that is written.
pub(super) struct Lark<'a> {
    special: &'a dyn Fn(&str) -> Option<u32>,
    rules: String,
    num_rules: usize,
}

impl<'a> Lark<'a> {
    pub(super) fn new(special: &'a dyn Fn(&str) -> Option<u32>) -> Self {
        Self { special, rules: String::new(), num_rules: 0 }
    }

    /// A marker: the token if it is a special one, and its text otherwise.
    pub(super) fn marker(&self, text: &str) -> String {
        match (self.special)(text) {
            Some(id) => format!("<[{id}]>"),
            None => quoted(text),
        }
    }

    /// Adds a rule, and says what it is called.
    pub(super) fn rule(&mut self, name: &str, body: &str) -> String {
        let (name, attributes) = name.split_once('[').unwrap_or((name, ""));
        let name = format!("{name}_{}", self.num_rules);
        self.num_rules += 1;
        let bracket = if attributes.is_empty() { "" } else { "[" };
        // Writing to a string does not fail.
        let _ = writeln!(self.rules, "{name}{bracket}{attributes}: {body}");
        name
    }

    /// JSON of a schema.
    pub(super) fn json(&mut self, schema: &Value) -> String {
        self.rule("json", &format!("%json {schema}"))
    }

    /// Any text up to a marker, and the marker.
    pub(super) fn until(&mut self, marker: &str) -> String {
        const ANY: &str = "/(?s:.*)/";
        match (self.special)(marker) {
            Some(_) => self.rule("text", &format!("{ANY} {}", self.marker(marker))),
            None => self.rule(&format!("text[suffix={}]", quoted(marker)), ANY),
        }
    }

    /// The whole grammar.
    pub(super) fn finish(self, start: &str) -> String {
        format!("start: {start}\n{}", self.rules)
    }
}

/// A text as Lark writes it, which is as JSON writes it.
pub(super) fn quoted(text: &str) -> String {
    Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}
