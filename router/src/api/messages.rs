//! `POST /v1/messages` and `POST /v1/messages/count_tokens`: Anthropic's Messages API.

pub mod reply;
pub(crate) mod request;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use sconce_proto::worker::Task;

use super::models::Asked;
use crate::app::{App, Principal};
use crate::docs::WorkerErrors;
use crate::error::ApiError;
use crate::generation::{CallIds, TextStream};
use crate::stream::{self, MessageEvents};
use crate::validate::{self, Mode};
use crate::{api, prompt, reading};
use reply::{MessageEnd, MessageObject, TokenCount, collect};
use request::{CountTokensRequest, MessagesRequest};

/// Continues a conversation, as Anthropic's clients ask for it.
///
/// With `stream`, the answer is `text/event-stream`: `message_start`, the blocks of the content,
/// `message_delta`, `message_stop`.
#[utoipa::path(
    post,
    path = "/v1/messages",
    tag = "Messages",
    security(("api_key" = [])),
    request_body = MessagesRequest,
    responses(
        (status = 200, description = "The message", content(
            (MessageObject = "application/json"),
            (reply::MessageEvent = "text/event-stream"),
        )),
        WorkerErrors,
    ),
)]
pub async fn create(
    State(app): State<App>,
    principal: Principal,
    body: Bytes,
) -> Result<Response, ApiError> {
    let limits = &app.config.limits;
    let request = MessagesRequest::read(&body)?;
    drop(body);
    let asked = Asked::of(&request.options);
    let target = api::models::find_for((&app, &principal), asked, Task::Generate).await?;
    let model = &target.model;
    let request = validate::messages(request, &model.info, limits)?;
    let (mode, stop) = (request.reply.mode, request.stop.clone());
    let mut encoded = prompt::encode(model, request, limits.template_fuel).await?;
    let mut reading = reading::prepare(model, &mut encoded)?;
    if let Some(reading) = &mut reading
        && reading.ids == CallIds::OpenAi
    {
        reading.ids = CallIds::Anthropic;
    }
    let mut stream = TextStream::start((&app, &principal), &target, encoded, reading.as_ref())?;

    let (id, name) = (id(), target.name.clone());
    if let Mode::Stream(_) = mode {
        let events = MessageEvents::new(id, name, stop);
        return Ok(target.label(stream::respond(stream, events, limits).await?));
    }
    let (content, finish) = collect(&mut stream).await?;
    let MessageEnd { stop_reason, stop_sequence } = MessageEnd::new(finish, &stop);
    let message = MessageObject::begin(id, name, stream.usage());
    Ok(target.label(Json(MessageObject { content, stop_reason, stop_sequence, ..message })))
}

/// Counts the tokens of a conversation's prompt.
#[utoipa::path(
    post,
    path = "/v1/messages/count_tokens",
    tag = "Messages",
    security(("api_key" = [])),
    request_body = CountTokensRequest,
    responses(
        (status = 200, description = "How many there are", body = TokenCount),
    ),
)]
pub async fn count_tokens(
    State(app): State<App>,
    principal: Principal,
    body: Bytes,
) -> Result<Json<TokenCount>, ApiError> {
    let limits = &app.config.limits;
    let request = MessagesRequest::read_to_count(&body)?;
    drop(body);
    let asked = Asked::of(&request.options);
    let target = api::models::find_for((&app, &principal), asked, Task::Generate).await?;
    let model = &target.model;
    let request = validate::messages(request, &model.info, limits)?;
    let encoded = prompt::encode(model, request, limits.template_fuel).await?;
    let input_tokens = encoded.prompts.iter().map(|prompt| prompt.len() as u64).sum();
    Ok(Json(TokenCount { input_tokens }))
}

/// The id of a message.
fn id() -> String {
    format!("msg_{}", uuid::Uuid::now_v7().simple())
}
