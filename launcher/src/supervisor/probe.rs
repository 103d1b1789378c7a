//! Asks a router whether it is ready, tightly: this is on the way of every start; and whether it is
//! alive.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Between two questions. A question costs the router some tens of microseconds.
const EVERY: Duration = Duration::from_millis(5);

/// One question may take so long.
const PATIENCE: Duration = Duration::from_secs(5);

/// Waits until `GET /ready` answers 200.
pub async fn until_ready(address: SocketAddr) {
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        match tokio::time::timeout(PATIENCE, is_ready(address)).await {
            Ok(Ok(true)) => return,
            Ok(Ok(false)) => {}
            Ok(Err(error)) => tracing::debug!(%error, %address, "cannot ask for readiness yet"),
            Err(_) => tracing::debug!(%address, "no answer about readiness"),
        }
    }
}

async fn is_ready(address: SocketAddr) -> std::io::Result<bool> {
    Ok(ask(address, "/ready").await?.ends_with(b" 200"))
}

/// Whether anything answers `GET /live`.
pub(super) async fn is_live(address: SocketAddr) -> std::io::Result<()> {
    ask(address, "/live").await.map(drop)
}

/// The beginning of what is answered.
async fn ask(address: SocketAddr, path: &str) -> std::io::Result<[u8; "HTTP/1.1 200".len()]> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut head = [0; "HTTP/1.1 200".len()];
    stream.read_exact(&mut head).await?;
    Ok(head)
}
