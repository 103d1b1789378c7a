//! Files that clients upload and batches make: rows in the database, contents in a store of objects.
//!
//! A file is there once its contents are, and all of them: an [`Upload`] that is dropped half-way, or
//! whose process dies, leaves an object that nobody is shown and the sweep removes. Nothing here
//! knows HTTP or what files are for.

mod error;
pub(crate) mod lines;
mod objects;
mod sweep;
mod upload;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt};
use tokio::sync::{OnceCell, mpsc};

use crate::api::reply::now;
use crate::config::{Config, FileLimits, FileLocation};
use crate::metrics;
use crate::store::{Database, Durability, FilePage, FileQuota, FileRow, Order, Store};
pub(crate) use error::Error;
use objects::Objects;
use upload::Abandoned;
pub(crate) use upload::Upload;

/// The stored files. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Files(Arc<Inner>);

struct Inner {
    database: Database,
    /// Where none is, there are no files.
    location: Option<FileLocation>,
    limits: FileLimits,
    /// Opened when it is needed: a router that is asked for no files needs neither.
    opened: OnceCell<Opened>,
    /// Uploads that each owner has under way.
    uploads: Mutex<HashMap<Arc<str>, usize>>,
    /// What dropped uploads leave to [`Files::keep_clean`].
    abandon: mpsc::UnboundedSender<Abandoned>,
    abandoned: tokio::sync::Mutex<mpsc::UnboundedReceiver<Abandoned>>,
}

struct Opened {
    store: Store,
    objects: Objects,
}

/// What is to be known of a file beside its contents.
#[derive(Clone, Debug)]
pub(crate) struct NewFile {
    /// Its id, where a second file of this id must not be made; otherwise it gets a new one.
    pub(crate) id: Option<String>,
    pub(crate) purpose: &'static str,
    pub(crate) filename: String,
    /// How long it is kept; until it is deleted, otherwise.
    pub(crate) ttl: Option<Duration>,
    pub(crate) origin: Origin,
}

/// Who makes a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Its owner, who may store so much.
    Client,
    /// The server. Results that were paid for are never lost to a quota.
    Server,
}

/// Which files are listed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ListFiles<'a> {
    pub(crate) purpose: Option<&'a str>,
    /// The id of the file that the page follows.
    pub(crate) after: Option<&'a str>,
    pub(crate) order: Order,
    pub(crate) limit: usize,
}

/// A file's contents, in pieces.
pub(crate) type Contents = BoxStream<'static, Result<Bytes, Error>>;

impl Files {
    /// Files where the configuration says.
    pub(crate) fn new(config: &Config) -> Self {
        let (abandon, abandoned) = mpsc::unbounded_channel();
        Self(Arc::new(Inner {
            database: config.database.clone(),
            location: config.file_location(),
            limits: config.files,
            opened: OnceCell::new(),
            uploads: Mutex::default(),
            abandon,
            abandoned: abandoned.into(),
        }))
    }

    /// Stores a file with all that the stream gives, whatever its length up to the limit. A file of
    /// the same id stays as it is, and is returned.
    pub(crate) async fn put<E>(
        &self,
        owner: &str,
        file: NewFile,
        mut contents: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<FileRow, Error>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut upload = self.begin(owner, file.origin).await?;
        while let Some(piece) = contents.next().await {
            let piece = piece.map_err(|error| Error::Contents(error.into()))?;
            upload.write(&piece).await?;
        }
        upload.finish(file).await
    }

    /// Begins a file whose contents are to come.
    pub(crate) async fn begin(&self, owner: &str, origin: Origin) -> Result<Upload, Error> {
        Upload::begin(self, owner, origin).await
    }

    /// A file of this owner.
    pub(crate) async fn row(&self, owner: &str, id: &str) -> Result<FileRow, Error> {
        let row = self.opened().await?.store.file((owner, id), seconds()).await?;
        row.ok_or_else(|| Error::NotFound { id: id.to_owned() })
    }

    /// What is in a file of this owner: all of it, or the bytes of a range that lies in it.
    pub(crate) async fn read(
        &self,
        owner: &str,
        id: &str,
        range: Option<Range<u64>>,
    ) -> Result<(FileRow, Contents), Error> {
        let row = self.row(owner, id).await?;
        let contents = self.opened().await?.objects.read(&row.object, range).await?;
        let counted = contents.inspect_ok(|piece| metrics::file_bytes_sent(piece.len()));
        Ok((row, counted.boxed()))
    }

    /// Some files of this owner, and whether there are more.
    pub(crate) async fn list(
        &self,
        owner: &str,
        list: ListFiles<'_>,
    ) -> Result<(Vec<FileRow>, bool), Error> {
        let after = match list.after {
            Some(id) => Some(self.row(owner, id).await?),
            None => None,
        };
        let limit = i64::try_from(list.limit).unwrap_or(i64::MAX);
        let page = FilePage {
            purpose: list.purpose,
            after: after.as_ref(),
            order: list.order,
            limit: limit.saturating_add(1),
        };
        let mut rows = self.opened().await?.store.files(owner, page, seconds()).await?;
        let has_more = rows.len() > list.limit;
        rows.truncate(list.limit);
        Ok((rows, has_more))
    }

    /// Deletes a file of this owner.
    pub(crate) async fn delete(&self, owner: &str, id: &str) -> Result<(), Error> {
        let Opened { store, objects } = self.opened().await?;
        let object = store.delete_file((owner, id), seconds()).await?;
        let object = object.ok_or_else(|| Error::NotFound { id: id.to_owned() })?;
        // The file is gone, whatever becomes of the object: the sweep tries again.
        if let Err(error) = sweep::remove(store, objects, &object).await {
            tracing::warn!(%error, "a deleted file's object stays for now");
        }
        Ok(())
    }

    async fn opened(&self) -> Result<&Opened, Error> {
        let open = || async {
            let location = self.0.location.as_ref().ok_or(Error::Nowhere)?;
            let store = Store::open(&self.0.database, Durability::Full).await?;
            let objects = Objects::open(location).await?;
            Ok(Opened { store, objects })
        };
        self.0.opened.get_or_try_init(open).await
    }
}

impl FileLimits {
    fn quota(&self) -> FileQuota {
        FileQuota {
            max_files: i64::try_from(self.max_files).unwrap_or(i64::MAX),
            max_bytes: i64::try_from(self.max_bytes).unwrap_or(i64::MAX),
        }
    }
}

fn seconds() -> i64 {
    now().cast_signed()
}

#[cfg(test)]
mod tests;
