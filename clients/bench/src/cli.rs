//! `sconce bench`, as it is typed.

mod compare;
mod load;
mod output;
mod work;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use sconce_client::Client;

use crate::assertion::Assertion;
use crate::live::{Live, Screen};
use crate::measure::Target;
use crate::run::{Plan, Stage, run};
use crate::schedule::{Load, Until};
use crate::slo::Slo;
use crate::summary::{About, Summary};
use crate::tokens::Counter;
use crate::units::seconds;
use crate::workload::Workload;
use crate::{machine, sweep};

/// Puts load on a server that speaks OpenAI's API, and reports what its users would feel
///
/// Needs no tokenizer: the server's `usage` counts tokens. Load is what one of --concurrency, --rate,
/// --ramp and --sweep says, or the times of a --trace; one request after the other otherwise.
#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "\
Examples:
  sconce bench --concurrency 8 --requests 200
  sconce bench --rate 5 --duration 60s --slo ttft=500ms,tpot=50ms
  sconce bench --rate 10 --burstiness 0.5 --input-tokens lognormal:512:400 --output-tokens 128
  sconce bench --ramp 1:20 --duration 2m --html report.html
  sconce bench --sweep concurrency --requests 64 --html report.html
  sconce bench --trace mooncake.jsonl --speed 2 --ignore-eos
  sconce bench --turns uniform:2:6 --shared-prefixes 4 --prefix-tokens 1000 --concurrency 8
  sconce bench --concurrency 4 --assert 'ttft.p99<800ms' --assert 'error_rate<1%' --output-json a.json
  sconce bench compare a.json b.json")]
pub struct Bench {
    #[command(subcommand)]
    command: Option<Command>,

    /// Where the API is: an address without a path means /v1 on it
    #[arg(long, env = "SCONCE_URL", default_value = "http://127.0.0.1:8000")]
    url: String,

    /// The API key, if the server wants one
    #[arg(long, env = "SCONCE_API_KEY", hide_env_values = true, value_name = "KEY")]
    api_key: Option<String>,

    /// The model; the server's first otherwise
    #[arg(long)]
    model: Option<String>,

    #[command(flatten)]
    load: load::LoadArgs,

    #[command(flatten)]
    work: work::WorkArgs,

    #[command(flatten)]
    output: output::OutputArgs,

    /// Requests that are sent before, one after the other, and not counted
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    warmup: usize,

    /// Longest silence of the server before a request has failed
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = seconds)]
    timeout: Duration,

    /// What a good request keeps to, from when it was scheduled: ttft, tpot and e2e
    #[arg(long, value_name = "ttft=500ms,tpot=50ms")]
    slo: Option<Slo>,

    /// What has to hold, or the command fails: `ttft.p99<800ms`, `error_rate<1%`, `goodput>=5`, …
    #[arg(long = "assert", value_name = "CONDITION")]
    assertions: Vec<Assertion>,

    /// Threads of this client. One is enough for tens of thousands of tokens a second
    #[arg(long, value_name = "COUNT", default_value = "1")]
    threads: NonZeroUsize,

    /// A tokenizer.json, or a directory with one: the model's, to compare the server's counts with. Not
    /// needed, and counted with after the run
    #[arg(long, value_name = "PATH")]
    tokenizer: Option<PathBuf>,

    /// What lengths, words and gaps are drawn from: the same seed draws the same
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    seed: u64,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    Compare(compare::Compare),
}

/// Why a bench failed that went well.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{failed} of {all} conditions do not hold")]
    Assertions { failed: usize, all: usize },
    #[error("not one of {0} requests was answered: {1}")]
    Nothing(usize, String),
}

impl Bench {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<()> {
        if let Some(Command::Compare(compare)) = self.command {
            return compare.run();
        }
        machine::raise_file_limit();
        let threads = self.threads.get();
        let mut runtime = match threads {
            1 => tokio::runtime::Builder::new_current_thread(),
            _ => tokio::runtime::Builder::new_multi_thread(),
        };
        if threads > 1 {
            runtime.worker_threads(threads);
        }
        let runtime = runtime.enable_all().build().context("starting the runtime")?;
        runtime.block_on(self.bench())
    }

    async fn bench(self) -> anyhow::Result<()> {
        let client = self.client()?;
        let counter = self.tokenizer.as_deref().map(Counter::open).transpose()?;
        let workload = self.work.workload(self.seed, self.load.most())?;
        let first = self.load.first(&workload)?;
        let until = self.load.until(&workload);
        let model = match &self.model {
            Some(model) => model.clone(),
            None => first_model(&client).await?,
        };
        let shape = self.work.shape(model.clone())?;
        let target = Target { client, endpoint: shape.endpoint, is_streamed: shape.is_streamed };
        let plan = Arc::new(Plan {
            target,
            shape,
            workload,
            think: self.work.think_time,
            counts: counter.is_some(),
            keeps_texts: self.output.save_detailed,
        });
        self.warm_up(&plan).await?;
        let about = About {
            endpoint: plan.shape.endpoint,
            model,
            label: self.output.label.clone(),
            slo: self.slo,
            threads: self.threads.get(),
            is_detailed: self.output.save_detailed,
            counter,
            now: std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs(),
        };
        let summary = self.measure(&plan, &about, (first, until)).await?;
        self.finish(&summary)
    }

