//! The router's database: SQLite, one file that only its owner can read.

mod files;
mod responses;

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow,
    SqliteSynchronous,
};
use sqlx::{Row, SqlSafeStr};

/// Waiting for another process's write, and for a free connection.
const PATIENCE: Duration = Duration::from_secs(5);
const MAX_CONNECTIONS: u32 = 4;
const MIGRATIONS: [(&str, &str); 4] = [
    ("api keys", include_str!("../migrations/0001_api_keys.sql")),
    ("responses", include_str!("../migrations/0002_responses.sql")),
    ("key scopes", include_str!("../migrations/0003_key_scopes.sql")),
    ("files", include_str!("../migrations/0004_files.sql")),
];

use crate::app::Scope;
pub(crate) use files::{FilePage, FileQuota, FileRow, Order, PutFile};
pub(crate) use responses::{ResponseRow, Turn};

/// An open database. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pool: SqlitePool,
}

/// Why the database can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be created.
    #[error("the database {path} can't be created")]
    Create {
        /// Where it should be.
        path: String,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// Others may read the file.
    #[error("others can read the database {path} (mode {mode:03o}); it must be private: chmod 600")]
    Exposed {
        /// Where it is.
        path: String,
        /// Its permissions.
        mode: u32,
    },
    /// The schema could not be brought up to date.
    #[error("the database's schema can't be brought up to date")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// A query failed.
    #[error("the database failed")]
    Query(#[from] sqlx::Error),
}

/// What of a write survives a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Everything, once it is confirmed.
    Full,
    /// All but the last moments; never a half of anything.
    Recent,
}

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
    /// Opens the database, creates it when absent, and brings its schema up to date.
    pub async fn open(path: &Path, durability: Durability) -> Result<Self, Error> {
        create_private(path)?;
        let synchronous = match durability {
            Durability::Full => SqliteSynchronous::Full,
            Durability::Recent => SqliteSynchronous::Normal,
        };
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(false)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(synchronous)
            .foreign_keys(true)
            // What was deleted is not left in the file.
            .pragma("secure_delete", "ON")
            .busy_timeout(PATIENCE);
        let pool = SqlitePoolOptions::new()
            .max_connections(MAX_CONNECTIONS)
            .acquire_timeout(PATIENCE)
            .connect_with(options)
            .await?;
        migrator().run(&pool).await?;
        Ok(Self { pool })
    }

    /// Closes every connection.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    pub(crate) async fn insert_key(&self, row: &KeyRow) -> Result<(), Error> {
        sqlx::query(
            "INSERT INTO api_keys (id, name, secret_hmac, created_at, revoked_at, scope) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
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

    /// Inserts the row when there is no other, and says whether it did. One statement, so that two
    /// processes can't both be first.
    pub(crate) async fn insert_first_key(&self, row: &KeyRow) -> Result<bool, Error> {
        let done = sqlx::query(
            "INSERT INTO api_keys (id, name, secret_hmac, created_at, scope) \
             SELECT ?1, ?2, ?3, ?4, ?5 WHERE NOT EXISTS (SELECT 1 FROM api_keys)",
        )
        .bind(&row.id)
        .bind(&row.name)
        .bind(&row.secret_hmac[..])
        .bind(row.created_at)
        .bind(word(row.scope))
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    pub(crate) async fn key(&self, id: &str) -> Result<Option<KeyRow>, Error> {
        let row = sqlx::query("SELECT * FROM api_keys WHERE id = ?1")
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
            sqlx::query("UPDATE api_keys SET revoked_at = coalesce(revoked_at, ?2) WHERE id = ?1")
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
        sqlx::query("INSERT INTO pepper VALUES (0, ?1) ON CONFLICT DO NOTHING")
            .bind(&fingerprint[..])
            .execute(&self.pool)
            .await?;
        let row = sqlx::query("SELECT fingerprint FROM pepper").fetch_one(&self.pool).await?;
        let pinned: Vec<u8> = row.try_get(0)?;
        Ok(pinned == fingerprint)
    }
}

fn key_row(row: &SqliteRow) -> Result<KeyRow, Error> {
    let hmac: Vec<u8> = row.try_get("secret_hmac")?;
    let secret_hmac = <[u8; 32]>::try_from(hmac)
        .map_err(|_| sqlx::Error::Decode("secret_hmac has not 32 bytes".into()))?;
    Ok(KeyRow {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        secret_hmac,
        created_at: row.try_get("created_at")?,
        revoked_at: row.try_get("revoked_at")?,
        scope: match row.try_get("scope")? {
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

fn migrator() -> Migrator {
    let migrations = (1..).zip(MIGRATIONS).map(|(version, (name, sql))| {
        Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    });
    Migrator::with_migrations(migrations.collect())
}

/// Creates the file before SQLite does, so that it never exists with wider permissions. An
/// existing file is not opened: closing it would drop SQLite's locks of this process.
fn create_private(path: &Path) -> Result<(), Error> {
    let shown = || path.display().to_string();
    let failed = |source| Error::Create { path: shown(), source };
    if let Some(directory) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        create_private_directory(directory).map_err(failed)?;
    }
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let mode = fs::metadata(path).map_err(failed)?.permissions().mode() & 0o777;
            if mode & 0o077 == 0 { Ok(()) } else { Err(Error::Exposed { path: shown(), mode }) }
        }
        Err(error) => Err(failed(error)),
    }
}

/// Creates the missing directories of a path, for their owner alone.
pub(crate) fn create_private_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}
