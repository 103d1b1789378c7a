//! Starts a server in the background, and says when it can be used.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context;
use serde::Serialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use super::banner::Ready;
use crate::cli::Fault;
use crate::cli::output::{Output, print};
use crate::servers::{Error, Server, Servers, Standing};

/// Lines of a log that are shown of a server that failed at its start.
const LAST_LINES: usize = 8;

/// What a background server's command line has in addition. Not for people.
pub(in crate::cli) const FLAG: &str = "--in-background";

/// A server to start.
pub(in crate::cli) struct Detached {
    pub(in crate::cli) program: PathBuf,
    /// What clients call its model.
    pub(in crate::cli) name: String,
    /// The command line, without the program and [`FLAG`].
    pub(in crate::cli) args: Vec<String>,
    pub(in crate::cli) folder: PathBuf,
}

/// A server that runs in the background now.
#[derive(Serialize)]
struct Started<'a> {
    name: &'a str,
    pid: Option<u32>,
    log: &'a Path,
    #[serde(flatten)]
    ready: &'a Ready,
}

impl Detached {
    /// Starts it, prints where it is once it can be used, and leaves it running.
    pub(in crate::cli) async fn start(
        self,
        servers: &Servers,
        output: Output,
    ) -> anyhow::Result<()> {
        let is_running =
            |server: &Server| server.name == self.name && server.state == Standing::Running;
        if servers.list()?.iter().any(is_running) {
            return Err(Error::Exists(self.name).into());
        }
        let log = servers.open_log(&self.name)?;
        let mut child = Command::new(&self.program)
            .args(marked(&self.args))
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            // What it prints may hold a key: it comes here, and not into the log.
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", self.program.display()))?;
        let stdout = child.stdout.take().context("reading what the server prints")?;
        let mut lines = BufReader::new(stdout).lines();
        let (name, log) = (&self.name, servers.log(&self.name));
        while let Some(line) = lines.next_line().await.context("reading what the server prints")? {
            let Ok(ready) = serde_json::from_str::<Ready>(&line) else {
                // What is meant for nobody in particular is for people.
                if !output.is_json() {
                    print(&format!("{line}\n"))?;
                }
                continue;
            };
            let started = Started { name, pid: child.id(), log: &log, ready: &ready };
            return output.print(&started, || {
                let log = log.display();
                format!(
                    "{ready}\nin the background; `sconce stop {name}` ends it, `sconce logs -f {name}` \
                     shows {log}\n"
                )
            });
        }
        let status = child.wait().await.context("waiting for the server")?;
        let (end, log) = (last_lines(&log), log.display().to_string());
        Err(Fault::Background { status, log, end }.into())
    }
}

/// The command line with [`FLAG`], which goes before the worker's flags.
fn marked(args: &[String]) -> Vec<String> {
    let at = args.iter().position(|arg| arg == "--").unwrap_or(args.len());
    let (before, after) = args.split_at(at);
    [before, &[FLAG.to_owned()], after].concat()
}

/// This process's command line, without the program, [`FLAG`], and what asks for the background.
pub(super) fn own_args() -> anyhow::Result<Vec<String>> {
    let args = std::env::args_os().skip(1).map(|arg| {
        let shown = arg.to_string_lossy().into_owned();
        arg.into_string().map_err(|_| anyhow::anyhow!("`{shown}` is not UTF-8"))
    });
    Ok(unmarked(args.collect::<Result<_, _>>()?))
}

fn unmarked(args: Vec<String>) -> Vec<String> {
    let at = args.iter().position(|arg| arg == "--").unwrap_or(args.len());
    let is_mark = |arg: &str| ["-d", "--detach", FLAG].contains(&arg);
    let kept = args.into_iter().enumerate();
    kept.filter(|(index, arg)| *index >= at || !is_mark(arg)).map(|(_, arg)| arg).collect()
}

/// The end of a log, to show why a server failed at its start.
pub(in crate::cli) fn last_lines(log: &Path) -> String {
    // The log is for people; one that can't be read says nothing.
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn the_mark_goes_before_the_workers_flags() {
        assert_eq!(marked(&words("up m -- -d")), words("up m --in-background -- -d"));
        assert_eq!(marked(&words("up m")), words("up m --in-background"));
        assert_eq!(unmarked(words("up -d m --in-background -- -d")), words("up m -- -d"));
    }
}
