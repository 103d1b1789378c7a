//! What shells and `man` know of the command line: written from the same definition that parses it.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Command};
use clap_complete::Shell;

/// Prints a script that completes commands and flags in a shell
#[derive(Args)]
#[command(
    after_help = "Examples:\n  sconce completions bash > ~/.local/share/bash-completion/completions/sconce\n  \
                  sconce completions zsh > ~/.zfunc/_sconce"
)]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

/// Writes manual pages, one for each command
#[derive(Args)]
#[command(after_help = "Example:\n  sconce man ~/.local/share/man/man1")]
pub(crate) struct Man {
    /// Where to. Created when absent
    directory: PathBuf,
}

impl Completions {
    /// Runs the command, for this command line.
    pub(crate) fn run(&self, mut command: Command) -> anyhow::Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "sconce", &mut script);
        io::stdout().lock().write_all(&script).context("printing the script")
    }
}

impl Man {
    /// Runs the command, for this command line.
    pub(crate) fn run(&self, command: Command) -> anyhow::Result<()> {
        let shown = self.directory.display();
        write_pages(command, &self.directory).with_context(|| format!("writing into {shown}"))
    }
}

fn write_pages(command: Command, directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    clap_mangen::generate_to(command, directory)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::Cli;

    #[test]
    fn every_command_has_a_page() {
        let directory = tempfile::tempdir().unwrap();
        write_pages(Cli::command(), directory.path()).unwrap();
        for page in ["sconce.1", "sconce-up.1", "sconce-keys-create.1", "sconce-alias-set.1"] {
            let text = std::fs::read_to_string(directory.path().join(page)).unwrap();
            assert!(text.contains(".SH SYNOPSIS"), "{page}");
        }
    }

    #[test]
    fn every_shell_has_a_script_that_names_the_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::PowerShell, Shell::Elvish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "sconce", &mut script);
            assert!(String::from_utf8(script).unwrap().contains("verify"), "{shell}");
        }
    }
}
