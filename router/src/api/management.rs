//! `/models`: models are loaded, unloaded, pulled and removed, as llama.cpp's server has it where it
//! serves several. The launcher does it; keys of the admin scope may ask for it.

pub mod event;
pub mod reply;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use serde::Deserialize;
use utoipa::ToSchema;

use super::fields::missing;
use super::query::Query;
use super::reply::ErrorBody;
use super::tokenize::read;
use crate::app::{App, Principal};
use crate::error::ApiError;
use event::ModelEvent;
use reply::{Done, ManagedList};

/// Longest name of a model.
const MAX_NAME_CHARS: usize = 256;

/// The body of a request that does something to a model.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct ModelRequest {
    /// A name or a version, such as `smollm2:135m` or `smollm2@2`.
    #[schema(required, max_length = 256)]
    model: Option<String>,
}

/// Lists every model that could be served, and the names that clients may use, with how far each is.
#[utoipa::path(
    get,
    path = "/models",
    tag = "Model management",
    security(("api_key" = [])),
    responses(
        (status = 200, description = "The models", body = ManagedList),
        (status = 501, description = "The router follows no launcher", body = ErrorBody),
        (status = 502, description = "The launcher failed", body = ErrorBody),
    ),
)]
pub async fn list(State(app): State<App>) -> Result<Json<ManagedList>, ApiError> {
    Ok(Json(ManagedList::new(&app.fleet.status().await?)))
}

/// Begins to download a model into the store.
///
/// The answer comes when it has begun; `GET /models/sse` tells how it goes on. `POST /models/unload`
/// with the same name stops it.
#[utoipa::path(
    post,
    path = "/models",
    tag = "Model management",
    security(("api_key" = [])),
    request_body = ModelRequest,
    responses(
        (status = 200, description = "It has begun", body = Done),
        (status = 409, description = "It is there already", body = ErrorBody),
        (status = 429, description = "Too much is being done already", body = ErrorBody),
        (status = 501, description = "The router follows no launcher", body = ErrorBody),
        (status = 502, description = "The launcher failed", body = ErrorBody),
    ),
)]
pub async fn pull(State(app): State<App>, body: Bytes) -> Result<Json<Done>, ApiError> {
    app.fleet.pull(&named(&body)?).await?;
    Ok(Json(Done::default()))
}

/// Removes a version from the store.
#[utoipa::path(
    delete,
    path = "/models",
    tag = "Model management",
    security(("api_key" = [])),
    params(("model" = String, Query, description = "The version, such as `smollm2@2`", max_length = 256)),
    responses(
        (status = 200, description = "It is removed", body = Done),
        (status = 404, description = "There is none", body = ErrorBody),
        (status = 409, description = "It is loaded", body = ErrorBody),
        (status = 501, description = "The router follows no launcher", body = ErrorBody),
        (status = 502, description = "The launcher failed", body = ErrorBody),
    ),
)]
pub async fn remove(State(app): State<App>, query: Query) -> Result<Json<Done>, ApiError> {
    app.fleet.remove(&checked(query.text("model").map(str::to_owned))?).await?;
    Ok(Json(Done::default()))
}

/// Begins to load a model, and lets clients use it by its name.
///
/// The answer comes when it has begun; `GET /models` and `GET /models/sse` tell when it is loaded.
#[utoipa::path(
    post,
    path = "/models/load",
    tag = "Model management",
    security(("api_key" = [])),
    request_body = ModelRequest,
    responses(
        (status = 200, description = "It has begun", body = Done),
        (status = 409, description = "It does not fit, or can't be loaded now", body = ErrorBody),
        (status = 429, description = "Too much is being done already", body = ErrorBody),
        (status = 501, description = "The router follows no launcher", body = ErrorBody),
        (status = 502, description = "The launcher failed", body = ErrorBody),
    ),
)]
pub async fn load(
    State(app): State<App>,
    principal: Principal,
    body: Bytes,
) -> Result<Json<Done>, ApiError> {
    app.fleet.load(&named(&body)?, &principal.key_id).await?;
    Ok(Json(Done::default()))
}

/// Begins to unload a model once the requests that it has are answered. Later ones load it again, or
/// are refused.
#[utoipa::path(
    post,
    path = "/models/unload",
    tag = "Model management",
    security(("api_key" = [])),
    request_body = ModelRequest,
    responses(
        (status = 200, description = "It has begun", body = Done),
        (status = 409, description = "It can't be unloaded now", body = ErrorBody),
        (status = 429, description = "Too much is being done already", body = ErrorBody),
        (status = 501, description = "The router follows no launcher", body = ErrorBody),
        (status = 502, description = "The launcher failed", body = ErrorBody),
    ),
)]
pub async fn unload(
    State(app): State<App>,
    principal: Principal,
    body: Bytes,
) -> Result<Json<Done>, ApiError> {
    app.fleet.unload(&named(&body)?, &principal.key_id).await?;
    Ok(Json(Done::default()))
}

/// Tells what becomes of models, from now on.
///
/// The answer is `text/event-stream`. It ends when the launcher or the router does.
#[utoipa::path(
    get,
    path = "/models/sse",
    tag = "Model management",
    security(("api_key" = [])),
    responses(
        (status = 200, description = "Events", content((ModelEvent = "text/event-stream"))),
        (status = 501, description = "The router follows no launcher", body = ErrorBody),
        (status = 502, description = "The launcher failed", body = ErrorBody),
    ),
)]
pub async fn events(State(app): State<App>) -> Result<Response, ApiError> {
    let statuses = app.fleet.events().await?;
    Ok(event::respond(&app, statuses))
}

fn named(body: &[u8]) -> Result<String, ApiError> {
    checked(read::<ModelRequest>(body)?.model)
}

fn checked(name: Option<String>) -> Result<String, ApiError> {
    let name = name.filter(|name| !name.is_empty()).ok_or_else(|| missing("model"))?;
    let num_chars = name.chars().count();
    if num_chars > MAX_NAME_CHARS {
        let message = format!("`model` has {num_chars} characters and may have {MAX_NAME_CHARS}");
        return Err(ApiError::invalid("model", "string_above_max_length", message));
    }
    if name.chars().any(char::is_control) {
        let message = "`model` has characters that no name has";
        return Err(ApiError::invalid("model", "invalid_value", message));
    }
    Ok(name)
}
