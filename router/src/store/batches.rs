//! Batches as their owners see them: made, listed, cancelled. Every query here names an owner: what
//! another one asked for does not exist.

use sqlx::Row;
use sqlx::any::AnyRow;

use super::{Error, Store};

/// A row of `batches`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BatchRow {
    pub(crate) id: String,
    pub(crate) owner: String,
    pub(crate) endpoint: String,
    pub(crate) input_file: String,
    /// JSON, as the client gave it.
    pub(crate) metadata: Option<String>,
    /// Seconds that the files of results are kept.
    pub(crate) output_ttl: Option<i64>,
    pub(crate) status: String,
    /// What it is when its files are written.
    pub(crate) outcome: String,
    /// What was wrong with the input file, as JSON.
    pub(crate) errors: Option<String>,
    /// The models that its lines name, as JSON.
    pub(crate) models: String,
    /// Unix seconds, as all times here.
    pub(crate) created_at: i64,
    pub(crate) expires_at: i64,
    pub(crate) in_progress_at: Option<i64>,
    pub(crate) finalizing_at: Option<i64>,
    pub(crate) cancelling_at: Option<i64>,
    pub(crate) ended_at: Option<i64>,
    pub(crate) num_total: i64,
    pub(crate) num_completed: i64,
    pub(crate) num_failed: i64,
    pub(crate) usage: BatchUsage,
    pub(crate) output_file: Option<String>,
    pub(crate) error_file: Option<String>,
}

/// Tokens that answers have cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BatchUsage {
    pub(crate) input_tokens: i64,
    pub(crate) cached_tokens: i64,
    pub(crate) output_tokens: i64,
    pub(crate) reasoning_tokens: i64,
}

/// Whether a batch was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PutBatch {
    Stored,
    /// Its owner has as many as may be unfinished.
    TooMany,
}

impl Store {
    /// Writes a new batch, unless its owner has `max_unfinished` already.
    pub(crate) async fn put_batch(
        &self,
        row: &BatchRow,
        max_unfinished: i64,
    ) -> Result<PutBatch, Error> {
        let mut transaction = self.begin().await?;
        let lock = "LOCK TABLE batches IN SHARE ROW EXCLUSIVE MODE";
        self.lock_table(&mut transaction, lock).await?;
        let unfinished = sqlx::query(
            "SELECT count(*) FROM batches WHERE owner = $1 \
             AND status NOT IN ('completed', 'failed', 'expired', 'cancelled')",
        )
        .bind(&row.owner)
        .fetch_one(&mut *transaction)
        .await?;
        if unfinished.try_get::<i64, _>(0)? >= max_unfinished {
            return Ok(PutBatch::TooMany);
        }
        sqlx::query(
            "INSERT INTO batches (id, owner, endpoint, input_file, metadata, output_ttl, status, \
             created_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        )
        .bind(&row.id)
        .bind(&row.owner)
        .bind(&row.endpoint)
        .bind(&row.input_file)
        .bind(&row.metadata)
        .bind(row.output_ttl)
        .bind(&row.status)
        .bind(row.created_at)
        .bind(row.expires_at)
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(PutBatch::Stored)
    }

    pub(crate) async fn batch(&self, (owner, id): (&str, &str)) -> Result<Option<BatchRow>, Error> {
        let row = sqlx::query("SELECT * FROM batches WHERE id = $1 AND owner = $2")
            .bind(id)
            .bind(owner)
            .fetch_optional(&self.pool)
            .await?;
        row.as_ref().map(batch_row).transpose()
    }

    /// An owner's batches, newest first, those after `after` only.
    pub(crate) async fn batches(
        &self,
        owner: &str,
        after: Option<&BatchRow>,
        limit: i64,
    ) -> Result<Vec<BatchRow>, Error> {
        let rows = sqlx::query(
            "SELECT * FROM batches WHERE owner = $1 AND (created_at, id) < ($2, $3) \
             ORDER BY created_at DESC, id DESC LIMIT $4",
        )
        .bind(owner)
        .bind(after.map_or(i64::MAX, |row| row.created_at))
        .bind(after.map_or("", |row| row.id.as_str()))
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(batch_row).collect()
    }

    /// Has a batch end without what is not answered yet. Says whether it could: one that writes its
    /// files or has ended can't.
    pub(crate) async fn cancel_batch(
        &self,
        (owner, id): (&str, &str),
        now: i64,
    ) -> Result<bool, Error> {
        let done = sqlx::query(
            "UPDATE batches SET status = 'cancelling', outcome = 'cancelled', \
               cancelling_at = $3, lease_holder = NULL, lease_until = 0 \
             WHERE id = $1 AND owner = $2 AND status IN ('validating', 'in_progress')",
        )
        .bind(id)
        .bind(owner)
        .bind(now)
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected() == 1)
    }
}

pub(super) fn batch_row(row: &AnyRow) -> Result<BatchRow, Error> {
    Ok(BatchRow {
        id: row.try_get("id")?,
        owner: row.try_get("owner")?,
        endpoint: row.try_get("endpoint")?,
        input_file: row.try_get("input_file")?,
        metadata: row.try_get("metadata")?,
        output_ttl: row.try_get("output_ttl")?,
        status: row.try_get("status")?,
        outcome: row.try_get("outcome")?,
        errors: row.try_get("errors")?,
        models: row.try_get("models")?,
        created_at: row.try_get("created_at")?,
        expires_at: row.try_get("expires_at")?,
        in_progress_at: row.try_get("in_progress_at")?,
        finalizing_at: row.try_get("finalizing_at")?,
        cancelling_at: row.try_get("cancelling_at")?,
        ended_at: row.try_get("ended_at")?,
        num_total: row.try_get("num_total")?,
        num_completed: row.try_get("num_completed")?,
        num_failed: row.try_get("num_failed")?,
        usage: BatchUsage {
            input_tokens: row.try_get("input_tokens")?,
            cached_tokens: row.try_get("cached_tokens")?,
            output_tokens: row.try_get("output_tokens")?,
            reasoning_tokens: row.try_get("reasoning_tokens")?,
        },
        output_file: row.try_get("output_file")?,
        error_file: row.try_get("error_file")?,
    })
}
