//! `sconce gc`.

use clap::Args;
use indicatif::BinaryBytes;
use serde_json::json;

use super::Fault;
use super::output::Output;
use crate::settings::Settings;
use crate::store::{Collected, Mode};

/// Makes room: removes the least recently used versions until the rest fits a budget
///
/// What runs or has an alias stays. Files that belong to nothing, such as those of a pull that was
/// killed a day ago, go in any case.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  sconce gc --max-size 20GB --dry-run     what would go
  sconce gc --max-size 20GB
  sconce gc                               only what belongs to nothing

Exit status 4 says that what may not go takes more than the budget.")]
pub struct Gc {
    /// Bytes that the files of all versions may have: `20GB`, `500 MiB`, or a number
    #[arg(long, value_name = "SIZE")]
    max_size: Option<bytesize::ByteSize>,

    /// Say what would go, and remove nothing
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    output: Output,
}

impl Gc {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<()> {
        let puller = super::puller(Settings::from_env()?)?;
        let max_size = self.max_size.map(|size| size.as_u64());
        let mode = if self.dry_run { Mode::DryRun } else { Mode::Real };
        let collected =
            tokio::task::spawn_blocking(move || puller.collect(max_size, mode)).await??;
        self.output.print(&value(&collected), || page(&collected, mode))?;
        match max_size {
            Some(max_size) if collected.after > max_size => {
                Err(Fault::OverBudget { after: collected.after, max_size }.into())
            }
            Some(_) | None => Ok(()),
        }
    }
}

fn value(collected: &Collected) -> serde_json::Value {
    let Collected { before, after, removed, kept, leftovers } = collected;
    let removed = removed.iter().map(|it| json!({ "id": it.id, "freed": it.freed }));
    let kept = kept.iter().map(|(id, why)| json!({ "id": id, "why": why }));
    json!({
        "before": before, "after": after, "leftovers": leftovers,
        "removed": removed.collect::<Vec<_>>(), "kept": kept.collect::<Vec<_>>(),
    })
}

fn page(collected: &Collected, mode: Mode) -> String {
    let verb = match mode {
        Mode::Real => "removed",
        Mode::DryRun => "would remove",
    };
    let mut text = String::new();
    for removed in &collected.removed {
        text.push_str(&format!("{verb} {}, {}\n", removed.id, BinaryBytes(removed.freed)));
    }
    if collected.leftovers > 0 {
        let leftovers = BinaryBytes(collected.leftovers);
        text.push_str(&format!("{verb} files that belong to nothing, {leftovers}\n"));
    }
    for (id, why) in &collected.kept {
        text.push_str(&format!("keep {id}: {why}\n"));
    }
    let (before, after) = (BinaryBytes(collected.before), BinaryBytes(collected.after));
    text.push_str(&format!("{before} before, {after} after\n"));
    text
}
