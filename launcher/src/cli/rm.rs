//! `sconce rm NAME`.

use std::io::Write;

use anyhow::Context;
use clap::Args;
use indicatif::BinaryBytes;

use crate::name::ModelName;
use crate::settings::Settings;

/// Removes a model from this machine. Files that were there before it was pulled stay
#[derive(Args, Clone, Debug)]
pub struct Rm {
    /// The model, as `sconce list` shows it
    name: ModelName,
}

impl Rm {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<()> {
        if let ModelName::Path(path) = &self.name {
            anyhow::bail!("{} is your own file; sconce does not remove it", path.display());
        }
        let puller = super::puller(Settings::from_env()?)?;
        let name = self.name.clone();
        let freed = tokio::task::spawn_blocking(move || puller.remove(&name)).await??;
        let text = format!("removed {}, {} freed", self.name, BinaryBytes(freed));
        writeln!(std::io::stdout().lock(), "{text}").context("printing the result")
    }
}
