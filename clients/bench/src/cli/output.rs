//! Where results go.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;

use crate::assertion::Verdict;
use crate::report::{csv, html, page};
use crate::summary::Summary;

/// Where results go.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Results")]
pub(super) struct OutputArgs {
    /// All numbers, as JSON with the names of `vllm bench serve`. `-`: to standard output, and the
    /// page for people to standard error
    #[arg(long, value_name = "FILE")]
    output_json: Option<PathBuf>,

    /// A row for each request
    #[arg(long, value_name = "FILE")]
    output_csv: Option<PathBuf>,

    /// A page with plots that needs nothing else
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// With the times between tokens, and the text, of each answer in the JSON
    #[arg(long)]
    pub(super) save_detailed: bool,

    /// What the run is called in its results
    #[arg(long, value_name = "TEXT")]
    pub(super) label: Option<String>,

    /// No live view, on a terminal either
    #[arg(long)]
    pub(super) no_live: bool,
}

impl OutputArgs {
    pub(super) fn write(&self, summary: &Summary, verdicts: &[Verdict]) -> anyhow::Result<()> {
        let mut text = page(summary);
        if !verdicts.is_empty() {
            text.push('\n');
        }
        for verdict in verdicts {
            text.push_str(&verdict.text);
            text.push('\n');
        }
        let json_to_stdout = self.output_json.as_deref() == Some(Path::new("-"));
        if json_to_stdout {
            std::io::stderr().lock().write_all(text.as_bytes()).context("printing the result")?;
        } else {
            print(&text)?;
        }
        if let Some(path) = &self.output_json {
            let json = serde_json::to_string(summary).context("writing JSON")? + "\n";
            if json_to_stdout { print(&json)? } else { write(path, &json)? }
        }
        if let Some(path) = &self.output_csv {
            write(path, &csv(summary))?;
        }
        if let Some(path) = &self.html {
            write(path, &html(summary))?;
        }
        Ok(())
    }
}

/// Prints a result.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout().lock().write_all(text.as_bytes()).context("printing the result")
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}
