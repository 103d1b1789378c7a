//! The errors of every route, declared once: most come from the layers around the handlers.

use std::collections::BTreeMap;

use utoipa::openapi::schema::{AnyOfBuilder, ObjectBuilder, Schema, Type};
use utoipa::openapi::{
    ContentBuilder, Header, HeaderBuilder, OpenApi, Ref, RefOr, Response, ResponseBuilder,
};
use utoipa::{IntoResponses, Modify, ToSchema};

use super::operation;
use crate::api::messages::reply::MessageError;
use crate::api::reply::ErrorBody;
use crate::server::route::{self, Access, Route};

/// What each status means.
pub(super) const MEANINGS: [(u16, &str); 18] = [
    (400, "The request is wrong; `param`, or the message, says where"),
    (401, "The API key is missing or wrong"),
    (403, "The API key is not of the admin scope"),
    (404, "The model does not exist"),
    (408, "The request's body did not arrive in time"),
    (409, "The answer to the first request of this idempotency key is not kept any more"),
    (410, "Some of the events are not kept any more"),
    (413, "The request's body is too large"),
    (414, "The URL is too long"),
    (415, "The request's body is not declared as JSON, or as a form, or is compressed"),
    (422, "The idempotency key came with another body before"),
    (429, "The queue is full; `retry-after` says when to come back"),
    (431, "The headers are too many or too long"),
    (500, "The server failed to answer"),
    (501, "The router follows no launcher, or keeps no files"),
    (502, "The worker was lost before the answer began"),
    (503, "No worker serves the model now, the server is stopping, or keys can't be checked"),
    (504, "The request waited too long for its turn"),
];

/// What any request may be answered with: it is checked before it is routed.
const OF_ALL: [u16; 4] = [400, 414, 431, 500];
/// What may be said where a key is needed.
const OF_KEYS: [u16; 2] = [401, 503];
/// What may be said where the key must be one of the admin scope, by the launcher or before.
const OF_ADMINS: [u16; 4] = [403, 404, 501, 502];
/// What may be said to a request with a body, which names a model.
const OF_BODIES: [u16; 4] = [404, 408, 413, 415];
/// What may be said where an answer can be had again.
const OF_KEPT: [u16; 2] = [409, 422];
/// What may become of a request that a worker computes.
const OF_WORKERS: [u16; 4] = [429, 502, 503, 504];

/// The errors of an endpoint that asks a worker, beside those that every endpoint of its kind has.
pub(crate) struct WorkerErrors;

impl IntoResponses for WorkerErrors {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        // `Errors` says what they mean, in the words of the endpoint's API.
        OF_WORKERS.map(|status| (status.to_string(), Response::default().into())).into()
    }
}

/// Adds to every route the errors that it may answer with.
pub(super) struct Errors;

impl Modify for Errors {
    fn modify(&self, document: &mut OpenApi) {
        let mut shared = BTreeMap::new();
        for route in route::routes() {
            let body = Body::of(route.path);
            let Some(operation) = operation(document, &route) else { continue };
            for (status, meaning) in MEANINGS {
                let answers = &mut operation.responses.responses;
                let is_declared = match answers.get(&status.to_string()) {
                    Some(RefOr::T(answer)) if !answer.content.is_empty() => continue,
                    declared => declared.is_some(),
                };
                if is_declared || has(&route, status) {
                    let name = body.component(status);
                    answers.insert(status.to_string(), Ref::from_response_name(&name).into());
                    shared.entry(name).or_insert_with(|| body.response(status, meaning));
                }
            }
        }
        let components = document.components.get_or_insert_default();
        components.responses.extend(shared);
        for schemas in [with_parts::<ErrorBody>(), with_parts::<MessageError>()] {
            components.schemas.extend(schemas);
        }
    }
}

/// Whether every route of this kind may answer so.
fn has(route: &Route, status: u16) -> bool {
    let names_a_model = route.path.starts_with("/v1/models/");
    OF_ALL.contains(&status)
        || (route.access != Access::Public && OF_KEYS.contains(&status))
        || (route.access == Access::Admin && OF_ADMINS.contains(&status))
        || (route.takes_body() && OF_BODIES.contains(&status))
        || (route.keeps_answers() && OF_KEPT.contains(&status))
        || (names_a_model && status == 404)
}

/// Whose words an endpoint's errors have.
#[derive(Clone, Copy)]
pub(super) enum Body {
    OpenAi,
    Anthropic,
    /// The request's headers say whose.
    Either,
}

impl Body {
    pub(super) fn of(path: &str) -> Self {
        if path.starts_with("/v1/messages") {
            Self::Anthropic
        } else if path.starts_with("/v1/models") {
            Self::Either
        } else {
            Self::OpenAi
        }
    }

    fn component(self, status: u16) -> String {
        match self {
            Self::OpenAi => format!("Error{status}"),
            Self::Anthropic => format!("MessageError{status}"),
            Self::Either => format!("EitherError{status}"),
        }
    }

    pub(super) fn schema(self) -> RefOr<Schema> {
        let openai = Ref::from_schema_name(ErrorBody::name());
        let anthropic = Ref::from_schema_name(MessageError::name());
        match self {
            Self::OpenAi => openai.into(),
            Self::Anthropic => anthropic.into(),
            Self::Either => {
                Schema::AnyOf(AnyOfBuilder::new().item(openai).item(anthropic).build()).into()
            }
        }
    }

    fn response(self, status: u16, meaning: &str) -> RefOr<Response> {
        let content = ContentBuilder::new().schema(Some(self.schema())).build();
        let response = ResponseBuilder::new()
            .description(meaning)
            .content("application/json", content)
            .header("x-request-id", header(Type::String, "The request's id, as the log has it."));
        let response = match status {
            401 => response.header("www-authenticate", header(Type::String, "`Bearer`.")),
            429 | 503 => {
                let note = "Seconds to wait, at most 60.";
                response.header("retry-after", header(Type::Integer, note))
            }
            _ => response,
        };
        response.build().into()
    }
}

fn header(kind: Type, note: &str) -> Header {
    let schema = ObjectBuilder::new().schema_type(kind);
    HeaderBuilder::new().schema(Some(schema)).description(Some(note)).build()
}

/// A schema and those that it refers to, by name.
fn with_parts<T: ToSchema>() -> Vec<(String, RefOr<Schema>)> {
    let mut schemas = vec![(T::name().into_owned(), T::schema())];
    T::schemas(&mut schemas);
    schemas
}
