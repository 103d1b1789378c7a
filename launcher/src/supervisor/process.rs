//! One life of a process: a child that is tied to this process by pipes, a child that outlives it,
//! or such a child of a launcher before.

use std::ffi::OsString;
use std::io::Write;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::identity::{Held, ProcessId};
use super::record::{Files, Record, TOKEN};
use super::{Announcement, Death, Keep, Order, Running, Spec, tail};
use crate::store::files::remove_if_exists;
use crate::terminal::Log;

/// How long the last lines of a dead process are waited for; a grandchild may hold the pipe open.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A running process.
pub(super) struct Process {
    label: String,
    life: Life,
    running: Running,
    announcements: mpsc::Receiver<Announcement>,
    output: Vec<AbortOnDropHandle<()>>,
    /// Has what follows its files come to the end.
    last: CancellationToken,
    files: Option<Files>,
}

enum Life {
    /// The pipe closes when this process dies, however it dies: the child notices and ends too.
    Child { child: Box<Child>, _stdin: Option<ChildStdin> },
    /// A child of another, which alone is told how it ended.
    Adopted(Held),
}

/// What a running process does.
pub(super) enum Event {
    /// It can be used.
    Announced(Announcement),
    /// It ended by itself.
    Died(Death),
}

impl Process {
    /// Starts it, with arguments that may say more than what was wanted.
    pub(super) fn start(spec: &Spec, args: &[OsString]) -> std::io::Result<Self> {
        if let Some(socket) = &spec.socket {
            remove_if_exists(socket)?;
        }
        let mut command = Command::new(&spec.program);
        // Ctrl-C reaches the launcher alone, which stops the children in their order.
        command.args(args).process_group(0);
        match &spec.keep {
            Keep::Tied => Self::start_tied(spec, command),
            Keep::Outliving { files, held } => {
                let (out, log) = files.open()?;
                let held = held.as_ref().map(|file| file.try_clone()).transpose()?;
                // A lock that is held by an open file is the process's for as long as it lives.
                command.stdin(held.map_or_else(Stdio::null, Stdio::from));
                command.stdout(out).stderr(log);
                command.env(TOKEN, files.intend(spec)?);
                Self::start_outliving(spec, files, command)
            }
        }
    }

