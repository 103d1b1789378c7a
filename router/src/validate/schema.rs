//! JSON schemas that are enforced, wherever a request has them: what of them can't be.

use serde_json::Value;

use crate::error::ApiError;

/// A field of a schema that the compiler takes its options from.
const OPTIONS: &str = "x-guidance";

/// Refuses a schema that the compiler could follow wrongly, in the name of `param`.
pub(crate) fn check_enforceable(param: &str, schema: &Value) -> Result<(), ApiError> {
    // They could take back what the schema asks for.
    if schema.get(OPTIONS).is_some() {
        let message = format!("`{param}`: the field `{OPTIONS}` is not supported");
        return Err(ApiError::invalid(param, "unsupported_parameter", message));
    }
    // To some drafts of JSON Schema the one moves the other, to some it means nothing.
    if has_moved_reference(schema) {
        let message = format!("`{param}`: `$id` beside `$ref` is not supported");
        return Err(ApiError::invalid(param, "unsupported_value", message));
    }
    Ok(())
}

/// Refuses a grammar with such a schema in it. What is no JSON there is left to the compiler.
pub(crate) fn check_schemas_of_grammar(param: &str, lark: &str) -> Result<(), ApiError> {
    // Also what a comment or a text says of schemas; nobody misses that.
    for (at, word) in lark.match_indices("%json") {
        let after = lark.get(at + word.len()..).unwrap_or_default();
        let mut values = serde_json::Deserializer::from_str(after).into_iter::<Value>();
        if let Some(Ok(schema)) = values.next() {
            check_enforceable(param, &schema)?;
        }
    }
    Ok(())
}

/// Whether a schema somewhere in it has both. Of whatever else looks like a schema too: such texts
/// are rare.
fn has_moved_reference(schema: &Value) -> bool {
    match schema {
        Value::Object(fields) => {
            fields.contains_key("$ref") && fields.contains_key("$id")
                || fields.values().any(has_moved_reference)
        }
        Value::Array(values) => values.iter().any(has_moved_reference),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn so_is_a_schema_in_a_grammar() {
        let grammar = |schema: &str| format!("start: \"a\" body\nbody: %json {schema}\n");
        for lark in [
            grammar(r#"{"$id": "a/", "$ref": "b"}"#),
            grammar(r#"{"type": "object"}"#) + &grammar(r#"{"x-guidance": {}}"#),
            grammar(r#"{"title": "%json", "$id": "a/", "$ref": "b"}"#),
        ] {
            assert!(check_schemas_of_grammar("x", &lark).is_err(), "{lark}");
        }
        for lark in [grammar(r#"{"type": "object"}"#), grammar("{"), "start: /a/".to_owned()] {
            assert!(check_schemas_of_grammar("x", &lark).is_ok(), "{lark}");
        }
    }

    #[test]
    fn what_could_be_followed_wrongly_is_refused_at_any_depth() {
        let moved = json!({"$id": "a/", "$ref": "b"});
        for schema in [
            json!({"x-guidance": {"lenient": true}}),
            moved.clone(),
            json!({"properties": {"a": {"items": moved}}}),
            json!({"anyOf": [{}, moved]}),
        ] {
            assert!(check_enforceable("x", &schema).is_err(), "{schema}");
        }
        for schema in [
            json!({}),
            json!({"$id": "a", "properties": {"b": {"$ref": "#/$defs/c"}}, "$defs": {"c": {}}}),
            json!({"properties": {"x-guidance": {}}}),
        ] {
            assert!(check_enforceable("x", &schema).is_ok(), "{schema}");
        }
    }
}
