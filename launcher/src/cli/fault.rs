//! What commands find wrong that no other part of the launcher does.

use std::path::PathBuf;

use indicatif::BinaryBytes;
use tonic::Code;

use crate::name::{ModelId, Tag};
use crate::plan::{DescribeError, Misfit};
use crate::store::ImportError;

/// What commands find wrong that no other part of the launcher does.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// Files differ from what was pulled.
    #[error("{num_damaged} of {num_models} versions differ from what was pulled")]
    Damaged {
        /// Versions that do.
        num_damaged: usize,
        /// Versions that were looked at.
        num_models: usize,
    },
    /// A path was named where a model of the store is needed.
    #[error("{0} is a file of your own, not a model of the store")]
    Path(String),
    /// A name of the catalogue always means what the catalogue says.
    #[error("`{0}` is a name of the catalogue")]
    Catalogue(Tag),
    /// What may not go takes more room than it should.
    #[error(
        "{} are left and {} were asked for: the rest may not go",
        BinaryBytes(*.after), BinaryBytes(*.max_size)
    )]
    OverBudget {
        /// Bytes that stay.
        after: u64,
        /// Bytes that were asked for.
        max_size: u64,
    },
    /// A file can't be imported.
    #[error("can't import")]
    Import(#[source] ImportError),
    /// The worker can't say what a model needs.
    #[error("can't tell what {model} needs")]
    Describe {
        /// What was asked about.
        model: String,
        /// Why.
        #[source]
        source: DescribeError,
    },
    /// The model does not fit into memory.
    #[error("{model} does not fit")]
    Misfit {
        /// What was asked about.
        model: String,
        /// Why.
        #[source]
        source: Misfit,
    },
    /// Something on the machine can't work.
    #[error("{0} of the findings above say what can't work")]
    Unfit(usize),
    /// A server in the background failed at its start.
    #[error("the server ended before it was ready ({status}); the end of {log}:\n{end}")]
    Background {
        /// How it ended.
        status: std::process::ExitStatus,
        /// Where it wrote its log.
        log: String,
        /// The log's last lines.
        end: String,
    },
    /// A server in the foreground can't be started again from elsewhere.
    #[error("`{0}` runs in the foreground")]
    Foreground(String),
    /// A service manager starts it.
    #[error("a service manager runs `{0}`, and starts all of it")]
    Managed(String),
    /// A server whose log is somewhere else.
    #[error("the log of `{0}` goes to whoever started it, a terminal or a service manager")]
    NoLog(String),
    /// A name for several models.
    #[error("--served-model-name is for one model")]
    OneName,
    /// Two models that clients could not tell apart.
    #[error("two of the models are called `{0}`")]
    NamedTwice(String),
    /// Fewer at most than at least.
    #[error("--min is {min} and --max is {max}: expected at most as many")]
    Scale {
        /// At least.
        min: u32,
        /// At most.
        max: u32,
    },
    /// More than all of it.
    #[error("the memory shares add up to {0} %")]
    Shares(u32),
    /// A share of a model that there is not.
    #[error("--memory-share names `{0}`, and neither is it served nor does the store have it")]
    ShareOfNone(ModelId),
    /// Two shares of one model.
    #[error("--memory-share names `{0}` twice")]
    SharedTwice(ModelId),
    /// A version that names give traffic to was to be unloaded.
    #[error("{}", .0.message())]
    Serving(tonic::Status),
    /// Nothing runs that a command could be for.
    #[error("no server runs in the background")]
    NoServer,
    /// It is not said which.
    #[error("several servers run in the background: {}", .0.join(", "))]
    WhichServer(Vec<String>),
    /// A server that nobody can give orders to.
    #[error("the launcher of `{0}` does not run, or not yet")]
    NoLauncher(String),
    /// A launcher refused, or could not do, what it was asked for.
    #[error("{}", .0.message())]
    Call(tonic::Status),
    /// The server has no such batch.
    #[error("the server knows no batch `{0}` of this key")]
    NoBatch(String),
    /// Whoever typed the command wanted no batch after all.
    #[error("interrupted before the batch was begun")]
    NotBegun,
    /// Whoever typed the command waits no longer.
    #[error("{0} goes on without this command")]
    LeftRunning(String),
    /// A batch is done, and not all of it was answered.
    #[error("{num_failed} of {num_all} requests failed")]
    SomeFailed {
        /// Requests that did.
        num_failed: u64,
        /// All of them.
        num_all: u64,
    },
    /// A batch ended before it was done.
    #[error("the batch is {status}")]
    BatchEnded {
        /// How it ended.
        status: &'static str,
    },
    /// What would be written over.
    #[error("{} is there already", .0.display())]
    Exists(PathBuf),
    /// A chat is for people.
    #[error("--output json is for one answer, and there is no prompt")]
    JsonChat,
    /// One thing was said in two ways.
    #[error("{0} and {1} say the same: leave one of them out")]
    Twice(&'static str, &'static str),
}

