//! Where routers connect: a Unix socket for this user alone, or TCP.

use std::fs::{DirBuilder, Permissions};
use std::io::{Error, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use tokio::net::{TcpListener, UnixListener};

/// Where to listen, as it was typed: `unix:PATH` or `ADDRESS:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

/// An open listener.
#[derive(Debug)]
pub(crate) enum Listener {
    Unix(UnixListener, SocketFile),
    Tcp(TcpListener),
}

/// The socket's file. Removed on drop, unless another worker has taken its place.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    identity: Identity,
}

/// A file's number and when it was made; numbers are used again at once.
type Identity = (u64, i64, i64);

fn identity(metadata: &std::fs::Metadata) -> Identity {
    (metadata.ino(), metadata.ctime(), metadata.ctime_nsec())
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some("") => Err("unix: needs a path".to_owned()),
            Some(path) => Ok(Self::Unix(path.into())),
            None => text
                .parse()
                .map(Self::Tcp)
                .map_err(|_| "expected unix:PATH or ADDRESS:PORT, such as 127.0.0.1:0".to_owned()),
        }
    }
}

impl Listener {
    pub(crate) async fn bind(address: &Address) -> Result<Self, Error> {
        match address {
            Address::Unix(path) => bind_unix(path),
            Address::Tcp(address) => Ok(Self::Tcp(TcpListener::bind(address).await?)),
        }
    }

    /// The address that a router is given.
    pub(crate) fn address(&self) -> Result<String, Error> {
        match self {
            Self::Unix(_, file) => {
                Ok(format!("unix:{}", std::path::absolute(&file.path)?.display()))
            }
            Self::Tcp(listener) => Ok(format!("http://{}", listener.local_addr()?)),
        }
    }
}

fn bind_unix(path: &Path) -> Result<Listener, Error> {
    if let Some(directory) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    remove_stale(path)?;
    let listener = UnixListener::bind(path)?;
    // Only the owner may write to it, and so connect, under any sane umask; here under every one.
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    let identity = identity(&std::fs::symlink_metadata(path)?);
    Ok(Listener::Unix(listener, SocketFile { path: path.to_owned(), identity }))
}

/// Removes the socket of a worker that was killed; refuses when somebody listens on it, and when
/// it is no socket.
fn remove_stale(path: &Path) -> Result<(), Error> {
    let metadata = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        metadata => metadata?,
    };
    if !metadata.file_type().is_socket() {
        return Err(Error::new(ErrorKind::AlreadyExists, "the path exists and is no socket"));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err(Error::new(ErrorKind::AddrInUse, "another process listens there")),
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = |metadata: std::fs::Metadata| identity(&metadata) == self.identity;
        if std::fs::symlink_metadata(&self.path).is_ok_and(ours) {
            // The next worker removes it otherwise.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_killed_workers_socket_is_replaced_and_a_living_ones_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/worker.sock");
        let address = Address::Unix(path.clone());

        let first = Listener::bind(&address).await.unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        let refused = Listener::bind(&address).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::AddrInUse);

        let Listener::Unix(listener, file) = first else { panic!("a socket was asked for") };
        drop(listener);
        let second = Listener::bind(&address).await.unwrap();
        drop(file);
        assert!(path.exists(), "the second worker's socket was removed by the first");
        drop(second);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_file_is_not_taken_for_a_stale_socket() {
        let file = tempfile::NamedTempFile::new().unwrap();

        let refused = Listener::bind(&Address::Unix(file.path().to_owned())).await.unwrap_err();

        assert_eq!(refused.kind(), ErrorKind::AlreadyExists);
        assert!(file.path().exists());
    }

    #[test]
    fn addresses_are_sockets_or_numbers() {
        assert_eq!("unix:/a/b".parse(), Ok(Address::Unix("/a/b".into())));
        assert!("127.0.0.1:0".parse::<Address>().is_ok());
        for bad in ["", "unix:", "localhost:1", "127.0.0.1"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }
}
