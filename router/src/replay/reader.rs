//! Someone who gets a recorded answer: who asked for it, or who came back.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::HeaderValue;
use http::header::HeaderName;
use tokio::sync::watch;
use tokio::time::timeout;

use super::Error;
use super::log::Next;
use super::recording::{Recording, is_event_stream};
use crate::error::{ApiError, anthropic};

/// A write has at most so many bytes, unless one event has more.
const MAX_WRITE_BYTES: usize = 16 << 10;

/// Counts as a reader of its recording until it is dropped.
pub(crate) struct Reader {
    recording: Arc<Recording>,
    news: watch::Receiver<()>,
    wording: Wording,
    keep_alive: Duration,
}

/// How an error is worded in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wording {
    OpenAi,
    Anthropic,
}

/// A reader on its way through a stream.
struct Cursor {
    reader: Reader,
    /// The number of the last event that it was given.
    last: u64,
    is_over: bool,
}

impl Reader {
    pub(super) fn new(
        recording: Arc<Recording>,
        (wording, keep_alive): (Wording, Duration),
    ) -> Self {
        recording.attach();
        let news = recording.news();
        let keep_alive = keep_alive.max(Duration::from_millis(1));
        Self { recording, news, wording, keep_alive }
    }

    /// The whole answer, as soon as it begins; one that is not streamed, as soon as it is there.
    pub(crate) async fn answer(mut self) -> Result<Response, ApiError> {
        loop {
            self.news.borrow_and_update();
            let has_ended = self.recording.has_ended();
            match self.recording.head() {
                Some(head) if is_event_stream(&head) => {
                    let (num_dropped, _) = self.recording.kept();
                    let is_gone = num_dropped > 0;
                    return if is_gone {
                        Err(Error::AnswerGone.into())
                    } else {
                        self.events_after(0)
                    };
                }
                Some(head) if has_ended => {
                    let body = match self.recording.after(0, usize::MAX) {
                        Next::Events(bytes, _) => Body::from(bytes),
                        Next::Nothing => Body::empty(),
                        Next::Dropped => return Err(Error::AnswerGone.into()),
                    };
                    return Ok(Response::from_parts(head, body));
                }
                None if has_ended => return Err(ApiError::Internal),
                Some(_) | None => {}
            }
            if self.news.changed().await.is_err() {
                return Err(ApiError::Internal);
            }
        }
    }

    /// The events after the one of this number, as soon as there are any; an answer that is no
    /// stream, whole. `param` names the number in errors.
    pub(crate) async fn begun_after(
        mut self,
        (param, number): (&str, u64),
    ) -> Result<Response, ApiError> {
        loop {
            self.news.borrow_and_update();
            match self.recording.head() {
                Some(head) if is_event_stream(&head) => return self.after((param, number)),
                Some(_) => return self.answer().await,
                None if self.recording.has_ended() => return Err(ApiError::Internal),
                None => {}
            }
            if self.news.changed().await.is_err() {
                return Err(ApiError::Internal);
            }
        }
    }

    /// The events after the one of this number.
    pub(crate) fn events_after(self, number: u64) -> Result<Response, ApiError> {
        self.after(("after", number))
    }

    fn after(self, (param, number): (&str, u64)) -> Result<Response, ApiError> {
        const X_STREAM_ID: HeaderName = HeaderName::from_static("x-stream-id");
        let Some(mut head) = self.recording.head() else { return Err(ApiError::Internal) };
        let (num_dropped, last) = self.recording.kept();
        if number < num_dropped {
            return Err(Error::EventsGone { num_dropped }.into());
        }
        if number > last {
            let message =
                format!("`{param}` is beyond the {last} events that the stream has so far");
            return Err(ApiError::invalid(param, "integer_above_max_value", message));
        }
        if let Ok(id) = HeaderValue::from_str(&self.recording.id) {
            head.headers.insert(X_STREAM_ID, id);
        }
        let cursor = Cursor { reader: self, last: number, is_over: false };
        let events = futures::stream::unfold(cursor, |mut cursor| async {
            cursor.next().await.map(|bytes| (Ok::<_, Infallible>(bytes), cursor))
        });
        Ok(Response::from_parts(head, Body::from_stream(events)))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.recording.detach();
    }
}

impl Cursor {
    async fn next(&mut self) -> Option<Bytes> {
        if self.is_over {
            return None;
        }
        loop {
            let Reader { recording, news, wording, keep_alive } = &mut self.reader;
            news.borrow_and_update();
            let has_ended = recording.has_ended();
            match recording.after(self.last, MAX_WRITE_BYTES) {
                Next::Events(bytes, last) => {
                    self.last = last;
                    return Some(bytes.into());
                }
                // Another reader is faster, and the buffer holds no more.
                Next::Dropped => {
                    self.is_over = true;
                    return Some(wording.write(&Error::FellBehind.into()).into());
                }
                Next::Nothing if has_ended => return None,
                Next::Nothing => {}
            }
            match timeout(*keep_alive, news.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return None,
                Err(_) => return Some(Bytes::from_static(b": \n\n")),
            }
        }
    }
}

impl Wording {
    /// Of the API that a path belongs to.
    pub(crate) fn of(path: &str) -> Self {
        if path.starts_with("/v1/messages") { Self::Anthropic } else { Self::OpenAi }
    }

    pub(super) fn write(self, error: &ApiError) -> String {
        match self {
            Self::OpenAi => format!("data: {}\n\n", error.body()),
            Self::Anthropic => format!("event: error\ndata: {}\n\n", anthropic::body(error)),
        }
    }
}
