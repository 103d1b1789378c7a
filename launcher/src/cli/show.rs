//! `sconce show NAME`.

use std::io::Write;

use anyhow::Context;
use clap::Args;
use indicatif::BinaryBytes;

use crate::name::ModelName;
use crate::settings::Settings;
use crate::store::{Error, Manifest, Origin, Store};

/// Shows where a model came from, and its files with their SHA-256
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  sconce show smollm2:135m\n  sconce show smollm2:135m --json")]
pub struct Show {
    /// The model, as `sconce list` shows it
    name: ModelName,

    /// Print JSON: the manifest, as the store holds it
    #[arg(long)]
    json: bool,
}

impl Show {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<()> {
        let store = Store::new(Settings::from_env()?.home);
        let name = self.name.to_string();
        let found =
            tokio::task::spawn_blocking(move || store.find(&name)?.ok_or(Error::Absent(name)));
        let manifest = found.await??;
        let text = match self.json {
            true => serde_json::to_string_pretty(&manifest)? + "\n",
            false => page(&manifest),
        };
        std::io::stdout().lock().write_all(text.as_bytes()).context("printing the model")
    }
}

fn page(manifest: &Manifest) -> String {
    let size = BinaryBytes(manifest.size());
    let Manifest { name, source, version, model, files, .. } = manifest;
    let mut text = format!(
        "name     {name}\nversion  {version}\nsource   {source}\nsize     {size}\nmodel    {}\n\n",
        model.display()
    );
    let width = files.iter().map(|file| file.name.len()).max().unwrap_or(0).max(4);
    text.push_str(&format!("{:width$}  {:>12}  {:64}\n", "FILE", "SIZE", "SHA256"));
    for file in files {
        let size = BinaryBytes(file.size).to_string();
        let found = match file.origin {
            Origin::Pulled => "",
            Origin::Found => "  was there before",
        };
        text.push_str(&format!("{:width$}  {size:>12}  {}{found}\n", file.name, file.sha256));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

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
            "format": 1, "name": "tiny:1", "version": "0123456789abcdef", "model": "/m/x.gguf",
            "source": {"kind": "hub", "repo": "owner/repo", "commit": "0123456789"},
            "files": [file("x.gguf", "pulled"), file("tokenizer.json", "found")], "created": 1,
        }))
        .unwrap();

        let page = page(&manifest);

        assert!(page.starts_with("name     tiny:1\nversion  0123456789abcdef\n"), "{page}");
        assert!(page.contains("source   hf:owner/repo@01234567\n"), "{page}");
        assert!(page.contains(&format!("x.gguf              2.00 KiB  {hash}\n")), "{page}");
        assert!(page.ends_with(&format!("{hash}  was there before\n")), "{page}");
    }
}
