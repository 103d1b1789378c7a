//! `sconce up NAME…`: models, their workers, a router, and what to paste to try it.

mod banner;
mod detach;
mod launch;
mod live;
mod notify;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use futures::future::BoxFuture;

pub(super) use banner::{Access, Ready};
pub(super) use detach::{Detached, last_lines};
use launch::Launch;

use super::Fault;
use super::fit::FitArgs;
use super::output::Output;
use crate::controller::{Keeping, LendKey, RouterConfig, Served, WorkerConfig};
use crate::fleet::{Scale, WHOLE};
use crate::name::{ModelId, ModelName};
use crate::servers::{Mode, Servers};
use crate::settings::{Network, Settings};
use crate::store::files::create_private;
use crate::store::{Check, Store};

/// Pulls models if needed, and serves them behind one router
///
/// Looks first whether they fit into memory, as `sconce plan` does. While it serves, `sconce start`,
/// `promote`, `rollback`, `scale` and `unload` change what is served, and `sconce status` tells.
#[derive(Args, Clone, Debug)]
#[command(visible_alias = "serve")]
#[command(after_help = "\
Examples:
  sconce up smollm2:135m
  sconce up -d smollm2:135m && sconce logs -f smollm2:135m
  sconce up smollm2:prod --port 9000 --concurrency 16 --context 4096
  sconce up -d smollm2:prod qwen3:prod --memory-share qwen3=60%
  sconce up -d smollm2:prod --min 0 --max 4
  sconce up -d smollm2:135m --output json        where it is, and the first key, for a program
  sconce up smollm2:135m --no-live 2> log
  sconce up ./llama.gguf --no-auth -- --kv-cache-dtype int8")]
pub struct Up {
    /// `name:tag`, `name@number`, `hf:owner/repo[@revision][:file]`, or a path
    #[arg(required = true, value_name = "MODEL")]
    names: Vec<ModelName>,

    /// The port to listen on; 0 lets the system choose
    #[arg(long, env = "SCONCE_PORT", default_value_t = 8000)]
    port: u16,

    /// The address to listen on
    #[arg(long, env = "SCONCE_HOST", default_value = "127.0.0.1")]
    host: IpAddr,

    /// What clients call the model, where its own name will not do. Of one model only
    #[arg(long, value_name = "NAME", value_parser = served_name)]
    served_model_name: Option<String>,

    /// The router's database of API keys; `sconce.db` in the store otherwise
    #[arg(long, env = "SCONCE_DATABASE", value_name = "FILE")]
    database: Option<PathBuf>,

    #[command(flatten)]
    fit: FitArgs,

    #[command(flatten)]
    scale: ScaleArgs,

    /// The part of the memory that the versions of a model may take together, such as
    /// `smollm2=25%`; each gets an equal part otherwise. May be repeated
    #[arg(long = "memory-share", value_name = "MODEL=PERCENT", value_parser = memory_share)]
    shares: Vec<(ModelId, u16)>,

    /// Threads of the forward pass
    #[arg(long, value_name = "COUNT")]
    threads: Option<std::num::NonZeroUsize>,

    /// Serve in the background, and return once that can be used: see `sconce ps`, `logs`, `stop`
    #[arg(short, long)]
    detach: bool,

    /// This process is the one in the background
    #[arg(long, hide = true)]
    in_background: bool,

    /// A service manager runs this process: router and workers outlive it, and the next one goes on
    /// with them. As `--detach`, without leaving
    #[arg(long, conflicts_with = "detach")]
    service: bool,

    /// Nobody else is to find this server
    #[arg(long, hide = true)]
    unlisted: bool,

    /// Log lines alone, where a terminal would have a live view of what is served. So is `NO_COLOR`
    #[arg(long)]
    no_live: bool,

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

    #[command(flatten)]
    output: Output,

    /// Flags for the worker, as `sconce worker --help` lists them
    #[arg(last = true, value_name = "WORKER FLAGS")]
    worker_args: Vec<OsString>,
}

/// How many workers each model has.
#[derive(Args, Clone, Copy, Debug)]
struct ScaleArgs {
    /// Workers of each model
    #[arg(long, value_name = "COUNT", conflicts_with_all = ["min", "max"])]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=64))]
    replicas: Option<u32>,

