//! Every answer of the API that is not a success: status, OpenAI's error body, retry headers.
//! With [`refusal`] and [`anthropic`], the only files of the router that name HTTP statuses.

pub(crate) mod anthropic;
pub mod refusal;

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::header::{HeaderName, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use crate::api::reply::ErrorReport;
use crate::{dispatch, files, fleet, replay};

/// Longest message that a client is sent. What it quotes of the request may be long.
const MAX_MESSAGE_CHARS: usize = 400;

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
    /// Nothing of this name is served.
    #[error("the model `{model}` does not exist; GET /v1/models lists those that do")]
    ModelNotFound {
        /// As the client named it.
        model: String,
    },
    /// No replica of the model is ready, and no more requests may wait for one.
    #[error(
        "no worker serves the model `{model}` yet, and {max_held} requests are waiting for one"
    )]
    HoldFull {
        /// As the client named it.
        model: String,
        /// How many may wait.
        max_held: usize,
    },
    /// The model's own chat template does not compile.
    #[error("the chat template of the model `{model}` can't be used; /v1/completions still works")]
    BrokenTemplate {
        /// The model's name.
        model: String,
    },
    /// Nothing of this id is stored, or it is someone else's.
    #[error("there is no {what} with the id `{id}`")]
    NotFound {
        /// What it would be.
        what: &'static str,
        /// As the client named it.
        id: String,
    },
    /// What was to be stored, or read, could not be.
    #[error("what the server stores can't be read or written now")]
    Storage,
    /// The key has as many unfinished batches as it may.
    #[error("{max} batches are unfinished, and no more may be: wait for one, or cancel one")]
    TooManyBatches {
        /// The limit.
        max: u64,
    },
    /// A batch that is over, or about to be.
    #[error("the batch is {status}, and can't be cancelled any more")]
    NotCancellable {
        /// Its status.
        status: String,
    },
    /// Whoever asked for it, or another request of theirs, has cancelled it.
    #[error("the response was cancelled")]
    Cancelled,
    /// The server ended before the answer did.
    #[error("the server stopped before the response was complete")]
    Interrupted,
    /// A bug: something failed that no request can cause.
    #[error("the server failed to answer this request")]
    Internal,
    /// The generation could not start, or broke off.
    #[error(transparent)]
    Dispatch(#[from] dispatch::Error),
    /// Models can't be managed, or not so.
    #[error(transparent)]
    Fleet(#[from] fleet::Error),
    /// An answer can't be had again.
    #[error(transparent)]
    Replay(#[from] replay::Error),
    /// A file can't be stored or read, and the client can do something about it.
    #[error(transparent)]
    Files(files::Error),
}

impl From<files::Error> for ApiError {
    fn from(error: files::Error) -> Self {
        use files::Error;
        match error {
            Error::Nowhere
            | Error::NotFound { .. }
            | Error::TooLarge { .. }
            | Error::OverQuota { .. }
            | Error::TooManyUploads { .. }
            | Error::Contents(_)
            | Error::TookTooLong => Self::Files(error),
            Error::Unfinished
            | Error::Write(_)
            | Error::Store(_)
            | Error::Objects(_)
            | Error::Directory { .. }
            | Error::Exposed { .. } => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "stored files can't be used");
                Self::Storage
            }
        }
    }
}

/// One row of the table that every answer is made from.
struct Shape {
    status: StatusCode,
    kind: &'static str,
    code: &'static str,
    retry: Retry,
}

/// What a client is told about trying again. SDKs retry 408, 409, 429 and 5xx by themselves.
enum Retry {
    /// Nothing: the status says it.
    AsStatus,
    /// After so many seconds. SDKs ignore more than 60.
    After(u8),
    /// It would end the same way.
    Never,
}

impl ApiError {
    /// The parameter at `param` is wrong.
    pub fn invalid(
        param: impl Into<String>,
        code: &'static str,
        message: impl Into<String>,
    ) -> Self {
        let message = shorten(message.into());
        Self::Invalid { message, param: Some(shorten(param.into())), code }
    }

    /// Nothing of this id is there.
    pub(crate) fn not_found(what: &'static str, id: &str) -> Self {
        Self::NotFound { what, id: shorten(id.to_owned()) }
    }

    /// The body as a whole is wrong.
    pub fn malformed(message: impl Into<String>) -> Self {
        Self::Invalid { message: shorten(message.into()), param: None, code: "invalid_json" }
    }