    fn start_tied(spec: &Spec, mut command: Command) -> std::io::Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn()?;
        let (announce, announcements) = mpsc::channel(4);
        let mut output = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            output.push(follow(relay(spec.label.clone(), stdout, Some(announce))));
        }
        if let Some(stderr) = child.stderr.take() {
            output.push(follow(relay(spec.label.clone(), stderr, None)));
        }
        let running = Running::started(process_id(&child)?);
        let stdin = child.stdin.take();
        Ok(Self {
            label: spec.label.clone(),
            life: Life::Child { child: Box::new(child), _stdin: stdin },
            running,
            announcements,
            output,
            last: CancellationToken::new(),
            files: None,
        })
    }

    fn start_outliving(spec: &Spec, files: &Files, mut command: Command) -> std::io::Result<Self> {
        let mut child = command.spawn()?;
        let noted = process_id(&child).and_then(|process| {
            files.write(&Record::new(spec, process.pid)?)?;
            Ok(process)
        });
        let process = match noted {
            Ok(process) => process,
            Err(error) => {
                // What nobody could find again must not be left.
                child.start_kill()?;
                return Err(error);
            }
        };
        let life = Life::Child { child: Box::new(child), _stdin: None };
        Ok(Self::followed(spec, files, life, Running::started(process)))
    }

    /// The process that a launcher before has started, whatever it was started from. `None`: there
    /// is none.
    pub(super) fn find(spec: &Spec) -> Option<Self> {
        let Keep::Outliving { files, .. } = &spec.keep else { return None };
        let record = files.read()?;
        let held = record.hold()?;
        if let Err(error) = files.write(&record) {
            tracing::warn!(service = spec.label, %error, "could not write it down");
        }
        let Record { process, started, .. } = record;
        let running = Running { process, started, adopted: true, num_restarts: 0 };
        tracing::info!(service = spec.label, pid = process.pid, "adopted");
        Some(Self::followed(spec, files, Life::Adopted(held), running))
    }

    /// As [`Self::find`], but a process that was started from something else is ended.
    pub(super) async fn adopt(spec: &Spec, patience: Duration) -> Option<Self> {
        let Keep::Outliving { files, .. } = &spec.keep else { return None };
        let record = files.read()?;
        if record.is_of(spec) {
            return Self::find(spec);
        }
        let held = record.hold()?;
        let pid = record.process.pid;
        tracing::info!(service = spec.label, pid, "no longer as wanted: ending it");
        end(&record.label, &held, patience).await;
        None
    }

    fn followed(spec: &Spec, files: &Files, life: Life, running: Running) -> Self {
        let (announce, announcements) = mpsc::channel(4);
        let last = CancellationToken::new();
        let output = vec![
            // Aborted when this is dropped: the process may announce itself never.
            follow(tail::announcement(files.clone(), announce)),
            follow(tail::log(spec.label.clone(), files.clone(), last.clone())),
        ];
        let (label, files) = (spec.label.clone(), Some(files.clone()));
        Self { label, life, running, announcements, output, last, files }
    }

    /// Which process it is.
    pub(super) fn running(&self) -> Running {
        self.running
    }

    /// What it does next.
    pub(super) async fn next(&mut self) -> Event {
        tokio::select! {
            biased;
            Some(announcement) = self.announcements.recv() => Event::Announced(announcement),
            death = self.life.ended() => Event::Died(self.seen(death)),
        }
    }

    /// How it died, by its own last word where nobody was told its exit status.
    fn seen(&self, death: Death) -> Death {
        match (&death, &self.files) {
            (Death::Unseen, Some(files)) if files.ended_in_order() => Death::Drained,
            _ => death,
        }
    }

    /// Passes on what it said before it died, and forgets it.
    pub(super) async fn last_words(mut self) {
        self.last.cancel();
        if self.files.is_some() {
            // The other waits for an announcement.
            self.output.remove(0).abort();
        }
        for output in self.output.drain(..) {
            let _ = tokio::time::timeout(LAST_WORDS, output).await;
        }
        if let Some(Err(error)) = self.files.map(|files| files.forget()) {
            tracing::warn!(service = self.label, %error, "could not remove its record");
        }
    }

    /// Kills it, and waits until it is gone.
    pub(super) async fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.life.ended().await;
    }

    /// Ends it as ordered, and sooner if the orders become stricter.
    pub(super) async fn end(mut self, order: Order, orders: &mut watch::Receiver<Order>) {
        if !self.ended_by_itself(order, orders).await {
            self.kill().await;
            tracing::warn!(service = self.label, "killed");
        }
        self.last_words().await;
    }

    async fn ended_by_itself(&mut self, order: Order, orders: &mut watch::Receiver<Order>) -> bool {
        let Order::Terminate { patience } = order else { return false };
        self.signal(Signal::TERM);
        tokio::select! {
            death = self.life.ended() => {
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

    fn signal(&self, signal: Signal) {
        let sent = match &self.life {
            Life::Child { child, .. } => {
                // The child was not waited for yet, so that its number is still its own.
                let number = child.id().and_then(|id| i32::try_from(id).ok());
                let pid = number.and_then(Pid::from_raw);
                pid.map_or(Ok(()), |pid| kill_process(pid, signal).map_err(Into::into))
            }
            Life::Adopted(held) => held.signal(signal),
        };
        if let Err(error) = sent {
            tracing::warn!(service = self.label, %error, "could not signal it");
        }
    }
}

impl Life {
    async fn ended(&mut self) -> Death {
        match self {
            Self::Child { child, .. } => death(child.wait().await),
            Self::Adopted(held) => match held.ended().await {
                Ok(()) => held.reap().map_or(Death::Unseen, Death::Exited),
                Err(error) => Death::NotStarted(error.to_string()),
            },
        }
    }
}

/// Asks a process that another has started to end, and kills it after `patience`.
pub(crate) async fn end(label: &str, held: &Held, patience: Duration) {
    let signaled = held.signal(Signal::TERM);
    if signaled.is_ok() && tokio::time::timeout(patience, held.ended()).await.is_ok() {
        return;
    }
    tracing::warn!(service = label, "did not end in time: killing it");
    if let Err(error) = held.signal(Signal::KILL) {
        tracing::warn!(service = label, %error, "could not kill it");
        return;
    }
    if let Err(error) = held.ended().await {
        tracing::warn!(service = label, %error, "could not wait for its end");
    }
}

fn process_id(child: &Child) -> std::io::Result<ProcessId> {
    let pid = child.id().and_then(|id| i32::try_from(id).ok());
    let pid = pid.ok_or_else(|| std::io::Error::other("the system does not say its number"))?;
    // Where a system doesn't tell when it was started, nothing outlives its launcher.
    Ok(ProcessId::of(pid).unwrap_or(ProcessId { pid, started_ticks: 0 }))
}

fn follow(task: impl Future<Output = ()> + Send + 'static) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(task))
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
    label: String,
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
        let _ = Log.write_all(format!("{label} | {text}\n").as_bytes());
    }
}
