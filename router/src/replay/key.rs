//! What a client says about keeping its answer, in the request's headers.

use std::sync::Arc;

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};

use crate::error::ApiError;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const X_STREAM_RESUMABLE: HeaderName = HeaderName::from_static("x-stream-resumable");
const MAX_KEY_BYTES: usize = 255;

/// The SHA-256 of a request's body.
pub(super) type Digest = [u8; 32];

/// Where an idempotency key holds: one endpoint, for one API key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Scope {
    pub(super) owner: Arc<str>,
    pub(super) path: String,
    pub(super) key: String,
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Nothing: the answer ends with its connection.
    Nothing,
    /// A stream that survives its connection.
    Resumable,
    /// One answer to all requests with this key.
    Once(String),
}

impl Asked {
    pub(super) fn read(headers: &HeaderMap) -> Result<Self, ApiError> {
        let resumable = match only(headers, &X_STREAM_RESUMABLE)?.map(HeaderValue::as_bytes) {
            None | Some(b"false") => false,
            Some(b"true") => true,
            Some(_) => {
                let message = "`x-stream-resumable` must be `true` or `false`";
                return Err(ApiError::invalid("x-stream-resumable", "invalid_value", message));
            }
        };
        Ok(match only(headers, &IDEMPOTENCY_KEY)? {
            Some(key) => Self::Once(read_key(key)?),
            None if resumable => Self::Resumable,
            None => Self::Nothing,
        })
    }
}

fn read_key(value: &HeaderValue) -> Result<String, ApiError> {
    let bytes = value.as_bytes();
    let fits = (1..=MAX_KEY_BYTES).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic);
    let key = value.to_str().ok().filter(|_| fits);
    key.map(str::to_owned).ok_or_else(|| {
        let message = format!(
            "`idempotency-key` must have 1 to {MAX_KEY_BYTES} characters of ASCII, none of them \
             a space"
        );
        ApiError::invalid("idempotency-key", "invalid_value", message)
    })
}

fn only<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> Result<Option<&'a HeaderValue>, ApiError> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        let message = format!("`{name}` was sent more than once");
        return Err(ApiError::invalid(name.as_str(), "invalid_value", message));
    }
    Ok(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(fields: &[(&'static str, &str)]) -> Result<Asked, ApiError> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        Asked::read(&headers)
    }

    #[test]
    fn nothing_is_kept_that_nobody_asks_for() {
        assert_eq!(read(&[]).unwrap(), Asked::Nothing);
        assert_eq!(read(&[("x-stream-resumable", "false")]).unwrap(), Asked::Nothing);
        assert_eq!(read(&[("x-stream-resumable", "true")]).unwrap(), Asked::Resumable);
        let both = [("x-stream-resumable", "true"), ("idempotency-key", "a-1")];
        assert_eq!(read(&both).unwrap(), Asked::Once("a-1".into()));
    }

    #[test]
    fn a_key_is_short_and_visible() {
        for unfit in ["", "two words", "ü", &"k".repeat(256)] {
            let error = read(&[("idempotency-key", unfit)]).unwrap_err();
            assert_eq!(error.body()["error"]["param"], "idempotency-key", "{unfit:?}");
        }
        assert!(read(&[("idempotency-key", &"k".repeat(255))]).is_ok());
        assert!(read(&[("idempotency-key", "a"), ("idempotency-key", "b")]).is_err());
        assert!(read(&[("x-stream-resumable", "1")]).is_err());
    }
}
