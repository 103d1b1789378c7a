//! Files and the objects that hold what is in them. Every query about files names an owner: what
//! another one stored does not exist.
//!
//! An object is *loose* from before its first byte until its file's row is written, and from the
//! file's end until it is deleted. Whatever becomes of the process between, the table says which
//! objects nothing needs.

use sqlx::any::AnyRow;
use sqlx::{AnyConnection, AnyExecutor, Row};

use super::{Error, Store};

/// A row of `files`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileRow {
    pub(crate) id: String,
    pub(crate) owner: String,
    pub(crate) purpose: String,
    pub(crate) filename: String,
    pub(crate) num_bytes: i64,
    /// Unix seconds.
    pub(crate) created_at: i64,
    pub(crate) expires_at: Option<i64>,
    /// Where its contents are.
    pub(crate) object: String,
}

/// What an owner has stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FileUsage {
    pub(crate) num_files: i64,
    pub(crate) num_bytes: i64,
}

/// What one owner may store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileQuota {
    pub(crate) max_files: i64,
    pub(crate) max_bytes: i64,
}

/// Whether a file was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PutFile {
    /// It was.
    Stored,
    /// A file of this id is there already.
    Exists(FileRow),
    /// Its owner would have more than it may.
    OverQuota,
    /// Its object is no longer there: writing it took too long.
    ObjectGone,
}

/// Which files of an owner are listed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FilePage<'a> {
    pub(crate) purpose: Option<&'a str>,
    /// Only those after this file.
    pub(crate) after: Option<&'a FileRow>,
    pub(crate) order: Order,
    pub(crate) limit: i64,
}

/// How a list is sorted: by age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    OldestFirst,
    NewestFirst,
}

impl Store {
    /// Says that an object is going to be written, until `due_at` at most.
    pub(crate) async fn begin_object(&self, object: &str, due_at: i64) -> Result<(), Error> {
        loosen(&self.pool, object, due_at).await
    }

    /// Gives an object that was written to a file. With a quota, only if the owner keeps to it.
    pub(crate) async fn put_file(
        &self,
        row: &FileRow,
        quota: Option<FileQuota>,
    ) -> Result<PutFile, Error> {
        let mut transaction = self.begin().await?;
        if let Some(quota) = quota {
            // Nobody else's file is counted and written in between.
            self.lock_table(&mut transaction, "LOCK TABLE files IN SHARE ROW EXCLUSIVE MODE")
                .await?;
            let used = usage(&mut transaction, &row.owner, row.created_at).await?;
            let is_over = used.num_files >= quota.max_files
                || used.num_bytes.saturating_add(row.num_bytes) > quota.max_bytes;
            if is_over {
                return Ok(PutFile::OverQuota);
            }
        }
        let taken = sqlx::query("DELETE FROM loose_objects WHERE object = $1")
            .bind(&row.object)
            .execute(&mut *transaction)
            .await?;
        if taken.rows_affected() == 0 {
            return Ok(PutFile::ObjectGone);
        }
        if insert(&mut transaction, row).await? {
            transaction.commit().await?;
            return Ok(PutFile::Stored);
        }
        let there = sqlx::query("SELECT * FROM files WHERE id = $1")
            .bind(&row.id)
            .fetch_one(&mut *transaction)
            .await?;
        Ok(PutFile::Exists(file_row(&there)?))
    }

    /// A file, unless it has expired.
    pub(crate) async fn file(
        &self,
        (owner, id): (&str, &str),
        now: i64,
    ) -> Result<Option<FileRow>, Error> {
        let row = sqlx::query(
            "SELECT * FROM files \
             WHERE id = $1 AND owner = $2 AND (expires_at IS NULL OR expires_at > $3)",
        )
        .bind(id)
        .bind(owner)
        .bind(now)
        .fetch_optional(&self.pool)
        .await?;
        row.as_ref().map(file_row).transpose()
    }

    /// Some of an owner's files.
    pub(crate) async fn files(
        &self,
        owner: &str,
        page: FilePage<'_>,
        now: i64,
    ) -> Result<Vec<FileRow>, Error> {
        // Two texts, so that each is walked along the index; values that stand for none, so that every
        // parameter has a type.
        let (query, first) = match page.order {
            Order::OldestFirst => (
                "SELECT * FROM files WHERE owner = $1 AND (expires_at IS NULL OR expires_at > $2) \
                 AND ($3 = '' OR purpose = $3) AND (created_at, id) > ($4, $5) \
                 ORDER BY created_at, id LIMIT $6",
                i64::MIN,
            ),
            Order::NewestFirst => (
                "SELECT * FROM files WHERE owner = $1 AND (expires_at IS NULL OR expires_at > $2) \
                 AND ($3 = '' OR purpose = $3) AND (created_at, id) < ($4, $5) \
                 ORDER BY created_at DESC, id DESC LIMIT $6",
                i64::MAX,
            ),
        };
        let rows = sqlx::query(query)
            .bind(owner)
            .bind(now)
            .bind(page.purpose.unwrap_or_default())
            .bind(page.after.map_or(first, |row| row.created_at))
            .bind(page.after.map_or("", |row| row.id.as_str()))
            .bind(page.limit)
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(file_row).collect()
    }

