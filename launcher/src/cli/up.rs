//! `sconce up NAME`: a model, a worker, a router, and what to paste to try it.

mod banner;
mod detach;
mod launch;

use std::ffi::OsString;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use futures::future::BoxFuture;

pub(super) use detach::Detached;
pub use launch::Launch;

use super::fit::{FitArgs, fit};
use crate::name::ModelName;
use crate::servers::Servers;
use crate::settings::{Network, Settings};
use crate::store::Check;
use crate::store::files::create_private;

/// Pulls a model if needed, and serves it
///
/// Looks first whether it fits into memory, as `sconce plan` does.
#[derive(Args, Clone, Debug)]
#[command(visible_alias = "serve")]
#[command(after_help = "\
Examples:
  sconce up smollm2:135m
  sconce up -d smollm2:135m && sconce logs -f smollm2:135m
  sconce up smollm2:prod --port 9000 --concurrency 16 --context 4096
  sconce up ./llama.gguf --no-auth -- --kv-cache-dtype int8")]
pub struct Up {
    /// `name:tag`, `name@number`, `hf:owner/repo[@revision][:file]`, or a path
    name: ModelName,

    /// The port to listen on; 0 lets the system choose
    #[arg(long, env = "SCONCE_PORT", default_value_t = 8000)]
    port: u16,

    /// The address to listen on
    #[arg(long, env = "SCONCE_HOST", default_value = "127.0.0.1")]
    host: IpAddr,

    /// What clients call the model, where its own name will not do
    #[arg(long, value_name = "NAME", value_parser = served_name)]
    served_model_name: Option<String>,

    /// The router's database of API keys; `sconce.db` in the store otherwise
    #[arg(long, env = "SCONCE_DATABASE", value_name = "FILE")]
    database: Option<PathBuf>,

    #[command(flatten)]
    fit: FitArgs,

    /// Threads of the forward pass
    #[arg(long, value_name = "COUNT")]
    threads: Option<std::num::NonZeroUsize>,

    /// Serve in the background, and return once that can be used: see `sconce ps`, `logs`, `stop`
    #[arg(short, long)]
    detach: bool,

    /// This process is the one in the background
    #[arg(long, hide = true)]
    in_background: bool,

    /// Let everyone in, whoever can reach the address
    #[arg(long)]
    no_auth: bool,

    /// Hash every file of the model again before it is loaded
    #[arg(long)]
    verify: bool,

    /// Use what is on this machine; never the network
    #[arg(long)]
    offline: bool,

    /// Seconds that running requests get at shutdown
    #[arg(long, env = "SCONCE_DRAIN_TIMEOUT", value_name = "SECONDS", default_value_t = 60)]
    drain_timeout: u32,

    /// Flags for the worker, as `sconce worker --help` lists them
    #[arg(last = true, value_name = "WORKER FLAGS")]
    worker_args: Vec<OsString>,
}

/// Makes sure that the database has an API key: creates it when there is none, and returns it, for
/// it can't be shown again.
pub type FirstKey =
    Box<dyn FnOnce(PathBuf) -> BoxFuture<'static, anyhow::Result<Option<String>>> + Send>;

/// What `up` needs from other parts of the binary.
pub struct Hooks {
    /// When `main` began. The process may be older: under `cargo run` it is the one that compiled.
    pub started: Instant,
    /// Makes sure that the router's database has an API key.
    pub ensure_first_key: FirstKey,
}

impl Up {
    /// Runs the command until it is told to stop (SIGINT, SIGTERM, SIGHUP).
    pub async fn run(self, hooks: Hooks) -> anyhow::Result<()> {
        let mut settings = Settings::from_env()?;
        if self.offline {
            settings.hub.network = Network::Offline;
        }
        let program = std::env::current_exe().context("finding this program")?;
        if self.detach {
            return self.run_detached(settings, program).await;
        }
        if self.in_background {
            // A terminal that closes takes nothing with it.
            rustix::process::setsid().context("leaving the terminal")?;
        }
        self.run_with(settings, program, hooks, &mut std::io::stdout()).await
    }

    /// Pulls here, where its progress is seen, and serves in the background.
    async fn run_detached(self, settings: Settings, program: PathBuf) -> anyhow::Result<()> {
        let check = if self.verify { Check::Always } else { Check::IfTouched };
        let servers = Servers::new(&settings.home);
        let pulled = super::puller(settings)?.pull(&self.name, check).await?;
        let own = pulled.into_model(&self.name).name;
        let name = self.served_model_name.unwrap_or(own);
        let folder = std::env::current_dir().context("finding this folder")?;
        Detached { program, name, args: detach::own_args()?, folder }.start(&servers).await
    }

    /// Runs the command with another environment and another program for worker and router.
    pub async fn run_with(
        self,
        settings: Settings,
        program: PathBuf,
        hooks: Hooks,
        out: &mut impl Write,
    ) -> anyhow::Result<()> {
        create_private(&settings.home)
            .with_context(|| format!("creating {}", settings.home.display()))?;
        let puller = super::puller(settings.clone())?;
        let check = if self.verify { Check::Always } else { Check::IfTouched };
        let pulled = puller.pull(&self.name, check).await?;
        let _in_use = match pulled.manifest() {
            Some(manifest) => Some(puller.store().hold(&manifest.id).await?),
            None => None,
        };
        let manifest = pulled.manifest().cloned();
        let mut model = pulled.into_model(&self.name);
        if let Some(name) = self.served_model_name {
            model.name = name;
        }
        model.name = served_name(&model.name).map_err(|reason| {
            anyhow::anyhow!("`{}`: {reason}; choose one with --served-model-name", model.name)
        })?;
        let defaults = |given: &[OsString]| match &manifest {
            Some(manifest) => Ok(puller.store().worker_args(manifest, given)?),
            None => Ok(Vec::new()),
        };
        let fitted = fit((&program, &model.path), self.fit, &self.worker_args, defaults).await?;
        for reason in fitted.plan.iter().flat_map(|plan| &plan.reasons) {
            tracing::info!("{reason}");
        }
        let registration = if self.in_background {
            let version = manifest.as_ref().map(|manifest| manifest.id.to_string());
            let servers = Servers::new(&settings.home);
            Some(servers.register(&model.name, detach::own_args()?, version).await?)
        } else {
            None
        };
        let launch = Launch {
            program,
            registration,
            model,
            listen: SocketAddr::new(self.host, self.port),
            database: self.database.unwrap_or_else(|| settings.home.join("sconce.db")),
            threads: self.threads,
            no_auth: self.no_auth,
            drain_timeout: Duration::from_secs(self.drain_timeout.into()),
            worker_args: fitted.args,
        };
        launch.run(&settings, hooks, out).await
    }
}

/// A model's name goes into JSON, URLs and a shell's command line.
fn served_name(name: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-+:/@".contains(c);
    if name.is_empty() || name.len() > 200 || !name.chars().all(is_plain) {
        return Err("a model's name has letters, digits and `._-+:/@` only".to_owned());
    }
    Ok(name.to_owned())
}
