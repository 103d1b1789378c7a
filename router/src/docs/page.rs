//! Lays the OpenAPI document out as one HTML page. Everything in it is escaped by the template
//! engine; types are shown by name and listed once, at the end.

use std::collections::BTreeMap;

use minijinja::{AutoEscape, Environment};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::openapi::OpenApi;

const TEMPLATE: &str = include_str!("page.html");

#[derive(Serialize)]
struct Page {
    title: String,
    version: String,
    description: String,
    tags: Vec<Tag>,
    errors: Vec<Answer>,
    schemas: Vec<Schema>,
}

#[derive(Serialize)]
struct Tag {
    name: String,
    operations: Vec<Operation>,
}

#[derive(Serialize)]
struct Operation {
    method: String,
    path: String,
    summary: String,
    description: String,
    needs_key: bool,
    parameters: Vec<Field>,
    body: Option<String>,
    examples: Vec<Example>,
    responses: Vec<Answer>,
    /// Statuses of the errors that are described once for all.
    errors: Vec<String>,
}

#[derive(Serialize)]
struct Example {
    summary: String,
    value: String,
}

#[derive(Serialize)]
struct Answer {
    status: String,
    schema: String,
    description: String,
}

#[derive(Serialize)]
struct Schema {
    name: String,
    summary: String,
    fields: Vec<Field>,
}

#[derive(Serialize)]
struct Field {
    name: String,
    required: bool,
    #[serde(rename = "type")]
    kind: String,
    description: String,
}

/// The page, or a line that says where the document itself is.
pub(super) fn render(document: &OpenApi) -> String {
    let document = serde_json::to_value(document).unwrap_or_default();
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.render_str(TEMPLATE, minijinja::value::Serde(page(&document))).unwrap_or_else(
        |error| {
            tracing::error!(%error, "rendering the documentation");
            "<!doctype html><a href=\"/openapi.json\">/openapi.json</a>".to_owned()
        },
    )
}

fn page(document: &Value) -> Page {
    let schemas = members(&document["components"]["schemas"]);
    Page {
        title: text(&document["info"]["title"]),
        version: text(&document["info"]["version"]),
        description: text(&document["info"]["description"]),
        tags: tags(document),
        errors: errors(document),
        schemas: schemas.map(|(name, schema)| named_schema(name, schema)).collect(),
    }
}

/// The operations by their first tag, in the order in which the tags first appear.
fn tags(document: &Value) -> Vec<Tag> {
    let mut tags: Vec<Tag> = Vec::new();
    for (path, methods) in members(&document["paths"]) {
        for (method, operation) in members(methods) {
            let name = text(&operation["tags"][0]);
            let operation = laid_out(path, method, operation);
            match tags.iter_mut().find(|tag| tag.name == name) {
                Some(tag) => tag.operations.push(operation),
                None => tags.push(Tag { name, operations: vec![operation] }),
            }
        }
    }
    tags
}

fn laid_out(path: &str, method: &str, operation: &Value) -> Operation {
    let parameters = operation["parameters"].as_array().into_iter().flatten();
    let body = operation.get("requestBody").map(|body| content_type(&body["content"]));
    let examples = members(&operation["requestBody"]["content"]["application/json"]["examples"]);
    let examples = examples.map(|(_, example)| Example {
        summary: text(&example["summary"]),
        value: serde_json::to_string_pretty(&example["value"]).unwrap_or_default(),
    });
    let (errors, responses): (Vec<_>, Vec<_>) =
        members(&operation["responses"]).partition(|(_, response)| response.get("$ref").is_some());
    Operation {
        method: method.to_uppercase(),
        path: path.to_owned(),
        summary: text(&operation["summary"]),
        description: text(&operation["description"]),
        needs_key: operation.get("security").is_some(),
        parameters: parameters.map(parameter).collect(),
        body,
        examples: examples.collect(),
        responses: responses
            .into_iter()
            .map(|(status, response)| answer(status, response))
            .collect(),
        errors: errors.into_iter().map(|(status, _)| status.clone()).collect(),
    }
}

