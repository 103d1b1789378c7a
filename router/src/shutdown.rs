//! How the router is told to end: gently first, at once when asked again.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// How far the end of the process has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Not at all.
    Serve,
    /// Running requests are finished, new connections refused.
    Drain,
    /// Everything is cut off.
    Stop,
}

/// The stages as the process's signals ask for them: the first SIGTERM or SIGINT drains, the
/// second stops. Must be called inside a Tokio runtime.
pub fn on_signals() -> std::io::Result<watch::Receiver<Stage>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (sender, receiver) = watch::channel(Stage::Serve);
    tokio::spawn(async move {
        for stage in [Stage::Drain, Stage::Stop] {
            either(&mut terminate, &mut interrupt).await;
            tracing::info!(?stage, "signal");
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

async fn either(first: &mut Signal, second: &mut Signal) {
    tokio::select! {
        _ = first.recv() => {}
        _ = second.recv() => {}
    }
}
