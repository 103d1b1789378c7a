//! The tables, as they came to be: the same steps for SQLite and for PostgreSQL.

use sqlx::SqlSafeStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};

use super::Dialect;

/// A step's name, and its SQL in the two dialects.
struct Step {
    name: &'static str,
    sqlite: &'static str,
    postgres: &'static str,
}

macro_rules! step {
    ($name:literal, $file:literal) => {
        Step {
            name: $name,
            sqlite: include_str!(concat!("../../migrations/sqlite/", $file)),
            postgres: include_str!(concat!("../../migrations/postgres/", $file)),
        }
    };
}

const STEPS: [Step; 5] = [
    step!("api keys", "0001_api_keys.sql"),
    step!("responses", "0002_responses.sql"),
    step!("key scopes", "0003_key_scopes.sql"),
    step!("files", "0004_files.sql"),
    step!("batches", "0005_batches.sql"),
];

pub(super) fn migrator(dialect: Dialect) -> Migrator {
    let migrations = (1..).zip(STEPS).map(|(version, step)| {
        let sql = match dialect {
            Dialect::Sqlite => step.sqlite,
            Dialect::Postgres => step.postgres,
        };
        Migration::new(version, step.name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    });
    Migrator::with_migrations(migrations.collect())
}
