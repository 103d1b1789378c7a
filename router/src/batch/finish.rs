//! Ends a batch: what was never answered is settled, and the files of results are written.
//!
//! The files have ids that are made of the batch's, so that a step that is taken again, by whomever,
//! makes no second ones.

use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use sha2::{Digest as _, Sha256};

use super::check::Error;
use super::executor::Context;
use super::line::Written;
use crate::files::{NewFile, Origin};
use crate::store::{self, BatchRow};

/// Lines that are read together.
const PAGE: i64 = 256;
/// How long results are kept, unless the batch says.
const DEFAULT_TTL: Duration = Duration::from_hours(30 * 24);

/// Writes the files of a batch that this router has a lease of.
pub(super) async fn finish(context: &Context, batch: &BatchRow) -> Result<(), Error> {
    let held = (batch.id.as_str(), context.id.as_str());
    if !context.store.close_lines(held).await? {
        return Ok(());
    }
    let output = write(context, batch, Results::Answers).await?;
    let errors = write(context, batch, Results::Errors).await?;
    let files = (output.as_deref(), errors.as_deref());
    context.store.end_batch(held, files, super::unix_seconds()).await?;
    tracing::info!(batch = batch.id, outcome = batch.outcome, "a batch has ended");
    Ok(())
}

/// One of the two files of results.
#[derive(Clone, Copy)]
enum Results {
    Answers,
    Errors,
}

impl Results {
    fn are_errors(self) -> bool {
        match self {
            Self::Answers => false,
            Self::Errors => true,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Answers => "output",
            Self::Errors => "error",
        }
    }
}

/// Writes a file, unless nothing would be in it, and returns its id.
async fn write(
    context: &Context,
    batch: &BatchRow,
    results: Results,
) -> Result<Option<String>, Error> {
    let Some(first) = page(context, batch, results, 0).await? else { return Ok(None) };
    let pages = stream::try_unfold(Some(first), move |read| async move {
        let Some(Page { text, last }) = read else { return Ok(None) };
        let next = page(context, batch, results, last).await?;
        Ok::<_, store::Error>(Some((Bytes::from(text), next)))
    });
    let ttl = batch.output_ttl.and_then(|seconds| u64::try_from(seconds).ok());
    let file = NewFile {
        id: Some(file_id(&batch.id, results)),
        purpose: "batch_output",
        filename: format!("{}_{}.jsonl", batch.id, results.name()),
        ttl: Some(ttl.map_or(DEFAULT_TTL, Duration::from_secs)),
        origin: Origin::Server,
    };
    let row = context.app.files.put(&batch.owner, file, Box::pin(pages)).await?;
    Ok(Some(row.id))
}

/// Some lines of a file, and the position of the last one.
struct Page {
    text: String,
    last: i64,
}

async fn page(
    context: &Context,
    batch: &BatchRow,
    results: Results,
    after: i64,
) -> Result<Option<Page>, store::Error> {
    let lines = context.store.ended_lines((&batch.id, results.are_errors()), after, PAGE).await?;
    let Some(last) = lines.last().map(|line| line.position) else { return Ok(None) };
    let mut text = String::new();
    for line in &lines {
        match &line.result {
            Some(result) => text.push_str(result),
            None => {
                text.push_str(&Written::error(&line.custom_id, reason(&batch.outcome)).to_text());
            }
        }
        text.push('\n');
    }
    Ok(Some(Page { text, last }))
}

/// Why a line was never answered.
fn reason(outcome: &str) -> (&'static str, &'static str) {
    match outcome {
        "cancelled" => {
            ("batch_cancelled", "The batch was cancelled before this request was executed.")
        }
        _ => (
            "batch_expired",
            "This request could not be executed before the completion window expired.",
        ),
    }
}

fn file_id(batch: &str, results: Results) -> String {
    let digest = Sha256::digest(format!("{batch}/{}", results.name()));
    let hex: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("file-{hex}")
}
