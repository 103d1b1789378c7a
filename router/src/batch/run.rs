//! Answers one line, through the handler that answers requests over HTTP.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use serde_json::value::RawValue;

use super::Endpoint;
use super::executor::Context;
use super::line::{Line, Wants, Written, WrittenResponse, usage};
use crate::app::{App, Principal};
use crate::error::ApiError;
use crate::store::{BatchUsage, LeasedLine, LineResult};
use crate::{api, dispatch, files};

/// Bytes of an answer.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// What became of a line.
pub(super) enum Outcome {
    /// It has its answer, for good.
    Answered(LineResult),
    /// It can't be answered now, by no fault of its own.
    Later,
    /// Whoever computed the answer was lost.
    Lost,
}

/// Whose batch a line is of, and where it goes.
#[derive(Clone)]
pub(super) struct Origin {
    pub(super) principal: Principal,
    pub(super) input_file: String,
    pub(super) endpoint: Endpoint,
}

/// Computes a line's answer.
pub(super) async fn answer(context: &Context, origin: &Origin, line: &LeasedLine) -> Outcome {
    let max = context.app.batches.limits().max_tries;
    if line.num_tries >= i64::from(max) {
        let message =
            format!("the answer was lost {} times, and may be {max} times", line.num_tries);
        let error = ("too_many_attempts", message.as_str());
        return refused(Written::error(&line.custom_id, error).to_text());
    }
    let text = match read(context, origin, line).await {
        Ok(text) => text,
        Err(files::Error::NotFound { .. }) => {
            let error = ("input_file_not_found", "The input file was deleted.");
            return refused(Written::error(&line.custom_id, error).to_text());
        }
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "a batch's input can't be read");
            return Outcome::Later;
        }
    };
    let answer = match Line::read(&text, origin.endpoint) {
        Ok(asked) => ask(context.app.clone(), origin, &asked).await,
        // It was read before: the file is another one.
        Err(_) => Err(ApiError::malformed("the line is not what it was when the batch began")),
    };
    let response = match answer {
        Ok(response) => response,
        Err(error) => match later(&error) {
            Some(outcome) => return outcome,
            None => error.into_response(),
        },
    };
    write(line, response).await
}

async fn read(
    context: &Context,
    origin: &Origin,
    line: &LeasedLine,
) -> Result<Bytes, files::Error> {
    let first = line.first_byte.cast_unsigned();
    let range = first..first.saturating_add(line.num_bytes.cast_unsigned());
    let owner = &origin.principal.key_id;
    let (_, mut contents) = context.app.files.read(owner, &origin.input_file, Some(range)).await?;
    let mut text = BytesMut::new();
    while let Some(piece) = contents.try_next().await? {
        text.extend_from_slice(&piece);
    }
    Ok(text.freeze())
}

async fn ask(app: App, origin: &Origin, line: &Line<'_>) -> Result<Response, ApiError> {
    let Wants { stream, background } = line.wants;
    if stream || background {
        let param = if stream { "stream" } else { "background" };
        let message = format!("`{param}` can't be true in a batch");
        return Err(ApiError::invalid(param, "unsupported_value", message));
    }
    let (app, body) = (State(app), Bytes::copy_from_slice(line.body.as_bytes()));
    let principal = origin.principal.clone();
    match origin.endpoint {
        Endpoint::Chat => api::chat::create(app, principal, body).await,
        Endpoint::Completions => api::completions::create(app, principal, body).await,
        Endpoint::Embeddings => api::embeddings::create(app, principal, body).await,
        Endpoint::Responses => api::responses::create(app, principal, body).await,
    }
}

/// What is done about an error that is none of the line's.
fn later(error: &ApiError) -> Option<Outcome> {
    use dispatch::Error;
    match error {
        ApiError::Dispatch(Error::WorkerLost) | ApiError::Interrupted => Some(Outcome::Lost),
        // The model was there when the batch began.
        ApiError::Dispatch(
            Error::NoWorker { .. } | Error::QueueFull { .. } | Error::Deadline | Error::Stopping,
        )
        | ApiError::HoldFull { .. }
        | ApiError::ModelNotFound { .. }
        | ApiError::Storage => Some(Outcome::Later),
        _ => None,
    }
}

async fn write(line: &LeasedLine, response: Response) -> Outcome {
    let status = response.status();
    let Ok(body) = axum::body::to_bytes(response.into_body(), MAX_ANSWER_BYTES).await else {
        let message = format!("The answer has more than {MAX_ANSWER_BYTES} bytes.");
        let error = ("answer_too_large", message.as_str());
        return refused(Written::error(&line.custom_id, error).to_text());
    };
    let Ok(body) = serde_json::from_slice::<&RawValue>(&body) else {
        let error = ("internal_error", "The server failed to answer this request.");
        return refused(Written::error(&line.custom_id, error).to_text());
    };
    let written = WrittenResponse {
        status_code: status.as_u16(),
        request_id: format!("req_{}", uuid::Uuid::now_v7().simple()),
        body,
    };
    let text = Written::response(&line.custom_id, written).to_text();
    if status.is_success() {
        Outcome::Answered(LineResult { is_error: false, text, usage: usage(body.get()) })
    } else {
        refused(text)
    }
}

fn refused(text: String) -> Outcome {
    Outcome::Answered(LineResult { is_error: true, text, usage: BatchUsage::default() })
}
