//! A streamed answer: server-sent events, written as tokens arrive.
//!
//! The rules that OpenAI's clients depend on: only `data:` lines and comments; every chunk has the same id and
//! all its keys; a completion's role comes once, in its first chunk, and its finish reason once, in
//! its last; an error is an event; `[DONE]` is followed by the end of the body at once.

mod body;
mod frames;
mod messages;
mod responses;
#[cfg(test)]
mod tests;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use futures::future::BoxFuture;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};

use crate::config::Limits;
use crate::error::ApiError;
use crate::generation::{Delta, TextStream, TokenUsage};

pub use body::EventBody;
pub use frames::{Dialect, Frames, Head, ReportUsage};
pub(crate) use messages::MessageEvents;
pub(crate) use responses::{ResponseEvents, Save};

/// Whether a text may join the event before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merge {
    /// Every text is an event of its own.
    Never,
    /// It joins an event that is still open, of the same choice.
    IfOpen,
}

/// How an API writes the events of one answer.
pub trait Events {
    /// Opens every completion, in order, before the first delta.
    fn opening(&mut self, out: &mut Vec<u8>, num_choices: u32, usage: TokenUsage);

    /// Writes a delta. Its last text event stays open, to be closed or merged with.
    fn delta(&mut self, out: &mut Vec<u8>, delta: &Delta, how: (TokenUsage, Merge));

    /// Closes the text event that may still be open.
    fn close(&mut self, out: &mut Vec<u8>, usage: TokenUsage);

    /// What must happen before the answer may end, by itself or with an error, if anything.
    fn settle(
        &mut self,
        end: Result<(), &ApiError>,
        usage: TokenUsage,
    ) -> Option<BoxFuture<'static, Result<(), ApiError>>> {
        let _ = (end, usage);
        None
    }

    /// Ends the answer.
    fn done(&mut self, out: &mut Vec<u8>, usage: TokenUsage);

    /// Ends the answer with an error.
    fn error(&mut self, out: &mut Vec<u8>, error: &ApiError, usage: TokenUsage);

    /// Says that the answer is being worked on.
    fn keep_alive(&mut self, out: &mut Vec<u8>);
}

/// Answers with events. The response is held back until the first token, so that what fails before
/// it is an error that clients can retry; but not longer than `hold_headers`.
pub(crate) async fn respond(
    mut stream: TextStream,
    events: impl Events + Send + Unpin + 'static,
    limits: &Limits,
) -> Result<Response, ApiError> {
    let first = match tokio::time::timeout(limits.hold_headers, stream.next()).await {
        Ok(Some(first)) => Some(first?),
        // Nothing to generate: every request has at least one completion.
        Ok(None) => return Err(ApiError::Internal),
        Err(_) => None,
    };
    let body = EventBody::new(stream, events, (first, limits.keep_alive));
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    Ok((headers, Body::new(body)).into_response())
}
