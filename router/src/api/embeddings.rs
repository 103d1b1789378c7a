//! `POST /v1/embeddings`.

pub mod reply;
pub(crate) mod request;

use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use sconce_proto::worker::Task;

use super::models::Asked;
use super::reply::{VectorUsage, respond};
use crate::app::{App, Principal};
use crate::docs::WorkerErrors;
use crate::error::ApiError;
use crate::validate::inputs::{self, Bounds};
use crate::{api, embedding};
use reply::EmbeddingList;
use request::{EmbeddingRequest, Shape};

/// Turns texts into vectors.
#[utoipa::path(
    post,
    path = "/v1/embeddings",
    tag = "Embeddings",
    security(("api_key" = [])),
    request_body = EmbeddingRequest,
    responses(
        (status = 200, description = "The embeddings", body = EmbeddingList),
        WorkerErrors,
    ),
)]
pub async fn create(
    State(app): State<App>,
    principal: Principal,
    body: Bytes,
) -> Result<Response, ApiError> {
    let request = EmbeddingRequest::read(&body)?;
    drop(body);
    let asked = Asked { name: &request.model, user: request.user.as_deref() };
    let target = api::models::find_for((&app, &principal), asked, Task::Embed).await?;
    let model = &target.model;
    let bounds = Bounds::new(&model.info, &app.config.limits);
    let inputs = inputs::embeddings(request.input, bounds)?;
    let shape = Shape::new(request.format, request.dimensions, model.info.num_outputs)?;
    let vectors = embedding::run(&app, &target, inputs, principal.urgency).await?;
    let name = target.name.clone();
    let answer = respond(vectors.values.iter().map(Vec::len).sum(), move || {
        let usage = VectorUsage::new(vectors.num_tokens);
        EmbeddingList::new(name, vectors.values, shape, usage)
    })
    .await?;
    Ok(target.label(answer))
}
