//! `sconce ps`, `logs`, `stop` and `restart`: servers in the background.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use clap::Args;

use super::output::{Output, ago, print, table};
use super::up::Detached;
use crate::servers::{Error, Server, Servers};
use crate::settings::Settings;

/// Lists the servers in the background
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  sconce ps\n  sconce ps --output json")]
pub struct Ps {
    #[command(flatten)]
    output: Output,
}

/// Shows what a server in the background has logged
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  sconce logs smollm2:135m\n  sconce logs -f smollm2:135m")]
pub struct Logs {
    /// The server, as `sconce ps` shows it. One that has ended will do
    name: String,

    /// Go on until the server ends
    #[arg(short, long)]
    follow: bool,

    /// Lines to begin with
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 100)]
    lines: usize,
}

/// Has a server in the background drain and end
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  sconce stop smollm2:135m\n  sconce stop --all")]
pub struct Stop {
    /// The server, as `sconce ps` shows it
    #[arg(required_unless_present = "all")]
    name: Option<String>,

    /// Every one of this store
    #[arg(long, conflicts_with = "name")]
    all: bool,

    /// Seconds that it gets before it is to end at once
    #[arg(long, value_name = "SECONDS", default_value_t = 75)]
    timeout: u32,
}

/// Stops a server in the background and starts it again, with the same command line and the
/// environment of now
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:\n  sconce restart smollm2:prod     after its alias has moved")]
pub struct Restart {
    /// The server, as `sconce ps` shows it
    name: String,

    /// Seconds that it gets before it is to end at once
    #[arg(long, value_name = "SECONDS", default_value_t = 75)]
    timeout: u32,
}

fn servers() -> anyhow::Result<Servers> {
    Ok(Servers::new(&Settings::from_env()?.home))
}

impl Ps {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<()> {
        let listed = servers()?.list()?;
        self.output.print(&listed, || page(&listed))
    }
}

fn page(servers: &[Server]) -> String {
    if servers.is_empty() {
        return "no servers in the background; `sconce up -d MODEL` starts one\n".to_owned();
    }
    let head = ["NAME", "PID", "URL", "VERSION", "STARTED"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(servers.iter().map(|server| {
        let url = server.url.clone().unwrap_or_else(|| "starting".to_owned());
        let version = server.version.clone().unwrap_or_else(|| "a path".to_owned());
        vec![server.name.clone(), server.pid.to_string(), url, version, ago(server.started)]
    }));
    table(&rows)
}

impl Stop {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<()> {
        let servers = servers()?;
        let chosen = match &self.name {
            Some(name) => vec![servers.get(name)?],
            None => servers.list()?,
        };
        for server in &chosen {
            servers.stop(server, Duration::from_secs(self.timeout.into())).await?;
            print(&format!("stopped {}\n", server.name))?;
        }
        Ok(())
    }
}

impl Restart {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<()> {
        let servers = servers()?;
        let server = servers.get(&self.name)?;
        let program = std::env::current_exe().context("finding this program")?;
        servers.stop(&server, Duration::from_secs(self.timeout.into())).await?;
        let Server { name, args, folder, .. } = server;
        Detached { program, name, args, folder }.start(&servers).await
    }
}

impl Logs {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<()> {
        let servers = servers()?;
        let path = servers.log(&self.name);
        let mut log = match File::open(&path) {
            Ok(log) => log,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::Absent(self.name).into());
            }
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        };
        skip_to_last(&mut log, self.lines).with_context(|| path.display().to_string())?;
        // A log is written by another process, which tells nobody.
        let mut every = tokio::time::interval(Duration::from_millis(200));
        loop {
            let is_alive = self.follow && servers.get(&self.name).is_ok();
            // Read after that look: what was written before an end is not missed.
            if pass_on(&mut log, &path)?.is_closed() || !is_alive {
                return Ok(());
            }
            every.tick().await;
        }
    }
}

/// Whether anyone still reads.
enum Reader {
    Open,
    Closed,
}

impl Reader {
    fn is_closed(&self) -> bool {
        matches!(self, Self::Closed)
    }
}

/// Prints what the log has more than before.
fn pass_on(log: &mut File, path: &Path) -> anyhow::Result<Reader> {
    let mut text = Vec::new();
    log.read_to_end(&mut text).with_context(|| path.display().to_string())?;
    let mut out = std::io::stdout().lock();
    match out.write_all(&text).and_then(|()| out.flush()) {
        Ok(()) => Ok(Reader::Open),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(Reader::Closed),
        Err(error) => Err(error).context("printing the log"),
    }
}

/// Moves to the last `num_lines` lines.
fn skip_to_last(log: &mut File, num_lines: usize) -> std::io::Result<()> {
    let mut text = Vec::new();
    log.read_to_end(&mut text)?;
    let ends = text.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    // The line that is being written counts for none.
    let start = ends.map(|(at, _)| at + 1).nth(num_lines).unwrap_or(0);
    log.seek(SeekFrom::Start(start as u64)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_shown_from_its_last_lines_on() {
        let read = |num_lines| {
            let mut log = tempfile::tempfile().unwrap();
            log.write_all(b"one\ntwo\nthree\n").unwrap();
            log.rewind().unwrap();
            skip_to_last(&mut log, num_lines).unwrap();
            let mut text = String::new();
            log.read_to_string(&mut text).unwrap();
            text
        };

        assert_eq!(read(2), "two\nthree\n");
        assert_eq!(read(0), "");
        assert_eq!(read(9), "one\ntwo\nthree\n");
    }
}
