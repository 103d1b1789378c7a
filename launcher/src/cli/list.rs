//! `sconce list`.

use std::io::Write;

use anyhow::Context;
use clap::Args;
use indicatif::BinaryBytes;

use crate::settings::Settings;
use crate::store::{Manifest, Store};

/// Lists the models on this machine
#[derive(Args, Clone, Debug)]
pub struct List {
    /// Print JSON: the manifests, as the store holds them
    #[arg(long)]
    json: bool,
}

impl List {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<()> {
        let store = Store::new(Settings::from_env()?.home);
        let manifests = tokio::task::spawn_blocking(move || store.list()).await??;
        let text = if self.json {
            serde_json::to_string_pretty(&manifests)? + "\n"
        } else {
            table(&manifests)
        };
        std::io::stdout().lock().write_all(text.as_bytes()).context("printing the list")
    }
}

fn table(manifests: &[Manifest]) -> String {
    if manifests.is_empty() {
        return "no models yet; `sconce pull smollm2:135m` brings a small one\n".to_owned();
    }
    let width = manifests.iter().map(|manifest| manifest.name.len()).max().unwrap_or(0).max(4);
    let mut text = format!("{:width$}  {:>12}  {:16}  SOURCE\n", "NAME", "SIZE", "VERSION");
    for manifest in manifests {
        let size = BinaryBytes(manifest.size()).to_string();
        let Manifest { name, version, source, .. } = manifest;
        text.push_str(&format!("{name:width$}  {size:>12}  {version:16}  {source}\n"));
    }
    text
}