fn answer(status: &str, response: &Value) -> Answer {
    Answer {
        status: status.to_owned(),
        schema: content_type(&response["content"]),
        description: text(&response["description"]),
    }
}

/// What each status of a shared error means, in whichever shape it comes.
fn errors(document: &Value) -> Vec<Answer> {
    let shared = members(&document["components"]["responses"]).map(|(name, response)| {
        let status = name.trim_start_matches(|letter: char| !letter.is_ascii_digit());
        answer(status, response)
    });
    let mut errors: BTreeMap<String, Answer> = BTreeMap::new();
    for error in shared {
        errors.entry(error.status.clone()).or_insert(error);
    }
    errors.into_values().collect()
}

fn parameter(parameter: &Value) -> Field {
    Field {
        name: text(&parameter["name"]),
        required: parameter["required"].as_bool().unwrap_or(false),
        kind: type_of(&parameter["schema"]),
        description: text(&parameter["description"]),
    }
}

fn named_schema(name: &str, schema: &Value) -> Schema {
    let required = schema["required"].as_array();
    let is_required =
        |name: &str| required.is_some_and(|names| names.iter().any(|each| each == name));
    let fields = members(&schema["properties"]).map(|(name, property)| Field {
        name: name.clone(),
        required: is_required(name),
        kind: type_of(property),
        description: description_of(property),
    });
    let mut fields: Vec<_> = fields.collect();
    if fields.is_empty() {
        let (name, description) = ("(value)".to_owned(), String::new());
        fields.push(Field { name, required: true, kind: type_of(schema), description });
    }
    Schema { name: name.to_owned(), summary: text(&schema["description"]), fields }
}

/// What a property says of itself; where it may be null, the other thing that it may be says it.
fn description_of(property: &Value) -> String {
    let or_null = property["oneOf"].as_array().into_iter().flatten();
    let mut places = or_null.chain([property]).map(|place| text(&place["description"]));
    places.find(|description| !description.is_empty()).unwrap_or_default()
}

fn content_type(content: &Value) -> String {
    let types = members(content).map(|(_, media)| match &media["schema"]["properties"]["data"] {
        Value::Null => type_of(&media["schema"]),
        data => format!("events of {}", type_of(&data["anyOf"][0]["contentSchema"])),
    });
    types.collect::<Vec<_>>().join(" or ")
}

/// A schema in a few words: its name, or what it is made of.
fn type_of(schema: &Value) -> String {
    if let Some(reference) = schema["$ref"].as_str() {
        return reference.rsplit('/').next().unwrap_or(reference).to_owned();
    }
    for key in ["oneOf", "anyOf", "allOf"] {
        if let Some(variants) = schema[key].as_array() {
            return variants.iter().map(type_of).collect::<Vec<_>>().join(" or ");
        }
    }
    if let Some(values) = schema["enum"].as_array() {
        return values.iter().map(Value::to_string).collect::<Vec<_>>().join(" or ");
    }
    match &schema["type"] {
        Value::String(kind) if kind == "array" => format!("[{}]", type_of(&schema["items"])),
        Value::String(kind) => kind.clone(),
        Value::Array(kinds) => kinds.iter().map(text).collect::<Vec<_>>().join(" or "),
        _ => "any".to_owned(),
    }
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::Document;
    use super::*;
    use utoipa::OpenApi as _;

    #[test]
    fn the_page_lists_every_operation_and_loads_nothing() {
        let document = Document::openapi();
        let page = render(&document);

        for path in document.paths.paths.keys() {
            let escaped = path.replace('/', "&#x2f;");
            assert!(page.contains(&escaped) || page.contains(path.as_str()), "{path}");
        }
        for outside in ["http://", "https://", "src=", "@import", "url(", "<script"] {
            assert!(!page.contains(outside), "{outside}");
        }
    }

    #[test]
    fn what_the_document_says_is_escaped() {
        let mut document = Document::openapi();
        document.info.title = "<script>alert(1)</script>".to_owned();

        assert!(!render(&document).contains("<script>"));
    }
}
