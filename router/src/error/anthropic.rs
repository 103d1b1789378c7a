//! Errors as Anthropic's API words them, with the statuses of OpenAI's.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{CONTENT_LENGTH, HeaderName, HeaderValue};
use serde_json::{Value, json};

use super::ApiError;

/// What went wrong: kept with an answer for the API that words it otherwise.
#[derive(Clone)]
pub(super) struct Failure(pub(super) String);

/// The body of an error that comes after the answer's head.
pub(crate) fn body(error: &ApiError) -> Value {
    report(error.shape().status, &error.to_string())
}

/// Makes an answer one of Anthropic's: its error body, and the name of its request's id.
pub(crate) fn translate(mut response: Response, request_id: &str) -> Response {
    const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");
    if let Some(Failure(message)) = response.extensions_mut().remove() {
        let mut body = report(response.status(), &message);
        body["request_id"] = request_id.into();
        let (mut head, _) = response.into_parts();
        head.headers.remove(CONTENT_LENGTH);
        let (_, body) = Json(body).into_response().into_parts();
        response = Response::from_parts(head, body);
    }
    if let Ok(value) = HeaderValue::from_str(request_id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

fn report(status: StatusCode, message: &str) -> Value {
    json!({ "type": "error", "error": { "type": kind(status), "message": message } })
}

fn kind(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::FORBIDDEN => "permission_error",
        StatusCode::NOT_FOUND => "not_found_error",
        StatusCode::PAYLOAD_TOO_LARGE => "request_too_large",
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => "timeout_error",
        StatusCode::SERVICE_UNAVAILABLE => "overloaded_error",
        status if status.is_server_error() => "api_error",
        _ => "invalid_request_error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::refusal::Refusal;

    async fn translated(response: Response) -> Value {
        let body = translate(response, "req_1").into_body();
        let bytes = axum::body::to_bytes(body, 10_000).await.unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    #[tokio::test]
    async fn every_kind_of_failure_has_anthropics_shape() {
        for (response, kind) in [
            (Refusal::NoKey.into_response(), "authentication_error"),
            (Refusal::UnknownUrl.into_response(), "not_found_error"),
            (Refusal::BodyTooLarge(1).into_response(), "request_too_large"),
            (Refusal::MediaType.into_response(), "invalid_request_error"),
            (Refusal::KeysUnavailable.into_response(), "overloaded_error"),
            (Refusal::Internal.into_response(), "api_error"),
            (ApiError::Internal.into_response(), "api_error"),
            (ApiError::malformed("no JSON").into_response(), "invalid_request_error"),
            (ApiError::ModelNotFound { model: "m".into() }.into_response(), "not_found_error"),
            (
                ApiError::from(crate::dispatch::Error::QueueFull { max_queue: 1 }).into_response(),
                "rate_limit_error",
            ),
            (ApiError::from(crate::dispatch::Error::Deadline).into_response(), "timeout_error"),
        ] {
            let body = translated(response).await;
            assert_eq!(body["type"], "error");
            assert_eq!(body["error"]["type"], kind);
            assert!(body["error"]["message"].is_string());
            assert_eq!(body["request_id"], "req_1");
        }
    }

    #[tokio::test]
    async fn what_is_no_failure_stays_as_it_is() {
        assert_eq!(translated(Json(json!({"a": 1})).into_response()).await, json!({"a": 1}));
    }
}
