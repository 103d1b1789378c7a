//! `sconce batch`: many requests in a file, answered when there is room.

mod follow;
mod input;
mod results;
mod server;

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand};
use sconce_client::{Batch as Made, BatchRequest, BatchStatus, Client, FileUpload, ListQuery};

use super::Fault;
use super::output::{Output, ago, table};
use follow::{Follower, Interrupts};
use results::Results;
use server::ServerArgs;

/// Answers the requests of a file when there is room, on any server with a batch API
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  sconce batch run requests.jsonl
  sconce batch run requests.jsonl -o answers.jsonl --model smollm2:135m
  sconce batch list
  sconce batch run --resume batch_0193")]
pub struct Batch {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Clone, Debug)]
enum Verb {
    Run(Box<Run>),
    List(List),
    Status(Status),
    Cancel(Cancel),
}

/// Uploads a file of requests, waits for the answers and writes them to files
///
/// Each line is a request: {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions",
/// "body": {…}}. The first line's `url` is where all of them go. Answers come in any order, by their
/// `custom_id`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Ctrl-C leaves the batch running and says how to come back to it; a second Ctrl-C cancels it.

Exit status: 0 where every request was answered, 8 where some failed or the batch was cancelled or
expired, 130 where Ctrl-C left it running.

Examples:
  sconce batch run requests.jsonl
  sconce batch run requests.jsonl -o answers.jsonl --errors failed.jsonl
  sconce batch run requests.jsonl --model smollm2:135m --url http://10.0.0.5:8000
  sconce batch run --resume batch_0193 -o answers.jsonl")]
struct Run {
    /// The file of requests, one JSON object a line
    #[arg(required_unless_present = "resume", conflicts_with = "resume")]
    file: Option<PathBuf>,

    /// Wait for a batch that was begun before
    #[arg(long, value_name = "ID")]
    resume: Option<String>,

    /// Where the answers go; `requests.output.jsonl` for `requests.jsonl` otherwise
    #[arg(short = 'o', long = "out", value_name = "FILE")]
    out: Option<PathBuf>,

    /// Where the requests that failed go, if any do; `requests.errors.jsonl` otherwise
    #[arg(long, value_name = "FILE")]
    errors: Option<PathBuf>,

    /// Write over files that are there
    #[arg(long)]
    force: bool,

    /// The model of all requests, whatever they name
    #[arg(long, conflicts_with = "resume")]
    model: Option<String>,

    /// Cancel the batch on the first Ctrl-C
    #[arg(long)]
    cancel_on_interrupt: bool,

    #[command(flatten)]
    server: ServerArgs,

    #[command(flatten)]
    output: Output,
}

/// Lists batches, the newest first
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Examples:\n  sconce batch list\n  sconce batch list --limit 5 --output json"
)]
struct List {
    /// At most so many
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100))]
    limit: u32,

    #[command(flatten)]
    server: ServerArgs,

    #[command(flatten)]
    output: Output,
}

/// Tells how far a batch is
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  sconce batch status batch_0193
  sconce batch status batch_0193 --output json")]
struct Status {
    /// The batch
    id: String,

    #[command(flatten)]
    server: ServerArgs,

    #[command(flatten)]
    output: Output,
}

/// Cancels a batch; what is answered already stays
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  sconce batch cancel batch_0193
  sconce batch cancel batch_0193 --url http://10.0.0.5:8000")]
struct Cancel {
    /// The batch
    id: String,

    #[command(flatten)]
    server: ServerArgs,

    #[command(flatten)]
    output: Output,
}

impl Batch {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<()> {
        match self.verb {
            Verb::Run(run) => run.run().await,
            Verb::List(list) => {
                let client = list.server.client()?;
                let query = ListQuery { limit: Some(list.limit), ..ListQuery::default() };
                let page = client.batches(&query).await.context("listing the batches")?;
                list.output.print(&page.data, || rows(&page.data))
            }
            Verb::Status(status) => {
                let client = status.server.client()?;
                let batch = known(client.batch(&status.id).await, &status.id)?;
                status.output.print(&batch, || told(&batch))
            }
            Verb::Cancel(cancel) => {
                let client = cancel.server.client()?;
                let batch = known(client.cancel_batch(&cancel.id).await, &cancel.id)?;
                cancel.output.print(&batch, || told(&batch))
            }
        }
    }
}

