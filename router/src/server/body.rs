//! Takes a request's body in: its type, its size and its time are checked here, once, so that a
//! handler gets all of it or never runs.

mod paced;

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
use crate::config::Limits;
use crate::error::refusal::Refusal;
use paced::{Pace, Paced};

/// What is set aside for a body before any of it has come, whatever it says its length is.
const FIRST_BYTES: usize = 64 << 10;

/// What a form has beside its file.
const FORM_BYTES: u64 = 64 << 10;

/// The layer of routes that take JSON.
pub(super) async fn receive(State(app): State<App>, request: Request, next: Next) -> Response {
    let limits = &app.config.limits;
    let (parts, body) = request.into_parts();
    let received = match check_head(&parts.headers, is_json, limits.max_body_bytes) {
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

/// The layer of routes that take a form with a file: its handler reads it as it comes.
pub(super) async fn pass(State(app): State<App>, request: Request, next: Next) -> Response {
    let Limits { body_timeout, .. } = app.config.limits;
    let files = &app.config.files;
    let max_bytes = usize::try_from(files.max_file_bytes + FORM_BYTES).unwrap_or(usize::MAX);
    let pace = Pace { max_bytes, max_pause: body_timeout, max_time: files.upload_timeout };
    let (parts, body) = request.into_parts();
    if let Err(refusal) = check_head(&parts.headers, is_form, max_bytes) {
        return refuse(refusal);
    }
    let (body, outcome) = Paced::new(body, pace);
    let mut answer = next.run(Request::from_parts(parts, Body::new(body))).await;
    match outcome.of() {
        Some(Ok(())) => answer,
        // What the handler made of it is of no use to the client.
        Some(Err(refusal)) => refuse(refusal),
        None => {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            answer
        }
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
fn check_head(
    headers: &HeaderMap,
    fits: fn(&HeaderValue) -> Result<(), Refusal>,
    max: usize,
) -> Result<usize, Refusal> {
    let identity = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    if !headers.get_all(CONTENT_ENCODING).iter().all(identity) {
        return Err(Refusal::ContentEncoding);
    }
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let none = HeaderValue::from_static("");
    match (types.next(), types.next()) {
        (Some(one), None) => fits(one)?,
        _ => fits(&none)?,
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
fn is_json(value: &HeaderValue) -> Result<(), Refusal> {
    let essence = essence(value);
    match essence.strip_prefix("application/") {
        Some(subtype) if subtype == "json" || subtype.ends_with("+json") => Ok(()),
        _ => Err(Refusal::MediaType),
    }
}

/// `multipart/form-data`, with any parameters.
fn is_form(value: &HeaderValue) -> Result<(), Refusal> {
    if essence(value) == "multipart/form-data" { Ok(()) } else { Err(Refusal::NotForm) }
}

/// A media type without its parameters.
fn essence(value: &HeaderValue) -> String {
    let value = value.to_str().unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
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
            assert_eq!(is_json(&HeaderValue::from_static(yes)), Ok(()), "{yes}");
        }
        for no in ["text/plain", "text/json", "application/jsonp", "application/", "json", ""] {
            let refused = Err(Refusal::MediaType);
            assert_eq!(is_json(&HeaderValue::from_static(no)), refused, "{no}");
        }
    }

    #[test]
    fn only_a_form_is_a_form() {
        let form = HeaderValue::from_static("Multipart/Form-Data; boundary=b");
        assert_eq!(is_form(&form), Ok(()));
        for no in ["multipart/mixed; boundary=b", "application/json", ""] {
            let refused = Err(Refusal::NotForm);
            assert_eq!(is_form(&HeaderValue::from_static(no)), refused, "{no}");
        }
    }
}
