//! What a fleet's launcher leaves to the next one: the core's snapshot, how workers are started, and
//! the last routing table for routers that start while no launcher runs.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use prost::Message;
use sconce_proto::fleet as proto;
use serde::{Deserialize, Serialize};

use super::models::Prepared;
use crate::fleet::{Scale, Snapshot};
use crate::name::VersionId;
use crate::store::files::write_atomic;

/// The layout of the file.
const FORMAT: u32 = 1;

/// What is left to the next launcher.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Saved {
    format: u32,
    /// The core's.
    pub(super) snapshot: Snapshot,
    /// How workers of versions are started.
    pub(super) prepared: BTreeMap<VersionId, Prepared>,
    /// What the command line named, and what that stood for.
    pub(super) typed: BTreeMap<String, Typed>,
    /// Aliases that are names of their own.
    pub(super) aliases: BTreeMap<String, VersionId>,
}

/// A name of the command line, and what it stood for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Typed {
    pub(super) version: VersionId,
    pub(super) scale: Scale,
}

/// The files.
#[derive(Debug)]
pub(super) struct Files {
    /// `None`: nothing is left to anybody.
    state: Option<PathBuf>,
    table: PathBuf,
}

impl Files {
    /// In the server's own folder, for the next launcher.
    pub(super) fn lasting(folder: &Path) -> Self {
        Self { state: Some(folder.join("fleet.json")), table: folder.join("table.pb") }
    }

    /// Of a launcher that leaves nothing: the table alone.
    pub(super) fn passing(table: PathBuf) -> Self {
        Self { state: None, table }
    }

    /// Where the last routing table is.
    pub(super) fn table(&self) -> &Path {
        &self.table
    }

    /// What the launcher before has left.
    pub(super) fn load(&self) -> io::Result<Option<Saved>> {
        let Some(path) = &self.state else { return Ok(None) };
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let saved: Result<Saved, _> = serde_json::from_slice(&bytes);
        match saved {
            Ok(saved) if saved.format == FORMAT => Ok(Some(saved)),
            Ok(_) | Err(_) => {
                let text = format!("{} is not of this version of sconce", path.display());
                Err(io::Error::new(io::ErrorKind::InvalidData, text))
            }
        }
    }

    /// Leaves this to the next launcher.
    pub(super) fn save(&self, saved: &mut Saved) -> io::Result<()> {
        let Some(path) = &self.state else { return Ok(()) };
        saved.format = FORMAT;
        write_atomic(path, &serde_json::to_vec(saved)?)
    }

    /// Leaves the table to routers.
    pub(super) fn save_table(&self, table: &proto::RoutingTable) -> io::Result<()> {
        write_atomic(&self.table, &table.encode_to_vec())
    }
}
