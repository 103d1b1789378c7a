//! Why a file can't be stored or read.

use std::path::PathBuf;

use crate::store;

/// What went wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server has no place for files.
    #[error("this server keeps no files: it was started without --files")]
    Nowhere,
    /// Nothing of this id is stored, or it is someone else's.
    #[error("there is no file with the id `{id}`")]
    NotFound {
        /// As the client named it.
        id: String,
    },
    /// The file is larger than any may be.
    #[error("the file has more than {max_bytes} bytes")]
    TooLarge {
        /// The limit.
        max_bytes: u64,
    },
    /// Its owner would have too much.
    #[error(
        "your files may have {max_bytes} bytes together, and be {max_files}: delete some to store \
         this one"
    )]
    OverQuota {
        /// The limit of all files' bytes.
        max_bytes: u64,
        /// The limit of files.
        max_files: u64,
    },
    /// Its owner has too many uploads under way.
    #[error("{max} files are being uploaded already, and no more may be at once")]
    TooManyUploads {
        /// The limit.
        max: usize,
    },
    /// What was to be stored broke off.
    #[error("the contents broke off")]
    Contents(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// What was written of it before could not be.
    #[error("the file was not written")]
    Unfinished,
    /// The object store took less than all.
    #[error("the file could not be written")]
    Write(#[from] std::io::Error),
    /// It was not written in the time that an upload has.
    #[error("the upload took too long")]
    TookTooLong,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The object store failed.
    #[error("the object store failed")]
    Objects(#[from] object_store::Error),
    /// The directory of the objects can't be used.
    #[error("the directory {} can't be used", .path.display())]
    Directory {
        /// Where it is.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Others may look into the directory.
    #[error("others can read the directory {} (mode {mode:03o}); it must be private: chmod 700", .path.display())]
    Exposed {
        /// Where it is.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
}
