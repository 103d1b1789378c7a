//! Batches: many requests in a file, answered when nothing else needs the models.
//!
//! A batch is rows of the database from its beginning to its end, and every step of it can be taken
//! by any router that shares the database, or taken again: its input is checked, its lines are
//! answered one by one, its files of results are written. Nothing here knows OpenAI's types of a
//! request: a line goes through the same handler as a request over HTTP.

mod capacity;
mod check;
pub(crate) mod executor;
mod finish;
mod line;
mod run;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, OnceCell};

use crate::api::batches::request::BatchRequest;
use crate::config::{BatchLimits, Config};
use crate::error::ApiError;
use crate::files::Files;
use crate::store::{self, BatchRow, Database, Durability, PutBatch, Store};

/// How long a batch has.
const WINDOW: Duration = Duration::from_hours(24);
/// The purpose of an input file.
const INPUT: &str = "batch";

/// Where a batch's lines go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Chat,
    Completions,
    Embeddings,
    Responses,
}

/// The batches. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Batches(Arc<Inner>);

struct Inner {
    database: Database,
    limits: BatchLimits,
    files: Files,
    /// Opened when it is needed: a router that is asked for no batches needs no database.
    store: OnceCell<Store>,
    /// Told when there is something to do.
    wake: Notify,
}

impl Endpoint {
    pub(crate) const ALL: [Self; 4] =
        [Self::Chat, Self::Completions, Self::Embeddings, Self::Responses];

    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Embeddings => "/v1/embeddings",
            Self::Responses => "/v1/responses",
        }
    }

    pub(crate) fn of(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|endpoint| endpoint.path() == path)
    }
}

impl Batches {
    pub(crate) fn new(config: &Config, files: Files) -> Self {
        Self(Arc::new(Inner {
            database: config.database.clone(),
            limits: config.batches.clone(),
            files,
            store: OnceCell::new(),
            wake: Notify::new(),
        }))
    }

    /// Begins a batch of a file that this owner has uploaded for one.
    pub(crate) async fn create(
        &self,
        owner: &str,
        request: BatchRequest,
    ) -> Result<BatchRow, ApiError> {
        let file = self.0.files.row(owner, &request.input_file).await?;
        if file.purpose != INPUT {
            let message = format!(
                "`input_file_id` is a file for `{}`, and must be one for `{INPUT}`",
                file.purpose
            );
            return Err(ApiError::invalid("input_file_id", "invalid_value", message));
        }
        let metadata = request.metadata.map(|pairs| serde_json::to_string(&pairs));
        let now = unix_seconds();
        let row = BatchRow {
            id: format!("batch_{}", uuid::Uuid::now_v7().simple()),
            owner: owner.to_owned(),
            endpoint: request.endpoint.path().to_owned(),
            input_file: request.input_file,
            metadata: metadata.transpose().map_err(|_| ApiError::Internal)?,
            output_ttl: request.output_ttl,
            status: "validating".into(),
            created_at: now,
            expires_at: now.saturating_add_unsigned(WINDOW.as_secs()),
            ..BatchRow::default()
        };
        let max = self.0.limits.max_unfinished;
        let max_unfinished = i64::try_from(max).unwrap_or(i64::MAX);
        match self.store().await?.put_batch(&row, max_unfinished).await.map_err(unusable)? {
            PutBatch::Stored => {}
            PutBatch::TooMany => return Err(ApiError::TooManyBatches { max }),
        }
        self.wake();
        Ok(row)
    }

    /// A batch of this owner.
    pub(crate) async fn get(&self, owner: &str, id: &str) -> Result<BatchRow, ApiError> {
        let row = self.store().await?.batch((owner, id)).await.map_err(unusable)?;
        row.ok_or_else(|| ApiError::not_found("batch", id))
    }

    /// Some batches of this owner, and whether there are more.
    pub(crate) async fn list(
        &self,
        owner: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<BatchRow>, bool), ApiError> {
        let after = match after {
            Some(id) => Some(self.get(owner, id).await?),
            None => None,
        };
        let one_more = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
        let store = self.store().await?;
        let mut rows = store.batches(owner, after.as_ref(), one_more).await.map_err(unusable)?;
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        Ok((rows, has_more))
    }

    /// Has a batch end. One that is being cancelled already is told as it is.
    pub(crate) async fn cancel(&self, owner: &str, id: &str) -> Result<BatchRow, ApiError> {
        let store = self.store().await?;
        let is_cancelled =
            store.cancel_batch((owner, id), unix_seconds()).await.map_err(unusable)?;
        self.wake();
        let row = self.get(owner, id).await?;
        match row.status.as_str() {
            _ if is_cancelled => Ok(row),
            "cancelling" | "cancelled" => Ok(row),
            status => Err(ApiError::NotCancellable { status: status.to_owned() }),
        }
    }

    /// The store, if there is a database: a router that was never asked for a batch makes none.
    async fn existing(&self) -> Result<Option<&Store>, store::Error> {
        let is_there = self.0.store.initialized()
            || self.0.database.file().is_none_or(std::path::Path::exists);
        if is_there { self.open().await.map(Some) } else { Ok(None) }
    }

    async fn open(&self) -> Result<&Store, store::Error> {
        let open = || Store::open(&self.0.database, Durability::Recent);
        self.0.store.get_or_try_init(open).await
    }

    async fn store(&self) -> Result<&Store, ApiError> {
        self.open().await.map_err(unusable)
    }

    fn limits(&self) -> &BatchLimits {
        &self.0.limits
    }

    /// Returns when there may be something to do.
    async fn woken(&self) {
        self.0.wake.notified().await;
    }

    fn wake(&self) {
        self.0.wake.notify_one();
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn unusable(error: store::Error) -> ApiError {
    tracing::error!(error = &error as &dyn std::error::Error, "batches can't be used");
    ApiError::Storage
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn unix_seconds() -> i64 {
    i64::try_from(since_epoch().as_secs()).unwrap_or(i64::MAX)
}

fn unix_millis() -> i64 {
    i64::try_from(since_epoch().as_millis()).unwrap_or(i64::MAX)
}
