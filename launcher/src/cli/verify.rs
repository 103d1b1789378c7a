//! `sconce verify [NAME…]`.

use std::io::Write;

use anyhow::Context;
use clap::Args;
use indicatif::BinaryBytes;
use serde_json::{Value, json};

use crate::name::ModelName;
use crate::settings::Settings;
use crate::store::{Store, Verified};

/// Reads the files of models again and compares them with what was pulled. Fails if one differs
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  sconce verify\n  sconce verify smollm2:135m --json")]
pub struct Verify {
    /// The models, as `sconce list` shows them; all of them without one
    names: Vec<ModelName>,

    /// Print JSON: a list of models, each with what is wrong with it
    #[arg(long)]
    json: bool,
}

impl Verify {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<()> {
        let store = Store::new(Settings::from_env()?.home);
        let names: Vec<_> = self.names.iter().map(ToString::to_string).collect();
        let verified = tokio::task::spawn_blocking(move || store.verify(&names)).await??;
        let text = match self.json {
            true => {
                serde_json::to_string_pretty(&verified.iter().map(row).collect::<Vec<_>>())? + "\n"
            }
            false => verified.iter().map(line).collect(),
        };
        std::io::stdout().lock().write_all(text.as_bytes()).context("printing the result")?;
        match verified.iter().filter(|model| model.damage.is_some()).count() {
            0 => Ok(()),
            num_damaged => anyhow::bail!(
                "{num_damaged} of {} models differ from what was pulled; `sconce pull --verify NAME` mends one",
                verified.len()
            ),
        }
    }
}

fn line(Verified { manifest, damage }: &Verified) -> String {
    match damage {
        None => format!("ok       {}  {}\n", manifest.name, BinaryBytes(manifest.size())),
        Some(damage) => format!("DAMAGED  {}  {damage}\n", manifest.name),
    }
}

fn row(Verified { manifest, damage }: &Verified) -> Value {
    let damage = damage.as_ref().map(ToString::to_string);
    json!({ "name": manifest.name, "version": manifest.version, "damage": damage })
}
