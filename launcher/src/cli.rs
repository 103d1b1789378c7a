//! What a user types: the commands around the model store, and `sconce up`.

mod alias;
mod background;
mod create;
mod doctor;
mod fault;
mod fit;
mod gc;
mod import;
mod list;
mod output;
mod plan;
mod pull;
mod rm;
mod run;
mod show;
mod up;
mod verify;

pub use alias::Alias;
pub use background::{Logs, Ps, Restart, Stop};
pub use create::Create;
pub use doctor::Doctor;
pub use fault::Fault;
pub use gc::Gc;
pub use import::Import;
pub use list::List;
pub use plan::Plan;
pub use pull::{Pull, Sync};
pub use rm::Rm;
pub use run::Run;
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
