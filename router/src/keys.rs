//! API keys: made, listed and revoked here, checked in [`crate::auth`].
//!
//! A key is `sk-sconce-<id>-<secret><checksum>`. The id is public and finds the row; of the secret
//! only an HMAC is stored, under a pepper that lies in a file beside the database. The secret has
//! 256 bits of entropy, which makes slow password hashes pointless.

mod format;
mod pepper;

use std::time::{SystemTime, UNIX_EPOCH};

pub use format::{Key, KeyId, Malformed};
pub use pepper::Pepper;

use crate::app::Scope;
use crate::store::{self, Database, Durability, KeyRow, Store};

/// Bytes of a key's name at most.
const MAX_NAME_BYTES: usize = 64;

/// The keys of one database.
#[derive(Clone)]
pub struct Keys {
    store: Store,
    pepper: Pepper,
}

/// Why keys can't be used or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The pepper's file.
    #[error("the pepper of the API keys, {path}, can't be used")]
    Pepper {
        /// Where it should be.
        path: String,
        /// What went wrong.
        #[source]
        source: pepper::Error,
    },
    /// The database's keys were made with a different pepper.
    #[error("the pepper in {0} is not the one that the database's keys were made with")]
    WrongPepper(String),
    /// Routers that share a database need to share the pepper too.
    #[error(
        "with PostgreSQL, --pepper must name the file with the secret that API keys are hashed \
         with: the same for every router, created when absent"
    )]
    NoPepper,
    /// A name that can't be shown in a table.
    #[error("a key's name has 1 to {MAX_NAME_BYTES} printable characters")]
    Name,
    /// No key has the id.
    #[error("no key has the id `{0}`")]
    Unknown(String),
}

/// A key that was just made: the only time that it exists in the clear.
#[derive(Debug)]
pub struct Created {
    /// Names the key from now on.
    pub id: KeyId,
    /// What the client sends.
    pub key: Key,
}

/// What can be told of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its public id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Unix seconds.
    pub created_at: i64,
    /// Unix seconds; a revoked key stays listed.
    pub revoked_at: Option<i64>,
    /// What its holder may ask for.
    pub scope: Scope,
}

impl Keys {
    /// Opens the database and its pepper, and creates both when absent.
    pub async fn open(database: impl Into<Database>) -> Result<Self, Error> {
        let database = database.into();
        let path = database.pepper().ok_or(Error::NoPepper)?;
        let shown = path.display().to_string();
        let opened = tokio::task::spawn_blocking(move || pepper::open(&path)).await;
        let opened = opened.unwrap_or_else(|error| Err(std::io::Error::other(error).into()));
        let (pepper, lock) =
            opened.map_err(|source| Error::Pepper { path: shown.clone(), source })?;
        // Keys are few and precious: a revocation must survive a power cut.
        let store = Store::open(database, Durability::Full).await?;
        // The lock on the pepper's file kept other processes from migrating at the same time.
        drop(lock);
        if store.pin_pepper(&pepper.fingerprint()).await? {
            Ok(Self { store, pepper })
        } else {
            Err(Error::WrongPepper(shown))
        }
    }

    /// Makes a key that may use models, and stores its HMAC.
    pub async fn create(&self, name: &str) -> Result<Created, Error> {
        self.create_with(name, Scope::Use).await
    }

    /// Makes a key of that scope, and stores its HMAC.
    pub async fn create_with(&self, name: &str, scope: Scope) -> Result<Created, Error> {
        let (created, row) = self.make(name, scope)?;
        self.store.insert_key(&row).await?;
        Ok(created)
    }

    /// Makes a key when the database has none, revoked ones included.
    pub async fn create_first(&self, name: &str) -> Result<Option<Created>, Error> {
        let (created, row) = self.make(name, Scope::Use)?;
        Ok(self.store.insert_first_key(&row).await?.then_some(created))
    }

    /// Every key, oldest first.
    pub async fn list(&self) -> Result<Vec<Listed>, Error> {
        let rows = self.store.keys().await?;
        Ok(rows.into_iter().map(Listed::from).collect())
    }

    /// Makes a key worthless. Running routers notice within seconds.
    pub async fn revoke(&self, id: &str) -> Result<(), Error> {
        if self.store.revoke_key(id, unix_seconds()).await? {
            Ok(())
        } else {
            Err(Error::Unknown(id.to_owned()))
        }
    }

    /// The database.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// What the HMACs are made with.
    pub(crate) fn pepper(&self) -> &Pepper {
        &self.pepper
    }

    fn make(&self, name: &str, scope: Scope) -> Result<(Created, KeyRow), Error> {
        let printable = name.chars().all(|character| !character.is_control());
        if name.trim().is_empty() || name.len() > MAX_NAME_BYTES || !printable {
            return Err(Error::Name);
        }
        let key = Key::generate();
        let row = KeyRow {
            id: key.id().to_string(),
            name: name.to_owned(),
            secret_hmac: self.pepper.hmac(key.secret()),
            created_at: unix_seconds(),
            revoked_at: None,
            scope,
        };
        Ok((Created { id: key.id(), key }, row))
    }
}

impl From<KeyRow> for Listed {
    fn from(row: KeyRow) -> Self {
        let KeyRow { id, name, created_at, revoked_at, scope, secret_hmac: _ } = row;
        Self { id, name, created_at, revoked_at, scope }
    }
}

/// Creates the database's first key and returns it, or nothing when the database has keys already.
pub async fn ensure_first(database: impl Into<Database>) -> Result<Option<String>, Error> {
    let keys = Keys::open(database).await?;
    let created = keys.create_first("first").await?;
    keys.store.close().await;
    Ok(created.map(|created| created.key.expose().to_owned()))
}

fn unix_seconds() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX)
}