    /// What an owner has stored.
    pub(crate) async fn file_usage(&self, owner: &str, now: i64) -> Result<FileUsage, Error> {
        let mut connection = self.pool.acquire().await?;
        usage(&mut connection, owner, now).await
    }

    /// Deletes a file, and returns its object, which is loose from now on.
    pub(crate) async fn delete_file(
        &self,
        (owner, id): (&str, &str),
        now: i64,
    ) -> Result<Option<String>, Error> {
        let mut transaction = self.begin().await?;
        let row = sqlx::query(
            "DELETE FROM files \
             WHERE id = $1 AND owner = $2 AND (expires_at IS NULL OR expires_at > $3) \
             RETURNING object",
        )
        .bind(id)
        .bind(owner)
        .bind(now)
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let object: String = row.try_get("object")?;
        loosen(&mut *transaction, &object, now).await?;
        transaction.commit().await?;
        Ok(Some(object))
    }

    /// Deletes files that have expired, at most `limit`. Says how many; their objects are loose.
    pub(crate) async fn expire_files(&self, limit: i64, now: i64) -> Result<usize, Error> {
        let mut transaction = self.begin().await?;
        let rows = sqlx::query(
            "DELETE FROM files WHERE id IN \
               (SELECT id FROM files WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2) \
             RETURNING object",
        )
        .bind(now)
        .bind(limit)
        .fetch_all(&mut *transaction)
        .await?;
        for row in &rows {
            loosen(&mut *transaction, &row.try_get::<String, _>("object")?, now).await?;
        }
        transaction.commit().await?;
        Ok(rows.len())
    }

    /// Objects that nothing needs, at most `limit`.
    pub(crate) async fn due_objects(&self, limit: i64, now: i64) -> Result<Vec<String>, Error> {
        let rows = sqlx::query(
            "SELECT object FROM loose_objects WHERE due_at <= $1 ORDER BY due_at LIMIT $2",
        )
        .bind(now)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(|row| Ok(row.try_get("object")?)).collect()
    }

    /// Forgets a loose object, which has been deleted.
    pub(crate) async fn forget_object(&self, object: &str) -> Result<(), Error> {
        sqlx::query("DELETE FROM loose_objects WHERE object = $1")
            .bind(object)
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}

async fn loosen<'c>(
    executor: impl AnyExecutor<'c>,
    object: &str,
    due_at: i64,
) -> Result<(), Error> {
    sqlx::query("INSERT INTO loose_objects (object, due_at) VALUES ($1, $2)")
        .bind(object)
        .bind(due_at)
        .execute(executor)
        .await?;
    Ok(())
}

