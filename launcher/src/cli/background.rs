//! `sconce ps`, `logs`, `stop` and `restart`: servers, most of them in the background.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use serde::Serialize;
use serde_json::json;

use super::Fault;
use super::output::{Output, ago, print, table};
use super::up::Detached;
use crate::servers::{Error, Mode, Server, Servers, Standing};
use crate::settings::Settings;
use crate::supervisor::Record;

/// Lists the servers of this store, with the routers and workers that outlive their launchers
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  sconce ps\n  sconce ps --output json")]
pub struct Ps {
    #[command(flatten)]
    output: Output,
}

/// Shows what a server in the background has logged
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  sconce logs smollm2:135m\n  sconce logs -f smollm2:135m\n  \
                         sconce logs smollm2:135m --output json    an object a line: process and line")]
pub struct Logs {
    /// The server, as `sconce ps` shows it. One that has ended will do
    name: String,

    /// Go on until the server ends
    #[arg(short, long)]
    follow: bool,

    /// Lines to begin with
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 100)]
    lines: usize,

    #[command(flatten)]
    output: Output,
}

/// Has a server drain and end
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

    #[command(flatten)]
    output: Output,
}

/// Exchanges the launcher of a server in the background for a new one, with the same command line
/// and the environment of now
///
/// Router and workers go on, and no request fails: the new launcher takes them over. Those that would be
/// started otherwise now, for there is another binary or another setting, are exchanged one after another.
/// A name whose alias has moved goes to the other version once that can be used. Under a service manager
/// the launcher starts again as the same process, with the environment that it has.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  sconce restart smollm2:prod              after its alias has moved
  sconce restart smollm2:prod --router     another router, at the same address
  sconce restart smollm2:prod --all        stops everything first
  sconce restart smollm2:prod --output json")]
pub struct Restart {
    /// The server, as `sconce ps` shows it
    name: String,

    /// The router alone: another one starts beside it at the same address, and it drains
    #[arg(long, conflicts_with = "all")]
    router: bool,

    /// Everything: router and workers drain and end first
    #[arg(long)]
    all: bool,

    /// Seconds that it gets before it is to end at once, with --all
    #[arg(long, value_name = "SECONDS", default_value_t = 75)]
    timeout: u32,

    #[command(flatten)]
    output: Output,
}

fn servers() -> anyhow::Result<Servers> {
    Ok(Servers::new(&Settings::from_env()?.home))
}

impl Ps {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<()> {
        let servers = servers()?;
        let mut listed = Vec::new();
        for server in servers.list()? {
            let processes = servers.processes(&server.name)?;
            let processes = processes.into_iter().map(|(_, record)| Process::from(record));
            listed.push(Shown { processes: processes.collect(), server });
        }
        self.output.print(&listed, || page(&listed))
    }
}

/// A server and its processes.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    server: Server,
    processes: Vec<Process>,
}

/// A router, or the worker of a replica.
#[derive(Serialize)]
struct Process {
    kind: &'static str,
    pid: i32,
    version: Option<String>,
    started: u64,
}

impl From<Record> for Process {
    fn from(record: Record) -> Self {
        let Record { version, process, started, .. } = record;
        let kind = if version.is_some() { "worker" } else { "router" };
        Self { kind, pid: process.pid, version, started }
    }
}

fn page(servers: &[Shown]) -> String {
    if servers.is_empty() {
        return "no servers; `sconce up -d MODEL` starts one in the background\n".to_owned();
    }
    let head = ["NAME", "PID", "URL", "VERSION", "STARTED"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for Shown { server, processes } in servers {
        let url = server.url.clone().unwrap_or_else(|| "starting".to_owned());
        let version = server.version.clone().unwrap_or_else(|| "a path".to_owned());
        let pid = match server.state {
            Standing::Running if server.mode == Mode::Foreground => {
                format!("{} (foreground)", server.pid)
            }
            Standing::Running => server.pid.to_string(),
            Standing::Orphaned => "no launcher".to_owned(),
        };
        rows.push(vec![server.name.clone(), pid, url, version, ago(server.started)]);
        for Process { kind, pid, version, started } in processes {
            let version = version.clone().unwrap_or_default();
            let name = format!("  {kind}");
            rows.push(vec![name, pid.to_string(), String::new(), version, ago(*started)]);
        }
    }
    let orphaned = servers.iter().find(|it| it.server.state == Standing::Orphaned);
    let hint = orphaned.map(|Shown { server, .. }| {
        let name = &server.name;
        format!(
            "\n`sconce restart {name}` starts its launcher again, `sconce stop {name}` ends it\n"
        )
    });
    table(&rows) + &hint.unwrap_or_default()
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
            if !self.output.is_json() {
                print(&format!("stopped {}\n", server.name))?;
            }
        }
        if !self.output.is_json() {
            return Ok(());
        }
        let names = chosen.iter().map(|server| &server.name);
        self.output.print(&json!({ "stopped": names.collect::<Vec<_>>() }), String::new)
    }
}

