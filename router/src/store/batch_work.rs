//! The work of batches: who does which part of it, and until when.
//!
//! Routers take batches and lines under leases that they renew. Whoever's lease has ended has lost
//! the work: what it still writes for it changes nothing, because every write names its holder. So a
//! line has one answer, however often it is computed.

use sqlx::Row;
use sqlx::any::AnyRow;

use super::batches::{BatchRow, BatchUsage, batch_row};
use super::{Dialect, Error, Store};

/// A router's claim to what it takes, from a moment on. Times are Unix milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lease<'a> {
    pub(crate) holder: &'a str,
    pub(crate) now: i64,
    pub(crate) until: i64,
}

/// A line, as it is found in an input file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewLine {
    /// As an editor numbers it.
    pub(crate) position: i64,
    pub(crate) custom_id: String,
    pub(crate) model: String,
    pub(crate) first_byte: i64,
    pub(crate) num_bytes: i64,
}

/// A line that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LeasedLine {
    pub(crate) batch: String,
    pub(crate) position: i64,
    pub(crate) custom_id: String,
    pub(crate) first_byte: i64,
    pub(crate) num_bytes: i64,
    /// How often its answer was lost.
    pub(crate) num_tries: i64,
}

/// An answer to a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LineResult {
    pub(crate) is_error: bool,
    /// The line of the results.
    pub(crate) text: String,
    pub(crate) usage: BatchUsage,
}

/// A line as it is written to a file of results.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EndedLine {
    pub(crate) position: i64,
    pub(crate) custom_id: String,
    /// Nothing, if it was never answered.
    pub(crate) result: Option<String>,
}

/// Names a line: its batch, and its position there.
pub(crate) type LineId = (String, i64);

impl Store {
    /// A batch whose input is to be checked or whose files are to be written, oldest first.
    pub(crate) async fn lease_batch(&self, lease: Lease<'_>) -> Result<Option<BatchRow>, Error> {
        let sqlite = "UPDATE batches SET lease_holder = $1, lease_until = $2 WHERE id IN ( \
               SELECT id FROM batches WHERE status IN ('validating', 'finalizing', 'cancelling') \
               AND lease_until <= $3 ORDER BY created_at, id LIMIT 1) RETURNING *";
        let postgres = "WITH chosen AS MATERIALIZED ( \
               SELECT id FROM batches WHERE status IN ('validating', 'finalizing', 'cancelling') \
               AND lease_until <= $3 ORDER BY created_at, id LIMIT 1 FOR UPDATE SKIP LOCKED) \
             UPDATE batches SET lease_holder = $1, lease_until = $2 \
             WHERE id IN (SELECT id FROM chosen) RETURNING *";
        let row = sqlx::query(self.either(sqlite, postgres))
            .bind(lease.holder)
            .bind(lease.until)
            .bind(lease.now)
            .fetch_optional(&self.pool)
            .await?;
        row.as_ref().map(batch_row).transpose()
    }

