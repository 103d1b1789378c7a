//! Asks the worker what a model needs.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::Description;

/// Headers are read, nothing else: this is for disks that hang.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why the worker can't say what a model needs.
#[derive(Debug, thiserror::Error)]
pub enum DescribeError {
    /// It can't be run.
    #[error("can't run {program}")]
    Run {
        /// What was run.
        program: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It refuses the model or a flag.
    #[error("{0}")]
    Refused(String),
    /// It does not answer.
    #[error("the worker did not say what the model needs within {} s", PATIENCE.as_secs())]
    Silent,
    /// It says something else.
    #[error("the worker does not say what the model needs")]
    Answer(#[source] serde_json::Error),
}

/// What `program worker` says of the model at `path`, with further flags of the worker.
pub async fn describe(
    program: &Path,
    path: &Path,
    flags: &[OsString],
) -> Result<Description, DescribeError> {
    let failed = |source| DescribeError::Run { program: program.display().to_string(), source };
    let child = Command::new(program)
        .args(["worker", "--describe", "--model"])
        .arg(path)
        .args(flags)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await;
    let output = output.map_err(|_| DescribeError::Silent)?.map_err(failed)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let error = said.lines().find_map(|line| line.strip_prefix("error: "));
        let said = error.map_or_else(|| output.status.to_string(), str::to_owned);
        return Err(DescribeError::Refused(said));
    }
    let said = String::from_utf8_lossy(&output.stdout);
    let json = said.lines().rev().find(|line| line.starts_with('{')).unwrap_or_default();
    serde_json::from_str(json).map_err(DescribeError::Answer)
}
