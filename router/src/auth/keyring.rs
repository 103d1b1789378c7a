//! The keys as a running router knows them: all of them in memory, followed by polling.
//!
//! A request with a known key never waits for the database. A change (a revocation above all) is
//! seen at the next poll; while the database can't be read, the last known keys stay good for
//! [`MAX_STALE`]. An id that is not known is looked up, so that a new key works at once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use subtle::ConstantTimeEq;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::app::{Principal, Urgency};
use crate::error::refusal::Refusal;
use crate::keys::{self, Key, Keys, Pepper};
use crate::store::{self, KeyRow};

/// A revocation takes effect within this and the time of one small query.
const POLL: Duration = Duration::from_secs(1);
/// How long known keys work without the database.
const MAX_STALE: Duration = Duration::from_secs(15 * 60);
/// How long a request with an unknown key waits for the database.
const LOOKUP: Duration = Duration::from_secs(1);

pub(super) struct Keyring {
    shared: Arc<Shared>,
    poll: JoinHandle<()>,
}

struct Shared {
    keys: Keys,
    known: ArcSwap<Known>,
}

/// What the last successful poll saw.
struct Known {
    revision: i64,
    by_id: Arc<HashMap<String, Holder>>,
    read_at: Instant,
}

/// One row, as the check needs it.
#[derive(Clone)]
struct Holder {
    secret_hmac: [u8; 32],
    principal: Option<Principal>,
}

impl Keyring {
    pub(super) async fn load(keys: Keys) -> Result<Self, keys::Error> {
        let known = ArcSwap::from_pointee(read(&keys).await?);
        let shared = Arc::new(Shared { keys, known });
        let poll = tokio::spawn(follow(Arc::clone(&shared)));
        Ok(Self { shared, poll })
    }

    pub(super) fn num_active(&self) -> usize {
        let known = self.shared.known.load();
        known.by_id.values().filter(|holder| holder.principal.is_some()).count()
    }

    /// Who has the key of this id.
    pub(super) fn holder(&self, id: &str) -> super::Holder {
        let known = self.shared.known.load();
        match known.by_id.get(id).map(|holder| &holder.principal) {
            Some(Some(principal)) => super::Holder::Active(principal.clone()),
            Some(None) => super::Holder::Revoked,
            None => super::Holder::Unknown,
        }
    }

    pub(super) async fn check(&self, key: &Key) -> Result<Principal, Refusal> {
        let known = self.shared.known.load_full();
        let pepper = self.shared.keys.pepper();
        if known.read_at.elapsed() > MAX_STALE {
            return Err(Refusal::KeysUnavailable);
        }
        let id = key.id();
        if let Some(holder) = known.by_id.get(id.as_str()) {
            return verify(pepper, key, Some(holder));
        }
        let row = match timeout(LOOKUP, self.shared.keys.store().key(id.as_str())).await {
            Ok(Ok(row)) => row,
            Ok(Err(error)) => {
                tracing::error!(%error, "an unknown key can't be looked up");
                return Err(Refusal::KeysUnavailable);
            }
            Err(_) => return Err(Refusal::KeysUnavailable),
        };
        verify(pepper, key, row.map(|row| holder(pepper, &row)).as_ref())
    }
}

impl Drop for Keyring {
    fn drop(&mut self) {
        self.poll.abort();
    }
}

/// The one comparison. An unknown key is compared too, with an HMAC that none has, so that it
/// takes as long as a wrong one; a revoked key differs only after the comparison.
fn verify(pepper: &Pepper, key: &Key, holder: Option<&Holder>) -> Result<Principal, Refusal> {
    let presented = pepper.hmac(key.secret());
    let expected = holder.map_or([0; 32], |holder| holder.secret_hmac);
    let equal = bool::from(presented.ct_eq(&expected));
    let principal = holder.and_then(|holder| holder.principal.as_ref());
    match principal {
        Some(principal) if equal => Ok(principal.clone()),
        Some(_) | None => Err(Refusal::InvalidKey),
    }
}

fn holder(pepper: &Pepper, row: &KeyRow) -> Holder {
    let principal = row.revoked_at.is_none().then(|| Principal {
        key_id: row.id.as_str().into(),
        scope: row.scope,
        cache_salt: pepper.cache_salt(&row.id),
        urgency: Urgency::Interactive,
    });
    Holder { secret_hmac: row.secret_hmac, principal }
}

async fn read(keys: &Keys) -> Result<Known, store::Error> {
    // The revision first: a change between the two reads is then read again, never missed.
    let read_at = Instant::now();
    let revision = keys.store().keys_revision().await?;
    let rows = keys.store().keys().await?;
    let by_id = rows.into_iter().map(|row| (row.id.clone(), holder(keys.pepper(), &row))).collect();
    Ok(Known { revision, by_id: Arc::new(by_id), read_at })
}

