//! Commands that change what is served.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use sconce_proto::fleet as proto;
use tonic::Code;

use super::client::follow;
use super::{ReasonArgs, ServerArgs};
use crate::cli::Fault;
use crate::cli::output::Output;

/// What every order takes: whom it is given, why, and how its progress is told.
#[derive(Args, Clone, Debug)]
struct OrderArgs {
    #[command(flatten)]
    server: ServerArgs,

    #[command(flatten)]
    reason: ReasonArgs,

    #[command(flatten)]
    output: Output,
}

/// Starts workers of a version, without traffic from any name but its own
///
/// Clients reach it as `name@number` at once. `sconce promote` gives it a name's traffic.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  sconce start smollm2@2
  sconce start smollm2@2 --replicas 2 --server smollm2:prod
  sconce start qwen3:prod --route        clients can use the name from now on")]
pub struct Start {
    /// The version, or a name that stands for one
    model: String,

    /// Workers. As many as its names say otherwise
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=64))]
    replicas: u32,

    /// Let clients use the name, if they can't yet
    #[arg(long)]
    route: bool,

    #[command(flatten)]
    order: OrderArgs,
}

/// Ends the workers of a version once what they run is done
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  sconce unload smollm2@1\n  sconce unload smollm2@1 --force")]
pub struct Unload {
    /// The version, or a name that stands for one
    model: String,

    /// Also while a name gives it traffic
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    order: OrderArgs,
}

/// Moves a name's traffic to a version: all of it, a part, or a copy
///
/// The version's workers are started first if there are none; the one before drains when it has no
/// traffic any more. No request fails. A version that can't be loaded, that fails golden prompts, that
/// dies or fails too often, or that is much slower, loses the traffic again by itself.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  sconce promote smollm2@2
  sconce promote smollm2@2 --canary 10% --soak 5m --reason \"the new template\"
  sconce promote smollm2@2 --shadow 10%
  sconce promote smollm2@2 --name smollm2:prod --golden prompts.jsonl

A line of golden prompts: {\"prompt\": \"2+2=\", \"max_tokens\": 4, \"contains\": \"4\"}
`messages` instead of `prompt` asks a chat. What must hold of the answer: `equals`, `contains` (one text
or several), `regex`, `json` (true) and `max_ttft_ms`.")]
pub struct Promote {
    /// The version
    version: String,

    /// Whose traffic; that of the name that the version's model is served by otherwise
    #[arg(long)]
    name: Option<String>,

    /// A part of the traffic. `sconce promote` again gives it the rest
    #[arg(long, value_name = "PERCENT", value_parser = crate::cli::percent, conflicts_with = "shadow")]
    canary: Option<u16>,

    /// A copy of a part of the traffic, whose answers are compared and dropped
    #[arg(long, value_name = "PERCENT", value_parser = crate::cli::percent)]
    shadow: Option<u16>,

    /// The canary gets the rest by itself after so long: `90s`, `5m`, `1h`
    #[arg(long, value_name = "TIME", value_parser = time)]
    soak: Option<Duration>,

    /// Prompts that must be answered as expected before
    #[arg(long, value_name = "FILE", conflicts_with = "no_checks")]
    golden: Option<PathBuf>,

    /// Requests that may fail
    #[arg(long, value_name = "PERCENT", value_parser = crate::cli::percent, conflicts_with = "no_checks")]
    max_failures: Option<u16>,

    /// How many times longer the time to the first token may be
    #[arg(long, value_name = "TIMES", value_parser = ratio, conflicts_with = "no_checks")]
    max_ttft_ratio: Option<u32>,

    /// Whatever happens, it keeps the traffic
    #[arg(long)]
    no_checks: bool,

    #[command(flatten)]
    order: OrderArgs,
}

/// Moves a name's traffic back to the version before, or ends its canary or shadow
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:\n  sconce rollback smollm2:prod --reason \"wrong answers\"")]
pub struct Rollback {
    /// The name
    name: String,

    #[command(flatten)]
    order: OrderArgs,
}

/// Sets how many workers a name's versions have
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  sconce scale smollm2:prod --min 1 --max 4
  sconce scale smollm2:prod --min 0            none while nobody asks")]
pub struct Scale {
    /// The name
    name: String,

    /// While little is asked of it. 0: the first request starts one
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(0..=64))]
    min: u32,

    /// While much is asked of it. As --min otherwise, and at least 1
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=64))]
    max: Option<u32>,

    #[command(flatten)]
    order: OrderArgs,
}

