//! `sconce list`.

use clap::Args;
use indicatif::BinaryBytes;

use super::output::{Output, ago, table};
use crate::settings::Settings;
use crate::store::{Listed, Store};

/// Lists the models on this machine: their versions, and which are running
#[derive(Args, Clone, Debug)]
#[command(visible_alias = "ls")]
#[command(after_help = "Examples:\n  sconce list\n  sconce list --output json")]
pub struct List {
    #[command(flatten)]
    output: Output,
}

impl List {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<()> {
        let store = Store::new(Settings::from_env()?.home);
        let listed = tokio::task::spawn_blocking(move || store.list()).await??;
        self.output.print(&listed, || page(&listed))
    }
}

fn page(listed: &[Listed]) -> String {
    if listed.is_empty() {
        return "no models yet; `sconce pull smollm2:135m` brings a small one\n".to_owned();
    }
    let head = ["VERSION", "NAMES", "SIZE", "LAST USED", "SOURCE"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(listed.iter().map(row));
    table(&rows)
}

fn row(listed: &Listed) -> Vec<String> {
    let manifest = &listed.manifest;
    let mut names: Vec<_> = listed.aliases.iter().map(ToString::to_string).collect();
    // What came from elsewhere by its full name has that in its source.
    let is_name = !manifest.name.contains('/') && manifest.base().is_none();
    if is_name && !names.contains(&manifest.name) {
        names.push(manifest.name.clone());
    }
    let used = match (listed.running, listed.last_used) {
        (true, _) => "running".to_owned(),
        (false, Some(seconds)) => ago(seconds),
        (false, None) => "never".to_owned(),
    };
    let size = BinaryBytes(listed.size).to_string();
    let source = match manifest.base() {
        Some(base) => format!("{base}, with defaults of its own"),
        None => manifest.source.to_string(),
    };
    vec![manifest.id.to_string(), names.join(" "), size, used, source]
}
