//! A process, told apart from one that gets its number later.
//!
//! A number alone names whatever process has it now. With the time of its start it names one, and a
//! pidfd holds on to it while it is looked at and signaled.

use std::io;
use std::process::ExitStatus;

use rustix::process::Signal;
use serde::{Deserialize, Serialize};

/// A process, told apart from one that gets its number later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessId {
    /// Its number.
    pub pid: i32,
    /// When it was started, in the kernel's ticks since it booted.
    pub started_ticks: u64,
}

impl ProcessId {
    /// This process.
    pub fn own() -> io::Result<Self> {
        Self::of(rustix::process::getpid().as_raw_nonzero().get())
    }

    /// The process that has this number now.
    pub fn of(pid: i32) -> io::Result<Self> {
        Ok(Self { pid, started_ticks: number(&stat(pid)?, STARTED)? })
    }

    /// The process of this user that was started with this in its environment; of several, the first,
    /// whose children have it too. `None`: there is none, or the system does not tell.
    pub(super) fn with_variable(name: &str, value: &str) -> Option<Self> {
        let wanted = format!("{name}={value}").into_bytes();
        let entries = std::fs::read_dir("/proc").ok()?.flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let has_it = |pid: &i32| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == wanted)
        };
        let found = pids.filter(has_it).filter_map(|pid| Self::of(pid).ok());
        found.min_by_key(|process| (process.started_ticks, process.pid))
    }

    /// The processor time that it has taken, in ticks.
    pub(super) fn cpu_ticks(self) -> io::Result<u64> {
        let stat = stat(self.pid)?;
        Ok(number(&stat, USER_TIME)? + number(&stat, SYSTEM_TIME)?)
    }
}

// Fields of /proc/PID/stat, counted from the one after the name.
const STATE: usize = 0;
const USER_TIME: usize = 11;
const SYSTEM_TIME: usize = 12;
const STARTED: usize = 19;

/// What the system tells of a process, from the field after its name on.
fn stat(pid: i32) -> io::Result<Vec<String>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in the second field may hold anything, spaces and parentheses too.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    Ok(fields.split_whitespace().map(str::to_owned).collect())
}

fn number(stat: &[String], field: usize) -> io::Result<u64> {
    let value = stat.get(field).and_then(|field| field.parse().ok());
    value.ok_or_else(|| io::Error::other("/proc does not say what is asked of the process"))
}

/// Tells one start of the machine from another. Empty where the system doesn't.
pub(super) fn boot() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

/// A process that is held on to: its number can't become another's.
#[cfg(target_os = "linux")]
#[derive(Debug)]
pub struct Held(std::os::fd::OwnedFd);

/// A process that is held on to, where a system has a way to do so.
#[cfg(not(target_os = "linux"))]
#[derive(Debug)]
pub struct Held(std::convert::Infallible);

#[cfg(target_os = "linux")]
impl ProcessId {
    /// Holds on to the process. `None`: it is gone.
    pub fn hold(self) -> Option<Held> {
        use rustix::process::{Pid, PidfdFlags, pidfd_open};
        let held = pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::NONBLOCK).ok()?;
        // Looked at while it is held: the number can't become another's in between.
        let stat = stat(self.pid).ok()?;
        // One that ended is still there until somebody has waited for it.
        let lives = !matches!(stat.get(STATE).map(String::as_str), Some("Z" | "X"));
        (lives && number(&stat, STARTED).ok()? == self.started_ticks).then_some(Held(held))
    }
}

#[cfg(target_os = "linux")]
impl Held {
    /// Signals it. One that has ended is none the worse for it.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match rustix::process::pidfd_send_signal(&self.0, signal) {
            Err(rustix::io::Errno::SRCH) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Waits until it has ended.
    pub async fn ended(&self) -> io::Result<()> {
        use tokio::io::{Interest, unix::AsyncFd};
        #[expect(deprecated, reason = "an OwnedFd stays open while it is registered")]
        let end = AsyncFd::with_interest(self.0.try_clone()?, Interest::READABLE)?;
        end.readable().await.map(drop)
    }

    /// Lets the system forget a process that has ended, and returns how, if it is a child of this one: so
    /// it is where a launcher has started itself again.
    pub(super) fn reap(&self) -> Option<ExitStatus> {
        use std::os::fd::AsFd;
        use std::os::unix::process::ExitStatusExt;

        use rustix::process::{WaitId, WaitIdOptions, waitid};
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        // Another's child is waited for by that one.
        let status = waitid(WaitId::PidFd(self.0.as_fd()), options).ok()??;
        // As `wait` has it: the status above the signal.
        let signal = status.terminating_signal().unwrap_or(0);
        Some(ExitStatus::from_raw((status.exit_status().unwrap_or(0) << 8) | signal))
    }
}

/// Without a way to hold on to a process or to tell when it started, none is.
#[cfg(not(target_os = "linux"))]
impl ProcessId {
    /// Holds on to the process, which this system has no way to do.
    pub fn hold(self) -> Option<Held> {
        None
    }
}

#[cfg(not(target_os = "linux"))]
impl Held {
    /// Signals it.
    pub fn signal(&self, _: Signal) -> io::Result<()> {
        match self.0 {}
    }

    /// Waits until it has ended.
    pub async fn ended(&self) -> io::Result<()> {
        match self.0 {}
    }

    /// Lets the system forget it.
    pub(super) fn reap(&self) -> Option<ExitStatus> {
        match self.0 {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_process_of_the_same_number_is_not_held() {
        let own = ProcessId::own().unwrap();
        assert!(own.hold().is_some());

        for other in [
            ProcessId { started_ticks: own.started_ticks + 1, ..own },
            ProcessId { pid: 0, ..own },
            ProcessId { pid: i32::MAX, ..own },
        ] {
            assert!(other.hold().is_none(), "{other:?}");
        }
    }

    #[tokio::test]
    async fn a_process_that_ended_is_gone_even_if_nobody_waited_for_it() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let id = ProcessId::of(child.id().try_into().unwrap()).unwrap();
        let held = id.hold().unwrap();

        held.signal(Signal::KILL).unwrap();
        held.ended().await.unwrap();

        assert!(id.hold().is_none());
        child.wait().unwrap();
        assert!(held.signal(Signal::TERM).is_ok());
    }
}
