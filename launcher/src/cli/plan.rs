//! `sconce plan NAME`.

use std::ffi::OsString;

use anyhow::Context;
use clap::Args;
use serde_json::json;

use super::fit::{FitArgs, Fitted, Room, Subject, fit};
use super::output::Output;
use crate::name::ModelName;
use crate::pull::Pulled;
use crate::settings::{Network, Settings};
use crate::store::Check;

/// Says whether a model fits into memory, and what context and KV cache it would get. Loads nothing
///
/// `sconce up` does the same before it starts. Memory is what the machine has, or less in a control
/// group with a limit; of a GPU, what its driver says is free, as far as `--gpu-memory-utilization` goes.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  sconce plan smollm2:135m
  sconce plan smollm2:135m --concurrency 8 --context 4096
  sconce plan ./llama.gguf --output json -- --kv-cache-dtype int8
  sconce plan smollm2:135m -- --device cuda:1

Exit status 7 says that it does not fit.")]
pub struct Plan {
    /// A model of the store, as `sconce list` shows it, or a path
    name: ModelName,

    #[command(flatten)]
    fit: FitArgs,

    #[command(flatten)]
    output: Output,

    /// Flags for the worker, as `sconce worker --help` lists them
    #[arg(last = true, value_name = "WORKER FLAGS")]
    worker_args: Vec<OsString>,
}

impl Plan {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<()> {
        let mut settings = Settings::from_env()?;
        // A plan looks at what is here.
        settings.hub.network = Network::Offline;
        let program = std::env::current_exe().context("finding this program")?;
        let puller = super::puller(settings)?;
        let store = puller.store().clone();
        if !matches!(self.name, ModelName::Path(_)) {
            store.get(&self.name)?;
        }
        let pulled = puller.pull(&self.name, Check::IfTouched).await?;
        let manifest = pulled.manifest().cloned();
        let path = match &pulled {
            Pulled::Local(model) => model.path.clone(),
            Pulled::Present(manifest) | Pulled::Fetched(manifest) => manifest.model.clone(),
        };
        let defaults = |given: &[OsString]| match &manifest {
            Some(manifest) => Ok(store.worker_args(manifest, given)?),
            None => Ok(Vec::new()),
        };
        let name = self.name.to_string();
        let of = Subject { name: &name, program: &program, path: &path, room: Room::ALL };
        let fitted = fit(of, self.fit, &self.worker_args, defaults).await?;
        let Fitted { plan, description, args, .. } = fitted;
        let args: Vec<_> = args.iter().map(|word| word.to_string_lossy()).collect();
        let needs = description.needs.as_ref();
        let value = json!({
            "model": self.name.to_string(), "task": description.task, "device": description.device,
            "isa": needs.map(|needs| &needs.isa), "plan": plan, "worker_flags": args,
        });
        self.output.print(&value, || {
            let Some(plan) = &plan else { return format!("{} takes no memory\n", self.name) };
            let isa = needs.map_or("", |needs| needs.isa.as_str());
            let on = match description.device.as_str() {
                "cpu" => "the processor".to_owned(),
                gpu => format!("GPU {gpu}"),
            };
            format!("{}, for {on} ({isa})\n{plan}", self.name)
        })
    }
}
