//! Responses that are made whether anyone waits for them or not.
//!
//! What is asked for is stored before it is begun, and how it has ended before anyone is told. Between
//! the two it is a recording that can be followed, here and by other requests.

use std::sync::Arc;

use axum::Json;
use axum::response::{IntoResponse, Response};

use super::item::Item;
use super::output::Output;
use super::reply::ResponseObject;
use crate::app::{App, Principal};
use crate::error::ApiError;
use crate::generation::TextStream;
use crate::replay::Progress;
use crate::responses::Stored;
use crate::stream::{self, ResponseEvents, Save};
use crate::validate::Mode;

/// A response that begins, and what it is made of.
pub(super) struct Made {
    pub(super) response: ResponseObject,
    pub(super) output: Output,
    pub(super) input: Vec<Item>,
    pub(super) stream: TextStream,
}

/// Begins a response. The answer is what it is now, or its events.
pub(super) async fn start(
    app: &App,
    principal: &Principal,
    Made { response, output, input, stream }: Made,
    mode: Mode,
) -> Result<Response, ApiError> {
    let owner = Arc::clone(&principal.key_id);
    app.responses.save(&owner, &response, &input).await?;
    let input = Arc::new(input);
    let finish: Save = {
        let (app, owner, input) = (app.clone(), Arc::clone(&owner), Arc::clone(&input));
        Box::new(move |response| {
            Box::pin(async move {
                app.responses.finish(&owner, &response, &input).await?;
                Ok(())
            })
        })
    };
    let events = ResponseEvents::new(response.clone(), output, Some(finish));
    let made = {
        let (app, owner, mut response) = (app.clone(), Arc::clone(&owner), response.clone());
        async move {
            match stream::respond(stream, events, &app.config.limits).await {
                Ok(answer) => answer,
                Err(error) => {
                    response.fail(&error, Vec::new());
                    // Logged there; without it, the response is found to be interrupted.
                    let _ = app.responses.finish(&owner, &response, &input).await;
                    error.into_response()
                }
            }
        }
    };
    let reader = match app.replays.background((Arc::clone(&owner), response.id.clone()), made) {
        Ok(reader) => reader,
        Err(error) => {
            app.responses.delete(&owner, &response.id).await?;
            return Err(error.into());
        }
    };
    match mode {
        Mode::Whole => Ok(Json(response).into_response()),
        Mode::Stream(_) => reader.answer().await,
    }
}

/// A stored response as it is now.
pub(super) async fn load(app: &App, principal: &Principal, id: &str) -> Result<Stored, ApiError> {
    let owner = &principal.key_id;
    // Asked before the database: what ends in between is there in its end.
    let progress = app.replays.progress(owner, id);
    let mut stored = app.responses.load(owner, id).await?;
    if stored.response.is_unfinished() {
        match progress {
            Some(Progress::Queued) => {}
            Some(Progress::Begun) => stored.response.status = "in_progress".into(),
            None => stored.response.fail(&ApiError::Interrupted, Vec::new()),
        }
    }
    Ok(stored)
}

/// The events of a response after so many of them.
pub(super) async fn follow(
    app: &App,
    principal: &Principal,
    id: &str,
    num_seen: u64,
) -> Result<Response, ApiError> {
    app.replays.follow(&principal.key_id, id)?.begun_after(("starting_after", num_seen)).await
}

/// Cancels a response, if it is not made already.
pub(super) async fn cancel(
    app: &App,
    principal: &Principal,
    id: &str,
) -> Result<ResponseObject, ApiError> {
    let owner = &principal.key_id;
    let Stored { mut response, input } = load(app, principal, id).await?;
    if !response.background {
        let message = "only a response that is made in the background can be cancelled";
        return Err(ApiError::invalid("id", "invalid_value", message));
    }
    if !response.is_unfinished() {
        return Ok(response);
    }
    app.replays.cancel(owner, id, &ApiError::Cancelled);
    response.status = "cancelled".into();
    if app.responses.finish(owner, &response, &input).await? {
        return Ok(response);
    }
    // It has just ended.
    Ok(load(app, principal, id).await?.response)
}
