//! What a router has of the work of batches, all together: kept for as long as it runs, and lost or
//! given back.

use sqlx::Row;

use super::{Error, Lease, LineId, Store};

impl Store {
    /// Keeps a batch that a router has taken.
    pub(crate) async fn renew_batch(&self, id: &str, lease: Lease<'_>) -> Result<(), Error> {
        sqlx::query("UPDATE batches SET lease_until = $3 WHERE id = $1 AND lease_holder = $2")
            .bind(id)
            .bind(lease.holder)
            .bind(lease.until)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Keeps all lines that a router has taken.
    pub(crate) async fn renew_lines(&self, lease: Lease<'_>) -> Result<(), Error> {
        sqlx::query(
            "UPDATE batch_lines SET lease_until = $2 WHERE state = 1 AND lease_holder = $1",
        )
        .bind(lease.holder)
        .bind(lease.until)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// The lines that a router has and whose answers are still wanted.
    pub(crate) async fn wanted_lines(&self, holder: &str) -> Result<Vec<LineId>, Error> {
        let rows = sqlx::query(
            "SELECT batch, position FROM batch_lines WHERE state = 1 AND lease_holder = $1 \
             AND EXISTS (SELECT 1 FROM batches WHERE id = batch AND status = 'in_progress')",
        )
        .bind(holder)
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(|row| Ok((row.try_get("batch")?, row.try_get("position")?))).collect()
    }

    /// Has lines that their holders have lost wait again. Says how many.
    pub(crate) async fn reclaim_lines(&self, now: i64) -> Result<u64, Error> {
        let done = sqlx::query(
            "UPDATE batch_lines SET state = 0, lease_holder = NULL, num_tries = num_tries + 1 \
             WHERE state = 1 AND lease_until <= $1",
        )
        .bind(now)
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected())
    }

    /// Gives everything back that a router has and will not finish.
    pub(crate) async fn release_all(&self, holder: &str) -> Result<(), Error> {
        self.free_all(holder, 0).await.map(drop)
    }

    /// Takes everything from a router that will not finish it. Says how many lines.
    pub(super) async fn lose_all(&self, holder: &str) -> Result<u64, Error> {
        self.free_all(holder, 1).await
    }

    async fn free_all(&self, holder: &str, num_lost: i64) -> Result<u64, Error> {
        let lines = sqlx::query(
            "UPDATE batch_lines SET state = 0, lease_holder = NULL, num_tries = num_tries + $2 \
             WHERE state = 1 AND lease_holder = $1",
        )
        .bind(holder)
        .bind(num_lost)
        .execute(&self.pool)
        .await?;
        sqlx::query(
            "UPDATE batches SET lease_holder = NULL, lease_until = 0 WHERE lease_holder = $1",
        )
        .bind(holder)
        .execute(&self.pool)
        .await?;
        Ok(lines.rows_affected())
    }
}
