//! The pages about compatibility say of every field what the tables say.

use serde_json::Value;
use utoipa::OpenApi;

use super::{Door, FIELDS, Field, Kind, MESSAGE_FIELDS, RESPONSE_FIELDS, Treatment, all};
use crate::docs::Document;

const OPENAI: &str = include_str!("../../../../docs/openai-compatibility.md");
const RESPONSES: &str = include_str!("../../../../docs/responses.md");
const ANTHROPIC: &str = include_str!("../../../../docs/anthropic-compatibility.md");

fn row(field: &Field) -> String {
    let name = |door: &Door| match door {
        Door::Chat => "chat",
        Door::Completions => "completions",
        Door::Embeddings => "embeddings",
        Door::Rerank => "rerank",
        Door::Score => "score",
        Door::Messages => "messages",
        Door::CountTokens => "count_tokens",
        Door::Responses => "responses",
        Door::InputTokens => "input_tokens",
    };
    let door = match field.doors {
        [Door::Chat, Door::Completions]
        | [Door::Messages, Door::CountTokens]
        | [Door::Responses, Door::InputTokens] => "both".to_owned(),
        [_, _, _, _, _] => "all".to_owned(),
        doors => doors.iter().map(name).collect::<Vec<_>>().join(", "),
    };
    let kind = match field.kind {
        Kind::Boolean => "boolean".to_owned(),
        Kind::Integer { min: i64::MIN, .. } => "integer of 64 bits".to_owned(),
        Kind::Integer { min, max } if max == i64::from(u32::MAX) => format!("integer from {min}"),
        Kind::Integer { min, max } => format!("integer, {min} to {max}"),
        Kind::Number { min, max } => format!("number, {min} to {max}"),
        Kind::Text { max } => format!("text of at most {max} characters"),
        Kind::OneOf(words) => code(words),
        Kind::Metadata => "at most 16 pairs of texts".to_owned(),
        Kind::Own(_) => String::new(),
    };
    let treatment = match field.treatment {
        Treatment::Used => "works".to_owned(),
        Treatment::Ignored => "ignored".to_owned(),
        Treatment::Refused([]) => "refused".to_owned(),
        Treatment::Refused(neutral) => format!("refused, but for {}", code(neutral)),
    };
    let note = [kind.as_str(), field.note].map(|part| part.trim_end_matches('.'));
    let note: Vec<_> = note.into_iter().filter(|part| !part.is_empty()).collect();
    let note = if note.is_empty() { String::new() } else { format!("{}.", note.join(". ")) };
    format!("| `{}` | {door} | {treatment} | {note} |\n", field.name)
}

fn code(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

fn check(page: &str, fields: &[Field]) {
    let table: String = fields.iter().map(row).collect();
    let head = "| field | endpoint | treatment | what it takes |\n|---|---|---|---|\n";
    let expected = format!("{head}{table}");
    let start = page.find(head).expect("the page has no table of fields");
    let end = page[start..].find("\n\n").map_or(page.len(), |end| start + end + 1);
    assert!(page[start..end] == expected, "the table should be:\n{expected}");
}

#[test]
fn the_page_has_a_row_for_every_field() {
    check(OPENAI, FIELDS);
}

#[test]
fn the_page_of_responses_has_a_row_for_every_field() {
    check(RESPONSES, RESPONSE_FIELDS);
}

#[test]
fn the_page_of_messages_has_a_row_for_every_field() {
    check(ANTHROPIC, MESSAGE_FIELDS);
}

/// The path whose body a door reads.
fn path(door: Door) -> &'static str {
    match door {
        Door::Chat => "/v1/chat/completions",
        Door::Completions => "/v1/completions",
        Door::Embeddings => "/v1/embeddings",
        Door::Rerank => "/v1/rerank",
        Door::Score => "/v1/score",
        Door::Messages => "/v1/messages",
        Door::CountTokens => "/v1/messages/count_tokens",
        Door::Responses => "/v1/responses",
        Door::InputTokens => "/v1/responses/input_tokens",
    }
}

#[test]
fn the_document_has_every_field_that_may_be_given() {
    let document = serde_json::to_value(Document::openapi()).unwrap();
    for (field, door) in all().flat_map(|field| field.doors.iter().map(move |door| (field, door))) {
        let content = &document["paths"][path(*door)]["post"]["requestBody"]["content"];
        let reference = content["application/json"]["schema"]["$ref"].as_str().unwrap();
        let schema = document.pointer(reference.trim_start_matches('#')).unwrap();
        let property = &schema["properties"][field.name];
        let mut required = schema["required"].as_array().into_iter().flatten();
        let name = format!("{} of {door:?}", field.name);

        match field.treatment {
            Treatment::Refused(_) => assert_eq!(*property, Value::Null, "{name}"),
            Treatment::Used | Treatment::Ignored => {
                let description = property["description"].as_str().unwrap_or_default();
                assert!(description.contains(field.note), "{name}: {property}");
            }
        }
        let is_required = required.any(|required| required == field.name);
        assert_eq!(is_required, field.note.starts_with("Required."), "{name}");
    }
}

#[test]
fn no_field_is_listed_twice() {
    let fields: Vec<_> = all().collect();
    for (i, field) in fields.iter().enumerate() {
        let clashes = |other: &&&Field| {
            other.name == field.name && other.doors.iter().any(|door| field.doors.contains(door))
        };
        assert!(!fields[..i].iter().any(|other| clashes(&other)), "{}", field.name);
    }
}
