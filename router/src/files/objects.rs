//! Where the contents of files lie: a private directory, or a bucket. Objects have names that nobody
//! outside chose.

use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use object_store::aws::AmazonS3Builder;
use object_store::buffered::BufWriter;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ClientOptions, GetOptions, ObjectStore, ObjectStoreExt, RetryConfig};

use super::{Contents, Error};
use crate::config::FileLocation;
use crate::store::create_private_directory;

/// What is sent at once. S3 takes parts of 5 MiB and more, and 10,000 of them.
const PART_BYTES: usize = 8 << 20;
/// Parts of one object that are on their way. What an upload holds in memory is one more.
const MAX_PARTS: usize = 2;
/// For one request to a bucket, and all that it answers. What a slow client has not taken by then is
/// asked for again from where it was, ten times at most.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);
/// For a request and its repetitions.
const RETRY_TIMEOUT: Duration = Duration::from_hours(1);

/// An open store of objects. Cheap to clone.
#[derive(Clone)]
pub(super) struct Objects {
    store: Arc<dyn ObjectStore>,
    /// Where they are files.
    directory: Option<PathBuf>,
}

impl Objects {
    pub(super) async fn open(location: &FileLocation) -> Result<Self, Error> {
        match location {
            FileLocation::Directory(directory) => {
                let path = directory.clone();
                let made = blocking(move || private(&path)).await;
                let failed = |source| Error::Directory { path: directory.clone(), source };
                made.map_err(failed)??;
                let store = Arc::new(LocalFileSystem::new_with_prefix(directory)?);
                Ok(Self { store, directory: Some(directory.clone()) })
            }
            FileLocation::Bucket { bucket, prefix } => {
                let store = PrefixStore::new(s3(bucket)?, prefix.as_str());
                Ok(Self { store: Arc::new(store), directory: None })
            }
        }
    }

    /// Writes an object. It is there once the writer is shut down, and all of it.
    pub(super) fn write(&self, object: &str) -> BufWriter {
        BufWriter::with_capacity(Arc::clone(&self.store), Path::from(object), PART_BYTES)
            .with_max_concurrency(MAX_PARTS)
    }

    /// Makes sure that an object survives a power cut. Buckets see to it themselves.
    pub(super) async fn sync(&self, object: &str) -> Result<(), Error> {
        let Some(directory) = self.directory.clone() else { return Ok(()) };
        let path = directory.join(object);
        let synced = path.clone();
        let sync = move || {
            fs::File::open(&synced)?.sync_all()?;
            // The name, too.
            fs::File::open(&directory)?.sync_all()
        };
        blocking(sync).await.map_err(|source| Error::Directory { path, source })
    }

    /// The bytes of an object.
    pub(super) async fn read(
        &self,
        object: &str,
        range: Option<Range<u64>>,
    ) -> Result<Contents, Error> {
        // An empty range is none to an object store.
        if range.as_ref().is_some_and(Range::is_empty) {
            return Ok(futures::stream::empty().boxed());
        }
        let options = GetOptions { range: range.map(Into::into), ..GetOptions::default() };
        let found = self.store.get_opts(&Path::from(object), options).await?;
        Ok(found.into_stream().map_err(Error::from).boxed())
    }

    /// Deletes an object, and what was written of it if it is not whole. It need not be there.
    pub(super) async fn delete(&self, object: &str) -> Result<(), Error> {
        match self.store.delete(&Path::from(object)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let Some(directory) = &self.directory else { return Ok(()) };
        // How the crate names a file until it is whole.
        let path = directory.join(format!("{object}#1"));
        match tokio::fs::remove_file(&path).await {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(Error::Directory { path, source })
            }
            _ => Ok(()),
        }
    }
}

/// A bucket, with what the usual AWS variables say: endpoint, region, credentials.
fn s3(bucket: &str) -> Result<impl ObjectStore, Error> {
    // The crate reads them, so that no secret passes through our configuration, which is logged.
    let environment = AmazonS3Builder::from_env();
    let endpoint = environment.get_config_value(&object_store::aws::AmazonS3ConfigKey::Endpoint);
    let is_plain = endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"));
    let client = ClientOptions::new().with_timeout(REQUEST_TIMEOUT).with_allow_http(is_plain);
    let retry = RetryConfig { retry_timeout: RETRY_TIMEOUT, ..RetryConfig::default() };
    let store =
        environment.with_bucket_name(bucket).with_client_options(client).with_retry(retry).build();
    Ok(store?)
}

/// Creates the directory, for its owner alone. One that is there must be so already.
fn private(path: &FilePath) -> io::Result<Result<(), Error>> {
    create_private_directory(path)?;
    let mode = fs::metadata(path)?.permissions().mode() & 0o777;
    if mode & 0o077 == 0 {
        return Ok(Ok(()));
    }
    Ok(Err(Error::Exposed { path: path.to_owned(), mode }))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}
