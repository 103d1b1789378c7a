//! `POST /v1/score` and `POST /score`, as vLLM has them.

pub mod reply;
pub(crate) mod request;

use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;

use super::models::Asked;
use super::reply::{VectorUsage, id, now, respond};
use crate::app::{App, Principal};
use crate::docs::WorkerErrors;
use crate::error::ApiError;
use crate::validate::inputs::Bounds;
use crate::{api, scoring};
use reply::{ScoreList, ScoreObject};
use request::ScoreRequest;

/// Says how much pairs of texts have to do with each other.
#[utoipa::path(
    post,
    path = "/v1/score",
    tag = "Embeddings",
    security(("api_key" = [])),
    request_body = ScoreRequest,
    responses(
        (status = 200, description = "The scores", body = ScoreList),
        WorkerErrors,
    ),
)]
pub async fn create(
    State(app): State<App>,
    principal: Principal,
    body: Bytes,
) -> Result<Response, ApiError> {
    let request = ScoreRequest::read(&body)?;
    drop(body);
    let asked = Asked { name: &request.model, user: request.user.as_deref() };
    let target = api::models::find((&app, &principal), asked).await?;
    let model = &target.model;
    let bounds = Bounds::new(&model.info, &app.config.limits);
    let (firsts, seconds) = request.into_inputs(bounds)?;
    let scores = scoring::scores(&app, &target, firsts, seconds).await?;
    let name = target.name.clone();
    let answer = respond(scores.values.len(), move || ScoreList {
        id: id("score"),
        object: "list".into(),
        created: now(),
        model: name,
        data: ScoreObject::list(&scores.values),
        usage: VectorUsage::new(scores.num_tokens),
    })
    .await?;
    Ok(target.label(answer))
}

/// The same as `/v1/score`.
#[utoipa::path(
    post,
    path = "/score",
    tag = "Embeddings",
    security(("api_key" = [])),
    request_body = ScoreRequest,
    responses(
        (status = 200, description = "The scores", body = ScoreList),
        WorkerErrors,
    ),
)]
pub async fn create_unversioned(
    app: State<App>,
    principal: Principal,
    body: Bytes,
) -> Result<Response, ApiError> {
    create(app, principal, body).await
}
