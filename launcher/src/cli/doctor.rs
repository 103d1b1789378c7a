//! `sconce doctor`.

use std::net::{IpAddr, SocketAddr};

use clap::Args;

use super::Fault;
use super::output::{Output, table};
use crate::doctor::{Finding, Gpu, Subject, Verdict};
use crate::settings::Settings;

/// Looks at this machine and says what is wrong with it, why, and what to do
///
/// Nothing is changed, and the network is not used.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  sconce doctor
  sconce doctor --output json

Exit status 1 says that something can't work; warnings are none.")]
pub struct Doctor {
    /// The port that would be listened on
    #[arg(long, env = "SCONCE_PORT", default_value_t = 8000)]
    port: u16,

    /// The address that would be listened on
    #[arg(long, env = "SCONCE_HOST", default_value = "127.0.0.1")]
    host: IpAddr,

    #[command(flatten)]
    output: Output,
}

impl Doctor {
    /// Runs the command; `isa` is the instruction set that the kernels choose, `gpus` are those that
    /// they run on, or why they don't.
    pub async fn run(self, isa: String, gpus: Vec<Result<Gpu, String>>) -> anyhow::Result<()> {
        let subject = Subject {
            settings: Settings::from_env(),
            isa,
            gpus,
            listen: SocketAddr::new(self.host, self.port),
            root: "/".into(),
        };
        let findings = tokio::task::spawn_blocking(move || subject.examine()).await?;
        self.output.print(&findings, || page(&findings))?;
        match findings.iter().filter(|finding| finding.verdict == Verdict::Fail).count() {
            0 => Ok(()),
            num_failures => Err(Fault::Unfit(num_failures).into()),
        }
    }
}

fn page(findings: &[Finding]) -> String {
    let mut rows = Vec::new();
    for Finding { check, verdict, why, remedy } in findings {
        let verdict = match verdict {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
        };
        rows.push([verdict, check, why].map(str::to_owned).to_vec());
        if let Some(remedy) = remedy {
            rows.push(vec![String::new(), String::new(), format!("-> {remedy}")]);
        }
    }
    table(&rows)
}
