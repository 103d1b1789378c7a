//! What can go wrong with a request, as far as a caller can tell it apart.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::sse::TooLong;

/// Why there is no answer, or no more of it.
///
/// None says what was asked or answered: prompts do not get into logs this way.
///
/// ```no_run
/// # async fn run(client: sconce_client::Client) {
/// use sconce_client::{ChatRequest, Error};
///
/// match client.chat(&ChatRequest::new("nobody").user("Hi")).await {
///     Ok(answer) => println!("{}", answer.text()),
///     Err(Error::Status { status: 404, error, .. }) => println!("no such model: {error}"),
///     // It was tried again already, as often and as late as the server and `Retries` said.
///     Err(error) if error.is_transient() => println!("later, perhaps: {error}"),
///     Err(error) => println!("never: {error}"),
/// }
/// # }
/// ```
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is not one of a web server.
    #[error("`{0}` is not an http or https URL")]
    Url(String),
    /// The key has what no header can carry.
    #[error("the API key has characters that no header can carry")]
    Key,
    /// The client can't be set up, or the request can't be written.
    #[error("can't make the request")]
    Request(#[source] reqwest::Error),
    /// A file of this machine can't be read.
    #[error("can't read {}", .path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The server can't be reached.
    #[error("can't reach the server")]
    Connect(#[source] reqwest::Error),
    /// The server did not say anything for too long.
    #[error("the server did not answer in time")]
    Timeout,
    /// The connection broke before the answer was whole.
    #[error("the connection broke before the answer was whole")]
    Interrupted(#[source] reqwest::Error),
    /// The answer ended without saying so.
    #[error("the stream ended without `[DONE]`")]
    Truncated,
    /// The server refused, with a status of 400 or above.
    #[error("{status}: {error}")]
    Status {
        /// The HTTP status.
        status: u16,
        /// What the server said.
        error: Box<ApiError>,
        /// When to try again, as the server has it.
        retry_after: Option<Duration>,
        /// What the server's log calls the request.
        request_id: Option<String>,
    },
    /// The server told of an error in the middle of a stream.
    #[error("{0}")]
    Stream(Box<ApiError>),
    /// An event of a stream, or a whole answer, is larger than the client takes.
    #[error("the answer has more than {limit} bytes in one piece")]
    TooLong {
        /// What the client takes, in bytes.
        limit: usize,
    },
    /// The answer is not what was asked for.
    #[error("the answer is not {expected}: see line {line}, column {column}")]
    Unexpected {
        /// What it should have been.
        expected: &'static str,
        /// Where in the answer or event that shows.
        line: usize,
        /// Where in that line.
        column: usize,
    },
}

/// An error as OpenAI's API tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// What went wrong, for people.
    #[serde(default)]
    pub message: String,
    /// The kind, such as `invalid_request_error`.
    #[serde(default, rename = "type")]
    pub kind: Option<String>,
    /// The parameter that it is about.
    #[serde(default)]
    pub param: Option<String>,
    /// A word for programs, such as `model_not_found`. Some servers send a number.
    #[serde(default, deserialize_with = "word")]
    pub code: Option<String>,
}

/// A code is text, a number, or nothing.
fn word<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(match serde_json::Value::deserialize(deserializer)? {
        serde_json::Value::String(text) => Some(text),
        serde_json::Value::Number(number) => Some(number.to_string()),
        _ => None,
    })
}

impl ApiError {
    /// Reads a body: OpenAI's shape, `{"error": {…}}`, or what else has a message in it.
    pub(crate) fn from_body(body: &[u8], status: u16) -> Self {
        #[derive(Deserialize)]
        struct Envelope {
            error: ApiError,
        }
        #[derive(Deserialize)]
        struct Plain {
            #[serde(alias = "error", alias = "detail")]
            message: String,
        }
        if let Ok(envelope) = serde_json::from_slice::<Envelope>(body) {
            return envelope.error;
        }
        let plain = serde_json::from_slice::<Plain>(body).map(|plain| plain.message);
        let message = plain.unwrap_or_else(|_| {
            let known = reqwest::StatusCode::from_u16(status).ok();
            let reason = known.and_then(|status| status.canonical_reason());
            reason.unwrap_or("the server refused").to_lowercase()
        });
        Self { message, ..Self::default() }
    }
}

impl Error {
    pub(crate) fn unexpected(expected: &'static str, error: &serde_json::Error) -> Self {
        Self::Unexpected { expected, line: error.line(), column: error.column() }
    }

    /// An error of a request whose answer had not begun.
    pub(crate) fn before(error: reqwest::Error) -> Self {
        let error = error.without_url();
        if error.is_timeout() {
            Self::Timeout
        } else if error.is_builder() {
            Self::Request(error)
        } else if error.is_connect() {
            Self::Connect(error)
        } else {
            Self::Interrupted(error)
        }
    }

    /// An error of an answer that had begun.
    pub(crate) fn within(error: reqwest::Error) -> Self {
        let error = error.without_url();
        if error.is_timeout() { Self::Timeout } else { Self::Interrupted(error) }
    }

    /// Whether the same request may do better, as OpenAI's own clients have it.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Timeout | Self::Interrupted(_) => true,
            Self::Status { status, .. } => matches!(status, 408 | 409 | 429 | 500..),
            Self::Url(_)
            | Self::Key
            | Self::Request(_)
            | Self::File { .. }
            | Self::Truncated
            | Self::Stream(_)
            | Self::TooLong { .. }
            | Self::Unexpected { .. } => false,
        }
    }

    /// One word for the kind, for counting: `http_429`, `timeout`, `connect`, …
    pub fn kind(&self) -> String {
        match self {
            Self::Url(_) | Self::Key | Self::Request(_) | Self::File { .. } => "request".to_owned(),
            Self::Connect(_) => "connect".to_owned(),
            Self::Timeout => "timeout".to_owned(),
            Self::Interrupted(_) => "interrupted".to_owned(),
            Self::Truncated => "truncated".to_owned(),
            Self::Status { status, .. } => format!("http_{status}"),
            Self::Stream(error) => {
                let word = error.code.as_deref().or(error.kind.as_deref()).unwrap_or("unknown");
                format!("stream_{word}")
            }
            Self::TooLong { .. } => "too_long".to_owned(),
            Self::Unexpected { .. } => "unexpected".to_owned(),
        }
    }
}

impl From<TooLong> for Error {
    fn from(TooLong { limit }: TooLong) -> Self {
        Self::TooLong { limit }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_of_an_error_has_a_message() {
        let read = |body: &str| ApiError::from_body(body.as_bytes(), 503);

        let full = read(r#"{"error": {"message": "no", "type": "t", "param": "n", "code": 7}}"#);
        assert_eq!((&*full.message, full.code.as_deref()), ("no", Some("7")));
        assert_eq!((full.kind.as_deref(), full.param.as_deref()), (Some("t"), Some("n")));
        assert_eq!(read(r#"{"error": "busy"}"#).message, "busy");
        assert_eq!(read(r#"{"detail": "busy"}"#).message, "busy");
        assert_eq!(read("<html>").message, "service unavailable");
        assert_eq!(read(r#"{"error": {}}"#).message, "");
    }
}
