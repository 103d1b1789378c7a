//! How much load there is, and for how long.

use std::num::NonZeroUsize;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;

use crate::schedule::{Arrivals, Load, Until};
use crate::sweep::Sweep;
use crate::units::{positive, seconds};
use crate::workload::Workload;

/// Requests of a run that nothing else ends.
const DEFAULT_REQUESTS: usize = 100;

/// How much load there is, and for how long.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Load")]
pub(super) struct LoadArgs {
    /// So many requests at any time: the next is sent when one has ended
    #[arg(long, value_name = "COUNT", group = "load")]
    concurrency: Option<NonZeroUsize>,

    /// So many requests a second, whatever the server does
    #[arg(long, value_name = "PER SECOND", group = "load", value_parser = positive)]
    rate: Option<f64>,

    /// A rate that grows, or shrinks, evenly over --duration
    #[arg(long, value_name = "FROM:TO", group = "load", value_parser = ramp, requires = "duration")]
    ramp: Option<(f64, f64)>,

    /// More and more load, each for --requests or --duration: `concurrency` or `rate`, doubled until
    /// nothing more comes, or given points, such as `rate=1,2,5`
    #[arg(long, value_name = "AXIS[=POINTS]", group = "load")]
    pub(super) sweep: Option<Sweep>,

    /// How regularly requests of a rate come: 1 is a Poisson process, less comes in bursts, `inf`
    /// like a clock
    #[arg(long, value_name = "SHAPE", default_value_t = 1.0, value_parser = burstiness)]
    pub(super) burstiness: f64,

    /// Most requests at a time, where there is a rate. One too many waits, and counts as late
    #[arg(long, value_name = "COUNT")]
    pub(super) max_concurrency: Option<NonZeroUsize>,

    /// How many times faster than recorded a trace is replayed
    #[arg(long, value_name = "FACTOR", value_parser = positive)]
    speed: Option<f64>,

    /// Conversations to send, each one request unless --turns says otherwise. 100, or a whole trace,
    /// if there is no --duration
    #[arg(short = 'n', long, value_name = "COUNT", visible_alias = "num-prompts")]
    requests: Option<NonZeroUsize>,

    /// How long requests are sent. What is under way then is waited for
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    duration: Option<Duration>,
}

fn ramp(text: &str) -> Result<(f64, f64), String> {
    let (from, to) =
        text.split_once(':').ok_or_else(|| format!("`{text}` is no ramp: use 1:20"))?;
    Ok((positive(from)?, positive(to)?))
}

fn burstiness(text: &str) -> Result<f64, String> {
    if text == "inf" { Ok(f64::INFINITY) } else { positive(text) }
}

impl LoadArgs {
    /// The most conversations that a trace is read for.
    pub(super) fn most(&self) -> Option<usize> {
        self.requests.map(NonZeroUsize::get)
    }

    /// The load, or the first of a sweep.
    pub(super) fn first(&self, workload: &Workload) -> anyhow::Result<Load> {
        let has_times = matches!(workload, Workload::Trace(trace) if trace.has_times());
        let is_given = self.concurrency.is_some()
            || self.rate.is_some()
            || self.ramp.is_some()
            || self.sweep.is_some();
        let is_replay = has_times && !is_given;
        if self.speed.is_some() && !is_replay {
            bail!("--speed is for a --trace that has times, without another load");
        }
        let is_rate = self.rate.is_some() || self.ramp.is_some() || self.sweep.is_some();
        if self.burstiness != 1.0 && !is_rate {
            bail!("--burstiness is for --rate, --ramp and --sweep rate");
        }
        if self.max_concurrency.is_some() && !is_rate && !is_replay {
            bail!(
                "--max-concurrency is for a rate or a trace: --concurrency says it all otherwise"
            );
        }
        if is_replay {
            return Ok(Load::Trace { speed: self.speed.unwrap_or(1.0) });
        }
        if let Some(sweep) = &self.sweep {
            return sweep.next(&[], self.burstiness).context("the sweep has no point");
        }
        Ok(match (self.rate, self.ramp, self.concurrency) {
            (Some(rate), _, _) => Load::Rate(Arrivals::constant(rate, self.burstiness)),
            (_, Some((from, to)), _) => {
                Load::Rate(Arrivals { from, to, burstiness: self.burstiness })
            }
            (_, _, count) => Load::Concurrency(count.map_or(1, NonZeroUsize::get)),
        })
    }

    /// When each run ends.
    pub(super) fn until(&self, workload: &Workload) -> Until {
        let num_requests = self.requests.map(NonZeroUsize::get);
        let by_itself = match workload {
            Workload::Trace(trace) => trace.len(),
            Workload::Synthetic(_) => DEFAULT_REQUESTS,
        };
        let is_endless = num_requests.is_none() && self.duration.is_none();
        let num_requests = if is_endless { Some(by_itself) } else { num_requests };
        Until { num_requests, duration: self.duration }
    }
}
