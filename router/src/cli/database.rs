//! Which database a command uses.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use crate::store::Database;

/// The database's name, and what lies outside it.
#[derive(Args, Clone)]
pub(super) struct DatabaseArgs {
    /// The database with API keys, stored responses, files and batches: an SQLite file, created when
    /// absent, or postgres://USER@HOST/NAME, which several routers share. A password belongs into
    /// the environment (SCONCE_DATABASE, PGPASSWORD) or PostgreSQL's password file (PGPASSFILE)
    #[arg(
        long,
        env = "SCONCE_DATABASE",
        value_name = "FILE|URL",
        default_value = "sconce.db",
        hide_env_values = true,
        global = true
    )]
    database: OsString,

    /// The file with the secret that API keys are hashed with, created when absent; beside the SQLite
    /// file otherwise. With PostgreSQL it must be named, and be the same for every router
    #[arg(long, env = "SCONCE_PEPPER", value_name = "FILE", global = true)]
    pepper: Option<PathBuf>,
}

impl From<DatabaseArgs> for Database {
    fn from(args: DatabaseArgs) -> Self {
        Self::new(args.database).with_pepper(args.pepper)
    }
}

impl std::fmt::Debug for DatabaseArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Database::from(self.clone()).fmt(f)
    }
}
