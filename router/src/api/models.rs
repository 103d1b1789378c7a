//! `GET /v1/models` and `GET /v1/models/{id}`: as OpenAI has them, and as Anthropic has them for
//! its own clients, which are known by a header.

mod anthropic;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use http::HeaderMap;
use sconce_proto::worker::Task;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::options::Options;
use crate::app::{App, Principal};
use crate::dispatch::replicas::Readiness;
use crate::error::ApiError;
use crate::model::Model;
use crate::routing::{Client, Listed, Target};
use crate::validate::context;
use anthropic::{ModelInfo, ModelPage, PageQuery};

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
    /// Most tokens of prompt and completion together; left out until the model was loaded once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_model_len: Option<u32>,
    /// Whether it is loaded, where a launcher says which models there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<ModelStatus>,
}

/// How far a model is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ModelStatus {
    /// `loaded`, `loading`, or `unloaded`: then the first request loads it, if that is allowed.
    pub value: String,
}

impl ModelObject {
    fn new(listed: &Listed) -> Self {
        let info = listed.model.as_ref().map(|model| &model.info);
        let status = listed.readiness.map(|readiness| match readiness {
            Readiness::Ready => "loaded",
            Readiness::Starting => "loading",
            Readiness::Absent => "unloaded",
        });
        Self {
            id: listed.name.clone(),
            object: "model".into(),
            created: info.map_or(0, |info| info.created),
            owned_by: "sconce".into(),
            max_model_len: info.map(context),
            status: status.map(|value| ModelStatus { value: value.into() }),
        }
    }
}

/// The models, in the API that the client speaks.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum AnyModelList {
    /// Without the header `anthropic-version`.
    OpenAi(ModelList),
    /// With it.
    Anthropic(ModelPage),
}

/// A model, in the API that the client speaks.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum AnyModel {
    /// Without the header `anthropic-version`.
    OpenAi(ModelObject),
    /// With it.
    Anthropic(ModelInfo),
}

/// Whether whoever asks for models is one of Anthropic's clients: they all send this.
pub(crate) fn asks_as_anthropic(headers: &HeaderMap) -> bool {
    headers.contains_key("anthropic-version")
}

/// Lists the models that are served.
///
/// With the header `anthropic-version`, the answer is Anthropic's, in pages; without it, OpenAI's,
/// which has all of them and ignores the parameters.
#[utoipa::path(
    get,
    path = "/v1/models",
    tag = "Models",
    security(("api_key" = [])),
    params(
        ("anthropic-version" = Option<String>, Header, description = "Anthropic's clients send it"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000,
            description = "Anthropic's: models of a page; default 20"),
        ("after_id" = Option<String>, Query,
            description = "Anthropic's: the page after this name; not with `before_id`"),
        ("before_id" = Option<String>, Query,
            description = "Anthropic's: the page before this name"),
        ("lifecycle" = Option<Vec<String>>, Query,
            description = "Anthropic's: which stages of life; all models here are `active`"),
    ),
    responses((status = 200, description = "The models", body = AnyModelList)),
)]
pub async fn list(
    State(app): State<App>,
    headers: HeaderMap,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Result<Json<AnyModelList>, ApiError> {
    let models = app.routing.list();
    if asks_as_anthropic(&headers) {
        let Query(pairs) = query.map_err(|_| ApiError::Invalid {
            message: "the URL's parameters can't be read".to_owned(),
            param: None,
            code: "invalid_value",
        })?;
        let models = models.iter().map(ModelInfo::new).collect();
        return Ok(Json(AnyModelList::Anthropic(PageQuery::read(&pairs)?.page(models))));
    }
    let data = models.iter().map(ModelObject::new).collect();
    Ok(Json(AnyModelList::OpenAi(ModelList { object: "list".into(), data })))
}

/// Describes one model. Its name may contain slashes, plain or percent-encoded.
#[utoipa::path(
    get,
    path = "/v1/models/{id}",
    tag = "Models",
    security(("api_key" = [])),
    params(
        ("id" = String, Path, description = "The model's name", example = "smollm2:135m"),
        ("anthropic-version" = Option<String>, Header, description = "Anthropic's clients send it"),
    ),
    responses((status = 200, description = "The model", body = AnyModel)),
)]
pub async fn retrieve(
    State(app): State<App>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Json<AnyModel>, ApiError> {
    let unknown = || ApiError::ModelNotFound { model: id.chars().take(256).collect() };
    let model = app.routing.get(&id).ok_or_else(unknown)?;
    Ok(Json(if asks_as_anthropic(&headers) {
        AnyModel::Anthropic(ModelInfo::new(&model))
    } else {
        AnyModel::OpenAi(ModelObject::new(&model))
    }))
}

/// What a request names.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) name: &'a str,
    /// Whom it is for, where it says so.
    pub(crate) user: Option<&'a str>,
}

impl<'a> Asked<'a> {
    /// What these options name.
    pub(crate) fn of(options: &'a Options) -> Self {
        Self { name: &options.model, user: options.user.as_deref() }
    }
}

/// What a client's request goes to, if it does what is asked of it.
pub(crate) async fn find_for(
    who: (&App, &Principal),
    asked: Asked<'_>,
    task: Task,
) -> Result<Target, ApiError> {
    let target = find(who, asked).await?;
    if target.model.can(task) { Ok(target) } else { Err(unable(&target.model)) }
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

/// What a client's request goes to. Waits where requests for that name are held.
pub(crate) async fn find(
    (app, principal): (&App, &Principal),
    Asked { name, user }: Asked<'_>,
) -> Result<Target, ApiError> {
    let client = match (principal.is_anonymous(), user) {
        // Everyone would be the same one.
        (true, None) => Client::random(),
        _ => Client::new(&principal.key_id, user),
    };
    app.routing.find(name, &client).await
}
