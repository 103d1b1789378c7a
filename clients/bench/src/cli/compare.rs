//! `sconce bench compare A B`.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;

use super::output::print;
use crate::compare::{compare, page};
use crate::summary::Summary;
use crate::units::share;

/// Shows two results of --output-json beside each other, and which differences are not chance
///
/// Intervals are of 95 %, by bootstrap over requests (latencies) and stretches of time (throughput).
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  sconce bench compare before.json after.json
  sconce bench compare before.json after.json --max-regression 5%")]
pub(super) struct Compare {
    /// The run that is compared with
    a: PathBuf,

    /// The run that is compared
    b: PathBuf,

    /// Fail where B is worse by more, and that is not chance
    #[arg(long, value_name = "SHARE", value_parser = share)]
    max_regression: Option<f64>,

    /// As JSON
    #[arg(long)]
    json: bool,
}

impl Compare {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let rows = compare(&read(&self.a)?, &read(&self.b)?);
        if rows.is_empty() {
            bail!("the two runs have nothing that can be compared");
        }
        let text = match self.json {
            true => serde_json::to_string_pretty(&rows)? + "\n",
            false => page(&rows),
        };
        print(&text)?;
        let Some(tolerance) = self.max_regression else { return Ok(()) };
        let worse = rows.iter().filter(|row| row.is_regression(tolerance));
        let worse: Vec<_> = worse.map(|row| row.name.clone()).collect();
        if !worse.is_empty() {
            bail!("worse by more than {:.1} %: {}", tolerance * 100.0, worse.join(", "));
        }
        Ok(())
    }
}

fn read(path: &Path) -> anyhow::Result<Summary> {
    let text = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is no result", path.display()))
}
