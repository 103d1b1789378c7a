//! A file on its way into the store.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use object_store::buffered::BufWriter;
use tokio::io::AsyncWriteExt;
use uuid::Uuid;

use super::{Error, Files, NewFile, Origin, seconds};
use crate::metrics;
use crate::store::{FileQuota, FileRow, PutFile};

/// How much longer than an upload may take its object is left alone: it may be another process's.
const MARGIN: Duration = Duration::from_hours(1);

/// A file whose contents are being written. Dropping it leaves nothing.
pub(crate) struct Upload {
    files: Files,
    owner: Arc<str>,
    /// None once it was not written as it should have been.
    object: Option<String>,
    /// None once all is written.
    writer: Option<BufWriter>,
    num_bytes: u64,
    bounds: Option<Bounds>,
}

/// What a client's upload keeps to.
struct Bounds {
    quota: FileQuota,
    /// What the quota left when it began.
    room: u64,
    _slot: Slot,
}

/// What a dropped upload leaves to be removed. The place that it took up is free after that.
pub(super) struct Abandoned {
    pub(super) object: String,
    pub(super) writer: Option<BufWriter>,
    _bounds: Option<Bounds>,
}

/// One of the uploads that an owner may have under way.
struct Slot {
    files: Files,
    owner: Arc<str>,
}

impl Upload {
    pub(super) async fn begin(files: &Files, owner: &str, origin: Origin) -> Result<Self, Error> {
        let opened = files.opened().await?;
        let bounds = match origin {
            Origin::Client => {
                let used = opened.store.file_usage(owner, seconds()).await?;
                let quota = files.0.limits.quota();
                let room = quota.max_bytes.saturating_sub(used.num_bytes);
                if used.num_files >= quota.max_files || room <= 0 {
                    return Err(over_quota(files));
                }
                let slot = Slot::take(files, owner)?;
                Some(Bounds { quota, room: room.cast_unsigned(), _slot: slot })
            }
            Origin::Server => None,
        };
        let object = Uuid::now_v7().simple().to_string();
        let lasts = files.0.limits.upload_timeout.saturating_add(MARGIN).as_secs();
        let due_at = seconds().saturating_add_unsigned(lasts);
        opened.store.begin_object(&object, due_at).await?;
        let writer = Some(opened.objects.write(&object));
        let (files, owner, object) = (files.clone(), owner.into(), Some(object));
        Ok(Self { files, owner, object, writer, num_bytes: 0, bounds })
    }

    /// Writes what comes next. After an error there is nothing to be done but to drop it.
    pub(crate) async fn write(&mut self, piece: &[u8]) -> Result<(), Error> {
        self.num_bytes += piece.len() as u64;
        if let Some(bounds) = &self.bounds {
            let max_bytes = self.files.0.limits.max_file_bytes;
            if self.num_bytes > max_bytes {
                return Err(Error::TooLarge { max_bytes });
            }
            if self.num_bytes > bounds.room {
                return Err(over_quota(&self.files));
            }
        }
        let Some(writer) = &mut self.writer else { return Err(Error::Unfinished) };
        metrics::file_bytes_received(piece.len());
        Ok(writer.write_all(piece).await?)
    }

    /// Makes a file of what was written.
    pub(crate) async fn finish(mut self, file: NewFile) -> Result<FileRow, Error> {
        let files = self.files.clone();
        let opened = files.opened().await?;
        let (Some(mut writer), Some(object)) = (self.writer.take(), self.object.clone()) else {
            return Err(Error::Unfinished);
        };
        writer.shutdown().await?;
        opened.objects.sync(&object).await?;
        let created_at = seconds();
        let row = FileRow {
            id: file.id.unwrap_or_else(|| format!("file-{}", Uuid::now_v7().simple())),
            owner: self.owner.to_string(),
            purpose: file.purpose.to_owned(),
            filename: file.filename,
            num_bytes: i64::try_from(self.num_bytes).unwrap_or(i64::MAX),
            created_at,
            expires_at: file.ttl.map(|ttl| created_at.saturating_add_unsigned(ttl.as_secs())),
            object,
        };
        let quota = self.bounds.as_ref().map(|bounds| bounds.quota);
        match opened.store.put_file(&row, quota).await? {
            PutFile::Stored => {
                self.object = None;
                metrics::file_stored(file.purpose);
                Ok(row)
            }
            PutFile::Exists(there) => Ok(there),
            PutFile::OverQuota => Err(over_quota(&files)),
            PutFile::ObjectGone => Err(Error::TookTooLong),
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(object) = self.object.take() else { return };
        let (writer, bounds) = (self.writer.take(), self.bounds.take());
        // Where nobody keeps the store clean, the object stays until somebody does.
        let _ = self.files.0.abandon.send(Abandoned { object, writer, _bounds: bounds });
    }
}

impl Slot {
    fn take(files: &Files, owner: &str) -> Result<Self, Error> {
        let max = files.0.limits.max_uploads;
        let mut uploads = files.0.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        let owner: Arc<str> = owner.into();
        let under_way = uploads.entry(Arc::clone(&owner)).or_default();
        if *under_way >= max {
            return Err(Error::TooManyUploads { max });
        }
        *under_way += 1;
        drop(uploads);
        Ok(Self { files: files.clone(), owner })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut uploads = self.files.0.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(under_way) = uploads.get_mut(&self.owner) {
            *under_way -= 1;
            if *under_way == 0 {
                uploads.remove(&self.owner);
            }
        }
    }
}

fn over_quota(files: &Files) -> Error {
    let limits = &files.0.limits;
    Error::OverQuota { max_bytes: limits.max_bytes, max_files: limits.max_files }
}
