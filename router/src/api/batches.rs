//! `/v1/batches`: OpenAI's Batch API.

pub mod reply;
pub(crate) mod request;

use axum::Json;
use axum::extract::{Path, State};
use bytes::Bytes;

use super::query::Query;
use super::reply::ErrorBody;
use crate::app::{App, Principal};
use crate::error::ApiError;
use reply::{BatchList, BatchObject};
use request::BatchRequest;

/// Batches of one list, unless the client says how many.
const DEFAULT_BATCHES: u64 = 20;
/// Most batches of one list.
const MAX_BATCHES: u64 = 100;

/// Begins a batch: every line of a file is a request, answered when nothing else needs the models.
#[utoipa::path(
    post,
    path = "/v1/batches",
    tag = "Batches",
    security(("api_key" = [])),
    request_body = BatchRequest,
    responses(
        (status = 200, description = "The batch", body = BatchObject),
        (status = 404, description = "There is no such input file", body = ErrorBody),
        (status = 429, description = "The key has too many unfinished batches", body = ErrorBody),
    ),
)]
pub async fn create(
    State(app): State<App>,
    principal: Principal,
    body: Bytes,
) -> Result<Json<BatchObject>, ApiError> {
    let request = BatchRequest::read(&body)?;
    Ok(Json(app.batches.create(&principal.key_id, request).await?.into()))
}

/// Lists the key's batches, newest first.
#[utoipa::path(
    get,
    path = "/v1/batches",
    tag = "Batches",
    security(("api_key" = [])),
    params(
        ("limit" = Option<usize>, Query, description = "At most so many, 1 to 100. Default 20"),
        ("after" = Option<String>, Query, description = "Only batches after this one"),
    ),
    responses(
        (status = 200, description = "The batches", body = BatchList),
        (status = 404, description = "There is no such batch as `after`", body = ErrorBody),
    ),
)]
pub async fn list(
    State(app): State<App>,
    principal: Principal,
    query: Query,
) -> Result<Json<BatchList>, ApiError> {
    let limit = query.count("limit", (1, MAX_BATCHES))?.unwrap_or(DEFAULT_BATCHES) as usize;
    let (rows, has_more) = app.batches.list(&principal.key_id, query.text("after"), limit).await?;
    Ok(Json(BatchList::new(rows, has_more)))
}

/// Tells how far a batch is.
#[utoipa::path(
    get,
    path = "/v1/batches/{id}",
    tag = "Batches",
    security(("api_key" = [])),
    params(("id" = String, Path, description = "The batch's id")),
    responses(
        (status = 200, description = "The batch", body = BatchObject),
        (status = 404, description = "There is none, or it is another key's", body = ErrorBody),
    ),
)]
pub async fn retrieve(
    State(app): State<App>,
    principal: Principal,
    Path(id): Path<String>,
) -> Result<Json<BatchObject>, ApiError> {
    Ok(Json(app.batches.get(&principal.key_id, &id).await?.into()))
}

/// Ends a batch early. What is answered by then can be had.
#[utoipa::path(
    post,
    path = "/v1/batches/{id}/cancel",
    tag = "Batches",
    security(("api_key" = [])),
    params(("id" = String, Path, description = "The batch's id")),
    responses(
        (status = 200, description = "The batch", body = BatchObject),
        (status = 404, description = "There is none, or it is another key's", body = ErrorBody),
        (status = 409, description = "It has ended, or is about to", body = ErrorBody),
    ),
)]
pub async fn cancel(
    State(app): State<App>,
    principal: Principal,
    Path(id): Path<String>,
) -> Result<Json<BatchObject>, ApiError> {
    Ok(Json(app.batches.cancel(&principal.key_id, &id).await?.into()))
}
