//! What the Responses API keeps between requests: responses that can be asked for again, deleted
//! and continued, by the key that made them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::OnceCell;

use crate::api::reply::now;
use crate::api::responses::item::Item;
use crate::api::responses::reply::ResponseObject;
use crate::config::Config;
use crate::error::ApiError;
use crate::store::{Database, Durability, ResponseRow, Store, Turn};

/// Old responses are looked for once in so many new ones.
const TIDY_EVERY: u64 = 64;

/// Most bytes of a conversation that goes on.
const MAX_CONVERSATION_BYTES: i64 = 16 << 20;

/// The stored responses. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Responses(Arc<Inner>);

struct Inner {
    database: Database,
    /// How long they are kept after their last use; zero: nothing is stored.
    ttl: Duration,
    max_bytes: u64,
    /// Opened when it is needed: a router that is asked for no responses needs no database.
    store: OnceCell<Store>,
    num_saved: AtomicU64,
}

/// A stored response and what went into it.
pub(crate) struct Stored {
    pub(crate) response: ResponseObject,
    pub(crate) input: Vec<Item>,
}

impl Responses {
    /// Responses in the configuration's database.
    pub(crate) fn new(config: &Config) -> Self {
        Self(Arc::new(Inner {
            database: config.database.clone(),
            ttl: config.responses.ttl,
            max_bytes: config.responses.max_bytes,
            store: OnceCell::new(),
            num_saved: AtomicU64::new(0),
        }))
    }

    /// Whether anything is stored.
    pub(crate) fn are_kept(&self) -> bool {
        !self.0.ttl.is_zero()
    }

    /// Stores a new response.
    pub(crate) async fn save(
        &self,
        owner: &str,
        response: &ResponseObject,
        input: &[Item],
    ) -> Result<(), ApiError> {
        let row = self.row(owner, response, input)?;
        self.store().await?.put_response(&row).await.map_err(unusable)?;
        if self.0.num_saved.fetch_add(1, Ordering::Relaxed).is_multiple_of(TIDY_EVERY) {
            self.tidy().await;
        }
        Ok(())
    }

    /// Stores how a response has ended that was stored before. Says whether it was still there, and
    /// had not ended otherwise.
    pub(crate) async fn finish(
        &self,
        owner: &str,
        response: &ResponseObject,
        input: &[Item],
    ) -> Result<bool, ApiError> {
        let row = self.row(owner, response, input)?;
        self.store().await?.finish_response(&row).await.map_err(unusable)
    }

    /// A response that this owner has stored.
    pub(crate) async fn load(&self, owner: &str, id: &str) -> Result<Stored, ApiError> {
        let row = match self.are_kept() {
            true => self.store().await?.response((owner, id), seconds()).await.map_err(unusable)?,
            false => None,
        };
        let row = row.ok_or_else(|| ApiError::not_found("response", id))?;
        let items = |items: Vec<(String, String)>| {
            items.iter().map(|(_, body)| read(body)).collect::<Result<Vec<Item>, _>>()
        };
        let mut response: ResponseObject = read(&row.body)?;
        response.output = items(row.output)?;
        Ok(Stored { response, input: items(row.input)? })
    }

    /// The items of the conversation that a response ends.
    pub(crate) async fn conversation(&self, owner: &str, id: &str) -> Result<Vec<Item>, ApiError> {
        let turns = self.turns(owner, id).await?;
        let num_bytes: i64 = turns.iter().map(|turn| turn.num_bytes).sum();
        if num_bytes > MAX_CONVERSATION_BYTES {
            let message = format!(
                "the conversation of `previous_response_id` has {num_bytes} bytes and may have \
                 {MAX_CONVERSATION_BYTES}"
            );
            return Err(previous("string_above_max_length", message));
        }
        let store = self.store().await?;
        let mut items = Vec::new();
        for turn in &turns {
            for body in store.response_items(&turn.id).await.map_err(unusable)? {
                items.push(read(&body)?);
            }
        }
        store.prolong_responses(&turns, self.expiry()).await.map_err(unusable)?;
        Ok(items)
    }

