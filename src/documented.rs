//! Commands in the documentation are commands: each is read as if it had been typed.

use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Parser};

use super::Cli;

/// What words stand for that nobody types.
const PLACEHOLDERS: [(&str, &str); 11] = [
    ("MODEL", "smollm2:135m"),
    ("NAME", "smollm2"),
    ("VERSION", "smollm2@1"),
    ("FILE", "file"),
    ("PATH", "path"),
    ("DIR", "folder"),
    ("ID", "0123456789abcdef"),
    ("SHELL", "bash"),
    ("COUNT", "1"),
    ("N", "1"),
    ("URL", "http://127.0.0.1:8000"),
];

fn documents() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = std::fs::read_dir(root.join("docs")).unwrap();
    let docs = docs.map(|entry| entry.unwrap().path());
    let mut pages: Vec<_> =
        docs.filter(|path| path.extension().is_some_and(|e| e == "md")).collect();
    pages.push(root.join("README.md"));
    pages.sort();
    pages
}

/// The commands of a page: in blocks, and in the text between backticks.
fn commands(page: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (index, part) in page.split("```").enumerate() {
        if index % 2 == 1 {
            // A backslash at the end of a line goes on with the next.
            let whole = part.replace("\\\n", " ");
            let lines = whole.lines().skip(1).flat_map(|line| line.split("&&"));
            found.extend(lines.filter_map(command));
        } else {
            let joined = part.replace('\n', " ");
            let codes = joined.split('`').skip(1).step_by(2).flat_map(|code| code.split("&&"));
            found.extend(codes.filter_map(command));
        }
    }
    found
}

/// The command in a line, without variables before it and a comment behind.
fn command(line: &str) -> Option<String> {
    let line = line.split(" #").next()?.trim();
    let mut words = line.trim_start_matches("$ ").split_whitespace().peekable();
    let is_variable =
        |word: &&str| word.split_once('=').is_some_and(|(name, _)| !name.contains('-'));
    while words.next_if(is_variable).is_some() {}
    let rest: Vec<_> = words.collect();
    let is_command = rest.first() == Some(&"sconce") && rest.len() > 1;
    // Three dots stand for anything, which can't be read.
    let is_whole = !rest.iter().any(|word| word.contains('…') || word.contains("..."));
    (is_command && is_whole).then(|| rest.join(" "))
}

/// The words as a shell would make them, with examples for placeholders.
fn typed(command: &str) -> Vec<String> {
    // Brackets are around what may be left out.
    let words = shlex::split(&command.replace(['[', ']'], " ")).unwrap();
    let mean = |word: String| {
        let known = PLACEHOLDERS.iter().find(|(name, _)| *name == word);
        known.map_or(word, |(_, example)| (*example).to_owned())
    };
    let words = words.into_iter().map(|word| word.trim_end_matches(',').to_owned());
    words.take_while(|word| !["|", ">", "<", ";"].contains(&word.as_str())).map(mean).collect()
}

/// What is wrong with a command that somebody might type.
fn complaint(words: &[String]) -> Option<clap::Error> {
    let error = Cli::try_parse_from(words).err()?;
    // The text names commands without what they need, and flags without their values.
    let given = error.get(ContextKind::InvalidValue);
    let has_no_value = given == Some(&ContextValue::String(String::new()));
    let is_known = has_no_value
        || matches!(
            error.kind(),
            ErrorKind::MissingRequiredArgument
                | ErrorKind::MissingSubcommand
                | ErrorKind::DisplayHelp
                | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                | ErrorKind::DisplayVersion
        );
    (!is_known).then_some(error)
}

#[test]
fn every_command_of_the_documentation_can_be_typed() {
    let mut complaints = Vec::new();
    let mut num_commands = 0;
    for path in documents() {
        let page = std::fs::read_to_string(&path).unwrap();
        for command in commands(&page) {
            num_commands += 1;
            let words = typed(&command);
            let mut complain = |words: &[String]| {
                let error = complaint(words).map(|error| error.to_string());
                complaints
                    .extend(error.map(|error| format!("{}: {command}\n{error}", path.display())));
            };
            complain(&words);
            // What follows the dashes is for a worker.
            if let Some(dashes) = words.iter().position(|word| word == "--") {
                let worker = ["sconce", "worker", "--model", "path"].map(str::to_owned);
                complain(&[&worker[..], &words[dashes + 1..]].concat());
            }
        }
    }
    assert!(num_commands > 30, "only {num_commands} commands were found");
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn a_command_that_does_not_exist_is_noticed() {
    let page = "`sconce fly NAME` and `sconce list`\n```sh\nA=b sconce up --wings 2 m # why\n```\n";
    let found = commands(page);
    assert_eq!(found, ["sconce fly NAME", "sconce list", "sconce up --wings 2 m"]);

    let wrong = found.iter().filter(|command| complaint(&typed(command)).is_some());
    assert_eq!(wrong.collect::<Vec<_>>(), ["sconce fly NAME", "sconce up --wings 2 m"]);
}

/// The variables that a command's flags can be set by, and those of its subcommands.
fn variables(command: &clap::Command, found: &mut std::collections::BTreeSet<String>) {
    let named = command.get_arguments().filter_map(|argument| argument.get_env());
    found.extend(named.map(|name| name.to_string_lossy().into_owned()));
    command.get_subcommands().for_each(|command| variables(command, found));
}

#[test]
fn every_variable_and_exit_status_is_documented() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/operations.md")).unwrap();

    let mut found = std::collections::BTreeSet::new();
    variables(&Cli::command(), &mut found);
    assert!(found.len() > 25, "{found:?}");
    let missing: Vec<_> =
        found.iter().filter(|name| !page.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "{missing:?}");

    let statuses = Cli::command().get_after_help().unwrap().to_string();
    for line in statuses.lines().skip(1) {
        let (status, meaning) = line.trim().split_once("  ").unwrap();
        assert!(page.contains(&format!("| {status} | {meaning}")), "{line}");
    }
}
