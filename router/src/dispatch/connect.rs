//! Connections to workers' and launchers' addresses.

use std::time::Duration;

use tonic::transport::{Channel, Endpoint, Error};

// A step of a thousand sequences with log-probabilities fits without waiting for the window.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;

/// Connects to `unix:/path/to/socket` or `http://host:port`.
pub(crate) async fn connect(address: &str, timeout: Duration) -> Result<Channel, Error> {
    let endpoint = Endpoint::from_shared(address.to_owned())?
        .connect_timeout(timeout)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(2 * STREAM_WINDOW_BYTES)
        .tcp_nodelay(true);
    endpoint.connect().await
}

/// The error with its causes.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
