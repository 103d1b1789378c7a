//! Waits for a batch, shows how far it is, and hears Ctrl-C meanwhile.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::Context;
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use sconce_client::{Batch, BatchStatus, Client};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{sleep, timeout};

use crate::cli::Fault;

/// Between two looks, at first and at last.
const SOON: Duration = Duration::from_millis(250);
const LATE: Duration = Duration::from_secs(5);
/// Between two lines, where there is no terminal.
const LINES_EVERY: Duration = Duration::from_secs(30);
/// How long a server may be gone.
const MAX_ABSENCE: Duration = Duration::from_secs(600);
/// How long a second Ctrl-C is waited for.
const SECOND: Duration = Duration::from_secs(3);

/// Ctrl-C, and the wish of others that this process ends.
pub(super) struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    pub(super) fn listen() -> anyhow::Result<Self> {
        let of = |kind| signal(kind).context("listening for signals");
        Ok(Self {
            interrupt: of(SignalKind::interrupt())?,
            terminate: of(SignalKind::terminate())?,
        })
    }

    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Follows batches.
pub(super) struct Follower<'a> {
    pub(super) client: &'a Client,
    /// Whether the first interrupt cancels.
    pub(super) cancels: bool,
}

impl Follower<'_> {
    /// Waits until nothing more will become of the batch. `resume` is the command that would do so
    /// again.
    pub(super) async fn follow(
        &self,
        batch: Batch,
        interrupts: &mut Interrupts,
        resume: &str,
    ) -> anyhow::Result<Batch> {
        let mut view = View::detect(&batch.id);
        let id = batch.id.clone();
        let ended = {
            let waited = self.wait(batch, &mut view);
            tokio::pin!(waited);
            tokio::select! {
                ended = &mut waited => Some(ended),
                () = interrupts.next() => None,
            }
        };
        if let Some(ended) = ended {
            view.end();
            return ended.with_context(|| format!("`{resume}` waits for the batch again"));
        }
        view.end();
        let is_cancelled = self.cancels || {
            say(&format!("{id} goes on; `{resume}` waits for it again. Ctrl-C again cancels it."));
            timeout(SECOND, interrupts.next()).await.is_ok()
        };
        if !is_cancelled {
            return Err(Fault::LeftRunning(id).into());
        }
        say(&format!("cancelling {id}"));
        let batch = self.client.cancel_batch(&id).await.context("cancelling the batch")?;
        let mut view = View::detect(&id);
        let ended = tokio::select! {
            ended = self.wait(batch, &mut view) => ended,
            () = interrupts.next() => Err(Fault::LeftRunning(id).into()),
        };
        view.end();
        ended
    }

    #[expect(clippy::disallowed_methods, reason = "a batch is asked for from time to time")]
    async fn wait(&self, mut batch: Batch, view: &mut View) -> anyhow::Result<Batch> {
        let (mut pause, mut seen) = (SOON, Instant::now());
        loop {
            view.show(&batch);
            if batch.status.is_final() {
                return Ok(batch);
            }
            sleep(pause).await;
            pause = (pause * 2).min(LATE);
            match self.client.batch(&batch.id).await {
                Ok(now) => {
                    seen = Instant::now();
                    batch = now;
                }
                // It goes on without the server that was asked, or once that is back.
                Err(error) if error.is_transient() && seen.elapsed() < MAX_ABSENCE => {}
                Err(error) => return Err(error).context("asking how far the batch is"),
            }
        }
    }
}

/// A bar on a terminal, a line now and then elsewhere.
enum View {
    Bar(ProgressBar),
    Lines(Lines),
}

struct Lines {
    id: String,
    since: Instant,
    first: Option<u64>,
    told: Option<(Instant, BatchStatus, u64)>,
}