impl Fault {
    pub(crate) fn status(&self) -> u8 {
        match self {
            Self::Damaged { .. } => 6,
            Self::NoServer | Self::NoLauncher(_) | Self::NoBatch(_) | Self::ShareOfNone(_) => 3,
            Self::SomeFailed { .. } | Self::BatchEnded { .. } => 8,
            // 128 and the number of SIGINT, as shells have it.
            Self::NotBegun | Self::LeftRunning(_) => 130,
            Self::WhichServer(_) => 2,
            Self::Call(status) => status_of_call(status.code()),
            Self::Path(_) | Self::Import(_) | Self::Describe { .. } | Self::Unfit(_) => 1,
            Self::Twice(..)
            | Self::OneName
            | Self::JsonChat
            | Self::NamedTwice(_)
            | Self::Scale { .. }
            | Self::SharedTwice(_)
            | Self::Shares(_) => 2,
            // As if it had been started in the foreground.
            Self::Background { status, .. } => status
                .code()
                .and_then(|code| u8::try_from(code).ok())
                .filter(|code| *code > 0)
                .unwrap_or(1),
            Self::Misfit { .. } => 7,
            Self::Catalogue(_)
            | Self::OverBudget { .. }
            | Self::Exists(_)
            | Self::Foreground(_)
            | Self::Serving(_)
            | Self::Managed(_) => 4,
            Self::NoLog(_) => 1,
        }
    }

    pub(crate) fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Damaged { .. } => "`sconce pull --verify NAME` mends one",
            Self::Path(_) => "`sconce import PATH` takes it into the store",
            Self::Catalogue(_) => "choose another tag",
            Self::OverBudget { .. } => {
                "stop what serves a version, or take its alias away with `sconce alias rm`"
            }
            Self::Misfit { source, .. } => return source.hint(),
            Self::Foreground(name) => {
                return Some(format!(
                    "end it there and start it again; `sconce restart {name} --router` exchanges its \
                     router"
                ));
            }
            Self::Managed(_) => "`systemctl restart` of its unit ends it and starts it",
            Self::NoLog(_) => "`journalctl -u` with its unit shows that of systemd",
            Self::NoServer => "`sconce up -d MODEL` starts one",
            Self::WhichServer(_) => "--server NAME says which",
            Self::ShareOfNone(_) => "`sconce list` shows the models: what is before the `@`",
            Self::Serving(_) => {
                "`sconce promote` moves the traffic to another version; --force unloads it all the same"
            }
            Self::NoBatch(_) => "`sconce batch list` shows the batches of the key",
            Self::Exists(_) => "--force writes over it, -o and --errors name other files",
            Self::NoLauncher(name) => {
                return Some(format!("`sconce restart {name}` starts it again"));
            }
            Self::Call(status) => match status.code() {
                Code::NotFound => "`sconce status --all` shows what there is",
                Code::ResourceExhausted => "`sconce unload` makes room",
                Code::Unavailable => "`sconce ps` shows what runs",
                _ => return None,
            },
            Self::Import(_)
            | Self::Describe { .. }
            | Self::Twice(..)
            | Self::NotBegun
            | Self::LeftRunning(_)
            | Self::SomeFailed { .. }
            | Self::BatchEnded { .. }
            | Self::OneName
            | Self::JsonChat
            | Self::NamedTwice(_)
            | Self::Scale { .. }
            | Self::SharedTwice(_)
            | Self::Shares(_)
            | Self::Unfit(_)
            | Self::Background { .. } => {
                return None;
            }
        };
        Some(text.to_owned())
    }
}

/// As if the command had found it out by itself.
fn status_of_call(code: Code) -> u8 {
    match code {
        Code::InvalidArgument => 2,
        Code::NotFound => 3,
        Code::AlreadyExists | Code::FailedPrecondition => 4,
        Code::ResourceExhausted => 7,
        _ => 1,
    }
}