impl Run {
    async fn run(self) -> anyhow::Result<()> {
        let results = self.results()?;
        let client = self.server.client()?;
        let mut interrupts = Interrupts::listen()?;
        let batch = match (&self.file, &self.resume) {
            (Some(file), _) => tokio::select! {
                made = self.begin(&client, file) => made?,
                () = interrupts.next() => return Err(Fault::NotBegun.into()),
            },
            (None, Some(id)) => known(client.batch(id).await, id)?,
            // The command line has one of them.
            (None, None) => return Ok(()),
        };
        let follower = Follower { client: &client, cancels: self.cancel_on_interrupt };
        let resume = format!("sconce batch run --resume {}{}", batch.id, results.arguments());
        let batch = follower.follow(batch, &mut interrupts, &resume).await?;
        results
            .fetch(&client, &batch)
            .await
            .with_context(|| format!("writing the results; `{resume}` tries again"))?;
        self.output.print(&batch, || told(&batch) + &results.told(&batch))?;
        check(&batch)
    }

    fn results(&self) -> anyhow::Result<Results> {
        let stem = match (&self.file, &self.resume) {
            (Some(file), _) => file.with_extension(""),
            (None, id) => PathBuf::from(id.as_deref().unwrap_or_default()),
        };
        let beside = |end: &str| {
            let mut path = stem.clone().into_os_string();
            path.push(end);
            PathBuf::from(path)
        };
        let out = self.out.clone().unwrap_or_else(|| beside(".output.jsonl"));
        let errors = self.errors.clone().unwrap_or_else(|| beside(".errors.jsonl"));
        let results = Results { out, errors, is_named: self.out.is_some() };
        if !self.force {
            results.check_free()?;
        }
        Ok(results)
    }

    /// Uploads the file and makes a batch of it.
    async fn begin(&self, client: &Client, file: &Path) -> anyhow::Result<Made> {
        let input = input::prepare(file, self.model.as_deref())?;
        let upload = FileUpload::from_path(input.path(), "batch");
        let stored = client.upload(upload).await;
        let stored = stored.with_context(|| format!("uploading {}", file.display()))?;
        let request = BatchRequest::new(&stored.id, input.endpoint());
        let made = client.create_batch(&request).await;
        if made.is_err() {
            // Nobody would know of it. What fails here fails as the batch did.
            let _ = client.delete_file(&stored.id).await;
        }
        made.context("making the batch")
    }
}

/// Whether every request was answered.
fn check(batch: &Made) -> anyhow::Result<()> {
    let counts = batch.request_counts.unwrap_or_default();
    match batch.status {
        BatchStatus::Completed if counts.failed == 0 => Ok(()),
        BatchStatus::Completed => {
            Err(Fault::SomeFailed { num_failed: counts.failed, num_all: counts.total }.into())
        }
        status => Err(Fault::BatchEnded { status: status.as_str() }.into()),
    }
}

/// A batch, if the server knows it.
fn known(batch: Result<Made, sconce_client::Error>, id: &str) -> anyhow::Result<Made> {
    match batch {
        Err(sconce_client::Error::Status { status: 404, .. }) => {
            Err(Fault::NoBatch(id.to_owned()).into())
        }
        batch => batch.with_context(|| format!("asking for the batch {id}")),
    }
}

fn rows(batches: &[Made]) -> String {
    let head = ["ID", "STATUS", "COMPLETED", "FAILED", "TOTAL", "CREATED", "ENDPOINT"];
    let row = |batch: &Made| {
        let counts = batch.request_counts.unwrap_or_default();
        vec![
            batch.id.clone(),
            batch.status.as_str().to_owned(),
            counts.completed.to_string(),
            counts.failed.to_string(),
            counts.total.to_string(),
            ago(batch.created_at.unsigned_abs()),
            batch.endpoint.clone(),
        ]
    };
    let head = head.map(str::to_owned).to_vec();
    table(&[head].into_iter().chain(batches.iter().map(row)).collect::<Vec<_>>())
}

/// A batch for people, with what was wrong.
fn told(batch: &Made) -> String {
    let counts = batch.request_counts.unwrap_or_default();
    let mut text = format!(
        "{}: {}, {} of {} answered, {} failed\n",
        batch.id,
        batch.status.as_str(),
        counts.completed,
        counts.total,
        counts.failed
    );
    for error in batch.errors.iter().flat_map(|errors| &errors.data) {
        let line = error.line.map(|line| format!("line {line}: ")).unwrap_or_default();
        let message = error.message.as_deref().or(error.code.as_deref()).unwrap_or("unknown");
        text.push_str(&format!("  {line}{message}\n"));
    }
    text
}
