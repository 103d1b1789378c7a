//! Whether those who hold leases still run.
//!
//! A router that takes work has a lock that ends with its process, whatever ends that: of a file
//! beside SQLite's, or of a session with PostgreSQL. Where the lock is free, nobody is left who would
//! do the work, and it need not wait for the lease's end. A router that hangs keeps its lock and one
//! that is cut off may lose it while it runs: so a lock only decides who computes, and the lease's
//! holder, which every write names, whose answer counts.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use sqlx::{AnyConnection, Connection, Row};
use tokio::time::timeout;

use super::{Error, PATIENCE, Store, create_private_directory};

/// Which holders of leases have no lock. A lock's number is made of the holder's name.
const DEAD: &str = "SELECT holder FROM ( \
       SELECT lease_holder AS holder FROM batch_lines WHERE state = 1 \
       UNION SELECT lease_holder FROM batches WHERE lease_holder IS NOT NULL) AS held \
     WHERE holder <> $1 AND NOT EXISTS ( \
       SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1 \
       AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
       AND ((classid::BIGINT << 32) | objid::BIGINT) = hashtextextended(holder, 0))";

/// Shows that a holder of leases runs, until it is dropped.
pub(crate) struct Alive(Lock);

enum Lock {
    File { path: PathBuf, _locked: File },
    Session(Box<AnyConnection>),
}

impl Alive {
    /// Whether it still does: a session may have broken.
    pub(crate) async fn holds(&mut self) -> bool {
        match &mut self.0 {
            Lock::File { .. } => true,
            Lock::Session(connection) => {
                matches!(timeout(PATIENCE, connection.ping()).await, Ok(Ok(())))
            }
        }
    }

    /// Ends it for a holder that has given everything back: nobody need look for it.
    pub(crate) async fn end(self) {
        match self.0 {
            // What can't be removed is removed by whoever finds that its lock is free.
            Lock::File { path, .. } => drop(fs::remove_file(path)),
            // The server learns of a closed connection when it gets to it: the lock is freed before.
            Lock::Session(mut connection) => drop(
                timeout(PATIENCE, async {
                    sqlx::query("SELECT pg_advisory_unlock_all()")
                        .execute(&mut *connection)
                        .await?;
                    connection.close().await
                })
                .await,
            ),
        }
    }
}

impl Store {
    /// Has others see that a holder of leases runs. Its name is a file's, and was never used before but
    /// by itself.
    pub(crate) async fn appear(&self, holder: &str) -> Result<Alive, Error> {
        if let Some(file) = &self.file {
            let directory = directory(file);
            let path = directory.join(holder);
            let locked = lock(&directory, holder).map_err(|source| unusable(&path, source))?;
            return Ok(Alive(Lock::File { path, _locked: locked }));
        }
        // Not one of the pool's: those end when they have been idle for long.
        let mut connection = Box::new(self.pool.acquire().await?.detach());
        let row = sqlx::query("SELECT pg_try_advisory_lock(hashtextextended($1, 0))")
            .bind(holder)
            .fetch_one(&mut *connection)
            .await?;
        // The session that it had before may have been lost to one side only.
        if row.try_get(0)? { Ok(Alive(Lock::Session(connection))) } else { Err(Error::Appeared) }
    }

    /// Frees what holders had that do not run any more, other than `holder`. Says how many lines.
    pub(crate) async fn free_dead(&self, holder: &str) -> Result<u64, Error> {
        let mut num_lines = 0;
        if let Some(file) = &self.file {
            let directory = directory(file);
            let dead =
                unlocked(&directory, holder).map_err(|source| unusable(&directory, source))?;
            for dead in dead {
                num_lines += self.lose_all(&dead).await?;
                // Another router may have been faster.
                drop(fs::remove_file(directory.join(dead)));
            }
            return Ok(num_lines);
        }
        for row in sqlx::query(DEAD).bind(holder).fetch_all(&self.pool).await? {
            num_lines += self.lose_all(row.try_get("holder")?).await?;
        }
        Ok(num_lines)
    }
}

/// Where the locks of an SQLite file's users lie.
fn directory(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".holders");
    PathBuf::from(name)
}

/// Makes a file of this name, which is locked from the first moment that it has the name.
fn lock(directory: &Path, name: &str) -> io::Result<File> {
    create_private_directory(directory)?;
    let unnamed = directory.join(format!(".{name}"));
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unnamed)?;
    file.lock()?;
    fs::rename(unnamed, directory.join(name))?;
    Ok(file)
}

/// The names of files that nobody has locked, but for `own`.
fn unlocked(directory: &Path, own: &str) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if name == own || name.starts_with('.') {
            continue;
        }
        let file = match File::open(entry.path()) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        // Shared, so that those who look do not take each other for its owner.
        match file.try_lock_shared() {
            Ok(()) => names.push(name),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(names)
}

fn unusable(path: &Path, source: io::Error) -> Error {
    Error::Lock { path: path.display().to_string(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::databases;

    #[tokio::test]
    async fn a_lock_is_free_when_its_holder_is_gone_and_not_before() {
        for fresh in databases() {
            let (store, other) = (fresh.open().await, fresh.open().await);
            let mut alive = store.appear("router_a").await.unwrap();
            assert!(alive.holds().await);
            if let Some(file) = &store.file {
                assert_eq!(unlocked(&directory(file), "router_b").unwrap(), [""; 0]);
                drop(alive);
                assert_eq!(unlocked(&directory(file), "router_b").unwrap(), ["router_a"]);
                assert_eq!(other.free_dead("router_b").await.unwrap(), 0);
                assert_eq!(unlocked(&directory(file), "router_b").unwrap(), [""; 0]);
            } else {
                assert!(matches!(other.appear("router_a").await, Err(Error::Appeared)));
                alive.end().await;
                assert!(other.appear("router_a").await.is_ok());
            }
        }
    }
}
