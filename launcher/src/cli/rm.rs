//! `sconce rm NAME`.

use clap::Args;
use indicatif::BinaryBytes;

use super::Fault;
use super::output::print;
use crate::name::ModelName;
use crate::settings::Settings;
use crate::store::Removed;

/// Removes a version, or all versions of a model. Files that were there before stay, and so do
/// those that another version has
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  sconce rm smollm2@1          one version
  sconce rm smollm2            all versions
  sconce rm smollm2:135m       the version that was pulled by this name")]
pub struct Rm {
    /// What to remove, as `sconce list` shows it
    name: ModelName,
}

impl Rm {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<()> {
        if let ModelName::Path(path) = &self.name {
            return Err(Fault::Path(path.display().to_string()).into());
        }
        let puller = super::puller(Settings::from_env()?)?;
        let removed = tokio::task::spawn_blocking(move || puller.remove(&self.name)).await??;
        let line = |Removed { id, freed }: &Removed| {
            format!("removed {id}, {} freed\n", BinaryBytes(*freed))
        };
        print(&removed.iter().map(line).collect::<String>())
    }
}
