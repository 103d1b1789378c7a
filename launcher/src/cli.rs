//! What a user types: the commands around the model store, and `sconce up`.

mod alias;
mod background;
mod batch;
mod create;
mod doctor;
mod fault;
mod fit;
mod fleet;
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
pub use batch::Batch;
pub use create::Create;
pub use doctor::Doctor;
pub use fault::Fault;
pub use fit::FitArgs;
pub(crate) use fit::{Room, Subject, fit};
pub use fleet::{History, Promote, Rollback, Scale, Start, Status, Unload};
pub use gc::Gc;
pub use import::Import;
pub use list::List;
pub use plan::Plan;
pub use pull::{Pull, Sync};
pub use rm::Rm;
pub use run::Run;
pub use show::Show;
pub use up::{FirstKey, Hooks, Up};
pub use verify::Verify;

use crate::catalogue::Catalogue;
use crate::progress::Progress;
use crate::pull::Puller;
use crate::settings::Settings;

/// A puller for people: their environment, the built-in catalogue, progress on their terminal.
fn puller(settings: Settings) -> anyhow::Result<Puller> {
    Ok(Puller::new(settings, Catalogue::built_in()?, Progress::detect()))
}

/// `25%`, in parts of 10,000.
fn percent(text: &str) -> Result<u16, String> {
    let expected = || format!("`{text}` is not a part: expected a percentage, such as 10%");
    let number: f64 = text.strip_suffix('%').unwrap_or(text).parse().map_err(|_| expected())?;
    if !(0.01..=100.0).contains(&number) {
        return Err(expected());
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 to 10,000")]
    Ok((number * 100.0).round() as u16)
}