async fn follow(shared: Arc<Shared>) {
    let mut ticks = interval(POLL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        ticks.tick().await;
        match poll(&shared).await {
            Ok(()) => {
                if failing {
                    tracing::info!("the keys can be read again");
                }
                failing = false;
            }
            Err(error) => {
                if !failing {
                    tracing::error!(%error, "the keys can't be read; known keys go on for a while");
                }
                failing = true;
            }
        }
    }
}

async fn poll(shared: &Shared) -> Result<(), store::Error> {
    let known = shared.known.load_full();
    let read_at = Instant::now();
    let revision = shared.keys.store().keys_revision().await?;
    let next = if revision == known.revision {
        Known { revision, by_id: Arc::clone(&known.by_id), read_at }
    } else {
        read(&shared.keys).await?
    };
    shared.known.store(Arc::new(next));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn keys(directory: &tempfile::TempDir) -> Keys {
        Keys::open(&directory.path().join("sconce.db")).await.unwrap()
    }

    async fn forced(keyring: &Keyring) {
        poll(&keyring.shared).await.unwrap();
    }

    #[tokio::test]
    async fn a_key_made_later_works_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let keys = keys(&directory).await;
        let keyring = Keyring::load(keys.clone()).await.unwrap();
        assert_eq!(keyring.num_active(), 0);

        let created = keys.create("late").await.unwrap();

        let principal = keyring.check(&created.key).await.unwrap();
        assert_eq!(&*principal.key_id, created.id.as_str());
    }

    #[tokio::test]
    async fn a_revoked_key_stops_working_at_the_next_poll() {
        let directory = tempfile::tempdir().unwrap();
        let keys = keys(&directory).await;
        let created = keys.create("short-lived").await.unwrap();
        let keyring = Keyring::load(keys.clone()).await.unwrap();
        keyring.check(&created.key).await.unwrap();

        keys.revoke(created.id.as_str()).await.unwrap();
        forced(&keyring).await;

        assert_eq!(keyring.check(&created.key).await, Err(Refusal::InvalidKey));
        assert_eq!(keyring.num_active(), 0);
    }

    #[tokio::test]
    async fn the_right_id_with_a_wrong_secret_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let keys = keys(&directory).await;
        let created = keys.create("mine").await.unwrap();
        let keyring = Keyring::load(keys).await.unwrap();

        let known = keyring.shared.known.load_full();
        let holder = known.by_id.get(created.id.as_str()).unwrap();
        let pepper = keyring.shared.keys.pepper();

        assert!(verify(pepper, &created.key, Some(holder)).is_ok());
        assert_eq!(verify(pepper, &Key::generate(), Some(holder)), Err(Refusal::InvalidKey));
        assert_eq!(verify(pepper, &created.key, None), Err(Refusal::InvalidKey));
    }

    #[tokio::test]
    async fn known_keys_outlive_the_database_and_unknown_ones_are_not_called_wrong() {
        let directory = tempfile::tempdir().unwrap();
        let keys = keys(&directory).await;
        let created = keys.create("known").await.unwrap();
        let keyring = Keyring::load(keys.clone()).await.unwrap();

        keys.store().close().await;

        assert!(poll(&keyring.shared).await.is_err());
        assert!(keyring.check(&created.key).await.is_ok());
        assert_eq!(keyring.check(&Key::generate()).await, Err(Refusal::KeysUnavailable));
    }

    #[tokio::test]
    async fn keys_that_were_not_read_for_too_long_are_not_trusted() {
        let directory = tempfile::tempdir().unwrap();
        let keys = keys(&directory).await;
        let created = keys.create("stale").await.unwrap();
        let keyring = Keyring::load(keys.clone()).await.unwrap();
        keys.store().close().await;

        let known = keyring.shared.known.load_full();
        let long_ago = Instant::now().checked_sub(MAX_STALE + Duration::from_secs(1)).unwrap();
        keyring.shared.known.store(Arc::new(Known {
            revision: known.revision,
            by_id: Arc::clone(&known.by_id),
            read_at: long_ago,
        }));

        assert_eq!(keyring.check(&created.key).await, Err(Refusal::KeysUnavailable));
    }

    #[tokio::test]
    async fn salts_differ_between_keys_and_stay_the_same_for_one() {
        let directory = tempfile::tempdir().unwrap();
        let keys = keys(&directory).await;
        let first = keys.create("first").await.unwrap();
        let second = keys.create("second").await.unwrap();
        let keyring = Keyring::load(keys.clone()).await.unwrap();
        let restarted = Keyring::load(keys).await.unwrap();

        let salt = keyring.check(&first.key).await.unwrap().cache_salt;

        assert_ne!(salt, keyring.check(&second.key).await.unwrap().cache_salt);
        assert_eq!(salt, restarted.check(&first.key).await.unwrap().cache_salt);
    }
}