impl View {
    fn detect(id: &str) -> Self {
        if !std::io::stderr().is_terminal() {
            let (id, since) = (id.to_owned(), Instant::now());
            return Self::Lines(Lines { id, since, first: None, told: None });
        }
        let bar = ProgressBar::no_length();
        let template = "{prefix} {msg} {wide_bar} {pos}/{len} {per_sec} {eta}";
        bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| {
            // The template is as it should be; the bar that comes otherwise shows as much.
            ProgressStyle::default_bar()
        }));
        bar.set_prefix(id.to_owned());
        Self::Bar(bar)
    }

    fn show(&mut self, batch: &Batch) {
        let counts = batch.request_counts.unwrap_or_default();
        let num_done = counts.completed + counts.failed;
        match self {
            Self::Bar(bar) => {
                // What was done before is not part of the rate.
                if bar.length() != Some(counts.total) && counts.total > 0 {
                    bar.set_length(counts.total);
                    bar.set_position(num_done);
                    bar.reset_eta();
                }
                bar.set_position(num_done);
                let failed = match counts.failed {
                    0 => String::new(),
                    num => format!(", {num} failed"),
                };
                bar.set_message(format!("{}{failed}", batch.status.as_str()));
            }
            Self::Lines(lines) => {
                if let Some(line) = lines.advance(batch, Instant::now()) {
                    say(&line);
                }
            }
        }
    }

    fn end(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

impl Lines {
    /// A line, if there is something to tell: another status, a tenth more, or that time passes.
    fn advance(&mut self, batch: &Batch, now: Instant) -> Option<String> {
        let counts = batch.request_counts.unwrap_or_default();
        let num_done = counts.completed + counts.failed;
        let first = *self.first.get_or_insert(num_done);
        let tenth = (num_done * 10).checked_div(counts.total).unwrap_or(0);
        let is_news = self.told.is_none_or(|(at, status, told)| {
            status != batch.status || tenth > told || now.duration_since(at) >= LINES_EVERY
        });
        if !is_news {
            return None;
        }
        self.told = Some((now, batch.status, tenth));
        let status = batch.status.as_str();
        let mut line = format!("{}: {status}, {num_done} of {}", self.id, counts.total);
        if counts.failed > 0 {
            line.push_str(&format!(", {} failed", counts.failed));
        }
        let elapsed = now.duration_since(self.since).as_secs_f64();
        let rate = (num_done - first.min(num_done)) as f64 / elapsed;
        if rate > 0.0 && rate.is_finite() && !batch.status.is_final() {
            let left = counts.total.saturating_sub(num_done) as f64 / rate;
            let left = Duration::try_from_secs_f64(left).unwrap_or(Duration::MAX);
            line.push_str(&format!(", {rate:.1}/s, {} left", HumanDuration(left)));
        }
        Some(line)
    }
}

/// Tells the person, if there still is one.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(status: BatchStatus, completed: u64, failed: u64) -> Batch {
        let counts = serde_json::json!({"total": 100, "completed": completed, "failed": failed});
        let batch = serde_json::json!({"id": "b", "status": status, "request_counts": counts});
        serde_json::from_value(batch).unwrap()
    }

    #[test]
    fn lines_tell_of_every_tenth_and_every_status() {
        let since = Instant::now();
        let after = |seconds| since + Duration::from_secs(seconds);
        let mut lines = Lines { id: "b".into(), since, first: None, told: None };
        let running = BatchStatus::InProgress;

        let told = lines.advance(&batch(running, 0, 0), after(1));
        assert_eq!(told.as_deref(), Some("b: in_progress, 0 of 100"));
        assert_eq!(lines.advance(&batch(running, 9, 0), after(2)), None);
        let told = lines.advance(&batch(running, 18, 2), after(4));
        let expected = "b: in_progress, 20 of 100, 2 failed, 5.0/s, 16 seconds left";
        assert_eq!(told.as_deref(), Some(expected));
        assert_eq!(lines.advance(&batch(running, 19, 2), after(33)), None);
        assert!(lines.advance(&batch(running, 19, 2), after(34)).is_some());
        let told = lines.advance(&batch(BatchStatus::Completed, 98, 2), after(35));
        assert_eq!(told.as_deref(), Some("b: completed, 100 of 100, 2 failed"));
    }
}
