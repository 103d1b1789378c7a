//! The layer of routes whose answers can be kept.

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::HeaderValue;
use http::header::HeaderName;
use sha2::{Digest as _, Sha256};

use super::key::{Asked, Scope};
use super::recording::is_event_stream;
use super::{Once, Recipient, Wording};
use crate::app::{App, Principal};
use crate::error::ApiError;
use crate::metrics;

/// Keeps the answer to a request that asks for it.
pub(crate) async fn keep(
    State(app): State<App>,
    principal: Principal,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let wording = Wording::of(request.uri().path());
    let recipient = Recipient { owner: principal.key_id, wording, once: None };
    match Asked::read(request.headers())? {
        Asked::Nothing => Ok(next.run(request).await),
        Asked::Resumable => {
            // Until there is an answer, nobody could come back for it: it ends with its connection.
            let (head, body) = next.run(request).await.into_parts();
            let is_stream = is_event_stream(&head);
            let response = Response::from_parts(head, body);
            if !is_stream {
                return Ok(response);
            }
            match app.replays.stream(recipient, response) {
                Ok(reader) => reader.answer().await,
                Err(response) => Ok(*response),
            }
        }
        Asked::Once(key) => once(&app, (recipient, key), (request, next)).await,
    }
}

async fn once(
    app: &App,
    (mut recipient, key): (Recipient, String),
    (request, next): (Request, Next),
) -> Result<Response, ApiError> {
    const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
    let (head, body) = request.into_parts();
    // It has been received, and its size was checked.
    let body = to_bytes(body, usize::MAX).await.map_err(|_| ApiError::Internal)?;
    let owner = recipient.owner.clone();
    let scope = Scope { owner, path: head.uri.path().to_owned(), key };
    recipient.once = Some((scope, Sha256::digest(&body).into()));
    let request = Request::from_parts(head, Body::from(body));
    match app.replays.once(recipient, move || next.run(request))? {
        Once::First(reader) => reader.answer().await,
        Once::Repeated(reader) => {
            metrics::replayed();
            let mut response = reader.answer().await?;
            response.headers_mut().insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
            Ok(response)
        }
    }
}
