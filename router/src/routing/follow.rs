//! The conversation with the launcher: its tables come, reports go. Nothing waits for it: while it
//! is gone, the last table stays.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use sconce_proto::MAX_MESSAGE_BYTES;
use sconce_proto::fleet::routing_client::RoutingClient;
use sconce_proto::fleet::{RouterReport, RoutingTable};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport;
use tracing::{info, warn};

use super::Shared;
use crate::dispatch::connect::{connect, describe};
use crate::metrics;

/// Time between reports.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// The same while replicas drain: the launcher waits to hear that they have.
const DRAIN_INTERVAL: Duration = Duration::from_millis(100);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_secs(1);
/// Reports that the launcher has not read. One that is behind gets none, until it has caught up.
const MAX_UNREAD: usize = 4;

/// Why the launcher is not followed.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("can't connect")]
    Connect(#[source] transport::Error),
    #[error("no answer in time")]
    Silent,
    #[error("a call failed: {0}")]
    Call(#[from] tonic::Status),
    #[error("the launcher ended the call")]
    Closed,
}

/// Follows the launcher at `address` until it is aborted. A table of an earlier time is read from
/// `file` when the launcher can't be reached at first.
pub(super) async fn follow(
    shared: Arc<Shared>,
    address: String,
    file: Option<PathBuf>,
) -> Infallible {
    let router = uuid::Uuid::now_v7().to_string();
    let mut backoff = FIRST_BACKOFF;
    let mut is_known_lost = false;
    loop {
        let mut has_begun = false;
        let Err(lost) = watch(&shared, (&address, &router), &mut has_begun).await;
        metrics::launcher_connected(false);
        if has_begun {
            backoff = FIRST_BACKOFF;
            is_known_lost = false;
        }
        if !is_known_lost {
            let error = describe(&lost);
            warn!(launcher = address, error, "not following the launcher; the last table stays");
        }
        is_known_lost = true;
        if shared.table.load().is_none()
            && let Some(file) = &file
        {
            read(&shared, file).await;
        }
        #[expect(clippy::disallowed_methods, reason = "nothing says when the launcher is back")]
        sleep(backoff).await;
        backoff = (backoff * 2).min(MAX_BACKOFF);
    }
}

/// One connection: until it breaks.
async fn watch(
    shared: &Shared,
    (address, router): (&str, &str),
    has_begun: &mut bool,
) -> Result<Infallible, Lost> {
    let connecting = timeout(CONNECT_TIMEOUT, connect(address, CONNECT_TIMEOUT)).await;
    let channel = connecting.map_err(|_| Lost::Silent)?.map_err(Lost::Connect)?;
    let mut client = RoutingClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let (reports, unread) = mpsc::channel::<RouterReport>(MAX_UNREAD);
    let report = || {
        let _ = reports.try_send(shared.report(router));
    };
    report();
    let call = client.watch(ReceiverStream::new(unread));
    let answer = timeout(CONNECT_TIMEOUT, call).await.map_err(|_| Lost::Silent)??;
    let mut tables = answer.into_inner();
    metrics::launcher_connected(true);
    info!(launcher = address, "following the launcher");
    *has_begun = true;

    let mut ticks = interval(DRAIN_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let ticks_between = REPORT_INTERVAL.as_millis() / DRAIN_INTERVAL.as_millis();
    let mut num_ticks = 0;
    loop {
        tokio::select! {
            table = tables.message() => {
                shared.apply(table?.ok_or(Lost::Closed)?);
                report();
            }
            () = shared.held.wanted() => report(),
            _ = ticks.tick() => {
                shared.dispatcher.sweep();
                num_ticks += 1;
                if num_ticks >= ticks_between || shared.dispatcher.is_any_draining() {
                    num_ticks = 0;
                    report();
                }
            }
        }
    }
}

async fn read(shared: &Shared, file: &Path) {
    let bytes = match tokio::fs::read(file).await {
        Ok(bytes) if bytes.len() <= MAX_MESSAGE_BYTES => bytes,
        Ok(_) => return warn!(file = %file.display(), "the routing table is too large"),
        Err(error) => {
            return warn!(file = %file.display(), %error, "the routing table can't be read");
        }
    };
    match RoutingTable::decode(&*bytes) {
        Ok(table) => {
            info!(file = %file.display(), generation = table.generation, "routing by a table of before");
            shared.apply(table);
        }
        Err(error) => warn!(file = %file.display(), %error, "the routing table can't be read"),
    }
}