/// Says whether the id was free.
async fn insert(connection: &mut AnyConnection, row: &FileRow) -> Result<bool, Error> {
    let done = sqlx::query(
        "INSERT INTO files \
         (id, owner, purpose, filename, num_bytes, created_at, expires_at, object) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (id) DO NOTHING",
    )
    .bind(&row.id)
    .bind(&row.owner)
    .bind(&row.purpose)
    .bind(&row.filename)
    .bind(row.num_bytes)
    .bind(row.created_at)
    .bind(row.expires_at)
    .bind(&row.object)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

async fn usage(connection: &mut AnyConnection, owner: &str, now: i64) -> Result<FileUsage, Error> {
    let row = sqlx::query(
        "SELECT count(*) AS num_files, CAST(coalesce(sum(num_bytes), 0) AS BIGINT) AS num_bytes FROM files \
         WHERE owner = $1 AND (expires_at IS NULL OR expires_at > $2)",
    )
    .bind(owner)
    .bind(now)
    .fetch_one(connection)
    .await?;
    Ok(FileUsage { num_files: row.try_get("num_files")?, num_bytes: row.try_get("num_bytes")? })
}

fn file_row(row: &AnyRow) -> Result<FileRow, Error> {
    Ok(FileRow {
        id: row.try_get("id")?,
        owner: row.try_get("owner")?,
        purpose: row.try_get("purpose")?,
        filename: row.try_get("filename")?,
        num_bytes: row.try_get("num_bytes")?,
        created_at: row.try_get("created_at")?,
        expires_at: row.try_get("expires_at")?,
        object: row.try_get("object")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::{Fresh, databases};

    fn row(id: &str, created_at: i64) -> FileRow {
        FileRow {
            id: id.into(),
            owner: "a".into(),
            purpose: "batch".into(),
            filename: "lines.jsonl".into(),
            num_bytes: 10,
            created_at,
            expires_at: None,
            object: format!("object of {id}"),
        }
    }

    async fn store(fresh: &Fresh, rows: &[FileRow]) -> Store {
        let store = fresh.open().await;
        for row in rows {
            store.begin_object(&row.object, 1000).await.unwrap();
            assert_eq!(store.put_file(row, None).await.unwrap(), PutFile::Stored);
        }
        store
    }

    fn page(order: Order) -> FilePage<'static> {
        FilePage { purpose: None, after: None, order, limit: 10 }
    }

    fn ids(rows: Vec<FileRow>) -> Vec<String> {
        rows.into_iter().map(|row| row.id).collect()
    }

    #[tokio::test]
    async fn a_file_is_its_owners_alone_and_ends() {
        for fresh in databases() {
            let brief = FileRow { expires_at: Some(50), ..row("2", 2) };
            let store = store(&fresh, &[row("1", 1), brief.clone()]).await;

            assert_eq!(store.file(("a", "2"), 49).await.unwrap(), Some(brief));
            assert_eq!(store.file(("a", "2"), 50).await.unwrap(), None);
            assert_eq!(store.file(("b", "1"), 3).await.unwrap(), None);
            assert_eq!(store.delete_file(("b", "1"), 3).await.unwrap(), None);
            let usage = FileUsage { num_files: 1, num_bytes: 10 };
            assert_eq!(store.file_usage("a", 50).await.unwrap(), usage);
            assert_eq!(store.file_usage("b", 50).await.unwrap(), FileUsage::default());

            assert_eq!(
                store.delete_file(("a", "1"), 60).await.unwrap().as_deref(),
                Some("object of 1")
            );
            assert_eq!(store.expire_files(10, 60).await.unwrap(), 1);
            assert_eq!(store.due_objects(10, 60).await.unwrap().len(), 2);
            store.forget_object("object of 1").await.unwrap();
            assert_eq!(store.due_objects(10, 60).await.unwrap(), ["object of 2"]);
        }
    }

    #[tokio::test]
    async fn pages_follow_each_other_even_where_files_are_of_one_second() {
        for fresh in databases() {
            let output = FileRow { purpose: "batch_output".into(), ..row("4", 2) };
            let rows = [row("1", 1), row("2", 2), row("3", 2), output];
            let store = store(&fresh, &rows).await;

            let newest = store.files("a", page(Order::NewestFirst), 9).await.unwrap();
            assert_eq!(ids(newest), ["4", "3", "2", "1"]);
            let next = FilePage { after: Some(&rows[1]), limit: 1, ..page(Order::OldestFirst) };
            assert_eq!(ids(store.files("a", next, 9).await.unwrap()), ["3"]);
            let next = FilePage { after: Some(&rows[2]), ..page(Order::NewestFirst) };
            assert_eq!(ids(store.files("a", next, 9).await.unwrap()), ["2", "1"]);
            let outputs = FilePage { purpose: Some("batch_output"), ..page(Order::NewestFirst) };
            assert_eq!(ids(store.files("a", outputs, 9).await.unwrap()), ["4"]);
            assert_eq!(ids(store.files("b", page(Order::OldestFirst), 9).await.unwrap()), [""; 0]);
        }
    }

    #[tokio::test]
    async fn a_file_needs_its_object_its_quota_and_an_id_of_its_own() {
        for fresh in databases() {
            let store = store(&fresh, &[row("1", 1)]).await;
            let quota = Some(FileQuota { max_files: 2, max_bytes: 19 });

            assert_eq!(store.put_file(&row("2", 2), None).await.unwrap(), PutFile::ObjectGone);
            store.begin_object("object of 2", 20).await.unwrap();
            assert_eq!(store.put_file(&row("2", 2), quota).await.unwrap(), PutFile::OverQuota);
            let again = FileRow { object: "object of 2".into(), ..row("1", 2) };
            let exists = PutFile::Exists(row("1", 1));
            assert_eq!(store.put_file(&again, None).await.unwrap(), exists);

            assert_eq!(store.due_objects(10, 19).await.unwrap(), [""; 0]);
            assert_eq!(store.due_objects(10, 20).await.unwrap(), ["object of 2"]);
        }
    }
}
