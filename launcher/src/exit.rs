//! What a shell and a person are told of a command that failed: a status, and what to try.

use crate::cli::Fault;
use crate::{catalogue, hub, name, pull, servers, store};

/// What every command's help says of exit statuses.
pub const STATUSES: &str = "\
Exit status:
  0  done
  1  failed otherwise
  2  the command line makes no sense
  3  no such model, version, alias or server, here or at the hub
  4  in the way of something: in use, named by an alias, or another content
  5  the network is needed and may not be used
  6  files differ from what was pulled
  7  does not fit into memory
  8  some requests of a batch were not answered
  130  interrupted";

/// The process's exit status.
pub fn status(error: &anyhow::Error) -> u8 {
    error.chain().find_map(status_of).unwrap_or(1)
}

/// What to try, where that is known.
pub fn hint(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(hint_of)
}

fn status_of(error: &(dyn std::error::Error + 'static)) -> Option<u8> {
    if let Some(fault) = error.downcast_ref::<Fault>() {
        return Some(fault.status());
    }
    if let Some(error) = error.downcast_ref::<store::Error>() {
        return status_of_store(error);
    }
    if let Some(error) = error.downcast_ref::<pull::Error>() {
        return match error {
            pull::Error::Catalogue(catalogue::Error::Unknown { .. }) => Some(3),
            pull::Error::Failed(failed) if failed.is_offline() => Some(5),
            pull::Error::Failed(failed) if failed.is_absent() => Some(3),
            pull::Error::OtherContent { .. } => Some(6),
            pull::Error::Store(error) => status_of_store(error),
            pull::Error::Catalogue(_)
            | pull::Error::Local(_)
            | pull::Error::Fixed(_)
            | pull::Error::NothingToFilter(_)
            | pull::Error::Unnamed(_)
            | pull::Error::Unobtainable { .. }
            | pull::Error::Name(_)
            | pull::Error::Failed(_) => None,
        };
    }
    if let Some(error) = error.downcast_ref::<servers::Error>() {
        return match error {
            servers::Error::Absent(_) => Some(3),
            servers::Error::Exists(_) | servers::Error::OtherProcess { .. } => Some(4),
            servers::Error::Io { .. }
            | servers::Error::Record(_)
            | servers::Error::Stuck { .. } => None,
        };
    }
    let is_offline = matches!(error.downcast_ref(), Some(hub::Error::Offline { .. }));
    is_offline.then_some(5)
}

fn status_of_store(error: &store::Error) -> Option<u8> {
    match error {
        store::Error::Absent(_) | store::Error::NoAlias(_) => Some(3),
        store::Error::InUse(_)
        | store::Error::Aliased { .. }
        | store::Error::NameTaken { .. }
        | store::Error::Conflict { .. } => Some(4),
        store::Error::Io { .. }
        | store::Error::Manifest(_)
        | store::Error::Lock(_)
        | store::Error::Numbers(_) => None,
    }
}

fn hint_of(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    if let Some(fault) = error.downcast_ref::<Fault>() {
        return fault.hint();
    }
    if let Some(error) = error.downcast_ref::<store::Error>() {
        return hint_of_store(error);
    }
    if let Some(error) = error.downcast_ref::<servers::Error>() {
        return match error {
            servers::Error::Absent(_) => Some("`sconce ps` shows what runs".to_owned()),
            servers::Error::Exists(name) => Some(format!(
                "`sconce stop {name}` ends it; --served-model-name gives another name"
            )),
            servers::Error::Stuck { pid, .. } => Some(format!("`kill -9 {pid}` ends it")),
            servers::Error::Io { .. }
            | servers::Error::Record(_)
            | servers::Error::OtherProcess { .. } => None,
        };
    }
    let text = match error.downcast_ref::<pull::Error>()? {
        pull::Error::Store(error) => return hint_of_store(error),
        pull::Error::Fixed(_) => "`sconce show NAME` says where it came from",
        pull::Error::Unnamed(_) => "choose a name with --name",
        pull::Error::Unobtainable { .. } => "`sconce import` the same files again, under any name",
        pull::Error::Failed(failed) if failed.is_offline() => {
            "leave out --offline and HF_HUB_OFFLINE to use the network"
        }
        pull::Error::Failed(failed) if failed.is_forbidden() => {
            "HF_TOKEN opens what its account may read: accept the terms of a gated model on its page first"
        }
        pull::Error::Catalogue(_)
        | pull::Error::Local(_)
        | pull::Error::OtherContent { .. }
        | pull::Error::Name(_)
        | pull::Error::NothingToFilter(_)
        | pull::Error::Failed(_) => return None,
    };
    Some(text.to_owned())
}

fn hint_of_store(error: &store::Error) -> Option<String> {
    Some(match error {
        store::Error::Absent(name) => match name.parse() {
            Ok(name::ModelName::Hub(_)) => format!("`sconce pull {name}` brings it"),
            Ok(_) | Err(_) => "`sconce list` shows what is here".to_owned(),
        },
        store::Error::NoAlias(_) => "`sconce alias list` shows what there is".to_owned(),
        store::Error::InUse(_) => "stop what serves it first".to_owned(),
        store::Error::Aliased { alias, .. } => {
            format!("`sconce alias rm {alias}` takes the alias away")
        }
        store::Error::NameTaken { .. } => "choose another name with --name".to_owned(),
        store::Error::Conflict { id, .. } => format!("`sconce rm {id}` makes room for it"),
        store::Error::Lock(store::LockError::Parse { .. }) => {
            "the generations before are in `generations` in the same folder".to_owned()
        }
        store::Error::Io { .. }
        | store::Error::Manifest(_)
        | store::Error::Lock(_)
        | store::Error::Numbers(_) => return None,
    })
}
