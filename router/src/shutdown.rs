//! How the router is told to end: gently first, at once when asked again.

use std::pin::pin;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{oneshot, watch};

/// How far the end of the process has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Not at all.
    Serve,
    /// Running requests are finished, new connections refused.
    Drain,
    /// The same, while another process has the port: connections without a request get time for one.
    Handover,
    /// Everything is cut off.
    Stop,
}

/// The stages as the process's signals ask for them: the first SIGTERM or SIGINT drains, the
/// second stops. With `exit_with_stdin` the end of standard input drains too: whoever started the
/// process has died. Must be called inside a Tokio runtime.
pub fn on_signals(exit_with_stdin: bool) -> std::io::Result<watch::Receiver<Stage>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (sender, receiver) = watch::channel(Stage::Serve);
    tokio::spawn(async move {
        let mut orphaned = pin!(end_of_stdin(exit_with_stdin));
        for stage in [Stage::Drain, Stage::Stop] {
            tokio::select! {
                () = either(&mut terminate, &mut interrupt) => tracing::info!(?stage, "signal"),
                () = &mut orphaned, if stage == Stage::Drain => {
                    tracing::info!("standard input ended: draining");
                }
            }
            if sender.send(stage).is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

/// Returns once the stage is reached; never when nobody can announce it any more.
pub(crate) async fn reached(stages: &mut watch::Receiver<Stage>, stage: Stage) {
    if stages.wait_for(|now| *now >= stage).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Reads standard input to its end on a thread of its own, which ends with the process.
async fn end_of_stdin(wanted: bool) {
    let (ended, end) = oneshot::channel();
    let read = move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        let _ = ended.send(());
    };
    let thread = std::thread::Builder::new().name("stdin".to_owned());
    if !wanted || thread.spawn(read).is_err() || end.await.is_err() {
        std::future::pending().await
    }
}

async fn either(first: &mut Signal, second: &mut Signal) {
    tokio::select! {
        _ = first.recv() => {}
        _ = second.recv() => {}
    }
}
