//! The form that a file comes in. Its parts come in any order, and the file may be the first: what it
//! is for may only be known at its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use axum::body::Body;
use futures::{StreamExt, stream};
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use multer::{Field, Multipart};
use utoipa::ToSchema;

use crate::api::fields::missing;
use crate::app::{App, Principal};
use crate::error::ApiError;
use crate::files::lines::{BadLines, LineLimits, Lines};
use crate::files::{NewFile, Origin, Upload};
use crate::store::FileRow;

/// What files may be uploaded for, as the SDKs name it.
pub(super) const PURPOSES: [&str; 6] =
    ["assistants", "batch", "evals", "fine-tune", "user_data", "vision"];
/// What the server makes files for.
pub(super) const BATCH_OUTPUT: &str = "batch_output";
/// The purpose whose files are checked.
const BATCH: &str = "batch";

/// Bytes of a form that may be read and belong to no part yet: the head of one.
const MAX_HEAD_BYTES: usize = 1 << 20;
/// Parts of a form.
const MAX_PARTS: usize = 16;
/// Bytes of a part that is not the file.
const MAX_TEXT_BYTES: usize = 256;
const MAX_NAME_BYTES: usize = 512;

/// How long a client may have a file kept: an hour to 30 days, as with OpenAI.
const TTL_SECONDS: std::ops::RangeInclusive<u64> = 3600..=30 * 24 * 3600;
/// How long a batch's file is kept that says nothing of it.
const BATCH_TTL: Duration = Duration::from_hours(30 * 24);

/// The form of an upload.
#[derive(ToSchema)]
#[schema(as = FileUpload)]
#[expect(dead_code, reason = "describes a form, which is read as it comes")]
pub(crate) struct FileUpload {
    /// The file, with its name.
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
    /// What it is for: `batch`, `user_data`, `assistants`, `evals`, `fine-tune` or `vision`.
    purpose: String,
    /// Always `created_at`.
    #[schema(rename = "expires_after[anchor]")]
    anchor: Option<String>,
    /// Seconds that the file is kept after it is stored, 3600 to 2592000. 30 days for `batch` and
    /// until it is deleted for other purposes, otherwise.
    #[schema(rename = "expires_after[seconds]", minimum = 3600, maximum = 2_592_000)]
    seconds: Option<u64>,
}

/// What has come of a form.
#[derive(Default)]
struct Form {
    file: Option<Received>,
    purpose: Option<&'static str>,
    anchor: Option<String>,
    seconds: Option<u64>,
}

/// A file that was received, and whether it is lines of JSON.
struct Received {
    upload: Upload,
    filename: String,
    lines: Result<(), BadLines>,
}

/// How much of a body was read and not used yet.
#[derive(Clone, Default)]
struct Unused(Arc<AtomicUsize>);

/// Stores the file of a form.
pub(super) async fn receive(
    (app, principal): (&App, &Principal),
    headers: &HeaderMap,
    body: Body,
) -> Result<FileRow, ApiError> {
    let unused = Unused::default();
    let mut parts = parts(headers, body, unused.clone())?;
    let mut form = Form::default();
    let mut num_parts = 0;
    while let Some(part) = parts.next_field().await.map_err(malformed)? {
        unused.all_used();
        num_parts += 1;
        if num_parts > MAX_PARTS {
            let message = format!("the form has more than {MAX_PARTS} parts");
            return Err(ApiError::malformed(message));
        }
        match part.name() {
            Some("file") if form.file.is_some() => return Err(twice("file")),
            Some("file") => {
                form.file = Some(file((app, principal), part, (&unused, form.purpose)).await?);
            }
            Some("purpose") => set(&mut form.purpose, "purpose", purpose(&text(part).await?)?)?,
            Some("expires_after[anchor]") => {
                set(&mut form.anchor, "expires_after[anchor]", text(part).await?)?;
            }
            Some("expires_after[seconds]") => {
                let seconds = ttl(&text(part).await?)?;
                set(&mut form.seconds, "expires_after[seconds]", seconds)?;
            }
            name => {
                let name = name.unwrap_or_default();
                let message = format!("`{name}` is no part of this form");
                return Err(ApiError::invalid(name, "unknown_parameter", message));
            }
        }
        unused.all_used();
    }
    form.store().await
}

impl Form {
    async fn store(self) -> Result<FileRow, ApiError> {
        let ttl = self.ttl()?;
        let file = self.file.ok_or_else(|| missing("file"))?;
        let purpose = self.purpose.ok_or_else(|| missing("purpose"))?;
        let ttl = match purpose {
            BATCH => {
                file.lines.map_err(|bad| refuse_lines(&bad))?;
                Some(ttl.unwrap_or(BATCH_TTL))
            }
            _ => ttl,
        };
        let new =
            NewFile { id: None, purpose, filename: file.filename, ttl, origin: Origin::Client };
        Ok(file.upload.finish(new).await?)
    }

    fn ttl(&self) -> Result<Option<Duration>, ApiError> {
        match (self.anchor.as_deref(), self.seconds) {
            (None, None) => Ok(None),
            (Some("created_at"), Some(seconds)) => Ok(Some(Duration::from_secs(seconds))),
            (Some("created_at"), None) => Err(missing("expires_after[seconds]")),
            (None, Some(_)) => Err(missing("expires_after[anchor]")),
            (Some(_), _) => {
                let param = "expires_after[anchor]";
                let message = format!("`{param}` must be created_at");
                Err(ApiError::invalid(param, "invalid_value", message))
            }
        }
    }
}

