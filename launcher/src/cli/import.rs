//! `sconce import PATH`.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use indicatif::BinaryBytes;

use super::Fault;
use super::output::Output;
use crate::name::ModelId;
use crate::settings::Settings;
use crate::store::{Imported, Store, Transfer};

/// Takes a GGUF file or a folder of safetensors into the store, hashed, as a version of a model
///
/// By hard link where the store is on the same file system: nothing is copied, and the file has two
/// names. Whoever writes into it under its old name damages the version, which `sconce verify` and
/// every start notice; `--copy` gives the store its own.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  sconce import ./llama-q4.gguf
  sconce import /models/qwen3 --name qwen3 --copy")]
pub struct Import {
    /// The file or folder
    path: PathBuf,

    /// What to call the model; as the file or folder otherwise
    #[arg(long, value_name = "NAME")]
    name: Option<ModelId>,

    /// Copy the files, even where they could be linked
    #[arg(long)]
    copy: bool,

    #[command(flatten)]
    output: Output,
}

impl Import {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<()> {
        let store = Store::new(Settings::from_env()?.home);
        let model = match self.name {
            Some(name) => name,
            None => name_of(&self.path)?,
        };
        let transfer = if self.copy { Transfer::Copy } else { Transfer::Link };
        let path = self.path.clone();
        let imported = tokio::task::spawn_blocking(move || store.import(&path, model, transfer));
        let Imported { manifest, num_copied } = imported.await?.map_err(Fault::Import)?;
        self.output.print(&manifest, || {
            let how = match num_copied {
                0 => "linked",
                n if n == manifest.files.len() => "copied",
                _ => "partly copied",
            };
            let size = BinaryBytes(manifest.size());
            format!("imported {} as {}: {size}, {how}\n", self.path.display(), manifest.id)
        })
    }
}

fn name_of(path: &std::path::Path) -> anyhow::Result<ModelId> {
    let path = std::fs::canonicalize(path).with_context(|| path.display().to_string())?;
    let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
    let name = name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    name.parse().context("choose a name with --name")
}