    /// The newest item of this id that this owner has stored.
    pub(crate) async fn item(&self, owner: &str, id: &str) -> Result<Option<Item>, ApiError> {
        if !self.are_kept() {
            return Ok(None);
        }
        let store = self.store().await?;
        let body = store.response_item((owner, id), seconds()).await.map_err(unusable)?;
        body.map(|body| read(&body)).transpose()
    }

    /// Deletes a response that this owner has stored.
    pub(crate) async fn delete(&self, owner: &str, id: &str) -> Result<(), ApiError> {
        let is_there = self.are_kept()
            && self
                .store()
                .await?
                .delete_response((owner, id), seconds())
                .await
                .map_err(unusable)?;
        if is_there { Ok(()) } else { Err(ApiError::not_found("response", id)) }
    }

    /// The responses of a conversation, all of them there and complete.
    async fn turns(&self, owner: &str, id: &str) -> Result<Vec<Turn>, ApiError> {
        let turns = match self.are_kept() {
            true => {
                self.store().await?.conversation((owner, id), seconds()).await.map_err(unusable)?
            }
            false => Vec::new(),
        };
        let (Some(first), Some(last)) = (turns.first(), turns.last()) else {
            let message = format!("there is no stored response with the id `{id}`");
            return Err(previous("previous_response_not_found", message));
        };
        if first.previous.is_some() {
            let message =
                format!("the beginning of the conversation of `{id}` is no longer stored");
            return Err(previous("previous_response_not_found", message));
        }
        if !matches!(last.status.as_str(), "completed" | "incomplete") {
            let message = format!("the response `{id}` is {} and can't be continued", last.status);
            return Err(previous("previous_response_not_complete", message));
        }
        Ok(turns)
    }

    async fn store(&self) -> Result<&Store, ApiError> {
        let open = || Store::open(&self.0.database, Durability::Recent);
        self.0.store.get_or_try_init(open).await.map_err(unusable)
    }

    fn row(
        &self,
        owner: &str,
        response: &ResponseObject,
        input: &[Item],
    ) -> Result<ResponseRow, ApiError> {
        let items = |items: &[Item]| {
            let written = items.iter().map(|item| Ok((item.id().to_owned(), write(item)?)));
            written.collect::<Result<Vec<_>, ApiError>>()
        };
        let output = items(&response.output)?;
        let body = write(&ResponseObject { output: Vec::new(), ..response.clone() })?;
        Ok(ResponseRow {
            id: response.id.clone(),
            owner: owner.to_owned(),
            previous: response.previous_response_id.clone(),
            status: response.status.clone(),
            created_at: response.created_at.cast_signed(),
            expires_at: self.expiry(),
            body,
            input: items(input)?,
            output,
        })
    }

    fn expiry(&self) -> i64 {
        seconds().saturating_add_unsigned(self.0.ttl.as_secs())
    }

    /// What fails here is tried again later.
    async fn tidy(&self) {
        let Ok(store) = self.store().await else { return };
        let max_bytes = i64::try_from(self.0.max_bytes).unwrap_or(i64::MAX);
        match store.tidy_responses(max_bytes, seconds()).await {
            Ok(0) => {}
            Ok(num_deleted) => tracing::info!(num_deleted, "old responses were deleted"),
            Err(error) => tracing::warn!(%error, "old responses can't be deleted"),
        }
    }
}

fn seconds() -> i64 {
    now().cast_signed()
}

fn previous(code: &'static str, message: String) -> ApiError {
    ApiError::invalid("previous_response_id", code, message)
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn unusable(error: crate::store::Error) -> ApiError {
    tracing::error!(error = &error as &dyn std::error::Error, "stored responses can't be used");
    ApiError::Storage
}

fn read<T: serde::de::DeserializeOwned>(json: &str) -> Result<T, ApiError> {
    // The error would quote what was stored.
    serde_json::from_str(json).map_err(|_| {
        tracing::error!("what was stored can't be read");
        ApiError::Internal
    })
}

fn write(value: &impl serde::Serialize) -> Result<String, ApiError> {
    serde_json::to_string(value).map_err(|_| ApiError::Internal)
}
