//! `POST /tokenize`, `POST /detokenize` and `POST /v1/chat/completions/render`: what a prompt is to
//! the model, token by token.

use axum::Json;
use axum::extract::State;
use bytes::Bytes;
use sconce_proto::worker::Task;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::chat::request::ChatCompletionRequest;
use super::completions::request::CompletionRequest;
use super::fields::{Fields, Strict, missing, mistyped};
use super::models::Asked;
use crate::app::{App, Principal};
use crate::error::ApiError;
use crate::model::Model;
use crate::prompt::Encoded;
use crate::routing::Target;
use crate::validate::number::Wide;
use crate::validate::{self, context};
use crate::{api, prompt};

/// Most token ids of `/detokenize`.
const MAX_TOKENS: usize = 1 << 20;

/// The body of `POST /tokenize`: what a completion, or a chat, would be asked with.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct TokenizeRequest {
    /// A name from `GET /v1/models`.
    #[expect(dead_code, reason = "read with the rest of the request")]
    model: Option<String>,
    /// A text, as `/v1/completions` takes it.
    #[schema(value_type = Option<String>)]
    prompt: Option<IgnoredAny>,
    /// Instead of it, a conversation and whatever else `/v1/chat/completions` takes.
    #[schema(value_type = Option<Vec<Object>>)]
    messages: Option<IgnoredAny>,
    /// Also answer with each token's text.
    #[serde(default)]
    return_token_strs: bool,
}

/// The tokens of a prompt.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct TokenizeReply {
    /// How many tokens there are.
    pub count: usize,
    /// Most tokens of prompt and completion together.
    pub max_model_len: u32,
    /// Their ids.
    pub tokens: Vec<u32>,
    /// Their texts, if they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_strs: Option<Vec<String>>,
}

/// The body of `POST /detokenize`.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct DetokenizeRequest {
    /// A name from `GET /v1/models`.
    #[schema(required)]
    model: Option<String>,
    /// The ids.
    #[schema(required, value_type = Vec<u32>)]
    tokens: Option<Vec<Wide>>,
}

/// The text of tokens.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct DetokenizeReply {
    /// The text, that of special tokens included.
    pub prompt: String,
}

/// A conversation as the model reads it.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct RenderReply {
    /// The model.
    pub model: String,
    /// The text that the chat template has made, with the special tokens in it.
    pub prompt: String,
    /// The tokens of the text.
    pub prompt_token_ids: Vec<u32>,
}

/// Tokenizes a text or a conversation.
#[utoipa::path(
    post,
    path = "/tokenize",
    tag = "Tokens",
    security(("api_key" = [])),
    request_body = TokenizeRequest,
    responses(
        (status = 200, description = "The tokens", body = TokenizeReply),
    ),
)]
pub async fn tokenize(
    State(app): State<App>,
    principal: Principal,
    body: Bytes,
) -> Result<Json<TokenizeReply>, ApiError> {
    let request: TokenizeRequest = read(&body)?;
    let (Target { model, .. }, encoded) = match (request.prompt, request.messages) {
        (Some(_), None) => text((&app, &principal), &body).await?,
        (None, Some(_)) => conversation((&app, &principal), &body).await?,
        (Some(_), Some(_)) => {
            let message = "`prompt` and `messages` can't both be given";
            return Err(ApiError::invalid("prompt", "invalid_value", message));
        }
        (None, None) => return Err(missing("prompt")),
    };
    let tokens = encoded.prompts.into_iter().next().unwrap_or_default();
    let text = |token: &u32| String::from_utf8_lossy(model.tokens.bytes(*token)).into_owned();
    Ok(Json(TokenizeReply {
        count: tokens.len(),
        max_model_len: context(&model.info),
        token_strs: request.return_token_strs.then(|| tokens.iter().map(text).collect()),
        tokens,
    }))
}

