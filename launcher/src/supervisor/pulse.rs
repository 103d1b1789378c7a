//! Notices a process that lives and does not answer: one that was stopped (SIGSTOP), that waits for
//! itself, or that runs in a circle.
//!
//! A process that takes processor time gets longer than one that takes none: on a busy machine an
//! answer may be late.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use sconce_proto::worker::DescribeRequest;
use sconce_proto::worker::worker_client::WorkerClient;
use tokio::time::timeout;
use tonic::Code;
use tonic::transport::Endpoint;

use super::identity::ProcessId;
use super::probe;

/// Between two questions.
const EVERY: Duration = Duration::from_millis(400);

/// A process that takes no processor time and is silent for so long hangs.
const PATIENCE: Duration = Duration::from_secs(2);

/// A process that takes processor time hangs after so long.
const LONG_PATIENCE: Duration = Duration::from_secs(15);

/// What a process is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pulse {
    /// Nothing.
    None,
    /// What it serves, over its socket.
    Worker,
    /// Whether it is alive, at its address.
    Router,
}

/// Whom to ask.
#[derive(Clone, Debug)]
pub(super) enum Target {
    Worker(PathBuf),
    Router(SocketAddr),
}

/// What came of a question.
enum Answer {
    /// An answer, even if it is an error.
    Some,
    /// None in time.
    None,
    /// There is nobody to ask: whatever that means, it is not a hang.
    Nobody,
}

/// Waits until the process hangs.
pub(super) async fn until_silent(target: &Target, process: ProcessId) {
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut silent_since: Option<Instant> = None;
    loop {
        every.tick().await;
        let (asked, ticks) = (Instant::now(), process.cpu_ticks().ok());
        match ask(target).await {
            Answer::Some | Answer::Nobody => silent_since = None,
            // This process was stopped or starved itself: it can't tell.
            Answer::None if asked.elapsed() > 2 * PATIENCE => silent_since = None,
            Answer::None => {
                let since = *silent_since.get_or_insert(asked);
                let is_idle = process.cpu_ticks().ok() == ticks;
                if is_idle || since.elapsed() >= LONG_PATIENCE {
                    return;
                }
            }
        }
    }
}

async fn ask(target: &Target) -> Answer {
    let asked = async {
        match target {
            Target::Worker(socket) => ask_worker(socket).await,
            Target::Router(address) => match probe::is_live(*address).await {
                Ok(()) => Answer::Some,
                Err(error) => {
                    tracing::debug!(%error, %address, "could not ask whether it lives");
                    Answer::Nobody
                }
            },
        }
    };
    timeout(PATIENCE, asked).await.unwrap_or(Answer::None)
}

/// A connection of its own each time: one that a worker before left behind says nothing.
async fn ask_worker(socket: &std::path::Path) -> Answer {
    let address = format!("unix:{}", socket.display());
    let Ok(endpoint) = Endpoint::from_shared(address) else { return Answer::Nobody };
    let channel = match endpoint.connect().await {
        Ok(channel) => channel,
        Err(error) => {
            tracing::debug!(%error, socket = %socket.display(), "could not ask whether it lives");
            return Answer::Nobody;
        }
    };
    match WorkerClient::new(channel).describe(DescribeRequest {}).await {
        Err(status) if status.code() == Code::Unknown => Answer::Nobody,
        Ok(_) | Err(_) => Answer::Some,
    }
}
