//! How a command prints its result: for people, or as JSON.

use std::io::Write;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Context;
use clap::{Args, ValueEnum};
use indicatif::HumanDuration;

/// How the result is printed.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(super) struct Output {
    /// How the result is printed
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = Format::Text)]
    output: Format,

    /// As --output json
    #[arg(long, conflicts_with = "output")]
    json: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
}

impl Output {
    /// Whether a program reads it.
    pub(super) fn is_json(self) -> bool {
        self.json || self.output == Format::Json
    }

    /// Prints one of the two.
    pub(super) fn print(
        self,
        value: &impl serde::Serialize,
        text: impl FnOnce() -> String,
    ) -> anyhow::Result<()> {
        let text = match self.is_json() {
            true => serde_json::to_string_pretty(value)? + "\n",
            false => text(),
        };
        print(&text)
    }
}

/// Prints a result.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout().lock().write_all(text.as_bytes()).context("printing the result")
}

/// Rows as columns, each as wide as its widest cell. The last is not padded.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let num_columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..num_columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

/// `3 days ago`, of seconds since 1970.
pub(super) fn ago(seconds: u64) -> String {
    let now = UNIX_EPOCH.elapsed().unwrap_or_default();
    let elapsed = now.saturating_sub(Duration::from_secs(seconds));
    format!("{} ago", HumanDuration(elapsed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let rows = [row(["NAME", "", "SOURCE"]), row(["a-long-name", "x", "y"])];

        assert_eq!(table(&rows), "NAME            SOURCE\na-long-name  x  y\n");
    }
}
