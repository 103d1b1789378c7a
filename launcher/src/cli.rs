//! What a user types: `sconce pull`, `list`, `show`, `verify`, `rm` and `up`.

mod list;
mod pull;
mod rm;
mod show;
mod up;
mod verify;

pub use list::List;
pub use pull::Pull;
pub use rm::Rm;
pub use show::Show;
pub use up::{FirstKey, Hooks, Launch, Up};
pub use verify::Verify;

use crate::catalogue::Catalogue;
use crate::progress::Progress;
use crate::pull::Puller;
use crate::settings::Settings;

/// A puller for people: their environment, the built-in catalogue, progress on their terminal.
fn puller(settings: Settings) -> anyhow::Result<Puller> {
    Ok(Puller::new(settings, Catalogue::built_in()?, Progress::detect()))
}
