//! What surrounds every request: its id, its span, its metrics, and the net under its handler.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::Body;
use axum::extract::{MatchedPath, Request};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::FutureExt;
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tracing::{Instrument, Span, field};

use crate::api::models::asks_as_anthropic;
use crate::error::anthropic;
use crate::error::refusal::Refusal;
use crate::metrics;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const MAX_ID_BYTES: usize = 128;
/// The route of a request that matched none.
const NO_ROUTE: &str = "none";

/// The id of a request, as its answer's `x-request-id` says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(pub Arc<str>);

impl RequestId {
    /// The client's id when it is one that can be logged, or else a new one.
    fn of(headers: &HeaderMap) -> Self {
        let fits = |id: &&HeaderValue| {
            let bytes = id.as_bytes();
            (1..=MAX_ID_BYTES).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
        };
        let sent = headers.get(X_REQUEST_ID).filter(fits).and_then(|id| id.to_str().ok());
        let minted = || format!("req_{}", uuid::Uuid::now_v7().simple());
        Self(sent.map_or_else(minted, str::to_owned).into())
    }
}

/// The outermost layer.
pub(super) async fn request(mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = RequestId::of(request.headers());
    let matched = request.extensions().get::<MatchedPath>();
    let route: Arc<str> = matched.map_or(NO_ROUTE, MatchedPath::as_str).into();
    let span = tracing::info_span!(
        "request",
        id = %id.0,
        method = %method_name(request.method()),
        route = %route,
        status = field::Empty,
        duration_ms = field::Empty,
    );
    request.extensions_mut().insert(id.clone());
    let is_anthropics = is_anthropics(request.uri().path(), request.headers());

    let answer = AssertUnwindSafe(next.run(request)).catch_unwind().instrument(span.clone()).await;
    let mut response = answer.unwrap_or_else(|_| {
        // The panic hook has logged the message and the place.
        span.in_scope(|| tracing::error!("a handler panicked"));
        Refusal::Internal.into_response()
    });

    if is_anthropics {
        response = anthropic::translate(response, &id.0);
    }
    if let Ok(value) = HeaderValue::from_str(&id.0) {
        response.headers_mut().insert(X_REQUEST_ID, value);
    }
    let status = response.status().as_u16();
    span.record("status", status);
    metrics::http_answered(&route, status);
    response.map(|body| Body::new(Observed { body, span, route, started }))
}

/// Whether a request is one to Anthropic's API, known here or not.
fn is_anthropics(path: &str, headers: &HeaderMap) -> bool {
    let is_under = |root| {
        let rest = path.strip_prefix(root);
        rest.is_some_and(|rest: &str| rest.is_empty() || rest.starts_with('/'))
    };
    is_under("/v1/messages") || (is_under("/v1/models") && asks_as_anthropic(headers))
}

/// A method of HTTP, or a word for all others: a client can't choose what is logged.
fn method_name(method: &http::Method) -> &str {
    const KNOWN: [&str; 9] =
        ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT"];
    KNOWN.into_iter().find(|known| *known == method.as_str()).unwrap_or("other")
}

/// A body that keeps its request's span open until it has been sent or dropped.
struct Observed {
    body: Body,
    span: Span,
    route: Arc<str>,
    started: Instant,
}

impl HttpBody for Observed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        let _entered = this.span.enter();
        Pin::new(&mut this.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        let took = self.started.elapsed();
        self.span.record("duration_ms", took.as_secs_f64() * 1e3);
        self.span.in_scope(|| tracing::debug!("answered"));
        metrics::http_ended(&self.route, took);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_for(sent: &[u8]) -> RequestId {
        let mut headers = HeaderMap::new();
        headers.insert(X_REQUEST_ID, HeaderValue::from_bytes(sent).unwrap());
        RequestId::of(&headers)
    }

    #[test]
    fn a_clients_id_is_kept_when_it_can_be_logged() {
        assert_eq!(&*id_for(b"trace-1/a").0, "trace-1/a");
        assert_eq!(id_for(&[b'a'; 128]).0.len(), 128);

        for unfit in [&b""[..], b"two words", b"tab\there", "ü".as_bytes(), &[b'a'; 129]] {
            assert!(id_for(unfit).0.starts_with("req_"), "{unfit:?}");
        }
    }

    #[test]
    fn minted_ids_differ_and_sort_by_time() {
        let first = RequestId::of(&HeaderMap::new());
        let second = RequestId::of(&HeaderMap::new());

        assert!(first.0 < second.0);
    }
}