    /// Gives a batch back, to be taken again from `until` on.
    pub(crate) async fn release_batch(
        &self,
        (id, holder): (&str, &str),
        until: i64,
    ) -> Result<(), Error> {
        sqlx::query(
            "UPDATE batches SET lease_holder = NULL, lease_until = $3 \
             WHERE id = $1 AND lease_holder = $2",
        )
        .bind(id)
        .bind(holder)
        .bind(until)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Adds lines to a batch whose input is being checked. Says whether the holder still has it.
    pub(crate) async fn add_lines(
        &self,
        (id, holder): (&str, &str),
        lines: &[NewLine],
    ) -> Result<bool, Error> {
        let mut transaction = self.begin().await?;
        // Locks the batch: what is cancelled gets no more lines.
        let held = sqlx::query(
            "UPDATE batches SET lease_holder = lease_holder \
             WHERE id = $1 AND lease_holder = $2 AND status = 'validating'",
        )
        .bind(id)
        .bind(holder)
        .execute(&mut *transaction)
        .await?;
        if held.rows_affected() == 0 {
            return Ok(false);
        }
        for line in lines {
            sqlx::query(
                "INSERT INTO batch_lines (batch, position, custom_id, model, first_byte, num_bytes) \
                 VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
            )
            .bind(id)
            .bind(line.position)
            .bind(&line.custom_id)
            .bind(&line.model)
            .bind(line.first_byte)
            .bind(line.num_bytes)
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await?;
        Ok(true)
    }

    /// Begins a batch whose lines are all there. Says whether the holder still had it.
    pub(crate) async fn begin_batch(
        &self,
        (id, holder): (&str, &str),
        (num_total, models): (i64, &str),
        now: i64,
    ) -> Result<bool, Error> {
        let done = sqlx::query(
            "UPDATE batches SET status = 'in_progress', in_progress_at = $3, num_total = $4, \
               models = $5, lease_holder = NULL, lease_until = 0 \
             WHERE id = $1 AND lease_holder = $2 AND status = 'validating'",
        )
        .bind(id)
        .bind(holder)
        .bind(now)
        .bind(num_total)
        .bind(models)
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Ends a batch whose input is wrong.
    pub(crate) async fn fail_batch(
        &self,
        (id, holder): (&str, &str),
        errors: &str,
        now: i64,
    ) -> Result<bool, Error> {
        let mut transaction = self.begin().await?;
        let done = sqlx::query(
            "UPDATE batches SET status = 'failed', errors = $3, ended_at = $4, \
               lease_holder = NULL \
             WHERE id = $1 AND lease_holder = $2 AND status = 'validating'",
        )
        .bind(id)
        .bind(holder)
        .bind(errors)
        .bind(now)
        .execute(&mut *transaction)
        .await?;
        let is_held = done.rows_affected() == 1;
        if is_held {
            sqlx::query("DELETE FROM batch_lines WHERE batch = $1")
                .bind(id)
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        Ok(is_held)
    }

    /// Batches whose lines are to be answered, oldest first.
    pub(crate) async fn running_batches(&self, limit: i64) -> Result<Vec<BatchRow>, Error> {
        let rows = sqlx::query(
            "SELECT * FROM batches WHERE status = 'in_progress' ORDER BY created_at, id LIMIT $1",
        )
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(batch_row).collect()
    }

    /// Takes the next lines of a batch that name this model, at most `limit`.
    pub(crate) async fn lease_lines(
        &self,
        (batch, model): (&str, &str),
        limit: i64,
        lease: Lease<'_>,
    ) -> Result<Vec<LeasedLine>, Error> {
        let sqlite = "UPDATE batch_lines SET state = 1, lease_holder = $1, lease_until = $2 \
             WHERE batch = $4 AND position IN ( \
               SELECT position FROM batch_lines WHERE batch = $4 AND model = $5 AND state = 0 \
               AND ready_at <= $3 ORDER BY position LIMIT $6) \
             AND EXISTS (SELECT 1 FROM batches WHERE id = $4 AND status = 'in_progress') \
             RETURNING *";
        let postgres = "WITH chosen AS MATERIALIZED ( \
               SELECT position FROM batch_lines WHERE batch = $4 AND model = $5 AND state = 0 \
               AND ready_at <= $3 \
               AND EXISTS (SELECT 1 FROM batches WHERE id = $4 AND status = 'in_progress') \
               ORDER BY position LIMIT $6 FOR UPDATE SKIP LOCKED) \
             UPDATE batch_lines SET state = 1, lease_holder = $1, lease_until = $2 \
             WHERE batch = $4 AND position IN (SELECT position FROM chosen) RETURNING *";
        let rows = sqlx::query(self.either(sqlite, postgres))
            .bind(lease.holder)
            .bind(lease.until)
            .bind(lease.now)
            .bind(batch)
            .bind(model)
            .bind(limit)
            .fetch_all(&self.pool)
            .await?;
        let mut lines = rows.iter().map(leased_line).collect::<Result<Vec<_>, Error>>()?;
        lines.sort_by_key(|line| line.position);
        Ok(lines)
    }

    /// Gives a line back, to be taken again from `ready_at` on, after `num_lost` more lost answers.
    pub(crate) async fn release_line(
        &self,
        ((batch, position), holder): (&LineId, &str),
        (num_lost, ready_at): (i64, i64),
    ) -> Result<(), Error> {
        sqlx::query(
            "UPDATE batch_lines SET state = 0, lease_holder = NULL, ready_at = $5, \
               num_tries = num_tries + $4 \
             WHERE batch = $1 AND position = $2 AND lease_holder = $3 AND state = 1",
        )
        .bind(batch)
        .bind(*position)
        .bind(holder)
        .bind(num_lost)
        .bind(ready_at)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Records a line's answer, and that its batch is done if it was the last. Says whether it
    /// counted: the line may have been lost, or its batch have ended.
    pub(crate) async fn record_line(
        &self,
        ((batch, position), holder): (&LineId, &str),
        result: &LineResult,
        now: i64,
    ) -> Result<bool, Error> {
        let mut transaction = self.begin().await?;
        let done = sqlx::query(
            "UPDATE batch_lines SET state = 2, lease_holder = NULL, is_error = $4, result = $5 \
             WHERE batch = $1 AND position = $2 AND lease_holder = $3 AND state = 1",
        )
        .bind(batch)
        .bind(*position)
        .bind(holder)
        .bind(i64::from(result.is_error))
        .bind(&result.text)
        .execute(&mut *transaction)
        .await?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        sqlx::query(
            "UPDATE batches SET num_completed = num_completed + $2, num_failed = num_failed + $3, \
               input_tokens = input_tokens + $4, cached_tokens = cached_tokens + $5, \
               output_tokens = output_tokens + $6, reasoning_tokens = reasoning_tokens + $7, \
               finalizing_at = CASE WHEN num_completed + num_failed + 1 = num_total \
                 AND status = 'in_progress' THEN $8 ELSE finalizing_at END, \
               status = CASE WHEN num_completed + num_failed + 1 = num_total \
                 AND status = 'in_progress' THEN 'finalizing' ELSE status END \
             WHERE id = $1",
        )
        .bind(batch)
        .bind(i64::from(!result.is_error))
        .bind(i64::from(result.is_error))
        .bind(result.usage.input_tokens)
        .bind(result.usage.cached_tokens)
        .bind(result.usage.output_tokens)
        .bind(result.usage.reasoning_tokens)
        .bind(now)
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Has batches end whose time is over. Says how many.
    pub(crate) async fn expire_batches(&self, now: i64) -> Result<u64, Error> {
        let done = sqlx::query(
            "UPDATE batches SET status = 'finalizing', outcome = 'expired', finalizing_at = $1, \
               lease_holder = NULL, lease_until = 0 \
             WHERE status IN ('validating', 'in_progress') AND expires_at <= $1",
        )
        .bind(now)
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected())
    }

    /// Settles that what is not answered of a batch never will be, and forgets lines that never all
    /// were there. Says whether the holder still has the batch.
    pub(crate) async fn close_lines(&self, (id, holder): (&str, &str)) -> Result<bool, Error> {
        let mut transaction = self.begin().await?;
        let held = sqlx::query(
            "UPDATE batches SET lease_holder = lease_holder \
             WHERE id = $1 AND lease_holder = $2 AND status IN ('finalizing', 'cancelling')",
        )
        .bind(id)
        .bind(holder)
        .execute(&mut *transaction)
        .await?;
        if held.rows_affected() == 0 {
            return Ok(false);
        }
        sqlx::query(
            "DELETE FROM batch_lines WHERE batch = $1 AND EXISTS \
               (SELECT 1 FROM batches WHERE id = $1 AND in_progress_at IS NULL)",
        )
        .bind(id)
        .execute(&mut *transaction)
        .await?;
        let closed = sqlx::query(
            "UPDATE batch_lines SET state = 3, is_error = 1, lease_holder = NULL \
             WHERE batch = $1 AND state IN (0, 1)",
        )
        .bind(id)
        .execute(&mut *transaction)
        .await?;
        sqlx::query("UPDATE batches SET num_failed = num_failed + $2 WHERE id = $1")
            .bind(id)
            .bind(i64::try_from(closed.rows_affected()).unwrap_or(i64::MAX))
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// What goes into a file of results after a position, in the input's order.
    pub(crate) async fn ended_lines(
        &self,
        (batch, is_error): (&str, bool),
        after: i64,
        limit: i64,
    ) -> Result<Vec<EndedLine>, Error> {
        let rows = sqlx::query(
            "SELECT position, custom_id, result FROM batch_lines \
             WHERE batch = $1 AND is_error = $2 AND position > $3 AND state IN (2, 3) \
             ORDER BY position LIMIT $4",
        )
        .bind(batch)
        .bind(i64::from(is_error))
        .bind(after)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        let line = |row: &AnyRow| {
            Ok(EndedLine {
                position: row.try_get("position")?,
                custom_id: row.try_get("custom_id")?,
                result: row.try_get("result")?,
            })
        };
        rows.iter().map(line).collect()
    }

    /// Ends a batch whose files are written, and forgets its lines. Says whether the holder still had
    /// it.
    pub(crate) async fn end_batch(
        &self,
        (id, holder): (&str, &str),
        (output_file, error_file): (Option<&str>, Option<&str>),
        now: i64,
    ) -> Result<bool, Error> {
        let mut transaction = self.begin().await?;
        let done = sqlx::query(
            "UPDATE batches SET status = outcome, output_file = $3, error_file = $4, \
               ended_at = $5, lease_holder = NULL \
             WHERE id = $1 AND lease_holder = $2 AND status IN ('finalizing', 'cancelling')",
        )
        .bind(id)
        .bind(holder)
        .bind(output_file)
        .bind(error_file)
        .bind(now)
        .execute(&mut *transaction)
        .await?;
        let is_held = done.rows_affected() == 1;
        if is_held {
            sqlx::query("DELETE FROM batch_lines WHERE batch = $1")
                .bind(id)
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        Ok(is_held)
    }

    /// Forgets batches that ended before a time. Says how many.
    pub(crate) async fn forget_batches(&self, ended_before: i64) -> Result<u64, Error> {
        let done = sqlx::query("DELETE FROM batches WHERE ended_at < $1")
            .bind(ended_before)
            .execute(&self.pool)
            .await?;
        Ok(done.rows_affected())
    }

    /// Lines that are not answered.
    pub(crate) async fn num_waiting_lines(&self) -> Result<i64, Error> {
        let row = sqlx::query(
            "SELECT CAST(coalesce(sum(num_total - num_completed - num_failed), 0) AS BIGINT) \
             FROM batches WHERE status = 'in_progress'",
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(row.try_get(0)?)
    }

    /// The text of the database's dialect. SQLite's statements have the whole file to themselves.
    fn either(&self, sqlite: &'static str, postgres: &'static str) -> &'static str {
        match self.dialect {
            Dialect::Sqlite => sqlite,
            Dialect::Postgres => postgres,
        }
    }
}

fn leased_line(row: &AnyRow) -> Result<LeasedLine, Error> {
    Ok(LeasedLine {
        batch: row.try_get("batch")?,
        position: row.try_get("position")?,
        custom_id: row.try_get("custom_id")?,
        first_byte: row.try_get("first_byte")?,
        num_bytes: row.try_get("num_bytes")?,
        num_tries: row.try_get("num_tries")?,
    })
}

#[cfg(test)]
#[path = "batch_work_tests.rs"]
mod tests;
