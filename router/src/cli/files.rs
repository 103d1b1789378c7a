//! The options of `sconce router` about files.

use std::path::PathBuf;

use clap::Args;

use crate::config::{FileLimits, FileLocation};

/// Where files are kept, and how much of them.
#[derive(Args, Clone, Debug)]
pub(super) struct FileArgs {
    /// Where the contents of uploaded files and of batches' results lie: a directory that only this
    /// user can read, or `s3://bucket/prefix` with endpoint, region and credentials from AWS_ENDPOINT_URL,
    /// AWS_REGION, AWS_ACCESS_KEY_ID and so on. Beside the SQLite file otherwise, named as it is but
    /// `.files`
    #[arg(long = "files", env = "SCONCE_FILES", value_name = "DIRECTORY|URL", value_parser = location)]
    location: Option<FileLocation>,

    /// Bytes of one file
    #[arg(long, env = "SCONCE_MAX_FILE_BYTES", value_name = "BYTES", default_value_t = FileLimits::default().max_file_bytes)]
    max_file_bytes: u64,

    /// Bytes of all files of one API key
    #[arg(long, env = "SCONCE_MAX_KEY_FILE_BYTES", value_name = "BYTES", default_value_t = FileLimits::default().max_bytes)]
    max_key_file_bytes: u64,

    /// Files of one API key
    #[arg(long, env = "SCONCE_MAX_KEY_FILES", value_name = "COUNT", default_value_t = FileLimits::default().max_files)]
    max_key_files: u64,
}

impl FileArgs {
    pub(super) fn split(self) -> (Option<FileLocation>, FileLimits) {
        let limits = FileLimits {
            max_file_bytes: self.max_file_bytes,
            max_bytes: self.max_key_file_bytes,
            max_files: self.max_key_files,
            ..FileLimits::default()
        };
        (self.location, limits)
    }
}

fn location(text: &str) -> Result<FileLocation, String> {
    let Some((scheme, rest)) = text.split_once("://") else {
        return match text {
            "" => Err("expected a directory, or s3://bucket/prefix".to_owned()),
            path => Ok(FileLocation::Directory(PathBuf::from(path))),
        };
    };
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if scheme != "s3" || bucket.is_empty() || !bucket.chars().all(is_plain) {
        return Err("expected a directory, or s3://bucket/prefix".to_owned());
    }
    if prefix.contains(['?', '#', '@']) || prefix.chars().any(char::is_control) {
        return Err("the prefix may not hold ?, # or @: there is nothing but a path".to_owned());
    }
    let prefix = prefix.trim_matches('/').to_owned();
    Ok(FileLocation::Bucket { bucket: bucket.to_owned(), prefix })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_a_directory_or_a_bucket() {
        let bucket = |bucket: &str, prefix: &str| FileLocation::Bucket {
            bucket: bucket.into(),
            prefix: prefix.into(),
        };
        assert_eq!(location("/var/files"), Ok(FileLocation::Directory("/var/files".into())));
        assert_eq!(location("s3://b"), Ok(bucket("b", "")));
        assert_eq!(location("s3://b-1.x/a/b/"), Ok(bucket("b-1.x", "a/b")));
        for wrong in ["", "s3://", "s3:///a", "gs://b", "s3://key:secret@b", "s3://b/a?x=1"] {
            assert!(location(wrong).is_err(), "{wrong}");
        }
    }
}
