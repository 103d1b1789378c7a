//! Where a worker listens.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

// A step of a thousand sequences with log-probabilities fits without waiting for the window.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;

/// A worker's address: `unix:/path/to/socket` or `http://host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    Unix(PathBuf),
    Http(String),
}

/// What is not a worker's address.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no worker's address: expected unix:/path/to/socket or http://host:port")]
pub struct AddressError(String);

impl Address {
    /// Opens a connection.
    pub(super) async fn connect(
        &self,
        timeout: Duration,
    ) -> Result<Channel, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(self.to_string())?
            .connect_timeout(timeout)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(2 * STREAM_WINDOW_BYTES)
            .tcp_nodelay(true);
        endpoint.connect().await
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(address: &str) -> Result<Self, AddressError> {
        let error = || AddressError(address.to_owned());
        if let Some(path) = address.strip_prefix("unix:") {
            if !Path::new(path).is_absolute() || Endpoint::from_shared(address.to_owned()).is_err()
            {
                return Err(error());
            }
            return Ok(Self::Unix(path.into()));
        }
        let uri: http::Uri = address.parse().map_err(|_| error())?;
        let plain = matches!(uri.path(), "" | "/") && uri.query().is_none();
        if uri.scheme_str() != Some("http") || uri.port().is_none() || !plain {
            return Err(error());
        }
        Ok(Self::Http(address.trim_end_matches('/').to_owned()))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Http(uri) => f.write_str(uri),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sockets_and_plain_http_are_addresses() {
        for good in ["unix:/run/sconce/worker.sock", "http://127.0.0.1:9000", "http://[::1]:9000"] {
            assert_eq!(good.parse::<Address>().unwrap().to_string(), good);
        }
        for bad in ["", "worker", "unix:", "unix:relative", "https://host:1", "http://host"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
        assert!("http://host:1/path".parse::<Address>().is_err());
    }
}
