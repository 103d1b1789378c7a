//! What the Files API answers, as OpenAI defines it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::store::FileRow;

/// A file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileObject {
    /// Its id.
    pub id: String,
    /// Always `file`.
    pub object: String,
    /// Its size.
    pub bytes: u64,
    /// When it was stored, in Unix seconds.
    pub created_at: u64,
    /// When it will be deleted, in Unix seconds; `null`: when someone deletes it.
    pub expires_at: Option<u64>,
    /// The name it came with.
    pub filename: String,
    /// What it is for.
    pub purpose: String,
    /// Always `processed`: a file is there once all of it is.
    pub status: String,
    /// Always `null`.
    pub status_details: Option<String>,
}

/// Some of a key's files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileList {
    /// Always `list`.
    pub object: String,
    /// The files.
    pub data: Vec<FileObject>,
    /// The id of the first.
    pub first_id: Option<String>,
    /// The id of the last: `after` for the next page.
    pub last_id: Option<String>,
    /// Whether there are more.
    pub has_more: bool,
}

/// A file is deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeletedFile {
    /// Its id.
    pub id: String,
    /// Always `file`.
    pub object: String,
    /// Always true.
    pub deleted: bool,
}

impl From<FileRow> for FileObject {
    fn from(row: FileRow) -> Self {
        Self {
            id: row.id,
            object: "file".into(),
            bytes: row.num_bytes.cast_unsigned(),
            created_at: row.created_at.cast_unsigned(),
            expires_at: row.expires_at.map(i64::cast_unsigned),
            filename: row.filename,
            purpose: row.purpose,
            status: "processed".into(),
            status_details: None,
        }
    }
}

impl FileList {
    pub(super) fn new(rows: Vec<FileRow>, has_more: bool) -> Self {
        let id = |row: Option<&FileRow>| row.map(|row| row.id.clone());
        Self {
            object: "list".into(),
            first_id: id(rows.first()),
            last_id: id(rows.last()),
            data: rows.into_iter().map(FileObject::from).collect(),
            has_more,
        }
    }
}
