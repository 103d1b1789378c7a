//! The router's database: SQLite, one file that only its owner can read, or PostgreSQL, which
//! several routers share. Both are asked the same questions.

mod batch_work;
mod batches;
mod database;
mod files;
mod holders;
mod keys;
mod leases;
mod responses;
mod schema;
#[cfg(test)]
pub(crate) mod testing;

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::migrate::MigrateError;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Any, AnyConnection, AnyPool, Executor, Transaction};

pub(crate) use batch_work::{Lease, LeasedLine, LineId, LineResult, NewLine};
pub(crate) use batches::{BatchRow, BatchUsage, PutBatch};
pub use database::Database;
use database::Place;
pub(crate) use files::{FilePage, FileQuota, FileRow, Order, PutFile};
pub(crate) use holders::Alive;
pub(crate) use keys::KeyRow;
pub(crate) use responses::{ResponseRow, Turn};

/// Waiting for another process's write, and for a free connection.
const PATIENCE: Duration = Duration::from_secs(5);
const MAX_CONNECTIONS: u32 = 4;

/// An open database. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pool: AnyPool,
    dialect: Dialect,
    /// SQLite's.
    file: Option<Arc<Path>>,
}

/// Whose SQL the database speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    Sqlite,
    Postgres,
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
    /// What names the server is no URL. Nothing of it is repeated: it may hold a password.
    #[error("the database's URL is not one of PostgreSQL, as in postgres://user@host:5432/name")]
    Url,
    /// The server can't be reached, or does not let this router in.
    #[error("the database {database} can't be connected to")]
    Connect {
        /// Which one, without user and password.
        database: String,
        /// Why not.
        #[source]
        source: sqlx::Error,
    },
    /// The schema could not be brought up to date.
    #[error("the database's schema can't be brought up to date")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// A lock beside the file could not be made or looked at.
    #[error("the locks of the database's users, {path}, can't be used")]
    Lock {
        /// Which of them.
        path: String,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// The server still has the lock that this router lost.
    #[error("the database has not noticed yet that this router's session with it broke")]
    Appeared,
    /// A query failed.
    #[error("the database failed")]
    Query(#[from] sqlx::Error),
}

/// What of a write survives a power cut, in SQLite. PostgreSQL does as its settings say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Everything, once it is confirmed.
    Full,
    /// All but the last moments; never a half of anything.
    Recent,
}

impl Store {
    /// Opens the database, creates an SQLite file when absent, and brings the schema up to date.
    pub async fn open(
        database: impl Into<Database>,
        durability: Durability,
    ) -> Result<Self, Error> {
        sqlx::any::install_default_drivers();
        let database = database.into();
        let options =
            AnyPoolOptions::new().max_connections(MAX_CONNECTIONS).acquire_timeout(PATIENCE);
        let failed = |source| Error::Connect { database: database.to_string(), source };
        let (pool, dialect) = match database.place() {
            Place::File(path) => {
                create_private(path)?;
                let settings = sqlite_settings(durability);
                let options = options.after_connect(move |connection, _| {
                    Box::pin(async move { connection.execute(settings).await.map(drop) })
                });
                let pool = options.connect_with(sqlite_options(path)?).await.map_err(failed)?;
                (pool, Dialect::Sqlite)
            }
            Place::Server(url) => {
                let pool = options.connect_with(postgres_options(url)?).await.map_err(failed)?;
                (pool, Dialect::Postgres)
            }
        };
        migrate(&pool, dialect).await?;
        let file = database.file().map(Into::into);
        Ok(Self { pool, dialect, file })
    }

    /// Closes every connection.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// A transaction that writes. SQLite's has the lock from its beginning: one that only later finds
    /// out that it writes could not wait for it.
    async fn begin(&self) -> Result<Transaction<'static, Any>, Error> {
        let statement = match self.dialect {
            Dialect::Sqlite => "BEGIN IMMEDIATE",
            Dialect::Postgres => "BEGIN",
        };
        Ok(self.pool.begin_with(statement).await?)
    }

    /// Runs a statement that locks a table of PostgreSQL. A transaction of SQLite has locked all.
    async fn lock_table(
        &self,
        connection: &mut AnyConnection,
        statement: &'static str,
    ) -> Result<(), Error> {
        if self.dialect == Dialect::Postgres {
            connection.execute(statement).await?;
        }
        Ok(())
    }
}

/// Brings the schema up to date. SQLite has no lock for that: who is overtaken by another looks again at
/// what is left to do.
async fn migrate(pool: &AnyPool, dialect: Dialect) -> Result<(), MigrateError> {
    let migrator = schema::migrator(dialect);
    let deadline = Instant::now() + PATIENCE;
    loop {
        match migrator.run(pool).await {
            Err(MigrateError::ExecuteMigration(..) | MigrateError::Execute(_))
                if dialect == Dialect::Sqlite && Instant::now() < deadline =>
            {
                pause().await;
            }
            done => return done,
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a pause between two looks at what others write")]
async fn pause() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}

/// What every connection to a file is set to. What was deleted is not left in the file.
fn sqlite_settings(durability: Durability) -> &'static str {
    match durability {
        Durability::Full => {
            "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
             PRAGMA foreign_keys = ON; PRAGMA secure_delete = ON"
        }
        Durability::Recent => {
            "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; \
             PRAGMA foreign_keys = ON; PRAGMA secure_delete = ON"
        }
    }
}

/// The file as a URL, the only thing that names a database of either kind.
fn sqlite_options(path: &Path) -> Result<AnyConnectOptions, Error> {
    use std::fmt::Write;
    use std::os::unix::ffi::OsStrExt;
    let shown = || path.display().to_string();
    let absolute =
        std::path::absolute(path).map_err(|source| Error::Create { path: shown(), source })?;
    let mut url = "sqlite://".to_owned();
    for byte in absolute.as_os_str().as_bytes() {
        match byte {
            b'/' | b'-' | b'.' | b'_' | b'~' => url.push(char::from(*byte)),
            byte if byte.is_ascii_alphanumeric() => url.push(char::from(*byte)),
            byte => {
                // Writing to a text does not fail.
                let _ = write!(url, "%{byte:02X}");
            }
        }
    }
    Ok(url.parse()?)
}

/// The server's address. The environment and PostgreSQL's password file add to it what it leaves out.
fn postgres_options(url: &str) -> Result<AnyConnectOptions, Error> {
    url.parse::<PgConnectOptions>().map_err(|_| Error::Url)?;
    url.parse().map_err(|_| Error::Url)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_new_file_can_be_opened_by_several_at_once() {
        for _ in 0..10 {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("sconce.db");
            let opened: Vec<_> = (0..6)
                .map(|_| tokio::spawn(Store::open(path.clone(), Durability::Recent)))
                .collect();
            for store in opened {
                store.await.unwrap().unwrap().close().await;
            }
        }
    }
}