    fn client(&self) -> anyhow::Result<Client> {
        // One try: what failed is what is measured.
        let client = Client::builder(&self.url).max_retries(0);
        let client = client.timeout(self.timeout).idle_timeout(self.timeout);
        Ok(client.api_key(self.api_key.clone().unwrap_or_default()).build()?)
    }

    async fn warm_up(&self, plan: &Arc<Plan>) -> anyhow::Result<()> {
        if self.warmup == 0 {
            return Ok(());
        }
        let until = Until { num_requests: Some(self.warmup), duration: None };
        // Of another part of the workload: what the server remembers of it is of no use later.
        let first_session = usize::MAX / 2;
        let stage = self.stage(Load::Concurrency(1), until, first_session);
        let outcome = run(plan, &stage, &Arc::default()).await;
        if outcome.is_interrupted {
            bail!("interrupted while warming up");
        }
        Ok(())
    }

    fn stage(&self, load: Load, until: Until, first_session: usize) -> Stage {
        let max_concurrency = self.load.max_concurrency.map(NonZeroUsize::get);
        Stage { load, until, max_concurrency, seed: self.seed, first_session }
    }

    /// One run, or those of a sweep, of which the best has the others in it.
    async fn measure(
        &self,
        plan: &Arc<Plan>,
        about: &About,
        (first, until): (Load, Until),
    ) -> anyhow::Result<Summary> {
        let live = Arc::new(Live::default());
        let _screen = if self.output.no_live { None } else { Screen::open(&live) };
        let mut points: Vec<Summary> = Vec::new();
        let mut next = Some(first);
        let mut first_session = 0;
        while let Some(load) = next {
            live.begin(load.to_string(), until);
            let stage = self.stage(load, until, first_session);
            let outcome = run(plan, &stage, &live).await;
            // A trace that is read once per point asks for the same each time.
            if let Workload::Synthetic(_) = plan.workload {
                first_session += outcome.records.len();
            }
            points.push(Summary::new(about, &stage, &outcome));
            next = match &self.load.sweep {
                Some(sweep) if !outcome.is_interrupted => sweep.next(&points, self.load.burstiness),
                Some(_) | None => None,
            };
        }
        let mut summary = sweep::best(&points).cloned().context("nothing was run")?;
        if self.load.sweep.is_some() {
            summary.points = points;
        }
        Ok(summary)
    }

    fn finish(&self, summary: &Summary) -> anyhow::Result<()> {
        let verdicts: Vec<_> = self.assertions.iter().map(|a| a.check(summary)).collect();
        self.output.write(summary, &verdicts)?;
        if summary.completed == 0 {
            let errors =
                summary.errors_by_kind.iter().map(|(kind, count)| format!("{count} {kind}"));
            let errors = errors.collect::<Vec<_>>().join(", ");
            return Err(Failure::Nothing(summary.num_prompts, errors).into());
        }
        let failed = verdicts.iter().filter(|verdict| !verdict.held).count();
        if failed > 0 {
            return Err(Failure::Assertions { failed, all: verdicts.len() }.into());
        }
        Ok(())
    }
}

async fn first_model(client: &Client) -> anyhow::Result<String> {
    let models = client.models().await.context("asking which models there are")?;
    let first = models.into_iter().next();
    Ok(first.context("the server has no model; name one with --model")?.id)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        bench: Bench,
    }

    fn parse(words: &str) -> Result<Bench, String> {
        let parsed = Cli::try_parse_from(["bench"].into_iter().chain(words.split_whitespace()));
        parsed.map(|cli| cli.bench).map_err(|error| error.to_string())
    }

    #[test]
    fn one_load_is_chosen() {
        let first = |words: &str| {
            let bench = parse(words).unwrap();
            let workload = bench.work.workload(0, None).unwrap();
            bench.load.first(&workload).unwrap().to_string()
        };

        assert_eq!(first(""), "concurrency 1");
        assert_eq!(first("--concurrency 8"), "concurrency 8");
        assert_eq!(first("--rate 2.5"), "2.5 requests/s");
        assert_eq!(first("--ramp 1:20 --duration 10s"), "1 to 20 requests/s");
        assert_eq!(first("--sweep rate=3,4"), "3 requests/s");
        assert!(parse("--rate 1 --concurrency 2").is_err());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for words in [
            "--rate 0",
            "--concurrency 0",
            "--ramp 1:20",
            "--burstiness 2",
            "--tools-share 0.6 --schema-share 0.6",
            "--speed 2",
            "--assert ttft",
            "--slo itl=5",
            "--input-tokens 0",
            "--extra-body [1]",
            "compare a.json",
        ] {
            let refused = parse(words).and_then(|bench| {
                let work = bench.work.workload(0, None).map_err(|error| error.to_string())?;
                bench.load.first(&work).map_err(|error| error.to_string())?;
                bench.work.shape(String::new()).map_err(|error| error.to_string())
            });
            assert!(refused.is_err(), "{words}");
        }
    }
}
