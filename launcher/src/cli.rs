//! What a user types: `sconce pull`, `list`, `rm` and `up`.

mod list;
mod pull;
mod rm;
mod up;

pub use list::List;
pub use pull::Pull;
pub use rm::Rm;
pub use up::{FirstKey, Hooks, Launch, Up};

use crate::catalogue::Catalogue;
use crate::progress::Progress;
use crate::pull::Puller;
use crate::settings::Settings;

/// A puller for people: their environment, the built-in catalogue, progress on their terminal.
fn puller(settings: Settings) -> anyhow::Result<Puller> {
    Ok(Puller::new(settings, Catalogue::built_in()?, Progress::detect()))
}