/// Makes a text of tokens.
#[utoipa::path(
    post,
    path = "/detokenize",
    tag = "Tokens",
    security(("api_key" = [])),
    request_body = DetokenizeRequest,
    responses(
        (status = 200, description = "The text", body = DetokenizeReply),
    ),
)]
pub async fn detokenize(
    State(app): State<App>,
    principal: Principal,
    body: Bytes,
) -> Result<Json<DetokenizeReply>, ApiError> {
    let request: DetokenizeRequest = read(&body)?;
    let name = Fields::required("model", request.model)?;
    let asked = Asked { name: &name, user: None };
    let Target { model, .. } =
        api::models::find_for((&app, &principal), asked, Task::Generate).await?;
    let ids = Fields::required("tokens", request.tokens)?;
    if ids.len() > MAX_TOKENS {
        let message = format!("`tokens` has {} ids and may have {MAX_TOKENS}", ids.len());
        return Err(ApiError::invalid("tokens", "array_above_max_length", message));
    }
    let mut tokens = Vec::with_capacity(ids.len());
    for (i, id) in ids.into_iter().enumerate() {
        tokens.push(id.token(&format!("tokens[{i}]"), model.info.vocab_size)?);
    }
    Ok(Json(DetokenizeReply { prompt: written(&model, &tokens) }))
}

/// Shows the exact prompt of a chat request, which may have everything that
/// `/v1/chat/completions` takes. Nothing is generated.
#[utoipa::path(
    post,
    path = "/v1/chat/completions/render",
    tag = "Tokens",
    security(("api_key" = [])),
    request_body = ChatCompletionRequest,
    responses(
        (status = 200, description = "The prompt", body = RenderReply),
    ),
)]
pub async fn render(
    State(app): State<App>,
    principal: Principal,
    body: Bytes,
) -> Result<Json<RenderReply>, ApiError> {
    let (Target { name, model, .. }, encoded) = conversation((&app, &principal), &body).await?;
    let tokens = encoded.prompts.into_iter().next().unwrap_or_default();
    Ok(Json(RenderReply {
        model: name,
        prompt: written(&model, &tokens),
        prompt_token_ids: tokens,
    }))
}

async fn conversation(
    (app, principal): (&App, &Principal),
    body: &[u8],
) -> Result<(Target, Encoded), ApiError> {
    let limits = &app.config.limits;
    let request = ChatCompletionRequest::read(body)?;
    let asked = Asked::of(&request.options);
    let target = api::models::find_for((app, principal), asked, Task::Generate).await?;
    let model = &target.model;
    let request = validate::chat(request, &model.info, limits)?;
    let encoded = prompt::encode(model, request, limits.template_fuel).await?;
    Ok((target, encoded))
}

async fn text(
    (app, principal): (&App, &Principal),
    body: &[u8],
) -> Result<(Target, Encoded), ApiError> {
    let limits = &app.config.limits;
    let request = CompletionRequest::read(body)?;
    let asked = Asked::of(&request.options);
    let target = api::models::find_for((app, principal), asked, Task::Generate).await?;
    let model = &target.model;
    let request = validate::completions(request, &model.info, limits)?;
    let encoded = prompt::encode(model, request, limits.template_fuel).await?;
    if encoded.prompts.len() != 1 {
        let message = "`prompt` must be one text";
        return Err(ApiError::invalid("prompt", "invalid_type", message));
    }
    Ok((target, encoded))
}

/// The text of tokens, that of special ones included.
fn written(model: &Model, tokens: &[u32]) -> String {
    let bytes: Vec<u8> =
        tokens.iter().flat_map(|token| model.tokens.bytes(*token)).copied().collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A body, read as one type.
pub(crate) fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, ApiError> {
    let mut json = serde_json::Deserializer::from_slice(body);
    serde_path_to_error::deserialize(Strict(&mut json)).map_err(|error| {
        let param = error.path().to_string();
        let error = error.into_inner();
        if error.is_data() && param != "." {
            return mistyped(&param, &error);
        }
        ApiError::malformed(format!("the body is not JSON: {error}"))
    })
}
