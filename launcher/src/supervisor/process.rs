//! One life of a child process.

use std::io::Write;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::{Announcement, Death, Order, Spec};
use crate::store::files::remove_if_exists;

/// How long the last lines of a dead process are waited for; a grandchild may hold the pipe open.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A running child.
pub(super) struct Process {
    label: &'static str,
    child: Child,
    /// Closes when this process dies, however it dies: the child notices and ends too.
    _stdin: Option<ChildStdin>,
    announcements: mpsc::Receiver<Announcement>,
    output: Vec<JoinHandle<()>>,
}

/// What a running child does.
pub(super) enum Event {
    /// It can be used.
    Announced(Announcement),
    /// It ended by itself.
    Died(Death),
}

impl Process {
    pub(super) fn start(spec: &Spec) -> std::io::Result<Self> {
        if let Some(socket) = &spec.socket {
            remove_if_exists(socket)?;
        }
        let mut child = Command::new(&spec.program)
            .args(&spec.args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C reaches the launcher alone, which stops the children in their order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let (announce, announcements) = mpsc::channel(4);
        let mut output = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            output.push(tokio::spawn(relay(spec.label, stdout, Some(announce))));
        }
        if let Some(stderr) = child.stderr.take() {
            output.push(tokio::spawn(relay(spec.label, stderr, None)));
        }
        let stdin = child.stdin.take();
        Ok(Self { label: spec.label, child, _stdin: stdin, announcements, output })
    }

    /// What it does next.
    pub(super) async fn next(&mut self) -> Event {
        tokio::select! {
            biased;
            Some(announcement) = self.announcements.recv() => Event::Announced(announcement),
            status = self.child.wait() => Event::Died(death(status)),
        }
    }

    /// Passes on what it said before it died.
    pub(super) async fn last_words(mut self) {
        for output in self.output.drain(..) {
            let _ = tokio::time::timeout(LAST_WORDS, output).await;
        }
    }

    /// Ends it as ordered, and sooner if the orders become stricter.
    pub(super) async fn end(mut self, order: Order, orders: &mut watch::Receiver<Order>) {
        if !self.ended_by_itself(order, orders).await {
            if let Err(error) = self.child.start_kill() {
                tracing::warn!(service = self.label, %error, "could not kill it");
            }
            let death = death(self.child.wait().await);
            tracing::warn!(service = self.label, status = %death, "killed");
        }
        self.last_words().await;
    }

    async fn ended_by_itself(&mut self, order: Order, orders: &mut watch::Receiver<Order>) -> bool {
        let Order::Terminate { patience } = order else { return false };
        self.signal(Signal::TERM);
        tokio::select! {
            status = self.child.wait() => {
                let death = death(status);
                tracing::debug!(service = self.label, status = %death, "stopped");
                true
            }
            _ = orders.wait_for(|order| *order == Order::Kill) => false,
            () = after(patience) => {
                tracing::warn!(service = self.label, "did not end in time");
                false
            }
        }
    }

    /// The child was not waited for yet, so that its number is still its own.
    fn signal(&self, signal: Signal) {
        let number = self.child.id().and_then(|id| i32::try_from(id).ok());
        let Some(pid) = number.and_then(Pid::from_raw) else { return };
        if let Err(error) = kill_process(pid, signal) {
            tracing::warn!(service = self.label, %error, "could not signal it");
        }
    }
}

fn death(status: std::io::Result<ExitStatus>) -> Death {
    match status {
        Ok(status) => Death::Exited(status),
        Err(error) => Death::NotStarted(error.to_string()),
    }
}

async fn after(patience: Duration) {
    #[expect(clippy::disallowed_methods, reason = "the patience with a process that drains")]
    tokio::time::sleep(patience).await;
}

/// Passes lines on to our standard error stream, marked; takes announcements out.
async fn relay(
    label: &'static str,
    stream: impl AsyncRead + Unpin,
    announce: Option<mpsc::Sender<Announcement>>,
) {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader.read_until(b'\n', &mut line).await {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(service = label, %error, "could not read its output");
                return;
            }
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end();
        let announcement = announce.as_ref().and_then(|_| Announcement::parse(text));
        if let (Some(announce), Some(announcement)) = (&announce, announcement) {
            // Nobody listens only when the process is being ended.
            let _ = announce.send(announcement).await;
            continue;
        }
        // Our own stream being closed must not stop the child.
        let _ = std::io::stderr().lock().write_all(format!("{label} | {text}\n").as_bytes());
    }
}
