//! `sconce verify [NAME…]`.

use clap::Args;
use indicatif::BinaryBytes;
use serde_json::{Value, json};

use super::Fault;
use super::output::Output;
use crate::name::ModelName;
use crate::settings::Settings;
use crate::store::{Store, Verified};

/// Reads the files of models again and compares them with what was pulled. Fails if one differs
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Examples:\n  sconce verify\n  sconce verify smollm2:135m --output json\n\n\
                  Exit status 6 says that files differ."
)]
pub struct Verify {
    /// The models, as `sconce list` shows them; all of them without one
    names: Vec<ModelName>,

    #[command(flatten)]
    output: Output,
}

impl Verify {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<()> {
        let store = Store::new(Settings::from_env()?.home);
        let names = self.names;
        let verified = tokio::task::spawn_blocking(move || store.verify(&names)).await??;
        let rows: Vec<_> = verified.iter().map(row).collect();
        self.output.print(&rows, || verified.iter().map(line).collect())?;
        match verified.iter().filter(|model| model.damage.is_some()).count() {
            0 => Ok(()),
            num_damaged => Err(Fault::Damaged { num_damaged, num_models: verified.len() }.into()),
        }
    }
}

fn line(Verified { manifest, damage }: &Verified) -> String {
    match damage {
        None => format!("ok       {}  {}\n", manifest.id, BinaryBytes(manifest.size())),
        Some(damage) => format!("DAMAGED  {}  {damage}\n", manifest.id),
    }
}

fn row(Verified { manifest, damage }: &Verified) -> Value {
    let damage = damage.as_ref().map(ToString::to_string);
    let (id, name, version) = (&manifest.id, &manifest.name, &manifest.version);
    json!({ "id": id, "name": name, "version": version, "damage": damage })
}
