//! Every answer that is not a success: status, OpenAI's error body, retry headers. The one file
//! of the router that names HTTP statuses.

pub mod refusal;

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::json;

use crate::dispatch;

/// An error as a client sees it.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The request is wrong: what, where, and the limit.
    #[error("{message}")]
    Invalid {
        /// For the developer who reads it.
        message: String,
        /// Path of the parameter, such as `messages[0].role`.
        param: Option<String>,
        /// OpenAI's machine-readable code.
        code: &'static str,
    },
    /// The generation could not start.
    #[error(transparent)]
    Dispatch(#[from] dispatch::Error),
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, kind, param, code) = match &self {
            Self::Invalid { param, code, .. } => {
                (StatusCode::BAD_REQUEST, "invalid_request_error", param.clone(), *code)
            }
            Self::Dispatch(_) => {
                (StatusCode::SERVICE_UNAVAILABLE, "server_error", None, "unavailable")
            }
        };
        let body = json!({ "error": {
            "message": self.to_string(), "type": kind, "param": param, "code": code,
        }});
        (status, Json(body)).into_response()
    }
}