    /// OpenAI's error body.
    pub fn body(&self) -> Value {
        json!({ "error": self.report() })
    }

    /// What is wrong, in OpenAI's words.
    pub(crate) fn report(&self) -> ErrorReport {
        let Shape { kind, code, .. } = self.shape();
        let param = match self {
            Self::Invalid { param, .. } => param.as_deref(),
            Self::ModelNotFound { .. } => Some("model"),
            Self::Dispatch(dispatch::Error::BadWord) => Some("bad_words"),
            Self::Replay(replay::Error::KeyReused) => Some("idempotency-key"),
            Self::Replay(replay::Error::EventsGone { .. }) => Some("after"),
            Self::Fleet(fleet::Error::NotFound(_) | fleet::Error::Invalid(_)) => Some("model"),
            Self::Files(files::Error::TooLarge { .. } | files::Error::OverQuota { .. }) => {
                Some("file")
            }
            Self::NotFound { .. }
            | Self::Files(_)
            | Self::Fleet(_)
            | Self::HoldFull { .. }
            | Self::BrokenTemplate { .. }
            | Self::Internal
            | Self::Storage
            | Self::TooManyBatches { .. }
            | Self::NotCancellable { .. }
            | Self::Cancelled
            | Self::Interrupted
            | Self::Dispatch(_)
            | Self::Replay(_) => None,
        };
        ErrorReport {
            message: self.to_string(),
            kind: kind.into(),
            param: param.map(Into::into),
            code: Some(code.into()),
        }
    }

    fn shape(&self) -> Shape {
        use dispatch::Error;
        const REQUEST: &str = "invalid_request_error";
        const SERVER: &str = "server_error";
        let (status, kind, code, retry) = match self {
            Self::Invalid { code, .. } => {
                (StatusCode::BAD_REQUEST, REQUEST, *code, Retry::AsStatus)
            }
            Self::ModelNotFound { .. } => {
                (StatusCode::NOT_FOUND, REQUEST, "model_not_found", Retry::AsStatus)
            }
            Self::HoldFull { .. } => (
                StatusCode::SERVICE_UNAVAILABLE,
                "service_unavailable_error",
                "model_unavailable",
                Retry::After(2),
            ),
            Self::NotFound { .. } => (StatusCode::NOT_FOUND, REQUEST, "not_found", Retry::AsStatus),
            Self::Storage => (
                StatusCode::SERVICE_UNAVAILABLE,
                "service_unavailable_error",
                "storage_unavailable",
                Retry::After(2),
            ),
            Self::TooManyBatches { .. } => (
                StatusCode::TOO_MANY_REQUESTS,
                "rate_limit_error",
                "too_many_batches",
                Retry::After(60),
            ),
            Self::NotCancellable { .. } => {
                (StatusCode::CONFLICT, REQUEST, "batch_not_cancellable", Retry::Never)
            }
            Self::Cancelled => (StatusCode::CONFLICT, REQUEST, "response_cancelled", Retry::Never),
            Self::Interrupted => {
                (StatusCode::INTERNAL_SERVER_ERROR, SERVER, "interrupted", Retry::Never)
            }
            Self::BrokenTemplate { .. } => {
                (StatusCode::INTERNAL_SERVER_ERROR, SERVER, "broken_template", Retry::Never)
            }
            Self::Internal => {
                (StatusCode::INTERNAL_SERVER_ERROR, SERVER, "internal_error", Retry::AsStatus)
            }
            Self::Dispatch(Error::NoWorker { .. }) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "service_unavailable_error",
                "model_unavailable",
                Retry::After(2),
            ),
            Self::Dispatch(Error::Stopping) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "service_unavailable_error",
                "server_stopping",
                Retry::After(1),
            ),
            Self::Dispatch(Error::QueueFull { .. }) => {
                (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "queue_full", Retry::After(1))
            }
            Self::Dispatch(Error::Deadline) => {
                let status = StatusCode::GATEWAY_TIMEOUT;
                (status, "timeout_error", "deadline_exceeded", Retry::AsStatus)
            }
            Self::Dispatch(Error::Grammar(_)) => {
                (StatusCode::BAD_REQUEST, REQUEST, "invalid_grammar", Retry::AsStatus)
            }
            Self::Dispatch(Error::GrammarLimit) => {
                (StatusCode::BAD_REQUEST, REQUEST, "grammar_too_complex", Retry::AsStatus)
            }
            Self::Dispatch(Error::BadWord) => {
                (StatusCode::BAD_REQUEST, REQUEST, "no_token_left", Retry::AsStatus)
            }
            Self::Dispatch(Error::Refused(_)) => {
                (StatusCode::BAD_REQUEST, REQUEST, "request_refused", Retry::AsStatus)
            }
            Self::Dispatch(Error::WorkerLost) => {
                (StatusCode::BAD_GATEWAY, SERVER, "worker_lost", Retry::After(1))
            }
            Self::Replay(error) => return error.into(),
            Self::Files(error) => return error.into(),
            Self::Fleet(error) => return error.into(),
        };
        Shape { status, kind, code, retry }
    }
}