impl Start {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<()> {
        let Self { model, replicas, route, order: OrderArgs { server, reason, output } } = self;
        let reason = Some(reason.into());
        let request = proto::StartRequest { model, replicas, route, reason };
        follow(server.connect().await?.start(request).await, output).await
    }
}

impl Unload {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<()> {
        let Self { model, force, order: OrderArgs { server, reason, output } } = self;
        let request = proto::UnloadRequest { model, force, reason: Some(reason.into()) };
        let call = match server.connect().await?.unload(request).await {
            Err(status) if status.code() == Code::FailedPrecondition && !force => {
                return Err(Fault::Serving(status).into());
            }
            call => call,
        };
        follow(call, output).await
    }
}

impl Promote {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<()> {
        let golden = self.golden.map(|path| {
            // The launcher may be in another folder.
            let path = std::path::absolute(&path).with_context(|| path.display().to_string())?;
            path.into_os_string()
                .into_string()
                .map_err(|path| anyhow::anyhow!("`{}` is not UTF-8", path.display()))
        });
        let checks = proto::Checks {
            golden: golden.transpose()?.unwrap_or_default(),
            max_failures: self.max_failures.map_or(0, u32::from),
            max_ttft_ratio: self.max_ttft_ratio.unwrap_or(0),
            none: self.no_checks,
        };
        let OrderArgs { server, reason, output } = self.order;
        let soak = self.soak.unwrap_or_default().as_secs();
        let request = proto::PromoteRequest {
            version: self.version,
            name: self.name.unwrap_or_default(),
            canary: self.canary.map_or(0, u32::from),
            shadow: self.shadow.map_or(0, u32::from),
            soak_seconds: u32::try_from(soak).unwrap_or(u32::MAX),
            checks: Some(checks),
            reason: Some(reason.into()),
        };
        follow(server.connect().await?.promote(request).await, output).await
    }
}

impl Rollback {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<()> {
        let Self { name, order: OrderArgs { server, reason, output } } = self;
        let request = proto::RollbackRequest { name, reason: Some(reason.into()) };
        follow(server.connect().await?.rollback(request).await, output).await
    }
}

impl Scale {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<()> {
        let Self { name, min, max, order: OrderArgs { server, reason, output } } = self;
        let max = max.unwrap_or(min.max(1));
        let request = proto::ScaleRequest { name, min, max, reason: Some(reason.into()) };
        follow(server.connect().await?.scale(request).await, output).await
    }
}

/// `90s`, `5m`, `1h`; a number alone is seconds.
fn time(text: &str) -> Result<Duration, String> {
    let expected = || format!("`{text}` is no time: expected one such as 90s, 5m or 1h");
    let (number, unit) = match text.strip_suffix(['s', 'm', 'h']) {
        Some(number) if text.ends_with('h') => (number, 3600),
        Some(number) if text.ends_with('m') => (number, 60),
        Some(number) => (number, 1),
        None => (text, 1),
    };
    let number: u64 = number.parse().map_err(|_| expected())?;
    let seconds = number.checked_mul(unit).filter(|it| (1..=u64::from(u32::MAX)).contains(it));
    seconds.map(Duration::from_secs).ok_or_else(expected)
}

/// `1.5`, in hundredths.
fn ratio(text: &str) -> Result<u32, String> {
    let expected = || format!("`{text}` is not how many times: expected a number such as 1.5");
    let number: f64 = text.parse().map_err(|_| expected())?;
    if !(1.0..=1000.0).contains(&number) {
        return Err(expected());
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "up to 100,000")]
    Ok((number * 100.0).round() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_parts_and_ratios_are_read_as_people_write_them() {
        assert_eq!(time("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(time("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(time("2h"), Ok(Duration::from_secs(7200)));
        assert_eq!(time("7"), Ok(Duration::from_secs(7)));
        assert_eq!(crate::cli::percent("10%"), Ok(1000));
        assert_eq!(crate::cli::percent("0.5"), Ok(50));
        assert_eq!(ratio("1.5"), Ok(150));
        for text in ["", "5d", "-1s", "0s", "m"] {
            assert!(time(text).is_err(), "{text}");
        }
        for text in ["", "0", "101%", "x%"] {
            assert!(crate::cli::percent(text).is_err(), "{text}");
        }
        assert!(ratio("0.5").is_err());
    }
}
