//! What asks for a batch, as OpenAI defines it.

use std::collections::BTreeMap;

use serde::Deserialize;
use utoipa::ToSchema;

use crate::api::fields::missing;
use crate::api::tokenize::read;
use crate::batch::Endpoint;
use crate::error::ApiError;

/// Pairs of `metadata`, and characters of a key and of a value, as with OpenAI.
const MAX_METADATA: (usize, usize, usize) = (16, 64, 512);
/// How long results may be kept: an hour to 30 days.
const TTL_SECONDS: std::ops::RangeInclusive<i64> = 3600..=30 * 24 * 3600;

/// The body of `POST /v1/batches`.
pub(crate) struct BatchRequest {
    pub(crate) input_file: String,
    pub(crate) endpoint: Endpoint,
    pub(crate) metadata: Option<BTreeMap<String, String>>,
    /// Seconds that the files of results are kept.
    pub(crate) output_ttl: Option<i64>,
}

/// A batch to begin.
#[derive(Deserialize, ToSchema)]
#[schema(as = BatchRequest)]
struct Body {
    /// A file that was uploaded with the purpose `batch`.
    #[schema(required)]
    input_file_id: Option<String>,
    /// Where its lines go: `/v1/chat/completions`, `/v1/completions`, `/v1/embeddings` or
    /// `/v1/responses`.
    #[schema(required)]
    endpoint: Option<String>,
    /// Always `24h`: what is not answered by then never will be.
    #[schema(required)]
    completion_window: Option<String>,
    /// At most 16 pairs of texts of at most 64 and 512 characters.
    metadata: Option<BTreeMap<String, String>>,
    /// How long the files of results are kept. 30 days, otherwise.
    output_expires_after: Option<ExpiresAfter>,
}

/// When a file expires.
#[derive(Deserialize, ToSchema)]
struct ExpiresAfter {
    /// Always `created_at`.
    anchor: String,
    /// 3600 to 2592000.
    #[schema(minimum = 3600, maximum = 2_592_000)]
    seconds: i64,
}

impl BatchRequest {
    /// Reads a body.
    pub(crate) fn read(body: &[u8]) -> Result<Self, ApiError> {
        let body: Body = read(body)?;
        let input_file = body.input_file_id.ok_or_else(|| missing("input_file_id"))?;
        let endpoint = body.endpoint.ok_or_else(|| missing("endpoint"))?;
        let window = body.completion_window.ok_or_else(|| missing("completion_window"))?;
        let endpoint = Endpoint::of(&endpoint).ok_or_else(|| {
            let all = Endpoint::ALL.map(Endpoint::path).join(", ");
            invalid("endpoint", format!("`endpoint` must be one of {all}"))
        })?;
        if window != "24h" {
            return Err(invalid("completion_window", "`completion_window` must be 24h".into()));
        }
        if let Some(metadata) = &body.metadata {
            check_metadata(metadata)?;
        }
        let output_ttl = body.output_expires_after.as_ref().map(ttl).transpose()?;
        Ok(Self { input_file, endpoint, metadata: body.metadata, output_ttl })
    }
}

fn check_metadata(metadata: &BTreeMap<String, String>) -> Result<(), ApiError> {
    let (max_pairs, max_key, max_value) = MAX_METADATA;
    if metadata.len() > max_pairs {
        let message = format!("`metadata` has {} pairs and may have {max_pairs}", metadata.len());
        return Err(invalid("metadata", message));
    }
    let fits = |(key, value): (&String, &String)| {
        key.chars().count() <= max_key && value.chars().count() <= max_value
    };
    if metadata.iter().all(fits) {
        return Ok(());
    }
    let message =
        format!("keys of `metadata` may have {max_key} characters, and their values {max_value}");
    Err(invalid("metadata", message))
}

fn ttl(after: &ExpiresAfter) -> Result<i64, ApiError> {
    if after.anchor != "created_at" {
        let param = "output_expires_after.anchor";
        return Err(invalid(param, format!("`{param}` must be created_at")));
    }
    if !TTL_SECONDS.contains(&after.seconds) {
        let (param, min, max) =
            ("output_expires_after.seconds", TTL_SECONDS.start(), TTL_SECONDS.end());
        return Err(invalid(param, format!("`{param}` must be an integer from {min} to {max}")));
    }
    Ok(after.seconds)
}

fn invalid(param: &str, message: String) -> ApiError {
    ApiError::invalid(param, "invalid_value", message)
}

impl utoipa::PartialSchema for BatchRequest {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        Body::schema()
    }
}

impl ToSchema for BatchRequest {
    fn schemas(
        schemas: &mut Vec<(String, utoipa::openapi::RefOr<utoipa::openapi::schema::Schema>)>,
    ) {
        Body::schemas(schemas);
    }
}
