//! `POST /v1/completions`.

pub mod reply;
pub(crate) mod request;

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
use crate::{api, prompt};
use reply::{Completion, CompletionChoice};
use request::CompletionRequest;

/// What the answer and its chunks are both called.
const OBJECT: &str = "text_completion";

/// Continues one or several texts.
///
/// With `stream`, the answer is `text/event-stream`: events whose data are chunks, then `[DONE]`.
#[utoipa::path(
    post,
    path = "/v1/completions",
    tag = "Completions",
    security(("api_key" = [])),
    request_body = CompletionRequest,
    responses(
        (status = 200, description = "The completions", content(
            (Completion = "application/json"),
            (Completion = "text/event-stream"),
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
    let request = CompletionRequest::read(&body)?;
    drop(body);
    let asked = Asked::of(&request.options);
    let target = api::models::find_for((&app, &principal), asked, Task::Generate).await?;
    let model = &target.model;
    let request = validate::completions(request, &model.info, limits)?;
    let (reply, reports) = (request.reply, request.reports);
    let (n, num_kept) = (request.n, request.num_kept);
    let encoded = prompt::encode(model, request, limits.template_fuel).await?;
    let mut stream = TextStream::start((&app, &principal), &target, encoded, None)?;

    let id = id("cmpl");
    let head = Head {
        id: &id,
        object: OBJECT,
        created: now(),
        model: &target.name,
        system_fingerprint: model.fingerprint(),
    };
    if let Mode::Stream(usage) = reply.mode {
        let frames = Frames::new(
            Dialect::Completions,
            &head,
            (usage, reply.logprobs.map(|_| Arc::clone(model))),
        );
        return Ok(target.label(stream::respond(stream, frames, limits).await?));
    }
    let mut choices = collect(&mut stream).await?;
    let tokens = reply.logprobs.map(|_| &model.tokens);
    let kept = match num_kept {
        // Nothing to choose from.
        kept if kept == n => (0..choices.len()).collect(),
        kept => stream.likeliest(kept as usize),
    };
    let choices = kept.into_iter().enumerate().map(|(i, from)| {
        let choice = choices.get_mut(from).map(std::mem::take).unwrap_or_default();
        let prompt_logprobs = reply
            .prompt_logprobs
            .and_then(|num| Some(prompt_logprobs(stream.scores(from)?, num, &model.tokens)));
        CompletionChoice { prompt_logprobs, ..CompletionChoice::new(i, choice, tokens) }
    });
    let completion = Completion {
        object: OBJECT.into(),
        created: head.created,
        model: target.name.clone(),
        system_fingerprint: model.fingerprint().map(str::to_owned),
        choices: choices.collect(),
        usage: Some(stream.usage().into()),
        prompt_progress: None,
        timings: reports.timings.then(|| stream.timings().into()),
        id,
    };
    Ok(target.label(Json(completion)))
}
