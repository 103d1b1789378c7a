//! Responses and their items. Every query names an owner: what another one stored does not exist.

use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use super::{Error, Store};

/// Most responses of one conversation.
const MAX_CHAIN: i64 = 4096;

/// A response as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ResponseRow {
    pub(crate) id: String,
    pub(crate) owner: String,
    /// What it continues.
    pub(crate) previous: Option<String>,
    pub(crate) status: String,
    /// Unix seconds.
    pub(crate) created_at: i64,
    pub(crate) expires_at: i64,
    /// The response's JSON, without its output.
    pub(crate) body: String,
    /// What went in, by id, as JSON.
    pub(crate) input: Vec<(String, String)>,
    /// What came out, by id, as JSON.
    pub(crate) output: Vec<(String, String)>,
}

/// One response of a conversation, in a chain that ends with the response asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    pub(crate) id: String,
    pub(crate) previous: Option<String>,
    pub(crate) status: String,
    pub(crate) num_bytes: i64,
}

impl Store {
    /// Writes a new response.
    pub(crate) async fn put_response(&self, row: &ResponseRow) -> Result<(), Error> {
        let mut transaction = self.begin().await?;
        insert(row, &mut transaction).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Writes a response over one that was not finished. Says whether it was there: it may have
    /// been deleted, or have ended otherwise.
    pub(crate) async fn finish_response(&self, row: &ResponseRow) -> Result<bool, Error> {
        let mut transaction = self.begin().await?;
        let unfinished = sqlx::query(
            "DELETE FROM responses \
             WHERE id = $1 AND owner = $2 AND status IN ('queued', 'in_progress')",
        )
        .bind(&row.id)
        .bind(&row.owner)
        .execute(&mut *transaction)
        .await?;
        let is_there = unfinished.rows_affected() == 1;
        if is_there {
            insert(row, &mut transaction).await?;
        }
        transaction.commit().await?;
        Ok(is_there)
    }

    /// A response with its items, unless it has expired.
    pub(crate) async fn response(
        &self,
        (owner, id): (&str, &str),
        now: i64,
    ) -> Result<Option<ResponseRow>, Error> {
        let row =
            sqlx::query("SELECT * FROM responses WHERE id = $1 AND owner = $2 AND expires_at > $3")
                .bind(id)
                .bind(owner)
                .bind(now)
                .fetch_optional(&self.pool)
                .await?;
        let Some(row) = row else { return Ok(None) };
        let items = sqlx::query(
            "SELECT is_output, id, body FROM response_items WHERE response = $1 ORDER BY position",
        )
        .bind(id)
        .fetch_all(&self.pool)
        .await?;
        let (mut input, mut output) = (Vec::new(), Vec::new());
        for item in items {
            let side =
                if item.try_get::<i64, _>("is_output")? == 1 { &mut output } else { &mut input };
            side.push((item.try_get("id")?, item.try_get("body")?));
        }
        Ok(Some(ResponseRow {
            id: row.try_get("id")?,
            owner: row.try_get("owner")?,
            previous: row.try_get("previous")?,
            status: row.try_get("status")?,
            created_at: row.try_get("created_at")?,
            expires_at: row.try_get("expires_at")?,
            body: row.try_get("body")?,
            input,
            output,
        }))
    }

    /// The conversation that a response ends, its first response first; as far as it is there.
    pub(crate) async fn conversation(
        &self,
        (owner, id): (&str, &str),
        now: i64,
    ) -> Result<Vec<Turn>, Error> {
        let rows = sqlx::query(
            "WITH RECURSIVE chain (id, previous, status, num_bytes, depth) AS ( \
               SELECT id, previous, status, num_bytes, 0 FROM responses \
               WHERE id = $1 AND owner = $2 AND expires_at > $3 \
               UNION ALL \
               SELECT r.id, r.previous, r.status, r.num_bytes, depth + 1 FROM chain \
               JOIN responses r ON r.id = chain.previous \
               WHERE r.owner = $2 AND r.expires_at > $3 AND depth < $4 \
             ) SELECT * FROM chain ORDER BY depth DESC",
        )
        .bind(id)
        .bind(owner)
        .bind(now)
        .bind(MAX_CHAIN)
        .fetch_all(&self.pool)
        .await?;
        let turn = |row: &AnyRow| {
            Ok(Turn {
                id: row.try_get("id")?,
                previous: row.try_get("previous")?,
                status: row.try_get("status")?,
                num_bytes: row.try_get("num_bytes")?,
            })
        };
        rows.iter().map(turn).collect()
    }

    /// The items of one response, what went in before what came out.
    pub(crate) async fn response_items(&self, response: &str) -> Result<Vec<String>, Error> {
        let rows =
            sqlx::query("SELECT body FROM response_items WHERE response = $1 ORDER BY position")
                .bind(response)
                .fetch_all(&self.pool)
                .await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// The newest item of this id.
    pub(crate) async fn response_item(
        &self,
        (owner, id): (&str, &str),
        now: i64,
    ) -> Result<Option<String>, Error> {
        let row = sqlx::query(
            "SELECT i.body FROM response_items i JOIN responses r ON r.id = i.response \
             WHERE i.id = $1 AND r.owner = $2 AND r.expires_at > $3 \
             ORDER BY r.created_at DESC, r.rowid DESC LIMIT 1",
        )
        .bind(id)
        .bind(owner)
        .bind(now)
        .fetch_optional(&self.pool)
        .await?;
        row.map(|row| Ok(row.try_get(0)?)).transpose()
    }

    /// Keeps responses that are used from expiring.
    pub(crate) async fn prolong_responses(
        &self,
        responses: &[Turn],
        expires_at: i64,
    ) -> Result<(), Error> {
        let mut transaction = self.begin().await?;
        for turn in responses {
            sqlx::query("UPDATE responses SET expires_at = $2 WHERE id = $1 AND expires_at < $2")
                .bind(&turn.id)
                .bind(expires_at)
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Says whether there was one.
    pub(crate) async fn delete_response(
        &self,
        (owner, id): (&str, &str),
        now: i64,
    ) -> Result<bool, Error> {
        let done =
            sqlx::query("DELETE FROM responses WHERE id = $1 AND owner = $2 AND expires_at > $3")
                .bind(id)
                .bind(owner)
                .bind(now)
                .execute(&self.pool)
                .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Deletes what has expired, and the oldest while all together are larger than `max_bytes`.
    /// Says how many there were.
    pub(crate) async fn tidy_responses(&self, max_bytes: i64, now: i64) -> Result<u64, Error> {
        let expired = sqlx::query("DELETE FROM responses WHERE expires_at <= $1")
            .bind(now)
            .execute(&self.pool)
            .await?;
        let surplus = sqlx::query(
            "DELETE FROM responses WHERE rowid IN ( \
               SELECT rowid FROM ( \
                 SELECT rowid, sum(num_bytes) OVER (ORDER BY created_at DESC, rowid DESC) AS total \
                 FROM responses \
               ) AS sized WHERE total > $1)",
        )
        .bind(max_bytes)
        .execute(&self.pool)
        .await?;
        Ok(expired.rows_affected() + surplus.rows_affected())
    }
}

async fn insert(row: &ResponseRow, connection: &mut AnyConnection) -> Result<(), Error> {
    let items = || row.input.iter().chain(&row.output);
    let num_bytes = row.body.len() + items().map(|(_, body)| body.len()).sum::<usize>();
    sqlx::query(
        "INSERT INTO responses \
         (id, owner, previous, status, created_at, expires_at, num_bytes, body) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(&row.id)
    .bind(&row.owner)
    .bind(&row.previous)
    .bind(&row.status)
    .bind(row.created_at)
    .bind(row.expires_at)
    .bind(i64::try_from(num_bytes).unwrap_or(i64::MAX))
    .bind(&row.body)
    .execute(&mut *connection)
    .await?;
    for (position, (id, body)) in (0_i64..).zip(items()) {
        let is_output = position >= row.input.len() as i64;
        sqlx::query(
            "INSERT INTO response_items (response, position, is_output, id, body) \
             VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(&row.id)
        .bind(position)
        .bind(i64::from(is_output))
        .bind(id)
        .bind(body)
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::{Fresh, databases};

    fn row(id: &str, previous: Option<&str>, created_at: i64) -> ResponseRow {
        ResponseRow {
            id: id.into(),
            owner: "a".into(),
            previous: previous.map(Into::into),
            status: "completed".into(),
            created_at,
            expires_at: 1000,
            body: "{}".into(),
            input: vec![(format!("in_{id}"), format!("in {id}"))],
            output: vec![(format!("out_{id}"), format!("out {id}"))],
        }
    }

    async fn store(fresh: &Fresh, rows: &[ResponseRow]) -> Store {
        let store = fresh.open().await;
        for row in rows {
            store.put_response(row).await.unwrap();
        }
        store
    }

    #[tokio::test]
    async fn a_response_is_read_as_it_was_written_by_its_owner_alone() {
        for fresh in databases() {
            let store = store(&fresh, &[row("1", None, 1), row("2", Some("1"), 2)]).await;

            assert_eq!(store.response(("a", "2"), 3).await.unwrap(), Some(row("2", Some("1"), 2)),);
            assert_eq!(store.response(("b", "2"), 3).await.unwrap(), None);
            assert_eq!(store.response(("a", "2"), 1000).await.unwrap(), None);
            assert_eq!(store.response_items("2").await.unwrap(), ["in 2", "out 2"]);
            assert_eq!(
                store.response_item(("a", "out_1"), 3).await.unwrap().as_deref(),
                Some("out 1"),
            );
            assert_eq!(store.response_item(("b", "out_1"), 3).await.unwrap(), None);
            assert!(!store.delete_response(("b", "2"), 3).await.unwrap());
            assert!(store.delete_response(("a", "2"), 3).await.unwrap());
            assert_eq!(store.response_items("2").await.unwrap(), [""; 0]);
        }
    }

    #[tokio::test]
    async fn only_what_is_unfinished_is_finished() {
        for fresh in databases() {
            let done = row("1", None, 1);
            let queued =
                ResponseRow { status: "queued".into(), output: Vec::new(), ..done.clone() };
            let store = store(&fresh, &[queued]).await;

            assert!(store.finish_response(&done).await.unwrap());
            let late = ResponseRow { status: "cancelled".into(), ..done.clone() };
            assert!(!store.finish_response(&late).await.unwrap());
            assert_eq!(store.response(("a", "1"), 3).await.unwrap(), Some(done.clone()));

            store.delete_response(("a", "1"), 3).await.unwrap();
            assert!(!store.finish_response(&done).await.unwrap());
        }
    }

    #[tokio::test]
    async fn a_conversation_is_a_chain_from_its_beginning() {
        for fresh in databases() {
            let rows = [row("1", None, 1), row("2", Some("1"), 2), row("3", Some("2"), 3)];
            let store = store(&fresh, &rows).await;
            let ids = |turns: Vec<Turn>| turns.into_iter().map(|turn| turn.id).collect::<Vec<_>>();

            assert_eq!(ids(store.conversation(("a", "3"), 4).await.unwrap()), ["1", "2", "3"]);
            assert_eq!(ids(store.conversation(("b", "3"), 4).await.unwrap()), [""; 0]);

            store.delete_response(("a", "1"), 4).await.unwrap();
            let broken = store.conversation(("a", "3"), 4).await.unwrap();
            assert_eq!(broken[0].previous.as_deref(), Some("1"));
        }
    }

    #[tokio::test]
    async fn the_old_and_the_many_go_first() {
        for fresh in databases() {
            let rows = [row("1", None, 1), row("2", None, 2), row("3", None, 3)];
            let store = store(&fresh, &rows).await;
            let bytes_of_two = 2 * (2 + "in 1".len() + "out 1".len()) as i64;

            assert_eq!(store.tidy_responses(bytes_of_two, 4).await.unwrap(), 1);
            assert_eq!(store.response(("a", "1"), 4).await.unwrap(), None);

            let used = store.conversation(("a", "3"), 4).await.unwrap();
            store.prolong_responses(&used, 2000).await.unwrap();
            assert_eq!(store.tidy_responses(bytes_of_two, 1500).await.unwrap(), 1);
            assert!(store.response(("a", "3"), 1500).await.unwrap().is_some());
        }
    }
}