impl From<&fleet::Error> for Shape {
    fn from(error: &fleet::Error) -> Self {
        use fleet::Error;
        const REQUEST: &str = "invalid_request_error";
        let (status, kind, code, retry) = match error {
            Error::NoLauncher => {
                (StatusCode::NOT_IMPLEMENTED, "not_supported_error", "no_launcher", Retry::Never)
            }
            Error::Unreachable => (
                StatusCode::SERVICE_UNAVAILABLE,
                "service_unavailable_error",
                "launcher_unavailable",
                Retry::After(2),
            ),
            Error::NotFound(_) => {
                (StatusCode::NOT_FOUND, REQUEST, "model_not_found", Retry::AsStatus)
            }
            Error::Conflict(_) => (StatusCode::CONFLICT, REQUEST, "model_conflict", Retry::Never),
            Error::DoesNotFit(_) => {
                (StatusCode::CONFLICT, REQUEST, "model_does_not_fit", Retry::Never)
            }
            Error::Invalid(_) => {
                (StatusCode::BAD_REQUEST, REQUEST, "invalid_value", Retry::AsStatus)
            }
            Error::Busy => (
                StatusCode::TOO_MANY_REQUESTS,
                "rate_limit_error",
                "too_many_operations",
                Retry::After(1),
            ),
            Error::Failed(_) => {
                (StatusCode::BAD_GATEWAY, "server_error", "launcher_failed", Retry::Never)
            }
        };
        Self { status, kind, code, retry }
    }
}

impl From<&files::Error> for Shape {
    fn from(error: &files::Error) -> Self {
        use files::Error;
        const REQUEST: &str = "invalid_request_error";
        let (status, kind, code, retry) = match error {
            Error::Nowhere => {
                (StatusCode::NOT_IMPLEMENTED, "not_supported_error", "no_files", Retry::Never)
            }
            Error::NotFound { .. } => {
                (StatusCode::NOT_FOUND, REQUEST, "not_found", Retry::AsStatus)
            }
            Error::TooLarge { .. } => {
                (StatusCode::PAYLOAD_TOO_LARGE, REQUEST, "file_too_large", Retry::AsStatus)
            }
            Error::OverQuota { .. } => {
                (StatusCode::BAD_REQUEST, REQUEST, "file_quota_exceeded", Retry::AsStatus)
            }
            Error::TooManyUploads { .. } => {
                let status = StatusCode::TOO_MANY_REQUESTS;
                (status, "rate_limit_error", "too_many_uploads", Retry::After(1))
            }
            Error::Contents(_) => {
                (StatusCode::BAD_REQUEST, REQUEST, "invalid_body", Retry::AsStatus)
            }
            Error::TookTooLong => {
                (StatusCode::REQUEST_TIMEOUT, "timeout_error", "request_timeout", Retry::Never)
            }
            Error::Unfinished
            | Error::Write(_)
            | Error::Store(_)
            | Error::Objects(_)
            | Error::Directory { .. }
            | Error::Exposed { .. } => (
                StatusCode::SERVICE_UNAVAILABLE,
                "service_unavailable_error",
                "storage_unavailable",
                Retry::After(2),
            ),
        };
        Self { status, kind, code, retry }
    }
}

