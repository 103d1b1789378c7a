//! Databases for tests: what holds for one must hold for the other.

#[path = "../../tests/support/postgres.rs"]
mod postgres;

use super::{Database, Durability, Store};
use postgres::Postgres;

/// A database of a test's own, which goes with it.
pub(crate) struct Fresh {
    pub(crate) database: Database,
    _directory: tempfile::TempDir,
    _server: Option<Postgres>,
}

impl Fresh {
    pub(crate) async fn open(&self) -> Store {
        Store::open(&self.database, Durability::Recent).await.unwrap()
    }
}

/// An SQLite file, and a PostgreSQL server where there is one.
pub(crate) fn databases() -> Vec<Fresh> {
    let directory = tempfile::tempdir().unwrap();
    let database = Database::new(directory.path().join("sconce.db"));
    let mut databases = vec![Fresh { database, _directory: directory, _server: None }];
    if let Some(server) = Postgres::start() {
        let directory = tempfile::tempdir().unwrap();
        let pepper = directory.path().join("pepper");
        let database = Database::new(server.url()).with_pepper(Some(pepper));
        databases.push(Fresh { database, _directory: directory, _server: Some(server) });
    }
    databases
}