    /// Workers of each model while little is asked of it. 0: the first request starts one, and one
    /// that is not used ends
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(0..=64))]
    min: Option<u32>,

    /// Workers of each model while much is asked of it
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=64))]
    max: Option<u32>,
}

impl ScaleArgs {
    fn scale(self) -> Result<Scale, Fault> {
        let scale = match (self.replicas, self.min, self.max) {
            (Some(count), ..) => Scale { min: count, max: count },
            (None, min, max) => {
                let min = min.unwrap_or(1);
                Scale { min, max: max.unwrap_or(min.max(1)) }
            }
        };
        if scale.min > scale.max {
            return Err(Fault::Scale { min: scale.min, max: scale.max });
        }
        Ok(scale)
    }
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
    /// Has the router let the launcher in, to ask golden prompts.
    pub lend_key: LendKey,
    /// Variables that a router heeds.
    pub router_variables: Vec<String>,
    /// Variables that a worker heeds.
    pub worker_variables: Vec<String>,
}

impl Up {
    /// Runs the command until it is told to stop (SIGINT, SIGTERM; in the foreground SIGHUP).
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
            // A terminal that closes takes nothing with it. Not permitted: this leads a session already,
            // which it left the terminal for before it started itself again. Asking for the session
            // instead fails in a container whose session began outside: it has no number there.
            match rustix::process::setsid() {
                Ok(_) | Err(rustix::io::Errno::PERM) => {}
                Err(error) => return Err(error).context("leaving the terminal"),
            }
        }
        self.run_with(settings, program, hooks, &mut std::io::stdout()).await
    }

    /// Pulls here, where its progress is seen, and serves in the background.
    async fn run_detached(self, settings: Settings, program: PathBuf) -> anyhow::Result<()> {
        self.scale.scale()?;
        let servers = Servers::new(&settings.home);
        let served = self.pull(settings).await?;
        let name = served.into_iter().next().map(|served| served.name).unwrap_or_default();
        let folder = std::env::current_dir().context("finding this folder")?;
        let server = Detached { program, name, args: detach::own_args()?, folder };
        server.start(&servers, self.output).await
    }

    /// Brings all models here.
    async fn pull(&self, settings: Settings) -> anyhow::Result<Vec<Served>> {
        let scale = self.scale.scale()?;
        if self.served_model_name.is_some() && self.names.len() > 1 {
            return Err(Fault::OneName.into());
        }
        let puller = super::puller(settings)?;
        let check = if self.verify { Check::Always } else { Check::IfTouched };
        let mut served: Vec<Served> = Vec::new();
        for name in &self.names {
            let pulled = puller.pull(name, check).await?;
            let own = pulled.clone().into_model(name).name;
            let name = self.served_model_name.clone().unwrap_or(own);
            let name = served_name(&name).map_err(|reason| {
                anyhow::anyhow!("`{name}`: {reason}; choose one with --served-model-name")
            })?;
            if served.iter().any(|other| other.name == name) {
                return Err(Fault::NamedTwice(name).into());
            }
            served.push(Served { name, pulled, scale });
        }
        Ok(served)
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
        let pulling = Instant::now();
        let served = self.pull(settings.clone()).await?;
        let files = pulling.elapsed();
        let shares = self.memory_shares(&served, &Store::new(settings.home.clone()))?;
        let name = served.first().map(|served| served.name.clone()).unwrap_or_default();
        let servers = Servers::new(&settings.home);
        let mode = self.mode();
        let registration = match (self.unlisted, served.first()) {
            (false, Some(first)) => {
                let version = first.pulled.manifest().map(|manifest| manifest.id.to_string());
                let args = detach::own_args()?;
                Some(match mode {
                    Mode::Foreground => servers.register_foreground(&name, args, version).await?,
                    _ => servers.register(&name, args, (version, mode)).await?,
                })
            }
            _ => None,
        };
        // What outlives its launcher is found again by what Linux alone tells of processes.
        let keeping = match mode != Mode::Foreground && cfg!(target_os = "linux") {
            true => Keeping::Outliving(servers.own_folder(&name)),
            false => Keeping::Tied,
        };
        let is_live = mode == Mode::Foreground && !self.no_live && live::is_possible();
        let router_variables = values(&hooks.router_variables);
        let worker_variables = values(&hooks.worker_variables);
        let part = part(&served, &shares);
        let drain_timeout = Duration::from_secs(self.drain_timeout.into());
        let launch = Launch {
            mode,
            registration,
            is_live,
            output: self.output,
            files,
            served,
            workers: WorkerConfig {
                program: program.clone(),
                threads: self.threads,
                fit: self.fit,
                args: self.worker_args,
                variables: worker_variables,
                part,
                shares,
            },
            router: RouterConfig {
                program,
                listen: SocketAddr::new(self.host, self.port),
                database: self.database.unwrap_or_else(|| settings.home.join("sconce.db")),
                no_auth: self.no_auth,
                variables: router_variables,
                drain_timeout,
            },
            keeping,
        };
        launch.run(&settings, hooks, out).await
    }

    fn mode(&self) -> Mode {
        match (self.in_background, self.service) {
            (true, _) => Mode::Background,
            (false, true) => Mode::Service,
            (false, false) => Mode::Foreground,
        }
    }

    /// The shares of models, each of which is served or can be.
    fn memory_shares(
        &self,
        served: &[Served],
        store: &Store,
    ) -> anyhow::Result<BTreeMap<ModelId, u16>> {
        let sum: u32 = self.shares.iter().map(|(_, share)| u32::from(*share)).sum();
        if sum > u32::from(WHOLE) {
            return Err(Fault::Shares(sum / 100).into());
        }
        let is_served = |model: &ModelId| {
            let manifests = served.iter().filter_map(|served| served.pulled.manifest());
            manifests.into_iter().any(|manifest| manifest.id.model == *model)
        };
        let mut shares = BTreeMap::new();
        for (model, share) in &self.shares {
            if !is_served(model) && store.find(&ModelName::Model(model.clone()))?.is_none() {
                return Err(Fault::ShareOfNone(model.clone()).into());
            }
            if shares.insert(model.clone(), *share).is_some() {
                return Err(Fault::SharedTwice(model.clone()).into());
            }
        }
        Ok(shares)
    }
}

