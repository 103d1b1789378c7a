//! `sconce pull NAME`.

use std::io::Write;

use anyhow::Context;
use clap::Args;

use crate::name::ModelName;
use crate::pull::Pulled;
use crate::settings::{Network, Settings};
use crate::store::Check;

/// Brings a model onto this machine, verified. An interrupted pull goes on where it stopped
#[derive(Args, Clone, Debug)]
pub struct Pull {
    /// `alias:tag`, `hf:owner/repo[@revision][:file]`, or a path
    name: ModelName,

    /// Hash every file again, even of a model that was pulled before
    #[arg(long)]
    verify: bool,

    /// Use what is on this machine; never the network
    #[arg(long)]
    offline: bool,
}

impl Pull {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<()> {
        let mut settings = Settings::from_env()?;
        if self.offline {
            settings.hub.network = Network::Offline;
        }
        let check = if self.verify { Check::Always } else { Check::IfTouched };
        let pulled = super::puller(settings)?.pull(&self.name, check).await?;
        let mut out = std::io::stdout().lock();
        match &pulled {
            Pulled::Present(manifest) if self.verify => {
                writeln!(out, "{} is here and intact: {}", self.name, manifest.model.display())
            }
            Pulled::Present(manifest) => {
                writeln!(out, "{} is here: {}", self.name, manifest.model.display())
            }
            Pulled::Fetched(manifest) => {
                writeln!(out, "pulled {}: {}", self.name, manifest.model.display())
            }
            Pulled::Local(model) => writeln!(out, "{} is a local model", model.path.display()),
        }
        .context("printing the result")
    }
}