/// The parts of a form, of which no more is held than one piece and the head of a part.
fn parts(headers: &HeaderMap, body: Body, unused: Unused) -> Result<Multipart<'static>, ApiError> {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let boundary = multer::parse_boundary(kind).map_err(malformed)?;
    let mut pieces = body.into_data_stream();
    let mut has_given = false;
    // The reader takes pieces for as long as there are any: it is given one at a time.
    let one_by_one = stream::poll_fn(move |cx| {
        if std::mem::take(&mut has_given) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let piece = std::task::ready!(pieces.poll_next_unpin(cx));
        has_given = true;
        Poll::Ready(piece.map(|piece| match piece {
            Ok(piece) if unused.add(piece.len()) > MAX_HEAD_BYTES => {
                Err(format!("more than {MAX_HEAD_BYTES} bytes of it belong to no part").into())
            }
            Ok(piece) => Ok(piece),
            Err(error) => Err(Box::<dyn std::error::Error + Send + Sync>::from(error)),
        }))
    });
    Ok(Multipart::new(one_by_one, boundary))
}

impl Unused {
    fn add(&self, num_bytes: usize) -> usize {
        self.0.fetch_add(num_bytes, Ordering::Relaxed) + num_bytes
    }

    fn all_used(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// Receives the file. One that is known to be a batch's is not read on once it is wrong.
async fn file(
    (app, principal): (&App, &Principal),
    mut part: Field<'_>,
    (unused, purpose): (&Unused, Option<&str>),
) -> Result<Received, ApiError> {
    let filename = filename(part.file_name())?;
    let mut lines = Lines::new(line_limits(app));
    let mut upload = app.files.begin(&principal.key_id, Origin::Client).await?;
    while let Some(piece) = part.chunk().await.map_err(malformed)? {
        unused.all_used();
        if let (Err(bad), Some(BATCH)) = (lines.push(&piece), purpose) {
            return Err(refuse_lines(&bad));
        }
        upload.write(&piece).await?;
    }
    Ok(Received { upload, filename, lines: lines.finish() })
}

/// What the lines of a batch keep to. One is a request's body, and a little more.
fn line_limits(app: &App) -> LineLimits {
    LineLimits {
        max_lines: app.config.files.max_lines,
        max_line_bytes: app.config.limits.max_body_bytes,
    }
}

fn filename(name: Option<&str>) -> Result<String, ApiError> {
    // A client that sends bytes alone need not name them.
    let name = name.filter(|name| !name.is_empty()).unwrap_or("upload");
    let (param, max) = ("file", MAX_NAME_BYTES);
    if name.len() > max {
        let message = format!("the name of `file` has {} bytes and may have {max}", name.len());
        return Err(ApiError::invalid(param, "string_above_max_length", message));
    }
    if name.chars().any(char::is_control) {
        let message = "the name of `file` has control characters";
        return Err(ApiError::invalid(param, "invalid_value", message));
    }
    Ok(name.to_owned())
}

async fn text(mut part: Field<'_>) -> Result<String, ApiError> {
    let mut bytes = Vec::new();
    let name = part.name().unwrap_or_default().to_owned();
    while let Some(piece) = part.chunk().await.map_err(malformed)? {
        bytes.extend_from_slice(&piece);
        if bytes.len() > MAX_TEXT_BYTES {
            let message = format!("`{name}` has more than {MAX_TEXT_BYTES} bytes");
            return Err(ApiError::invalid(name, "string_above_max_length", message));
        }
    }
    let not_utf8 = |_| ApiError::invalid(&*name, "invalid_value", format!("`{name}` is not UTF-8"));
    String::from_utf8(bytes).map_err(not_utf8)
}

fn purpose(text: &str) -> Result<&'static str, ApiError> {
    let known = PURPOSES.into_iter().find(|purpose| *purpose == text);
    known.ok_or_else(|| {
        let made = if text == BATCH_OUTPUT { ": only the server makes files for it" } else { "" };
        let all = PURPOSES.join(", ");
        let message = format!("`purpose` is `{text}`{made}; it may be one of {all}");
        ApiError::invalid("purpose", "invalid_value", message)
    })
}

fn ttl(text: &str) -> Result<u64, ApiError> {
    let seconds = text.parse().ok().filter(|seconds| TTL_SECONDS.contains(seconds));
    seconds.ok_or_else(|| {
        let (param, min, max) = ("expires_after[seconds]", TTL_SECONDS.start(), TTL_SECONDS.end());
        let message = format!("`{param}` must be an integer from {min} to {max}");
        ApiError::invalid(param, "invalid_value", message)
    })
}

fn set<T>(place: &mut Option<T>, name: &str, value: T) -> Result<(), ApiError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(twice(name)),
    }
}

fn twice(name: &str) -> ApiError {
    ApiError::invalid(name, "duplicate_parameter", format!("`{name}` is there twice"))
}

fn refuse_lines(bad: &BadLines) -> ApiError {
    ApiError::invalid("file", "invalid_jsonl", format!("`file` is not a batch's: {bad}"))
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn malformed(error: multer::Error) -> ApiError {
    // A body that broke off is answered by the layer that read it.
    let message = match &error {
        multer::Error::StreamReadFailed(source) => format!("the form can't be read: {source}"),
        error => format!("the body is not a form: {error}"),
    };
    ApiError::Invalid { message, param: None, code: "invalid_form" }
}