/// What each worker of a model without a share of its own may take.
fn part(served: &[Served], shares: &BTreeMap<ModelId, u16>) -> u16 {
    let given = shares.values().fold(0, |sum: u16, share| sum.saturating_add(*share));
    let has_share = |served: &&Served| {
        let manifest = served.pulled.manifest();
        manifest.is_some_and(|manifest| shares.contains_key(&manifest.id.model))
    };
    let num_others = served.iter().filter(|served| !has_share(served)).count();
    let num_workers = served.iter().map(|served| served.scale.min).max().unwrap_or(1).max(1);
    let num = u16::try_from(num_others.max(1)).unwrap_or(WHOLE);
    let num = num.saturating_mul(u16::try_from(num_workers).unwrap_or(WHOLE));
    WHOLE.saturating_sub(given) / num.max(1)
}

/// What the environment says to a process, for those that are started with it.
fn values(names: &[String]) -> Vec<(String, OsString)> {
    names.iter().filter_map(|name| Some((name.clone(), std::env::var_os(name)?))).collect()
}

/// `model=25%`, in parts of 10,000.
fn memory_share(text: &str) -> Result<(ModelId, u16), String> {
    let expected = || "expected MODEL=PERCENT, such as smollm2=25%".to_owned();
    let (model, share) = text.split_once('=').ok_or_else(expected)?;
    let model = model.parse().map_err(|error: crate::name::Error| error.to_string())?;
    Ok((model, super::percent(share)?))
}

/// A model's name goes into JSON, URLs and a shell's command line.
fn served_name(name: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-+:/@".contains(c);
    if name.is_empty() || name.len() > 200 || !name.chars().all(is_plain) {
        return Err("a model's name has letters, digits and `._-+:/@` only".to_owned());
    }
    Ok(name.to_owned())
}
