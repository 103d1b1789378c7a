//! API keys. The secret of none is here.

use sqlx::Row;
use sqlx::any::AnyRow;

use super::{Error, Store};
use crate::app::Scope;

/// A row of `api_keys`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyRow {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) secret_hmac: [u8; 32],
    pub(crate) created_at: i64,
    pub(crate) revoked_at: Option<i64>,
    pub(crate) scope: Scope,
}

impl Store {
    pub(crate) async fn insert_key(&self, row: &KeyRow) -> Result<(), Error> {
        sqlx::query(
            "INSERT INTO api_keys (id, name, secret_hmac, created_at, revoked_at, scope) \
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(&row.id)
        .bind(&row.name)
        .bind(&row.secret_hmac[..])
        .bind(row.created_at)
        .bind(row.revoked_at)
        .bind(word(row.scope))
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Inserts the row when there is no other, and says whether it did. The table is locked: two
    /// processes can't both be first.
    pub(crate) async fn insert_first_key(&self, row: &KeyRow) -> Result<bool, Error> {
        let mut transaction = self.begin().await?;
        self.lock_table(&mut transaction, "LOCK TABLE api_keys IN EXCLUSIVE MODE").await?;
        let done = sqlx::query(
            "INSERT INTO api_keys (id, name, secret_hmac, created_at, scope) \
             SELECT $1, $2, $3, $4, $5 WHERE NOT EXISTS (SELECT 1 FROM api_keys)",
        )
        .bind(&row.id)
        .bind(&row.name)
        .bind(&row.secret_hmac[..])
        .bind(row.created_at)
        .bind(word(row.scope))
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(done.rows_affected() == 1)
    }

    pub(crate) async fn key(&self, id: &str) -> Result<Option<KeyRow>, Error> {
        let row = sqlx::query("SELECT * FROM api_keys WHERE id = $1")
            .bind(id)
            .fetch_optional(&self.pool)
            .await?;
        row.as_ref().map(key_row).transpose()
    }

    pub(crate) async fn keys(&self) -> Result<Vec<KeyRow>, Error> {
        let rows = sqlx::query("SELECT * FROM api_keys ORDER BY created_at, rowid")
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(key_row).collect()
    }

    /// Says whether the id exists. Revoking twice keeps the first time.
    pub(crate) async fn revoke_key(&self, id: &str, now: i64) -> Result<bool, Error> {
        let done =
            sqlx::query("UPDATE api_keys SET revoked_at = coalesce(revoked_at, $2) WHERE id = $1")
                .bind(id)
                .bind(now)
                .execute(&self.pool)
                .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Changes with every change of a key.
    pub(crate) async fn keys_revision(&self) -> Result<i64, Error> {
        let row =
            sqlx::query("SELECT revision FROM api_keys_revision").fetch_one(&self.pool).await?;
        Ok(row.try_get(0)?)
    }

    /// Remembers the pepper's fingerprint the first time; says whether it is the remembered one.
    pub(crate) async fn pin_pepper(&self, fingerprint: &[u8; 32]) -> Result<bool, Error> {
        sqlx::query("INSERT INTO pepper VALUES (0, $1) ON CONFLICT DO NOTHING")
            .bind(&fingerprint[..])
            .execute(&self.pool)
            .await?;
        let row = sqlx::query("SELECT fingerprint FROM pepper").fetch_one(&self.pool).await?;
        let pinned: Vec<u8> = row.try_get(0)?;
        Ok(pinned == fingerprint)
    }
}

fn key_row(row: &AnyRow) -> Result<KeyRow, Error> {
    let hmac: Vec<u8> = row.try_get("secret_hmac")?;
    let secret_hmac = <[u8; 32]>::try_from(hmac)
        .map_err(|_| sqlx::Error::Decode("secret_hmac has not 32 bytes".into()))?;
    Ok(KeyRow {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        secret_hmac,
        created_at: row.try_get("created_at")?,
        revoked_at: row.try_get("revoked_at")?,
        scope: match row.try_get::<String, _>("scope")?.as_str() {
            "admin" => Scope::Admin,
            // The table has one other word.
            _ => Scope::Use,
        },
    })
}

/// A scope as the table has it.
fn word(scope: Scope) -> &'static str {
    match scope {
        Scope::Use => "use",
        Scope::Admin => "admin",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::databases;

    fn row(id: &str, created_at: i64) -> KeyRow {
        KeyRow {
            id: id.into(),
            name: format!("key {id}"),
            secret_hmac: [7; 32],
            created_at,
            revoked_at: None,
            scope: Scope::Admin,
        }
    }

    #[tokio::test]
    async fn a_key_is_read_as_it_was_written_and_every_change_counts() {
        for fresh in databases() {
            let store = fresh.open().await;
            let first = store.keys_revision().await.unwrap();

            store.insert_key(&row("b", 1)).await.unwrap();
            store.insert_key(&row("a", 1)).await.unwrap();
            let second = store.keys_revision().await.unwrap();
            assert!(store.revoke_key("a", 5).await.unwrap());
            assert!(store.revoke_key("a", 9).await.unwrap());
            assert!(!store.revoke_key("c", 5).await.unwrap());

            assert!(first < second && second < store.keys_revision().await.unwrap());
            let revoked = KeyRow { revoked_at: Some(5), ..row("a", 1) };
            assert_eq!(store.keys().await.unwrap(), [row("b", 1), revoked]);
            assert_eq!(store.key("b").await.unwrap(), Some(row("b", 1)));
            assert_eq!(store.key("c").await.unwrap(), None);
        }
    }

    #[tokio::test]
    async fn of_many_first_keys_one_is_first() {
        for fresh in databases() {
            let stores = [fresh.open().await, fresh.open().await];
            let insert = |i: usize| {
                let store = stores[i % 2].clone();
                tokio::spawn(async move { store.insert_first_key(&row(&i.to_string(), 1)).await })
            };

            let inserts = futures::future::join_all((0..8).map(insert)).await;

            let firsts =
                inserts.into_iter().filter(|first| *first.as_ref().unwrap().as_ref().unwrap());
            assert_eq!(firsts.count(), 1);
            assert_eq!(stores[0].keys().await.unwrap().len(), 1);
        }
    }

    #[tokio::test]
    async fn a_pepper_is_pinned_once() {
        for fresh in databases() {
            let store = fresh.open().await;

            assert!(store.pin_pepper(&[1; 32]).await.unwrap());
            assert!(store.pin_pepper(&[1; 32]).await.unwrap());
            assert!(!store.pin_pepper(&[2; 32]).await.unwrap());
        }
    }
}