impl Restart {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<()> {
        let servers = servers()?;
        let server = servers.get(&self.name)?;
        if self.router {
            return super::fleet::restart_router(&server, self.output).await;
        }
        match server.mode {
            Mode::Background => {}
            Mode::Foreground => return Err(Fault::Foreground(server.name).into()),
            Mode::Service if self.all => return Err(Fault::Managed(server.name).into()),
            Mode::Service => {
                let now = servers.reload(&server).await?;
                let Server { name, pid, url, .. } = now;
                let value = json!({ "name": name, "pid": pid, "url": url });
                return self.output.print(&value, || {
                    format!("{name} serves {} with another launcher\n", url.unwrap_or_default())
                });
            }
        }
        let program = std::env::current_exe().context("finding this program")?;
        if self.all {
            servers.stop(&server, Duration::from_secs(self.timeout.into())).await?;
        } else {
            servers.hand_over(&server).await?;
        }
        let Server { name, args, folder, .. } = server;
        Detached { program, name, args, folder }.start(&servers, self.output).await
    }
}

impl Logs {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<()> {
        let servers = servers()?;
        if servers.get(&self.name).is_ok_and(|server| server.mode != Mode::Background) {
            return Err(Fault::NoLog(self.name).into());
        }
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
        let mut passed = Passed { output: self.output, partial: Vec::new() };
        loop {
            let is_alive = self.follow && servers.get(&self.name).is_ok();
            // Read after that look: what was written before an end is not missed.
            if passed.on(&mut log, &path)?.is_closed() || !is_alive {
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

/// A log on its way to whoever reads it.
struct Passed {
    output: Output,
    /// As JSON: the start of a line whose end has not been written.
    partial: Vec<u8>,
}

/// A line of a log, as JSON.
#[derive(Serialize)]
struct LogLine<'a> {
    /// `launcher`, or what the line of a router or a worker begins with.
    process: &'a str,
    line: &'a str,
}

impl Passed {
    /// Prints what the log has more than before.
    fn on(&mut self, log: &mut File, path: &Path) -> anyhow::Result<Reader> {
        let mut text = Vec::new();
        log.read_to_end(&mut text).with_context(|| path.display().to_string())?;
        if self.output.is_json() {
            text = self.objects(text)?;
        }
        let mut out = std::io::stdout().lock();
        match out.write_all(&text).and_then(|()| out.flush()) {
            Ok(()) => Ok(Reader::Open),
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(Reader::Closed),
            Err(error) => Err(error).context("printing the log"),
        }
    }

    /// An object for each whole line.
    fn objects(&mut self, text: Vec<u8>) -> anyhow::Result<Vec<u8>> {
        self.partial.extend(text);
        let end = self.partial.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let rest = self.partial.split_off(end);
        let whole = std::mem::replace(&mut self.partial, rest);
        let mut objects = Vec::new();
        for line in String::from_utf8_lossy(&whole).lines() {
            let child = line.split_once(" | ").filter(|(label, _)| is_child(label));
            let (process, line) = child.unwrap_or(("launcher", line));
            serde_json::to_writer(&mut objects, &LogLine { process, line })?;
            objects.push(b'\n');
        }
        Ok(objects)
    }
}

/// Whether the launcher marks what a child of its says with this.
fn is_child(label: &str) -> bool {
    label == "router" || label.ends_with(" worker")
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

    #[test]
    fn each_whole_line_of_a_log_is_an_object_that_says_whose_it_is() {
        let mut passed = Passed { output: Output::default(), partial: Vec::new() };
        let mut objects = |text: &str| {
            String::from_utf8(passed.objects(text.as_bytes().to_vec()).unwrap()).unwrap()
        };

        assert_eq!(
            objects("a | \"b\"\nm@1 #1 worker | lo"),
            concat!(r#"{"process":"launcher","line":"a | \"b\""}"#, "\n",)
        );
        assert_eq!(
            objects("aded\nrouter | c | d\n"),
            concat!(
                r#"{"process":"m@1 #1 worker","line":"loaded"}"#,
                "\n",
                r#"{"process":"router","line":"c | d"}"#,
                "\n",
            )
        );
    }
}
