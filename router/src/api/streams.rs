//! `GET /v1/streams/{id}`: the rest of a stream whose connection broke.

use axum::extract::{Path, RawQuery, State};
use axum::response::Response;

use super::reply::ErrorBody;
use crate::app::{App, Principal};
use crate::error::ApiError;
use crate::metrics;

/// Goes on with a stream.
///
/// The request that began it had the header `x-stream-resumable: true` or an `idempotency-key`, and
/// its answer's `x-stream-id` is the id. Events are counted from 1, comments not; those after
/// number `after` are sent, then what comes, in the format of the stream's own endpoint.
#[utoipa::path(
    get,
    path = "/v1/streams/{id}",
    tag = "Streams",
    security(("api_key" = [])),
    params(
        ("id" = String, Path, description = "The stream's `x-stream-id`"),
        ("after" = Option<u64>, Query, description = "Events that were received; default 0"),
    ),
    responses(
        (status = 200, description = "The rest of the stream", content_type = "text/event-stream"),
        (status = 404, description = "No such stream of this key", body = ErrorBody),
        (status = 410, description = "Some of the events are not kept any more", body = ErrorBody),
    ),
)]
pub async fn resume(
    State(app): State<App>,
    principal: Principal,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let after = after(query.as_deref().unwrap_or_default())?;
    let response = app.replays.find(&principal.key_id, &id)?.events_after(after)?;
    metrics::stream_resumed();
    Ok(response)
}

fn after(query: &str) -> Result<u64, ApiError> {
    let mut values = query.split('&').filter_map(|pair| pair.strip_prefix("after="));
    let number = match (values.next(), values.next()) {
        (None, _) => Some(0),
        (Some(value), None) => value.parse().ok(),
        (Some(_), Some(_)) => None,
    };
    number.ok_or_else(|| {
        let message = "`after` must be the number of events that were received";
        ApiError::invalid("after", "invalid_type", message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_is_a_number_and_0_by_default() {
        assert_eq!(after("").unwrap(), 0);
        assert_eq!(after("a=b&after=12").unwrap(), 12);
        for wrong in ["after=", "after=-1", "after=x", "after=1&after=2"] {
            assert_eq!(after(wrong).unwrap_err().body()["error"]["param"], "after", "{wrong}");
        }
    }
}