impl From<&replay::Error> for Shape {
    fn from(error: &replay::Error) -> Self {
        use replay::Error;
        let (status, code, retry) = match error {
            Error::NoStream => (StatusCode::NOT_FOUND, "stream_not_found", Retry::AsStatus),
            Error::EventsGone { .. } => (StatusCode::GONE, "stream_events_gone", Retry::AsStatus),
            Error::FellBehind => (StatusCode::GONE, "stream_fell_behind", Retry::AsStatus),
            Error::KeyReused => {
                (StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused", Retry::AsStatus)
            }
            Error::AnswerGone => (StatusCode::CONFLICT, "idempotent_answer_gone", Retry::Never),
            Error::Full => (StatusCode::TOO_MANY_REQUESTS, "idempotency_full", Retry::After(1)),
        };
        let kind = match error {
            Error::Full => "rate_limit_error",
            Error::NoStream
            | Error::EventsGone { .. }
            | Error::FellBehind
            | Error::KeyReused
            | Error::AnswerGone => "invalid_request_error",
        };
        Self { status, kind, code, retry }
    }
}

impl Retry {
    fn headers(&self) -> HeaderMap {
        const X_SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
        let mut headers = HeaderMap::new();
        match self {
            Self::AsStatus => {}
            Self::After(seconds) => {
                headers.insert(RETRY_AFTER, HeaderValue::from(u16::from(*seconds)));
                headers.insert(X_SHOULD_RETRY, HeaderValue::from_static("true"));
            }
            Self::Never => {
                headers.insert(X_SHOULD_RETRY, HeaderValue::from_static("false"));
            }
        }
        headers
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let Shape { status, retry, .. } = self.shape();
        let mut response = (status, retry.headers(), Json(self.body())).into_response();
        response.extensions_mut().insert(anthropic::Failure(self.to_string()));
        response
    }
}

fn shorten(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(MAX_MESSAGE_CHARS) {
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<ApiError> {
        vec![
            ApiError::invalid("n", "integer_above_max_value", "`n` is 9 and may be at most 8"),
            ApiError::malformed("not JSON"),
            ApiError::ModelNotFound { model: "m".into() },
            ApiError::BrokenTemplate { model: "m".into() },
            ApiError::NotFound { what: "response", id: "r".into() },
            ApiError::Storage,
            ApiError::TooManyBatches { max: 1 },
            ApiError::NotCancellable { status: "completed".into() },
            ApiError::Cancelled,
            ApiError::Interrupted,
            ApiError::Internal,
            dispatch::Error::NoWorker { model: "m".into() }.into(),
            dispatch::Error::QueueFull { max_queue: 1 }.into(),
            dispatch::Error::Deadline.into(),
            dispatch::Error::Refused("too large".into()).into(),
            dispatch::Error::Grammar("no rule is called `a`".into()).into(),
            dispatch::Error::GrammarLimit.into(),
            dispatch::Error::BadWord.into(),
            dispatch::Error::WorkerLost.into(),
            dispatch::Error::Stopping.into(),
            replay::Error::NoStream.into(),
            replay::Error::EventsGone { num_dropped: 7 }.into(),
            replay::Error::FellBehind.into(),
            replay::Error::KeyReused.into(),
            replay::Error::AnswerGone.into(),
            replay::Error::Full.into(),
            files::Error::Nowhere.into(),
            files::Error::NotFound { id: "f".into() }.into(),
            files::Error::TooLarge { max_bytes: 1 }.into(),
            files::Error::OverQuota { max_bytes: 1, max_files: 1 }.into(),
            files::Error::TooManyUploads { max: 1 }.into(),
            files::Error::Contents("broken".into()).into(),
            files::Error::TookTooLong.into(),
            files::Error::Unfinished.into(),
        ]
    }

    #[test]
    fn every_body_has_the_four_keys_of_openai() {
        for error in all() {
            let body = error.body();
            let keys: Vec<_> = body["error"].as_object().unwrap().keys().cloned().collect();
            assert_eq!(keys.len(), 4, "{keys:?}");
            assert!(body["error"]["message"].is_string() && body["error"]["code"].is_string());
        }
    }

    #[test]
    fn overload_says_when_to_come_back_within_a_minute() {
        for error in all() {
            let response = error.into_response();
            let after = response.headers().get(RETRY_AFTER);
            let after = after.map(|value| value.to_str().unwrap().parse::<u32>().unwrap());
            assert!(after.is_none_or(|seconds| (1..=60).contains(&seconds)));
            if matches!(response.status().as_u16(), 429 | 503) {
                assert!(after.is_some(), "{}", response.status());
            }
        }
    }

    #[test]
    fn what_a_message_quotes_is_cut() {
        let error = ApiError::invalid("stop", "invalid_type", "é".repeat(1_000_000));
        assert!(error.to_string().len() < 2 * MAX_MESSAGE_CHARS + 8);
    }
}
