//! The API's description: the OpenAPI document, and a page made of it that needs no other host.

mod errors;
mod events;
mod examples;
mod page;
#[cfg(test)]
mod tests;

use axum::Json;
use axum::http::header::{CONTENT_SECURITY_POLICY, X_CONTENT_TYPE_OPTIONS};
use axum::response::{Html, IntoResponse, Response};
use http::Method;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::{Modify, OpenApi};

use crate::server::route::{self, Access, Route};
use crate::{api, health, metrics, playground};
use errors::Errors;
pub(crate) use errors::WorkerErrors;
use events::Events;
use examples::Examples;

/// The name of the one security scheme.
const SCHEME: &str = "api_key";

/// The document of every route.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Sconce",
        description = "A server for large language models that speaks OpenAI's API, and Anthropic's Messages API.",
    ),
    paths(
        api::chat::create,
        api::responses::create,
        api::responses::input_tokens,
        api::responses::retrieve,
        api::responses::cancel,
        api::responses::delete,
        api::responses::input_items,
        api::completions::create,
        api::tokenize::tokenize,
        api::tokenize::detokenize,
        api::tokenize::render,
        api::batches::create,
        api::batches::list,
        api::batches::retrieve,
        api::batches::cancel,
        api::embeddings::create,
        api::rerank::create,
        api::rerank::create_unversioned,
        api::score::create,
        api::score::create_unversioned,
        api::messages::create,
        api::messages::count_tokens,
        api::files::create,
        api::files::list,
        api::files::retrieve,
        api::files::delete,
        api::files::content,
        api::models::list,
        api::models::retrieve,
        api::streams::resume,
        api::management::list,
        api::management::pull,
        api::management::remove,
        api::management::load,
        api::management::unload,
        api::management::events,
        health::live,
        health::ready,
        health::health,
        metrics::scrape,
        openapi_json,
        page,
        playground::page,
        playground::file,
    ),
    modifiers(&ApiKey, &Errors, &Events, &Examples),
)]
pub struct Document;

/// How a key is sent, and which routes need one: what their policies say.
struct ApiKey;

impl Modify for ApiKey {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer);
        let scheme = bearer.description(Some("`x-api-key: <key>` is accepted as well.")).build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme(SCHEME, SecurityScheme::Http(scheme));
        for route in route::routes().into_iter().filter(|route| route.access != Access::Public) {
            if let Some(operation) = operation(document, &route) {
                let needed = SecurityRequirement::new(SCHEME, [""; 0]);
                operation.security = Some(vec![needed]);
            }
        }
    }
}

/// What the document says of a route.
fn operation<'a>(
    document: &'a mut utoipa::openapi::OpenApi,
    route: &Route,
) -> Option<&'a mut Operation> {
    let item = document.paths.paths.get_mut(&route.path.replace("{*", "{"))?;
    match route.method {
        Method::GET => item.get.as_mut(),
        Method::POST => item.post.as_mut(),
        Method::DELETE => item.delete.as_mut(),
        _ => None,
    }
}

/// `GET /openapi.json`.
#[utoipa::path(
    get, path = "/openapi.json", tag = "documentation", summary = "This API as an OpenAPI document",
    responses((status = 200, body = Object, description = "OpenAPI 3.1")),
)]
pub(crate) async fn openapi_json() -> Response {
    Json(Document::openapi()).into_response()
}

/// `GET /docs`.
#[utoipa::path(
    get, path = "/docs", tag = "documentation", summary = "This page",
    responses((
        status = 200, body = String, content_type = "text/html", description = "A page of HTML",
    )),
)]
pub(crate) async fn page() -> Response {
    let headers = [
        (CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, Html(page::render(&Document::openapi()))).into_response()
}
