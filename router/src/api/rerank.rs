//! `POST /v1/rerank` and `POST /rerank`, as Jina, Cohere and vLLM have them.

pub mod reply;
pub(crate) mod request;

use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;

use super::models::Asked;
use super::reply::{VectorUsage, id, respond};
use crate::app::{App, Principal};
use crate::docs::WorkerErrors;
use crate::error::ApiError;
use crate::validate::inputs::{self, Bounds};
use crate::{api, scoring};
use reply::{Reranking, results};
use request::RerankRequest;

/// Sorts documents by how much they have to do with a query.
#[utoipa::path(
    post,
    path = "/v1/rerank",
    tag = "Embeddings",
    security(("api_key" = [])),
    request_body = RerankRequest,
    responses(
        (status = 200, description = "The documents, best first", body = Reranking),
        WorkerErrors,
    ),
)]
pub async fn create(
    State(app): State<App>,
    principal: Principal,
    body: Bytes,
) -> Result<Response, ApiError> {
    let request = RerankRequest::read(&body)?;
    drop(body);
    let asked = Asked { name: &request.model, user: request.user.as_deref() };
    let target = api::models::find((&app, &principal), asked).await?;
    let model = &target.model;
    let bounds = Bounds::new(&model.info, &app.config.limits);
    let query = inputs::text_input("query".to_owned(), request.query)?;
    let texts = request.documents.into_texts();
    let kept = request.return_documents.then(|| texts.clone());
    let documents = inputs::texts("documents", texts, bounds)?;
    let scores = scoring::scores(&app, &target, vec![query], documents).await?;
    let (name, top_n) = (target.name.clone(), request.top_n);
    let answer = respond(scores.values.len(), move || Reranking {
        id: id("rerank"),
        model: name,
        results: results(&scores.values, kept, top_n),
        usage: VectorUsage::new(scores.num_tokens),
    })
    .await?;
    Ok(target.label(answer))
}

/// The same as `/v1/rerank`.
#[utoipa::path(
    post,
    path = "/rerank",
    tag = "Embeddings",
    security(("api_key" = [])),
    request_body = RerankRequest,
    responses(
        (status = 200, description = "The documents, best first", body = Reranking),
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
