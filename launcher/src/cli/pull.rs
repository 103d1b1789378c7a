//! `sconce pull NAME`, and `sconce sync FILE`.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use indicatif::BinaryBytes;
use serde_json::json;

use super::Fault;
use super::output::Output;
use crate::hub::Filter;
use crate::name::{ModelId, ModelName};
use crate::pull::{Freshness, Pulled, Wish};
use crate::settings::{Network, Settings};
use crate::store::{Check, Extras, Lock, LockError};

/// Brings a model onto this machine, verified. An interrupted pull goes on where it stopped
///
/// What a revision stands for is settled by the first pull: the commit and the SHA-256 of every file
/// are noted, and what came is a version with a number, such as `smollm2@1`, that never changes.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  sconce pull smollm2:135m
  sconce pull hf:Qwen/Qwen3-0.6B@main --name qwen3
  sconce pull hf:Qwen/Qwen3-0.6B@main --update     another version, if the branch has moved
  sconce pull hf:Qwen/Qwen3-0.6B-GGUF --include '*Q8_0*'
  HF_TOKEN=hf_… sconce pull hf:meta-llama/Llama-3.2-1B    whose terms your account accepted
  HF_ENDPOINT=https://mirror.example sconce pull hf:Qwen/Qwen3-0.6B
  sconce pull --locked models.lock                 as `sconce sync models.lock`

Exit status 3 says that the hub or the catalogue has no such model, 5 that the network may not be
used, 6 that other files came than were pinned.")]
pub struct Pull {
    /// `name:tag`, `hf:owner/repo[@revision][:file]`, a version to mend, or a path
    #[arg(required_unless_present = "locked")]
    name: Option<ModelName>,

    /// What to call the model here; as its repository or catalogue entry otherwise
    #[arg(long = "name", id = "name_as", value_name = "NAME")]
    name_as: Option<ModelId>,

    /// Ask the source what it has now. What differs is a new version; the old ones stay
    #[arg(long)]
    update: bool,

    /// Only files of the repository that this pattern fits; may be repeated. `*` goes over folders
    /// too. A folder's model is served from there. The hub is asked even if a model is here
    #[arg(long, value_name = "PATTERN")]
    include: Vec<String>,

    /// No file of the repository that this pattern fits; may be repeated
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,

    /// Hash every file again, even of a model that was pulled before
    #[arg(long)]
    verify: bool,

    /// Bring exactly the versions of this lock file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["name", "name_as", "update", "include", "exclude", "verify"])]
    locked: Option<PathBuf>,

    /// Use what is on this machine; never the network
    #[arg(long)]
    offline: bool,

    #[command(flatten)]
    output: Output,
}

/// Makes the store what a `models.lock` says: the same versions under the same numbers, checked
/// against its hashes
///
/// Each store keeps its own `models.lock` in SCONCE_HOME; every change is a new generation of it.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  sconce sync models.lock              versions, names and aliases of another machine
  sconce sync models.lock --prune      and nothing else
  sconce sync --generation 12          as this store was before")]
pub struct Sync {
    /// The lock file
    #[arg(required_unless_present = "generation")]
    file: Option<PathBuf>,

    /// An earlier generation of this store, instead of a file
    #[arg(long, value_name = "NUMBER", conflicts_with = "file")]
    generation: Option<u64>,

    /// Remove every version and alias that the lock file doesn't have
    #[arg(long)]
    prune: bool,

    /// Use what is on this machine; never the network
    #[arg(long)]
    offline: bool,

    #[command(flatten)]
    output: Output,
}

impl Pull {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<()> {
        let Some(name) = self.name else {
            let sync = Sync {
                file: self.locked,
                generation: None,
                prune: false,
                offline: self.offline,
                output: self.output,
            };
            return sync.run().await;
        };
        if let (ModelName::Path(path), true) = (&name, self.update || self.name_as.is_some()) {
            return Err(Fault::Path(path.display().to_string()).into());
        }
        let wish = Wish {
            check: if self.verify { Check::Always } else { Check::IfTouched },
            freshness: if self.update { Freshness::Newest } else { Freshness::Known },
            model: self.name_as,
            filter: Filter::new(&self.include, &self.exclude)?,
        };
        let pulled = super::puller(settings(self.offline)?)?.pull_as(&name, &wish).await?;
        let value = match &pulled {
            Pulled::Local(model) => json!({ "fetched": false, "model": model.path }),
            Pulled::Present(it) | Pulled::Fetched(it) => json!({
                "fetched": matches!(pulled, Pulled::Fetched(_)),
                "id": it.id,
                "version": it.version,
                "model": it.model,
            }),
        };
        self.output.print(&value, || match &pulled {
            Pulled::Present(it) if self.verify => {
                format!("{name} is here and intact: {} {}\n", it.id, it.model.display())
            }
            Pulled::Present(it) if self.update => {
                format!("{name} is up to date: {} {}\n", it.id, it.model.display())
            }
            Pulled::Present(it) => format!("{name} is here: {} {}\n", it.id, it.model.display()),
            Pulled::Fetched(it) => format!("pulled {name}: {} {}\n", it.id, it.model.display()),
            Pulled::Local(model) => format!("{} is a local model\n", model.path.display()),
        })
    }
}

impl Sync {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<()> {
        let puller = super::puller(settings(self.offline)?)?;
        let path = match (self.file, self.generation) {
            (Some(file), _) => file,
            (None, number) => puller.store().generation(number.unwrap_or_default()),
        };
        let read = path.clone();
        let lock = tokio::task::spawn_blocking(move || Lock::read(&read)).await??;
        let lock = lock.ok_or_else(|| {
            let source = std::io::Error::from(std::io::ErrorKind::NotFound);
            LockError::Io { path: path.clone(), source }
        })?;
        let extras = if self.prune { Extras::Remove } else { Extras::Keep };
        let synced = puller.sync(&lock, extras).await;
        let synced = synced.with_context(|| format!("following {}", path.display()))?;
        let removed: Vec<_> = synced.removed.iter().map(|removed| &removed.id).collect();
        let value =
            json!({ "present": synced.present, "fetched": synced.fetched, "removed": removed });
        self.output.print(&value, || {
            let present = synced.present.iter().map(|id| format!("here     {id}\n"));
            let fetched = synced.fetched.iter().map(|id| format!("fetched  {id}\n"));
            let removed = synced.removed.iter();
            let removed =
                removed.map(|it| format!("removed  {}, {} freed\n", it.id, BinaryBytes(it.freed)));
            present.chain(fetched).chain(removed).collect()
        })
    }
}

fn settings(is_offline: bool) -> anyhow::Result<Settings> {
    let mut settings = Settings::from_env()?;
    if is_offline {
        settings.hub.network = Network::Offline;
    }
    Ok(settings)
}
