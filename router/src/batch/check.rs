//! Checks a batch's input: every line is found, read and noted, or the batch fails with what is wrong.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use futures::TryStreamExt;
use tokio::time::timeout;

use super::Endpoint;
use super::executor::Context;
use super::line::{BadLine, Line};
use crate::api::batches::reply::BatchError;
use crate::files;
use crate::store::{self, BatchRow, NewLine};

/// Errors that are told of one file.
const MAX_ERRORS: usize = 100;
/// Lines that are written together.
const CHUNK: usize = 500;
/// How long models have to appear, after the router's start.
const MAX_SETTLING: Duration = Duration::from_secs(30);

/// Why a batch's step was not taken, to be taken again.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Files(#[from] files::Error),
}

/// Reads the input of a batch that this router has a lease of.
pub(super) async fn check(context: &Context, batch: &BatchRow) -> Result<(), Error> {
    // Before the first worker has said what it serves, every model would be unknown.
    let _ = timeout(MAX_SETTLING, context.app.settled()).await;
    let held = (batch.id.as_str(), context.id.as_str());
    let now = super::unix_seconds;
    let errors = match read(context, batch).await? {
        Read::Lost => return Ok(()),
        Read::Whole { num_lines, models } => {
            let models = serde_json::to_string(&models).unwrap_or_default();
            context.store.begin_batch(held, (num_lines, &models), now()).await?;
            return Ok(());
        }
        Read::Wrong(errors) => errors,
    };
    let errors = serde_json::to_string(&errors).unwrap_or_default();
    context.store.fail_batch(held, &errors, now()).await?;
    Ok(())
}

/// How an input file was read.
enum Read {
    Whole {
        num_lines: i64,
        models: BTreeSet<String>,
    },
    Wrong(Vec<BatchError>),
    /// The batch was cancelled, or is someone else's now.
    Lost,
}

async fn read(context: &Context, batch: &BatchRow) -> Result<Read, Error> {
    let Some(endpoint) = Endpoint::of(&batch.endpoint) else { return Ok(Read::Lost) };
    let opened = context.app.files.read(&batch.owner, &batch.input_file, None).await;
    let mut contents = match opened {
        Ok((_, contents)) => contents,
        Err(files::Error::NotFound { .. }) => {
            let message = "the input file is not there any more";
            return Ok(Read::Wrong(vec![whole("input_file_not_found", message.into())]));
        }
        Err(error) => return Err(error.into()),
    };
    let mut input = Input::new(context, endpoint);
    while let Some(piece) = contents.try_next().await? {
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            input.push(part);
            if input.is_full() {
                return Ok(Read::Wrong(input.errors));
            }
        }
        // Nothing is kept of a file that is wrong.
        if input.errors.is_empty() && input.lines.len() >= CHUNK {
            let lines = std::mem::take(&mut input.lines);
            if !context.store.add_lines((&batch.id, &context.id), &lines).await? {
                return Ok(Read::Lost);
            }
        }
    }
    input.end_line();
    if input.num_lines == 0 && input.errors.is_empty() {
        input.errors.push(whole("empty_file", "the input file has no lines".into()));
    }
    if !input.errors.is_empty() {
        return Ok(Read::Wrong(input.errors));
    }
    for lines in input.lines.chunks(CHUNK) {
        if !context.store.add_lines((&batch.id, &context.id), lines).await? {
            return Ok(Read::Lost);
        }
    }
    Ok(Read::Whole { num_lines: input.num_lines, models: input.models })
}

fn whole(code: &str, message: String) -> BatchError {
    BatchError { code: code.into(), message, param: None, line: None }
}

/// An input file, as far as it is read.
struct Input<'a> {
    context: &'a Context,
    endpoint: Endpoint,
    /// The line that has begun, and where.
    line: Vec<u8>,
    first_byte: i64,
    /// How many bytes it has, also those that are not kept because there are too many.
    num_bytes: usize,
    position: i64,
    custom_ids: HashSet<String>,
    models: BTreeSet<String>,
    /// Lines that are not written yet.
    lines: Vec<NewLine>,
    num_lines: i64,
    errors: Vec<BatchError>,
}

impl<'a> Input<'a> {
    fn new(context: &'a Context, endpoint: Endpoint) -> Self {
        Self {
            context,
            endpoint,
            line: Vec::new(),
            first_byte: 0,
            num_bytes: 0,
            position: 0,
            custom_ids: HashSet::new(),
            models: BTreeSet::new(),
            lines: Vec::new(),
            num_lines: 0,
            errors: Vec::new(),
        }
    }

    fn is_full(&self) -> bool {
        self.errors.len() >= MAX_ERRORS
    }

    /// More of a line, perhaps with its end.
    fn push(&mut self, part: &[u8]) {
        self.num_bytes += part.len();
        if self.num_bytes <= self.max_bytes() {
            self.line.extend_from_slice(part);
        }
        if part.ends_with(b"\n") {
            self.end_line();
        }
    }

    fn end_line(&mut self) {
        self.position += 1;
        let line = std::mem::take(&mut self.line);
        if self.num_bytes > self.max_bytes() {
            let message = format!("this line has more than {} bytes", self.max_bytes());
            self.fail(BadLine::new("line_too_long", None, message));
        } else if !line.trim_ascii().is_empty()
            && let Err(bad) = self.take(&line)
        {
            self.fail(bad);
        }
        self.first_byte += i64::try_from(self.num_bytes).unwrap_or(i64::MAX);
        self.num_bytes = 0;
        self.line = line;
        self.line.clear();
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), BadLine> {
        let max = self.context.app.config.files.max_lines;
        if self.custom_ids.len() >= max {
            let message = format!("a batch may have {max} lines");
            return Err(BadLine::new("too_many_lines", None, message));
        }
        let line = Line::read(bytes, self.endpoint)?;
        if !self.custom_ids.insert(line.custom_id.clone().into_owned()) {
            let message = "another line has this `custom_id`";
            return Err(BadLine::new("duplicate_custom_id", Some("custom_id"), message));
        }
        if !self.models.contains(&*line.model) {
            if self.context.app.routing.get(&line.model).is_none() {
                let message = format!("the model `{}` does not exist", line.model);
                return Err(BadLine::new("model_not_found", Some("body.model"), message));
            }
            self.models.insert(line.model.clone().into_owned());
        }
        self.num_lines += 1;
        self.lines.push(NewLine {
            position: self.position,
            custom_id: line.custom_id.into_owned(),
            model: line.model.into_owned(),
            first_byte: self.first_byte,
            num_bytes: i64::try_from(bytes.len()).unwrap_or(i64::MAX),
        });
        Ok(())
    }

    fn fail(&mut self, bad: BadLine) {
        if !self.is_full() {
            self.errors.push(bad.at(self.position));
        }
    }

    /// A line is a request's body, and a little more.
    fn max_bytes(&self) -> usize {
        self.context.app.config.limits.max_body_bytes
    }
}
