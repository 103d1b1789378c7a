//! `POST /v1/chat/completions`.

pub mod reply;
pub(crate) mod request;
pub(crate) mod tools;

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use sconce_proto::worker::Task;

use super::models::Asked;
use super::reply::{collect, id, now, prompt_logprobs};
use crate::app::{App, Principal};
use crate::docs::WorkerErrors;
use crate::error::ApiError;
use crate::generation::TextStream;
use crate::stream::{self, Dialect, Frames, Head};
use crate::validate::{self, Mode};
use crate::{api, prompt, reading};
use reply::{ChatChoice, ChatCompletion};
use request::ChatCompletionRequest;

/// Continues a conversation.
///
/// With `stream`, the answer is `text/event-stream`: events whose data are chunks, then `[DONE]`.
#[utoipa::path(
    post,
    path = "/v1/chat/completions",
    tag = "Chat",
    security(("api_key" = [])),
    request_body = ChatCompletionRequest,
    responses(
        (status = 200, description = "The completions", content(
            (ChatCompletion = "application/json"),
            (reply::ChatCompletionChunk = "text/event-stream"),
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
    let request = ChatCompletionRequest::read(&body)?;
    drop(body);
    let asked = Asked::of(&request.options);
    let target = api::models::find_for((&app, &principal), asked, Task::Generate).await?;
    let model = &target.model;
    let request = validate::chat(request, &model.info, limits)?;
    let (reply, reports) = (request.reply, request.reports);
    let mut encoded = prompt::encode(model, request, limits.template_fuel).await?;
    let reading = reading::prepare(model, &mut encoded)?;
    let mut stream = TextStream::start((&app, &principal), &target, encoded, reading.as_ref())?;

    let id = id("chatcmpl");
    let head = Head {
        id: &id,
        object: "chat.completion.chunk",
        created: now(),
        model: &target.name,
        system_fingerprint: model.fingerprint(),
    };
    if let Mode::Stream(usage) = reply.mode {
        let frames =
            Frames::new(Dialect::Chat, &head, (usage, reply.logprobs.map(|_| Arc::clone(model))))
                .calling(reply.calls);
        return Ok(target.label(stream::respond(stream, frames, limits).await?));
    }
    let choices = collect(&mut stream).await?;
    let tokens = reply.logprobs.map(|_| &model.tokens);
    let choices = choices.into_iter().enumerate();
    let completion = ChatCompletion {
        object: "chat.completion".into(),
        created: head.created,
        model: target.name.clone(),
        system_fingerprint: model.fingerprint().map(str::to_owned),
        choices: choices
            .map(|(i, choice)| ChatChoice::new(i, choice, tokens).calling(reply.calls))
            .collect(),
        usage: stream.usage().into(),
        timings: reports.timings.then(|| stream.timings().into()),
        prompt_logprobs: reply
            .prompt_logprobs
            .and_then(|num| Some(prompt_logprobs(stream.scores(0)?, num, &model.tokens))),
        id,
    };
    Ok(target.label(Json(completion)))
}
