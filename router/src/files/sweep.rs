//! Removes what nothing needs: files that have expired, and objects of uploads that came to nothing,
//! in this process or in one that died.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::objects::Objects;
use super::upload::Abandoned;
use super::{Error, Files, Opened, seconds};
use crate::store::Store;

/// Between two sweeps.
const EVERY: Duration = Duration::from_secs(300);
/// Rows of one query.
const PAGE: i64 = 256;

impl Files {
    /// Removes what is left over, at once and from time to time, for as long as it is polled.
    pub(crate) async fn keep_clean(&self) -> Infallible {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut abandoned = self.0.abandoned.lock().await;
        loop {
            let done = tokio::select! {
                Some(upload) = abandoned.recv() => self.clear(upload).await,
                _ = ticks.tick() => self.sweep().await,
            };
            if let Err(error) = done {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "what is left of files can't be removed for now");
            }
        }
    }

    /// Removes everything that is due.
    pub(crate) async fn sweep(&self) -> Result<(), Error> {
        // There is nothing to sweep where nothing was ever stored.
        let is_new = self.0.database.file().is_some_and(|file| !file.exists());
        if self.0.location.is_none() || (is_new && !self.0.opened.initialized()) {
            return Ok(());
        }
        let Opened { store, objects } = self.opened().await?;
        while store.expire_files(PAGE, seconds()).await? == PAGE as usize {}
        loop {
            let due = store.due_objects(PAGE, seconds()).await?;
            for object in &due {
                remove(store, objects, object).await?;
            }
            if due.len() < PAGE as usize {
                return Ok(());
            }
        }
    }

    async fn clear(&self, mut upload: Abandoned) -> Result<(), Error> {
        let Opened { store, objects } = self.opened().await?;
        let Abandoned { object, writer, .. } = &mut upload;
        if let Some(mut writer) = writer.take() {
            // Parts that a bucket keeps after all end by its lifecycle rule.
            let _ = writer.abort().await;
        }
        remove(store, objects, object).await
    }
}

/// Deletes a loose object, and then the word of it.
pub(super) async fn remove(store: &Store, objects: &Objects, object: &str) -> Result<(), Error> {
    objects.delete(object).await?;
    Ok(store.forget_object(object).await?)
}
