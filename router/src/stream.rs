//! A streamed answer: server-sent events, written as tokens arrive.
//!
//! The rules that clients depend on: only `data:` lines and comments; every chunk has the same id and
//! all its keys; a completion's role comes once, in its first chunk, and its finish reason once, in
//! its last; an error is an event; `[DONE]` is followed by the end of the body at once.

mod body;
mod frames;
#[cfg(test)]
mod tests;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};

use crate::config::Limits;
use crate::error::ApiError;
use crate::generation::TextStream;

pub use body::EventBody;
pub use frames::{Dialect, Frames, Head, Merge, ReportUsage};

/// Answers with events. The response is held back until the first token, so that what fails before
/// it is an error that clients can retry; but not longer than `hold_headers`.
pub(crate) async fn respond(
    mut stream: TextStream,
    frames: Frames,
    limits: &Limits,
) -> Result<Response, ApiError> {
    let first = match tokio::time::timeout(limits.hold_headers, stream.next()).await {
        Ok(Some(first)) => Some(first?),
        // Nothing to generate: every request has at least one completion.
        Ok(None) => return Err(ApiError::Internal),
        Err(_) => None,
    };
    let body = EventBody::new(stream, frames, (first, limits.keep_alive));
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    Ok((headers, Body::new(body)).into_response())
}
