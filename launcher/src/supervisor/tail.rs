//! Follows what a process that outlives its launcher writes into files: passes its log on, marked,
//! finds what it announces, and keeps the log short.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::announcement::Announcement;
use super::record::Files;
use crate::terminal::Log;

/// A log that is longer is put aside. What was put aside before goes.
const MAX_LOG_BYTES: u64 = 16 << 20;

/// A line that is longer is passed on in pieces.
const MAX_LINE_BYTES: usize = 64 << 10;

/// A file tells nobody when it grows.
const EVERY: Duration = Duration::from_millis(100);

/// Between two looks for an announcement: this is on the way of every start.
const EVERY_AT_START: Duration = Duration::from_millis(5);

/// Waits until the process has announced itself, and says what.
pub(super) async fn announcement(files: Files, announce: mpsc::Sender<Announcement>) {
    let mut every = tokio::time::interval(EVERY_AT_START);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let text = std::fs::read_to_string(files.out()).unwrap_or_default();
        // A line without its end is being written.
        let lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        if let Some(announcement) = lines.filter_map(Announcement::parse).next() {
            // Nobody listens only when the process is being ended.
            let _ = announce.send(announcement).await;
            return;
        }
    }
}

/// Passes the log on until told to stop, and then what it has by that time.
pub(super) async fn log(label: String, files: Files, stop: CancellationToken) {
    let mut tail = Tail::new(label, files);
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let is_last = tokio::select! {
            () = stop.cancelled() => true,
            _ = every.tick() => false,
        };
        if let Err(error) = tail.pass(&mut Log) {
            tracing::debug!(service = tail.label, %error, "could not read its log");
        }
        if is_last {
            return;
        }
    }
}

struct Tail {
    label: String,
    files: Files,
    offset: u64,
    /// The start of a line whose end has not been written.
    partial: Vec<u8>,
}

impl Tail {
    /// Goes on where the launcher before stopped.
    fn new(label: String, files: Files) -> Self {
        let relayed = std::fs::read_to_string(files.relayed()).ok();
        let offset = relayed.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        Self { label, files, offset, partial: Vec::new() }
    }

    /// Passes on what is new.
    fn pass(&mut self, out: &mut impl Write) -> io::Result<()> {
        let mut log = match File::open(self.files.log()) {
            Ok(log) => log,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let length = log.metadata()?.len();
        if length < self.offset {
            // Another has cut it off.
            self.offset = 0;
        }
        if length == self.offset {
            return Ok(());
        }
        log.seek(SeekFrom::Start(self.offset))?;
        self.offset += log.take(MAX_LOG_BYTES).read_to_end(&mut self.partial)? as u64;
        self.say(out);
        if self.offset > MAX_LOG_BYTES {
            put_aside(&self.files.log(), &self.files.old_log())?;
            self.offset = 0;
        }
        let passed = self.offset.saturating_sub(self.partial.len() as u64);
        std::fs::write(self.files.relayed(), passed.to_string())
    }

    fn say(&mut self, out: &mut impl Write) {
        let ends = self.partial.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let rest = self.partial.split_off(ends);
        for line in self.partial.split_inclusive(|byte| *byte == b'\n') {
            say_line(&self.label, line, out);
        }
        self.partial = rest;
        if self.partial.len() > MAX_LINE_BYTES {
            say_line(&self.label, &std::mem::take(&mut self.partial), out);
        }
    }
}

fn say_line(label: &str, line: &[u8], out: &mut impl Write) {
    let text = String::from_utf8_lossy(line);
    // Our own stream being closed must not stop the child.
    let _ = out.write_all(format!("{label} | {}\n", text.trim_end()).as_bytes());
}

/// Keeps a copy and empties the log, to whose end the process goes on to write. A line that it
/// writes in between is lost.
fn put_aside(log: &Path, aside: &Path) -> io::Result<()> {
    std::fs::copy(log, aside)?;
    OpenOptions::new().write(true).open(log)?.set_len(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(files: &Files, text: &str) {
        let log = OpenOptions::new().create(true).append(true).open(files.log());
        log.unwrap().write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn lines_are_passed_on_once_whole_and_marked_also_by_the_next_launcher() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::new(folder.path(), "worker");
        let pass = |tail: &mut Tail| {
            let mut out = Vec::new();
            tail.pass(&mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        let mut first = Tail::new("worker".into(), files.clone());
        assert_eq!(pass(&mut first), "");
        append(&files, "one\ntw");
        assert_eq!(pass(&mut first), "worker | one\n");

        append(&files, "o\nthree\n");
        let mut second = Tail::new("worker".into(), files.clone());
        assert_eq!(pass(&mut second), "worker | two\nworker | three\n");
        assert_eq!(pass(&mut second), "");
    }

    #[test]
    fn a_long_log_is_put_aside_and_followed_from_its_new_start() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::new(folder.path(), "worker");
        let mut tail = Tail::new("worker".into(), files.clone());
        append(&files, &("x".repeat(1023) + "\n").repeat(16 << 10));
        append(&files, "last\n");

        let mut out = Vec::new();
        tail.pass(&mut out).unwrap();
        tail.pass(&mut out).unwrap();
        append(&files, "new\n");
        tail.pass(&mut out).unwrap();

        assert!(out.ends_with(b"worker | last\nworker | new\n"));
        assert!(std::fs::metadata(files.old_log()).unwrap().len() > MAX_LOG_BYTES);
        assert_eq!(std::fs::read(files.log()).unwrap(), b"new\n");
    }
}
