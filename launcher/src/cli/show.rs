//! `sconce show NAME`.

use clap::Args;
use indicatif::BinaryBytes;

use super::output::{Output, ago, table};
use crate::name::ModelName;
use crate::settings::Settings;
use crate::store::{Listed, Origin, Store};

/// Shows where a version came from, and its files with their SHA-256
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Examples:\n  sconce show smollm2:135m\n  sconce show smollm2@1 --output json"
)]
pub struct Show {
    /// The model, as `sconce list` shows it: its newest version, unless one is named
    name: ModelName,

    #[command(flatten)]
    output: Output,
}

impl Show {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<()> {
        let store = Store::new(Settings::from_env()?.home);
        let listed = tokio::task::spawn_blocking(move || store.show(&self.name)).await??;
        self.output.print(&listed, || page(&listed))
    }
}

fn page(listed: &Listed) -> String {
    let manifest = &listed.manifest;
    let aliases: Vec<_> = listed.aliases.iter().map(ToString::to_string).collect();
    let used = match (listed.running, listed.last_used) {
        (true, _) => "running now".to_owned(),
        (false, Some(seconds)) => ago(seconds),
        (false, None) => "never".to_owned(),
    };
    let aliases = if aliases.is_empty() { "none".to_owned() } else { aliases.join(" ") };
    let mut rows = [
        ["version", &manifest.id.to_string()],
        match manifest.base() {
            Some(base) => ["made of", base],
            None => ["pulled as", &manifest.name],
        },
        ["aliases", &aliases],
        ["content", &manifest.version],
        ["source", &manifest.source.to_string()],
        ["size", &BinaryBytes(listed.size).to_string()],
        ["last used", &used],
        ["model", &manifest.model.display().to_string()],
    ]
    .map(|row| row.map(str::to_owned).to_vec())
    .to_vec();
    if let Some(defaults) = &manifest.defaults {
        rows.push(vec!["defaults".to_owned(), defaults.to_string()]);
    }
    let mut files = vec![["FILE", "SIZE", "SHA256"].map(str::to_owned).to_vec()];
    for file in &manifest.files {
        let found = match file.origin {
            Origin::Pulled => String::new(),
            Origin::Found => "was there before".to_owned(),
        };
        let size = BinaryBytes(file.size).to_string();
        files.push(vec![file.name.clone(), size, file.sha256.to_string(), found]);
    }
    format!("{}\n{}", table(&rows), table(&files))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::store::Manifest;

    #[test]
    fn every_file_has_a_line_with_its_hash() {
        let hash = "ab".repeat(32);
        let file = |name: &str, origin: &str| {
            json!({
                "name": name, "path": "/x", "size": 2048, "sha256": hash, "modified_ns": 1,
                "origin": origin,
            })
        };
        let manifest: Manifest = serde_json::from_value(json!({
            "format": 2, "id": "tiny@2", "name": "tiny:1", "version": "0123456789abcdef",
            "model": "/m/x.gguf",
            "source": {"kind": "hub", "repo": "owner/repo", "commit": "0123456789"},
            "files": [file("x.gguf", "pulled"), file("tokenizer.json", "found")], "created": 1,
        }))
        .unwrap();
        let aliases = vec!["tiny:prod".parse().unwrap()];
        let listed = Listed { manifest, aliases, size: 4096, last_used: None, running: true };

        let page = page(&listed);

        assert!(page.starts_with("version    tiny@2\npulled as  tiny:1\n"), "{page}");
        assert!(page.contains("aliases    tiny:prod\n"), "{page}");
        assert!(page.contains("source     hf:owner/repo@01234567\n"), "{page}");
        assert!(page.contains("last used  running now\n"), "{page}");
        assert!(page.contains(&format!("x.gguf          2.00 KiB  {hash}\n")), "{page}");
        assert!(page.ends_with(&format!("{hash}  was there before\n")), "{page}");
    }
}
