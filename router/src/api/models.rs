//! `GET /v1/models` and `GET /v1/models/{id}`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use sconce_proto::worker::Task;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::reply::ErrorBody;
use crate::app::App;
use crate::error::ApiError;
use crate::model::Model;
use crate::validate::context;

/// The models that are served.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ModelList {
    /// `list`.
    pub object: String,
    /// The models, by name.
    pub data: Vec<ModelObject>,
}

/// A model that is served.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ModelObject {
    /// The name that requests give.
    pub id: String,
    /// `model`.
    pub object: String,
    /// Unix seconds at which it was made available.
    pub created: i64,
    /// `sconce`.
    pub owned_by: String,
    /// Most tokens of prompt and completion together.
    pub max_model_len: u32,
}

impl ModelObject {
    fn new(model: &Model) -> Self {
        Self {
            id: model.info.model.clone(),
            object: "model".into(),
            created: model.info.created,
            owned_by: "sconce".into(),
            max_model_len: context(&model.info),
        }
    }
}

/// Lists the models that are served.
#[utoipa::path(
    get,
    path = "/v1/models",
    tag = "Models",
    security(("api_key" = [])),
    responses(
        (status = 200, description = "The models", body = ModelList),
        (status = 401, description = "The API key is missing or wrong", body = ErrorBody),
    ),
)]
pub async fn list(State(app): State<App>) -> Json<ModelList> {
    let data = app.dispatcher.models().iter().map(|model| ModelObject::new(model)).collect();
    Json(ModelList { object: "list".into(), data })
}

/// Describes one model. Its name may contain slashes, plain or percent-encoded.
#[utoipa::path(
    get,
    path = "/v1/models/{id}",
    tag = "Models",
    security(("api_key" = [])),
    params(("id" = String, Path, description = "The model's name")),
    responses(
        (status = 200, description = "The model", body = ModelObject),
        (status = 401, description = "The API key is missing or wrong", body = ErrorBody),
        (status = 404, description = "The model does not exist", body = ErrorBody),
    ),
)]
pub async fn retrieve(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<ModelObject>, ApiError> {
    find(&app, &id).map(|model| Json(ModelObject::new(&model)))
}

/// The model that a client names, if it does what is asked of it.
pub(crate) fn find_for(app: &App, name: &str, task: Task) -> Result<Arc<Model>, ApiError> {
    let model = find(app, name)?;
    if model.can(task) { Ok(model) } else { Err(unable(&model)) }
}

/// What is said to whoever asks a model for what it does not do.
pub(crate) fn unable(model: &Model) -> ApiError {
    let message = if model.can(Task::Generate) {
        "this model does not embed: it generates, at /v1/chat/completions and /v1/completions"
    } else if model.can(Task::Embed) {
        "this model does not generate: it embeds, at /v1/embeddings, /v1/rerank and /v1/score"
    } else {
        "this model neither generates nor embeds: it scores pairs, at /v1/rerank and /v1/score"
    };
    ApiError::invalid("model", "unsupported_model", message)
}

/// The model that a client names.
pub(crate) fn find(app: &App, name: &str) -> Result<Arc<Model>, ApiError> {
    let unknown = || ApiError::ModelNotFound { model: name.chars().take(256).collect() };
    app.dispatcher.model(name).ok_or_else(unknown)
}
