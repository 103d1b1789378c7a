//! Takes a request's body in: its type, its size and its time are checked here, once, so that a
//! handler gets all of it or never runs.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
use http_body_util::BodyExt;
use tokio::time::timeout;

use crate::app::App;
use crate::error::refusal::Refusal;

/// What is set aside for a body before any of it has come, whatever it says its length is.
const FIRST_BYTES: usize = 64 << 10;

/// The layer of routes that take JSON.
pub(super) async fn receive(State(app): State<App>, request: Request, next: Next) -> Response {
    let limits = &app.config.limits;
    let (parts, body) = request.into_parts();
    let received = match check_head(&parts.headers, limits.max_body_bytes) {
        Ok(expected) => {
            let collected = collect(body, expected, limits.max_body_bytes);
            let late = Refusal::BodyTimeout(limits.body_timeout);
            timeout(limits.body_timeout, collected).await.unwrap_or(Err(late))
        }
        Err(refusal) => Err(refusal),
    };
    match received {
        Ok(bytes) => next.run(Request::from_parts(parts, Body::from(bytes))).await,
        Err(refusal) => refuse(refusal),
    }
}

/// The layer of routes without a body: a body that comes anyway is not read.
pub(super) async fn ignore(request: Request, next: Next) -> Response {
    next.run(request.map(|_| Body::empty())).await
}

/// The rest of the body is not worth reading, so the connection ends with the answer.
fn refuse(refusal: Refusal) -> Response {
    use axum::response::IntoResponse;
    let mut response = refusal.into_response();
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Returns the length that the client announces.
fn check_head(headers: &HeaderMap, max: usize) -> Result<usize, Refusal> {
    let identity = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    if !headers.get_all(CONTENT_ENCODING).iter().all(identity) {
        return Err(Refusal::ContentEncoding);
    }
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    match (types.next(), types.next()) {
        (Some(one), None) if is_json(one) => {}
        _ => return Err(Refusal::MediaType),
    }
    // hyper has refused a length that is not a number, and two that differ.
    let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    match length.map(str::parse::<usize>) {
        Some(Ok(length)) if length <= max => Ok(length),
        Some(_) => Err(Refusal::BodyTooLarge(max)),
        None => Ok(0),
    }
}

/// `application/json` and `application/<something>+json`, with any parameters.
fn is_json(value: &HeaderValue) -> bool {
    let Ok(value) = value.to_str() else { return false };
    let essence = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.strip_prefix("application/") {
        Some(subtype) => subtype == "json" || subtype.ends_with("+json"),
        None => false,
    }
}

async fn collect(mut body: Body, expected: usize, max: usize) -> Result<Bytes, Refusal> {
    let mut bytes = BytesMut::with_capacity(expected.min(FIRST_BYTES));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Refusal::BodyUnreadable)?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > max {
            return Err(Refusal::BodyTooLarge(max));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_json_is_json() {
        for yes in ["application/json", "Application/JSON; charset=utf-8", "application/x+json"] {
            assert!(is_json(&HeaderValue::from_static(yes)), "{yes}");
        }
        for no in ["text/plain", "text/json", "application/jsonp", "application/", "json", ""] {
            assert!(!is_json(&HeaderValue::from_static(no)), "{no}");
        }
    }
}
