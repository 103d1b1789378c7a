//! The query of a request's URL, read as bodies are: what is wrong is named.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use http::request::Parts;

use crate::error::ApiError;

/// The parameters of a query. Those that nobody asks for are ignored.
pub struct Query(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let pairs = axum::extract::Query::try_from_uri(&parts.uri);
        // Any text is pairs; bytes that are no UTF-8 are replaced.
        Ok(Self(pairs.map(|pairs| pairs.0).unwrap_or_default()))
    }
}

impl Query {
    /// A text.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// `true` or `false`.
    pub(crate) fn boolean(&self, name: &str) -> Result<Option<bool>, ApiError> {
        self.text(name)
            .map(|text| text.parse().map_err(|_| wrong(name, "true or false")))
            .transpose()
    }

    /// An integer in this range.
    pub(crate) fn count(
        &self,
        name: &str,
        (min, max): (u64, u64),
    ) -> Result<Option<u64>, ApiError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let value = text.parse().ok().filter(|value| (min..=max).contains(value));
        value.map(Some).ok_or_else(|| wrong(name, &format!("an integer from {min} to {max}")))
    }

    /// One of these words.
    pub(crate) fn one_of<'a>(
        &self,
        name: &str,
        words: &[&'a str],
    ) -> Result<Option<&'a str>, ApiError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let word = words.iter().find(|word| **word == text);
        word.map(|word| Some(*word)).ok_or_else(|| wrong(name, &words.join(" or ")))
    }
}

fn wrong(name: &str, expected: &str) -> ApiError {
    ApiError::invalid(name, "invalid_value", format!("`{name}` must be {expected}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn query(uri: &str) -> Query {
        let (mut parts, ()) = http::Request::get(uri).body(()).unwrap().into_parts();
        match Query::from_request_parts(&mut parts, &()).await {
            Ok(query) => query,
            Err(never) => match never {},
        }
    }

    #[tokio::test]
    async fn values_are_read_and_compared() {
        let query = query("/x?after=a%20b&limit=7&stream=true&order=asc&after=c").await;
        assert_eq!(query.text("after"), Some("a b"));
        assert_eq!(query.count("limit", (1, 100)).unwrap(), Some(7));
        assert_eq!(query.boolean("stream").unwrap(), Some(true));
        assert_eq!(query.one_of("order", &["asc", "desc"]).unwrap(), Some("asc"));
        assert_eq!(query.text("other"), None);
    }

    #[tokio::test]
    async fn what_is_wrong_is_refused() {
        let query = query("/x?limit=0&stream=yes&order=up").await;
        assert!(query.count("limit", (1, 100)).is_err());
        assert!(query.boolean("stream").is_err());
        assert!(query.one_of("order", &["asc", "desc"]).is_err());
    }
}
