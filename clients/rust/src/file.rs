//! Files that a server keeps: uploads, and the results of batches.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use reqwest::Response;
use serde::Deserialize;
use tokio::io::AsyncReadExt;

use crate::Extra;
use crate::error::Error;

/// What a file is read in.
const PIECE_BYTES: usize = 64 << 10;

/// A file that a server keeps.
#[derive(Clone, Debug, Deserialize)]
pub struct File {
    /// Its id.
    pub id: String,
    /// Its size.
    #[serde(default)]
    pub bytes: u64,
    /// When it was stored: seconds since 1970.
    #[serde(default)]
    pub created_at: i64,
    /// When it will be deleted, if ever: seconds since 1970.
    #[serde(default)]
    pub expires_at: Option<i64>,
    /// Its name.
    #[serde(default)]
    pub filename: String,
    /// What it is for, such as `batch`.
    #[serde(default)]
    pub purpose: String,
    /// What else the server says.
    #[serde(flatten)]
    pub extra: Extra,
}

/// A file that is deleted.
#[derive(Clone, Debug, Deserialize)]
pub struct DeletedFile {
    /// Its id.
    pub id: String,
    /// Whether it is.
    pub deleted: bool,
}

/// A file to be uploaded.
#[derive(Clone, Debug)]
pub struct FileUpload {
    filename: String,
    purpose: String,
    contents: Contents,
    expires_after_seconds: Option<u64>,
}

#[derive(Clone, Debug)]
enum Contents {
    Path(PathBuf),
    Bytes(Bytes),
}

impl FileUpload {
    /// A file of this machine, which is read as it is sent.
    pub fn from_path(path: impl AsRef<Path>, purpose: impl Into<String>) -> Self {
        let path = path.as_ref();
        let filename = path.file_name().unwrap_or(path.as_os_str());
        let filename = filename.to_string_lossy().into_owned();
        Self::new(filename, purpose, Contents::Path(path.to_owned()))
    }

    /// These bytes, under a name.
    pub fn from_bytes(
        filename: impl Into<String>,
        purpose: impl Into<String>,
        bytes: impl Into<Bytes>,
    ) -> Self {
        Self::new(filename.into(), purpose, Contents::Bytes(bytes.into()))
    }

    fn new(filename: String, purpose: impl Into<String>, contents: Contents) -> Self {
        Self { filename, purpose: purpose.into(), contents, expires_after_seconds: None }
    }

    /// Has the server delete it so many seconds after it was stored.
    #[must_use]
    pub fn expires_after(mut self, seconds: u64) -> Self {
        self.expires_after_seconds = Some(seconds);
        self
    }
}

/// A form with a file, which can be sent again.
#[derive(Debug)]
pub(crate) struct Form {
    boundary: String,
    head: Bytes,
    contents: Contents,
    tail: Bytes,
}

impl Form {
    pub(crate) fn new(file: FileUpload) -> Self {
        let boundary = format!("sconce-{:032x}", rand::random::<u128>());
        let mut head = String::new();
        let mut text = |name: &str, value: &str| {
            head.push_str(&format!(
                "--{boundary}\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
            ));
        };
        text("purpose", &file.purpose);
        if let Some(seconds) = file.expires_after_seconds {
            text("expires_after[anchor]", "created_at");
            text("expires_after[seconds]", &seconds.to_string());
        }
        let name = quoted(&file.filename);
        head.push_str(&format!(
            "--{boundary}\r\ncontent-disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\
             content-type: application/octet-stream\r\n\r\n"
        ));
        let tail = format!("\r\n--{boundary}--\r\n").into();
        Self { boundary, head: head.into(), contents: file.contents, tail }
    }

    pub(crate) fn content_type(&self) -> String {
        format!("multipart/form-data; boundary={}", self.boundary)
    }

    /// The body, and its length.
    pub(crate) async fn body(&self) -> Result<(reqwest::Body, u64), Error> {
        let around = (self.head.len() + self.tail.len()) as u64;
        let once = |bytes: &Bytes| stream::iter([Ok::<_, std::io::Error>(bytes.clone())]);
        let (head, tail) = (once(&self.head), once(&self.tail));
        match &self.contents {
            Contents::Bytes(bytes) => {
                let length = around + bytes.len() as u64;
                let all = head.chain(once(bytes)).chain(tail);
                Ok((reqwest::Body::wrap_stream(all), length))
            }
            Contents::Path(path) => {
                let failed = |source| Error::File { path: path.clone(), source };
                let file = tokio::fs::File::open(path).await.map_err(failed)?;
                let length = file.metadata().await.map_err(failed)?.len();
                // A file that grows meanwhile is sent as long as it was.
                let all = head.chain(pieces(file.take(length))).chain(tail);
                Ok((reqwest::Body::wrap_stream(all), around + length))
            }
        }
    }
}

/// A name as a form has it, as browsers write it.
fn quoted(name: &str) -> String {
    name.replace('"', "%22").replace('\r', "%0D").replace('\n', "%0A")
}

fn pieces(
    file: tokio::io::Take<tokio::fs::File>,
) -> impl Stream<Item = Result<Bytes, std::io::Error>> {
    stream::try_unfold(file, async |mut file| {
        let mut piece = bytes::BytesMut::with_capacity(PIECE_BYTES);
        let num_read = file.read_buf(&mut piece).await?;
        Ok((num_read > 0).then(|| (piece.freeze(), file)))
    })
}

/// What is in a file, piece by piece. Dropping it hangs up.
#[derive(Debug)]
pub struct FileContent {
    response: Option<Response>,
}

impl FileContent {
    pub(crate) fn new(response: Response) -> Self {
        Self { response: Some(response) }
    }

    /// How many bytes there are, where the server says.
    pub fn num_bytes(&self) -> Option<u64> {
        self.response.as_ref().and_then(Response::content_length)
    }

    /// The next piece; `None` at the end of the file.
    pub async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        let response = self.response.as_mut()?;
        let next = response.chunk().await.map_err(Error::within);
        if !matches!(next, Ok(Some(_))) {
            self.response = None;
        }
        next.transpose()
    }

    /// The pieces as a stream.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, Error>> + Send {
        stream::unfold(self, async |mut content| {
            let next = content.next().await?;
            Some((next, content))
        })
    }
}
