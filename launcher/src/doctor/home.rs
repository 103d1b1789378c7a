//! The store: its disk, who may read and write it, and whether it can be read.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use indicatif::BinaryBytes;
use rustix::process::geteuid;

use super::Finding;
use crate::store::Store;

/// No model of use is smaller, with room to unpack it.
const LEAST_BYTES: u64 = 1 << 30;

/// A model of some size.
const SOME_BYTES: u64 = 10 << 30;

pub(super) fn home(home: &Path) -> Vec<Finding> {
    let mut findings = vec![disk(home), permissions(home)];
    findings.push(store(home));
    findings
}

/// The home, or the nearest folder above it that is there.
fn nearest(home: &Path) -> Option<&Path> {
    home.ancestors().find(|folder| folder.is_dir())
}

fn disk(home: &Path) -> Finding {
    const CHECK: &str = "disk";
    let shown = home.display();
    let Some(stat) = nearest(home).and_then(|folder| rustix::fs::statvfs(folder).ok()) else {
        return Finding::fail(CHECK, format!("{shown} can't be looked at"), "set SCONCE_HOME");
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let what = format!("{} free for {shown}", BinaryBytes(free));
    let remedy = "sconce gc --max-size SIZE, or SCONCE_HOME and HF_HOME on another disk";
    if free < LEAST_BYTES {
        Finding::fail(CHECK, what, remedy)
    } else if free < SOME_BYTES {
        Finding::warn(CHECK, format!("{what}: enough for small models"), remedy)
    } else {
        Finding::ok(CHECK, what)
    }
}

fn permissions(home: &Path) -> Finding {
    const CHECK: &str = "SCONCE_HOME";
    let shown = home.display();
    let metadata = match std::fs::metadata(home) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return absent(home),
        Err(error) => {
            let remedy = format!("sudo chown -R $(id -un) {shown}");
            return Finding::fail(CHECK, format!("{shown}: {error}"), remedy);
        }
    };
    if !metadata.is_dir() {
        return Finding::fail(CHECK, format!("{shown} is no folder"), "set SCONCE_HOME");
    }
    if rustix::fs::access(home, rustix::fs::Access::WRITE_OK).is_err() {
        let remedy = format!("sudo chown -R $(id -un) {shown}, or set SCONCE_HOME");
        return Finding::fail(CHECK, format!("{shown} can't be written"), remedy);
    }
    let remedy = format!("chmod 700 {shown}");
    if metadata.mode() & 0o022 != 0 {
        let what = format!("{shown} can be written by others, who could exchange models and keys");
        return Finding::fail(CHECK, what, remedy);
    }
    if metadata.uid() != geteuid().as_raw() && metadata.uid() != 0 {
        let what = format!("{shown} belongs to another user");
        return Finding::warn(CHECK, what, format!("sudo chown -R $(id -un) {shown}"));
    }
    if metadata.mode() & 0o055 != 0 {
        let what = format!("{shown} can be read by others: stored responses are in it");
        return Finding::warn(CHECK, what, remedy);
    }
    Finding::ok(CHECK, format!("{shown}, of this user alone"))
}

fn absent(home: &Path) -> Finding {
    const CHECK: &str = "SCONCE_HOME";
    let shown = home.display();
    let can_be_made = nearest(home)
        .is_some_and(|folder| rustix::fs::access(folder, rustix::fs::Access::WRITE_OK).is_ok());
    match can_be_made {
        true => Finding::ok(CHECK, format!("{shown}, made when it is needed")),
        false => Finding::fail(CHECK, format!("{shown} can't be made"), "set SCONCE_HOME"),
    }
}

fn store(home: &Path) -> Finding {
    const CHECK: &str = "store";
    // Reading an old store would number its models: here, nothing is changed.
    match Store::new(home.to_owned()).peek() {
        Ok(1) => Finding::ok(CHECK, "1 version"),
        Ok(num_versions) => Finding::ok(CHECK, format!("{num_versions} versions")),
        Err(error) => {
            let source = std::error::Error::source(&error).map(|it| format!(": {it}"));
            let why = format!("{error}{}", source.unwrap_or_default());
            let remedy =
                "move the file away; `sconce sync --generation NUMBER` restores a lock file";
            Finding::fail(CHECK, why, remedy)
        }
    }
}
