//! `/v1/files`: OpenAI's Files API.

pub mod reply;
mod request;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use futures::TryStreamExt;
use http::HeaderValue;
use http::header::{CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};

use super::query::Query;
use super::reply::ErrorBody;
use crate::app::{App, Principal};
use crate::error::ApiError;
use crate::files::ListFiles;
use crate::store::Order;
use reply::{DeletedFile, FileList, FileObject};
use request::{BATCH_OUTPUT, FileUpload, PURPOSES};

/// Most files of one list, and how many there are unless the client says.
const MAX_FILES: u64 = 10_000;

/// Stores a file.
///
/// It is there once the answer is. A file for `batch` is lines of JSON, one request each: `file` is
/// checked as it comes, and what is wrong is told with its line.
#[utoipa::path(
    post,
    path = "/v1/files",
    tag = "Files",
    security(("api_key" = [])),
    request_body(content = FileUpload, content_type = "multipart/form-data"),
    responses(
        (status = 200, description = "The file", body = FileObject),
        (status = 429, description = "The key has too many uploads under way", body = ErrorBody),
    ),
)]
pub async fn create(
    State(app): State<App>,
    principal: Principal,
    request: Request,
) -> Result<Json<FileObject>, ApiError> {
    let (parts, body) = request.into_parts();
    let row = request::receive((&app, &principal), &parts.headers, body).await?;
    Ok(Json(row.into()))
}

/// Lists the key's files.
#[utoipa::path(
    get,
    path = "/v1/files",
    tag = "Files",
    security(("api_key" = [])),
    params(
        ("limit" = Option<usize>, Query, description = "At most so many, 1 to 10000, the default"),
        ("order" = Option<String>, Query, description = "By age: `asc`, or `desc`, the default"),
        ("after" = Option<String>, Query, description = "Only files after this one"),
        ("purpose" = Option<String>, Query, description = "Only files for this"),
    ),
    responses(
        (status = 200, description = "The files", body = FileList),
        (status = 404, description = "There is no such file as `after`", body = ErrorBody),
    ),
)]
pub async fn list(
    State(app): State<App>,
    principal: Principal,
    query: Query,
) -> Result<Json<FileList>, ApiError> {
    let mut purposes = PURPOSES.to_vec();
    purposes.push(BATCH_OUTPUT);
    let list = ListFiles {
        purpose: query.one_of("purpose", &purposes)?,
        after: query.text("after"),
        order: match query.one_of("order", &["asc", "desc"])? {
            Some("asc") => Order::OldestFirst,
            _ => Order::NewestFirst,
        },
        limit: query.count("limit", (1, MAX_FILES))?.unwrap_or(MAX_FILES) as usize,
    };
    let (rows, has_more) = app.files.list(&principal.key_id, list).await?;
    Ok(Json(FileList::new(rows, has_more)))
}

/// Tells what is known of a file.
#[utoipa::path(
    get,
    path = "/v1/files/{id}",
    tag = "Files",
    security(("api_key" = [])),
    params(("id" = String, Path, description = "The file's id")),
    responses(
        (status = 200, description = "The file", body = FileObject),
        (status = 404, description = "There is none, or it is another key's", body = ErrorBody),
    ),
)]
pub async fn retrieve(
    State(app): State<App>,
    principal: Principal,
    Path(id): Path<String>,
) -> Result<Json<FileObject>, ApiError> {
    Ok(Json(app.files.row(&principal.key_id, &id).await?.into()))
}

/// Deletes a file.
#[utoipa::path(
    delete,
    path = "/v1/files/{id}",
    tag = "Files",
    security(("api_key" = [])),
    params(("id" = String, Path, description = "The file's id")),
    responses(
        (status = 200, description = "It is deleted", body = DeletedFile),
        (status = 404, description = "There is none, or it is another key's", body = ErrorBody),
    ),
)]
pub async fn delete(
    State(app): State<App>,
    principal: Principal,
    Path(id): Path<String>,
) -> Result<Json<DeletedFile>, ApiError> {
    app.files.delete(&principal.key_id, &id).await?;
    Ok(Json(DeletedFile { id, object: "file".into(), deleted: true }))
}

/// Answers what is in a file.
#[utoipa::path(
    get,
    path = "/v1/files/{id}/content",
    tag = "Files",
    security(("api_key" = [])),
    params(("id" = String, Path, description = "The file's id")),
    responses(
        (
            status = 200, description = "Its bytes", body = Vec<u8>,
            content_type = "application/octet-stream",
        ),
        (status = 404, description = "There is none, or it is another key's", body = ErrorBody),
    ),
)]
pub async fn content(
    State(app): State<App>,
    principal: Principal,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let (row, contents) = app.files.read(&principal.key_id, &id, None).await?;
    let contents = contents.inspect_err(|error| {
        let error = error as &dyn std::error::Error;
        tracing::error!(error, "a file's contents broke off");
    });
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (CONTENT_LENGTH, row.num_bytes.into()),
        // Whatever was uploaded, no browser shows it as a page of this server.
        (CONTENT_DISPOSITION, disposition(&row.filename)),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    Ok((headers, Body::from_stream(contents)).into_response())
}

/// A file to be saved under its name, as far as a header can say it.
fn disposition(filename: &str) -> HeaderValue {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ' ');
    let plain: String = filename.chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
    let value = HeaderValue::try_from(format!("attachment; filename=\"{plain}\""));
    value.unwrap_or_else(|_| HeaderValue::from_static("attachment"))
}
