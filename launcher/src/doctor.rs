//! What is wrong with a machine, before a user finds out: each finding with its reason and remedy.
//!
//! It only looks: nothing is changed, started or asked of the network, and no secret is printed.

mod home;
mod hub;
mod machine;
mod memory;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::settings::{self, Settings};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works, but worse than it could.
    Warn,
    /// Something can't work.
    Fail,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: &'static str,
    /// How bad it is.
    pub verdict: Verdict,
    /// What there is, and what follows from it.
    pub why: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, why: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, why: why.into(), remedy: None }
    }

    fn warn(check: &'static str, why: impl Into<String>, remedy: impl Into<String>) -> Self {
        let (why, remedy) = (why.into(), Some(remedy.into()));
        Self { check, verdict: Verdict::Warn, why, remedy }
    }

    fn fail(check: &'static str, why: impl Into<String>, remedy: impl Into<String>) -> Self {
        let (why, remedy) = (why.into(), Some(remedy.into()));
        Self { check, verdict: Verdict::Fail, why, remedy }
    }
}

/// A GPU and its memory, as `sconce plan` counts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// Its name.
    pub name: String,
    /// The newest CUDA that its driver knows.
    pub cuda_version: String,
    /// Bytes that its driver says are free.
    pub free_bytes: u64,
    /// Bytes that it has.
    pub total_bytes: u64,
}

/// What to look at.
#[derive(Debug)]
pub struct Subject {
    /// The environment, or what is wrong with it.
    pub settings: Result<Settings, settings::Error>,
    /// The instruction set that the kernels choose.
    pub isa: String,
    /// The GPUs that there are kernels for, or why one can't be used.
    pub gpus: Vec<Result<Gpu, String>>,
    /// Where a router would listen.
    pub listen: SocketAddr,
    /// `/`, or what stands for it.
    pub root: PathBuf,
}

impl Subject {
    /// Looks at everything.
    pub fn examine(&self) -> Vec<Finding> {
        let mut findings = vec![
            machine::instruction_set(&self.isa),
            machine::threads(self),
            memory::memory(self),
            machine::huge_pages(self),
            machine::numa(self),
            machine::open_files(),
            machine::port(self.listen),
        ];
        findings.extend(machine::gpu(self));
        findings.extend(self.gpus.iter().enumerate().map(memory::gpu));
        match &self.settings {
            Ok(settings) => {
                findings.extend(home::home(&settings.home));
                findings.extend(hub::hub(&settings.hub));
            }
            Err(error) => {
                findings.push(Finding::fail("environment", error.to_string(), "set it right"));
            }
        }
        findings
    }

    /// A file below `/proc` or `/sys`, without the white space around it.
    fn read(&self, path: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.path(path)).ok()?;
        Some(text.trim().to_owned())
    }

    fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }
}

#[cfg(test)]
mod tests;
