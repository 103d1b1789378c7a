//! What the server itself refuses, before or beside any handler. A closed set: nothing of the
//! request is repeated, so an answer can't carry a key, a path or an address.

use std::time::Duration;

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::header::{HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, StatusCode};
use serde_json::json;

use super::anthropic::Failure;

/// Why the server does not hand a request to its handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No route has this path.
    #[error("there is nothing at this URL; the endpoints are listed at /docs")]
    UnknownUrl,
    /// The path exists, the method doesn't.
    #[error("this URL does not support the request's method; see the `allow` header")]
    Method,
    /// The request line or the `Host` header is not one of a request to this server.
    #[error("the request's target or its host header is malformed")]
    Target,
    /// The host is well-formed but not ours: what a rebound DNS name looks like.
    #[error("the host is not one this server answers for; see --allowed-host")]
    Host,
    /// The URI has more than so many bytes.
    #[error("the URL has more than {0} bytes")]
    UriTooLong(usize),
    /// The headers are too many or too long.
    #[error("the request has more than {max_headers} header fields or {max_bytes} bytes of them")]
    HeadersTooLarge {
        /// Limit of fields.
        max_headers: usize,
        /// Limit of bytes.
        max_bytes: usize,
    },
    /// The body has more than so many bytes.
    #[error("the request's body has more than {0} bytes")]
    BodyTooLarge(usize),
    /// The body did not arrive in time.
    #[error("the request's body did not arrive within {} s", .0.as_secs_f32())]
    BodyTimeout(Duration),
    /// The body broke off, or its framing is wrong.
    #[error("the request's body could not be read")]
    BodyUnreadable,
    /// The body is not declared as JSON.
    #[error("the body must be JSON, with `content-type: application/json`")]
    MediaType,
    /// The body is not declared as a form.
    #[error("the body must be a form, with `content-type: multipart/form-data` and its boundary")]
    NotForm,
    /// The body is compressed.
    #[error("compressed request bodies are not supported")]
    ContentEncoding,
    /// No API key was sent.
    #[error("an API key is needed, as `authorization: Bearer <key>` or `x-api-key: <key>`")]
    NoKey,
    /// The API key is unknown, malformed or revoked.
    #[error("the API key is not valid")]
    InvalidKey,
    /// The API key may use models, and not manage them.
    #[error("this needs an API key of the admin scope: `sconce keys create --admin` makes one")]
    NotAdmin,
    /// Different keys were sent in one request.
    #[error("the request carries more than one API key")]
    AmbiguousKey,
    /// The key is not known here and the database can't be asked.
    #[error("API keys can't be checked at the moment")]
    KeysUnavailable,
    /// A bug.
    #[error("the server failed to answer this request")]
    Internal,
}

/// A probe's answer when requests would not be served.
pub(crate) struct Unready<T>(pub(crate) T);

impl<T: IntoResponse> IntoResponse for Unready<T> {
    fn into_response(self) -> Response {
        (StatusCode::SERVICE_UNAVAILABLE, self.0).into_response()
    }
}

/// One row of the table that every answer is made from.
struct Shape {
    status: StatusCode,
    kind: &'static str,
    code: Option<&'static str>,
}

impl Refusal {
    fn shape(self) -> Shape {
        const REQUEST: &str = "invalid_request_error";
        let (status, kind, code) = match self {
            Self::UnknownUrl => (StatusCode::NOT_FOUND, REQUEST, Some("unknown_url")),
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, REQUEST, Some("method_not_supported")),
            Self::Target => (StatusCode::BAD_REQUEST, REQUEST, Some("invalid_target")),
            Self::Host => (StatusCode::BAD_REQUEST, REQUEST, Some("unknown_host")),
            Self::UriTooLong(_) => (StatusCode::URI_TOO_LONG, REQUEST, Some("url_too_long")),
            Self::HeadersTooLarge { .. } => {
                (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, REQUEST, Some("headers_too_large"))
            }
            Self::BodyTooLarge(_) => {
                (StatusCode::PAYLOAD_TOO_LARGE, REQUEST, Some("request_too_large"))
            }
            Self::BodyTimeout(_) => {
                (StatusCode::REQUEST_TIMEOUT, "timeout_error", Some("request_timeout"))
            }
            Self::BodyUnreadable => (StatusCode::BAD_REQUEST, REQUEST, Some("invalid_body")),
            Self::MediaType | Self::NotForm => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, REQUEST, Some("unsupported_media_type"))
            }
            Self::ContentEncoding => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, REQUEST, Some("unsupported_content_encoding"))
            }
            // As OpenAI answers: a code only for a key that is wrong.
            Self::NoKey => (StatusCode::UNAUTHORIZED, REQUEST, None),
            Self::InvalidKey => (StatusCode::UNAUTHORIZED, REQUEST, Some("invalid_api_key")),
            Self::NotAdmin => (StatusCode::FORBIDDEN, "permission_error", Some("admin_key_needed")),
            Self::AmbiguousKey => (StatusCode::BAD_REQUEST, REQUEST, Some("ambiguous_api_key")),
            Self::KeysUnavailable => (
                StatusCode::SERVICE_UNAVAILABLE,
                "service_unavailable_error",
                Some("keys_unavailable"),
            ),
            Self::Internal => {
                (StatusCode::INTERNAL_SERVER_ERROR, "server_error", Some("internal_error"))
            }
        };
        Shape { status, kind, code }
    }

    fn headers(self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        match self {
            Self::NoKey | Self::InvalidKey => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Self::KeysUnavailable => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            // A client that was too slow once would be again, with the whole body.
            Self::BodyTimeout(_) => {
                let name = HeaderName::from_static("x-should-retry");
                headers.insert(name, HeaderValue::from_static("false"));
            }
            _ => {}
        }
        headers
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Shape { status, kind, code } = self.shape();
        let body = json!({ "error": {
            "message": self.to_string(), "type": kind, "param": null, "code": code,
        }});
        let mut response = (status, self.headers(), Json(body)).into_response();
        response.extensions_mut().insert(Failure(self.to_string()));
        response
    }
}
