//! `sconce rm NAME`.

use clap::Args;
use indicatif::BinaryBytes;
use serde_json::json;

use super::Fault;
use super::output::Output;
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

    #[command(flatten)]
    output: Output,
}

impl Rm {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<()> {
        if let ModelName::Path(path) = &self.name {
            return Err(Fault::Path(path.display().to_string()).into());
        }
        let puller = super::puller(Settings::from_env()?)?;
        let name = self.name;
        let removed = tokio::task::spawn_blocking(move || puller.remove(&name)).await??;
        let line = |Removed { id, freed }: &Removed| {
            format!("removed {id}, {} freed\n", BinaryBytes(*freed))
        };
        let value = |it: &Removed| json!({ "id": it.id, "freed": it.freed });
        let values: Vec<_> = removed.iter().map(value).collect();
        self.output.print(&values, || removed.iter().map(line).collect())
    }
}
