//! The document describes all of what it names.

use serde_json::{Map, Value};
use utoipa::OpenApi;

use super::Document;
use super::errors::MEANINGS;
use crate::error::ApiError;
use crate::error::refusal::Refusal;

fn document() -> Value {
    serde_json::to_value(Document::openapi()).unwrap()
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

fn operations(document: &Value) -> impl Iterator<Item = (String, &Value)> {
    members(&document["paths"]).flat_map(|(path, methods)| {
        members(methods).map(move |(method, operation)| (format!("{method} {path}"), operation))
    })
}

fn says_something(value: &Value) -> bool {
    value.as_str().is_some_and(|text| !text.trim().is_empty())
}

/// What a reference refers to.
fn resolve<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    let Some(reference) = value["$ref"].as_str() else { return value };
    let target = document.pointer(reference.trim_start_matches('#'));
    target.unwrap_or_else(|| panic!("{reference} refers to nothing"))
}

fn check_references(document: &Value, value: &Value) {
    resolve(document, value);
    for (_, member) in members(value) {
        check_references(document, member);
    }
    for element in value.as_array().into_iter().flatten() {
        check_references(document, element);
    }
}

#[test]
fn every_reference_refers_to_something() {
    let document = document();
    check_references(&document, &document);
}

#[test]
fn every_operation_says_what_it_does_and_what_it_answers() {
    let document = document();
    for (name, operation) in operations(&document) {
        assert!(says_something(&operation["summary"]), "{name}");
        assert!(says_something(&operation["tags"][0]), "{name}");
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            assert!(says_something(&parameter["description"]), "{name}: {parameter}");
        }
        let responses = &operation["responses"];
        assert!(responses["200"].is_object() && responses["500"].is_object(), "{name}");
        for (status, response) in members(responses) {
            let response = resolve(&document, response);
            assert!(says_something(&response["description"]), "{name}: {status}");
            assert!(members(&response["content"]).count() > 0, "{name}: {status}");
        }
    }
}

#[test]
fn every_body_of_json_has_examples() {
    let document = document();
    for (name, operation) in operations(&document) {
        let Some(body) = operation["requestBody"]["content"].get("application/json") else {
            continue;
        };
        let examples = &body["examples"];
        assert!(members(examples).count() > 0, "{name}");
    }
}

#[test]
fn every_schema_and_every_property_says_what_it_is() {
    let document = document();
    for (name, schema) in members(&document["components"]["schemas"]) {
        for (field, property) in members(&schema["properties"]) {
            // Beside null there is one other thing that it may be.
            let or_null = property["oneOf"].as_array().into_iter().flatten();
            let type_of = resolve(&document, property);
            let places = or_null.chain([property, type_of]);
            let mut places = places.map(|place| &place["description"]);
            assert!(places.any(says_something), "{name}.{field}: {property}");
        }
    }
}

#[test]
fn every_status_of_an_error_has_a_meaning() {
    use std::time::Duration;

    use axum::response::IntoResponse;

    use crate::dispatch::Error;
    use crate::{files, fleet, replay};

    let errors = [
        ApiError::malformed("not JSON"),
        ApiError::ModelNotFound { model: "m".into() },
        ApiError::BrokenTemplate { model: "m".into() },
        ApiError::Internal,
        ApiError::not_found("response", "r"),
        ApiError::Storage,
        ApiError::Cancelled,
        ApiError::Interrupted,
        replay::Error::NoStream.into(),
        replay::Error::EventsGone { num_dropped: 1 }.into(),
        replay::Error::FellBehind.into(),
        replay::Error::KeyReused.into(),
        replay::Error::AnswerGone.into(),
        replay::Error::Full.into(),
        files::Error::Nowhere.into(),
        files::Error::TooLarge { max_bytes: 1 }.into(),
        files::Error::TooManyUploads { max: 1 }.into(),
        files::Error::TookTooLong.into(),
        Error::NoWorker { model: "m".into() }.into(),
        Error::QueueFull { max_queue: 1 }.into(),
        Error::Deadline.into(),
        Error::WorkerLost.into(),
        Error::Stopping.into(),
        fleet::Error::NoLauncher.into(),
        fleet::Error::Unreachable.into(),
        fleet::Error::Conflict("loaded".into()).into(),
        fleet::Error::Failed("a bug".into()).into(),
        ApiError::HoldFull { model: "m".into(), max_held: 1 },
    ];
    let refusals = [
        Refusal::UnknownUrl,
        Refusal::Target,
        Refusal::Host,
        Refusal::UriTooLong(1),
        Refusal::HeadersTooLarge { max_headers: 1, max_bytes: 1 },
        Refusal::BodyTooLarge(1),
        Refusal::BodyTimeout(Duration::ZERO),
        Refusal::MediaType,
        Refusal::NoKey,
        Refusal::NotAdmin,
        Refusal::KeysUnavailable,
        Refusal::Internal,
    ];
    let errors = errors.into_iter().map(IntoResponse::into_response);
    for response in errors.chain(refusals.into_iter().map(IntoResponse::into_response)) {
        let status = response.status().as_u16();
        assert!(MEANINGS.iter().any(|(known, _)| *known == status), "{status}");
    }
}
