//! Connections to workers' addresses.

use std::time::Duration;

use tonic::transport::{Channel, Endpoint, Error};

// A step of a thousand sequences with log-probabilities fits without waiting for the window.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;

/// Connects to `unix:/path/to/socket` or `http://host:port`.
pub(super) async fn connect(address: &str, timeout: Duration) -> Result<Channel, Error> {
    let endpoint = Endpoint::from_shared(address.to_owned())?
        .connect_timeout(timeout)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(2 * STREAM_WINDOW_BYTES)
        .tcp_nodelay(true);
    endpoint.connect().await
}
