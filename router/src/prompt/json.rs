//! The `tojson` filter as transformers defines it: Python's `json.dumps`, with nothing escaped for
//! HTML.

use minijinja::value::{Kwargs, Value};
use minijinja::{Error, filters};

/// Most spaces of one level of indentation.
const MAX_INDENT: usize = 16;

#[expect(clippy::needless_pass_by_value, reason = "filters own their arguments")]
pub(super) fn to_json(
    value: &Value,
    indent: Option<usize>,
    options: Kwargs,
) -> Result<Value, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get::<Option<usize>>("indent")?,
    };
    // Their defaults in transformers are what this filter does.
    options.get::<Option<bool>>("ensure_ascii")?;
    options.get::<Option<bool>>("sort_keys")?;
    options.get::<Option<Value>>("separators")?;
    options.assert_all_used()?;
    let indent = indent.map(|num| Value::from(num.min(MAX_INDENT)));
    let json = filters::tojson(value, indent, Kwargs::from_iter([] as [(String, Value); 0]))?;
    Ok(Value::from(without_html_escapes(json.as_str().unwrap_or_default())))
}

/// The library's filter escapes `<`, `>`, `&` and `'`.
fn without_html_escapes(json: &str) -> String {
    let mut plain = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(start) = rest.find('\\') {
        let (before, escape) = rest.split_at(start);
        plain.push_str(before);
        let character = match escape.get(..6) {
            Some("\\u003c") => Some('<'),
            Some("\\u003e") => Some('>'),
            Some("\\u0026") => Some('&'),
            Some("\\u0027") => Some('\''),
            _ => None,
        };
        // Any other escape is kept: the backslash and what it escapes.
        let length = if character.is_some() { 6 } else { 2 };
        match character {
            Some(character) => plain.push(character),
            None => plain.push_str(escape.get(..length).unwrap_or(escape)),
        }
        rest = escape.get(length..).unwrap_or_default();
    }
    plain.push_str(rest);
    plain
}
