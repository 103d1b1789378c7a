//! The one binary: its subcommands are the processes and the tools around them.

#[cfg(test)]
mod documented;
mod manual;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use clap::builder::styling::Style;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use rustix::process::{Resource, Rlimit, setrlimit};
use tokio::runtime::{Builder, Runtime};
use tracing_subscriber::EnvFilter;

/// A server for large language models
#[derive(Parser)]
#[command(version, after_help = sconce_launcher::exit::STATUSES)]
struct Cli {
    /// What the log is written as, on standard error. RUST_LOG chooses what is in it
    // Below what a command is for, and above --help.
    #[arg(long, global = true, value_enum, env = "SCONCE_LOG_FORMAT", default_value_t = LogFormat::Plain)]
    #[arg(display_order = 998)]
    log_format: LogFormat,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Up(sconce_launcher::cli::Up),
    Pull(sconce_launcher::cli::Pull),
    List(sconce_launcher::cli::List),
    Show(sconce_launcher::cli::Show),
    Verify(sconce_launcher::cli::Verify),
    Alias(sconce_launcher::cli::Alias),
    Sync(sconce_launcher::cli::Sync),
    Import(sconce_launcher::cli::Import),
    Create(sconce_launcher::cli::Create),
    Gc(sconce_launcher::cli::Gc),
    Plan(sconce_launcher::cli::Plan),
    Doctor(sconce_launcher::cli::Doctor),
    Rm(sconce_launcher::cli::Rm),
    Start(sconce_launcher::cli::Start),
    Unload(sconce_launcher::cli::Unload),
    Promote(sconce_launcher::cli::Promote),
    Rollback(sconce_launcher::cli::Rollback),
    Scale(sconce_launcher::cli::Scale),
    Status(sconce_launcher::cli::Status),
    History(sconce_launcher::cli::History),
    Run(sconce_launcher::cli::Run),
    Ps(sconce_launcher::cli::Ps),
    Logs(sconce_launcher::cli::Logs),
    Stop(sconce_launcher::cli::Stop),
    Restart(sconce_launcher::cli::Restart),
    Batch(sconce_launcher::cli::Batch),
    Bench(Box<sconce_bench::Bench>),
    Keys(sconce_router::cli::Keys),
    Router(Box<sconce_router::cli::Router>),
    Worker(Box<sconce::worker::Worker>),
    Completions(manual::Completions),
    Man(manual::Man),
}

/// What the log is written as.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// Lines for people
    Plain,
    /// One JSON object a line
    Json,
}

fn main() -> ExitCode {
    let started = Instant::now();
    let cli = parse();
    start_log(cli.log_format);
    match forbid_core_dumps().and_then(|()| run(cli.command, started)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::from(sconce_launcher::exit::status(&error))
        }
    }
}

/// The command line, with the store's database as the one that keys and routers mean.
fn parse() -> Cli {
    let mut command = Cli::command();
    if let Ok(settings) = sconce_launcher::settings::Settings::from_env() {
        let database = settings.home.join("sconce.db");
        for name in ["keys", "router"] {
            let default = clap::builder::OsStr::from(database.clone().into_os_string());
            command = command.mut_subcommand(name, |subcommand| {
                subcommand.mut_arg("database", |argument| argument.default_value(default))
            });
        }
    }
    let matches = command.get_matches();
    refuse_typed_password(&matches);
    let parsed = Cli::from_arg_matches(&matches);
    parsed.unwrap_or_else(|error| error.exit())
}

/// Everyone on this machine can read a command line.
fn refuse_typed_password(matches: &clap::ArgMatches) {
    let Some((_, matches)) = matches.subcommand() else { return };
    let typed = |matches: &clap::ArgMatches| {
        matches.try_contains_id("database").is_ok_and(|known| known)
            && matches.value_source("database") == Some(clap::parser::ValueSource::CommandLine)
    };
    let has_password = |matches: &clap::ArgMatches| {
        let mut names = matches.get_raw("database").into_iter().flatten();
        names.any(|name| sconce_router::store::Database::new(name).has_password())
    };
    let mut levels = vec![matches];
    levels.extend(matches.subcommand().map(|(_, matches)| matches));
    if levels.into_iter().any(|matches| typed(matches) && has_password(matches)) {
        let message = "the password of --database can be read by everyone on this machine: give it in \
                       SCONCE_DATABASE, PGPASSWORD or PGPASSFILE\n";
        Cli::command().error(clap::error::ErrorKind::ValueValidation, message).exit();
    }
}

/// A router's database, as the launcher names it to what it starts.
fn database(name: std::path::PathBuf) -> sconce_router::store::Database {
    let pepper = std::env::var_os("SCONCE_PEPPER").map(Into::into);
    sconce_router::store::Database::from(name).with_pepper(pepper)
}

fn run(command: Command, started: Instant) -> anyhow::Result<()> {
    match command {
        Command::Up(up) => {
            let hooks = sconce_launcher::cli::Hooks {
                started,
                ensure_first_key: Box::new(|name| {
                    let first = sconce_router::keys::ensure_first(database(name));
                    Box::pin(async move { Ok(first.await?) })
                }),
                lend_key: std::sync::Arc::new(|database| Box::pin(lend_key(database))),
                router_variables: variables("router"),
                worker_variables: variables("worker"),
            };
            one_thread()?.block_on(up.run(hooks))
        }
        Command::Pull(pull) => all_cores()?.block_on(pull.run()),
        Command::List(list) => one_thread()?.block_on(list.run()),
        Command::Show(show) => one_thread()?.block_on(show.run()),
        Command::Verify(verify) => one_thread()?.block_on(verify.run()),
        Command::Alias(alias) => one_thread()?.block_on(alias.run()),
        Command::Sync(sync) => all_cores()?.block_on(sync.run()),
        Command::Import(import) => one_thread()?.block_on(import.run()),
        Command::Create(create) => one_thread()?.block_on(create.run()),
        Command::Gc(gc) => one_thread()?.block_on(gc.run()),
        Command::Plan(plan) => one_thread()?.block_on(plan.run()),
        Command::Doctor(doctor) => {
            let isa = sconce_kernels::cpu::Isa::detect().to_string();
            let gpus = sconce::runner::device::gpus().into_iter().map(|gpu| {
                gpu.map(|gpu| sconce_launcher::doctor::Gpu {
                    name: gpu.name,
                    cuda_version: gpu.cuda_version,
                    free_bytes: gpu.free_bytes,
                    total_bytes: gpu.total_bytes,
                })
            });
            one_thread()?.block_on(doctor.run(isa, gpus.collect()))
        }
        Command::Rm(rm) => one_thread()?.block_on(rm.run()),
        Command::Start(start) => one_thread()?.block_on(start.run()),
        Command::Unload(unload) => one_thread()?.block_on(unload.run()),
        Command::Promote(promote) => one_thread()?.block_on(promote.run()),
        Command::Rollback(rollback) => one_thread()?.block_on(rollback.run()),
        Command::Scale(scale) => one_thread()?.block_on(scale.run()),
        Command::Status(status) => one_thread()?.block_on(status.run()),
        Command::History(history) => one_thread()?.block_on(history.run()),
        Command::Run(run) => one_thread()?.block_on(run.run()),
        Command::Ps(ps) => one_thread()?.block_on(ps.run()),
        Command::Logs(logs) => one_thread()?.block_on(logs.run()),
        Command::Stop(stop) => one_thread()?.block_on(stop.run()),
        Command::Restart(restart) => one_thread()?.block_on(restart.run()),
        Command::Batch(batch) => one_thread()?.block_on(batch.run()),
        Command::Bench(bench) => bench.run(),
        Command::Keys(keys) => Ok(one_thread()?.block_on(keys.run(&mut std::io::stdout().lock()))?),
        Command::Router(router) => all_cores()?.block_on(serve(*router)),
        Command::Completions(completions) => completions.run(Cli::command()),
        Command::Man(man) => man.run(Cli::command()),
        Command::Worker(worker) => {
            die_of_panics();
            Ok(one_thread()?.block_on(sconce::worker::run(*worker))?)
        }
    }
}

/// Variables of the environment that decide what a process of this subcommand does.
fn variables(subcommand: &str) -> Vec<String> {
    let command = Cli::command();
    let arguments = command.find_subcommand(subcommand).map(clap::Command::get_arguments);
    let named = arguments.into_iter().flatten().filter_map(|argument| argument.get_env());
    // And those of the libraries that a worker looks for.
    let libraries = ["CUDA_VISIBLE_DEVICES", "SCONCE_CUDA_LIBRARIES"].map(str::to_owned);
    let named = named.filter_map(|name| name.to_str().map(str::to_owned));
    named.chain(libraries.into_iter().filter(|_| subcommand == "worker")).collect()
}

/// An API key for the launcher, which gives it back.
async fn lend_key(
    name: std::path::PathBuf,
) -> anyhow::Result<sconce_launcher::controller::LentKey> {
    let keys = sconce_router::keys::Keys::open(database(name)).await?;
    let created = keys.create("the launcher's, for golden prompts").await?;
    let id = created.id.to_string();
    let give_back = Box::pin(async move { Ok(keys.revoke(&id).await?) });
    Ok(sconce_launcher::controller::LentKey { key: created.key.expose().to_owned(), give_back })
}

async fn serve(router: sconce_router::cli::Router) -> anyhow::Result<()> {
    let stage = sconce_router::shutdown::on_signals(router.exit_with_stdin)
        .context("listening for signals")?;
    Ok(sconce_router::server::run(router.into(), stage).await?)
}

/// Prompts and keys are in the memory of most processes, and must not reach a disk. What is started
/// from here inherits it.
fn forbid_core_dumps() -> anyhow::Result<()> {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none).context("turning core dumps off")
}

/// A worker is crash-only: a thread that died must not leave the others behind. The hook before
/// has said where it happened; the engine's thread names its requests and ends the process itself.
fn die_of_panics() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        if std::thread::current().name() != Some(sconce::worker::ENGINE_THREAD) {
            std::process::abort();
        }
    }));
}

fn one_thread() -> anyhow::Result<Runtime> {
    Builder::new_current_thread().enable_all().build().context("starting the runtime")
}

fn all_cores() -> anyhow::Result<Runtime> {
    Builder::new_multi_thread().enable_all().build().context("starting the runtime")
}

fn start_log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| sconce_launcher::terminal::Log)
        // It would be told on standard error too, and panic: whoever read that may have been killed,
        // and this process must still drain.
        .log_internal_errors(false)
        .with_ansi(color() == Color::Some);
    match format {
        LogFormat::Plain => log.init(),
        LogFormat::Json => log.json().init(),
    }
}

/// Whether what is told on standard error has colors.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Color {
    Some,
    None,
}

fn color() -> Color {
    // As no-color.org has it: set to anything but nothing.
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    match std::io::stderr().is_terminal() && !no_color && !is_dumb {
        true => Color::Some,
        false => Color::None,
    }
}

#[expect(clippy::print_stderr, reason = "the last word to whoever typed the command")]
fn complain(error: &anyhow::Error) {
    eprint!("{}", complaint(error, color()));
}

/// What went wrong and what to try, with the colors that clap has for the same words.
fn complaint(error: &anyhow::Error, color: Color) -> String {
    let styles = clap::builder::Styles::styled();
    let word = |word: &str, style: &Style| match color {
        Color::Some => format!("{style}{word}{style:#}"),
        Color::None => word.to_owned(),
    };
    let said = format!("{} {error:#}\n", word("error:", styles.get_error()));
    let hint = sconce_launcher::exit::hint(error);
    let hint = hint.map(|hint| format!("{} {hint}\n", word("hint:", styles.get_valid())));
    said + &hint.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn errors_and_hints_have_colors_where_a_terminal_shows_them() {
        let absent = sconce_launcher::store::Error::NoAlias("m:prod".parse().unwrap());
        let error = anyhow::Error::from(absent);

        let plain = complaint(&error, Color::None);
        assert!(plain.starts_with("error: ") && plain.contains("\nhint: `sconce alias list`"));
        assert!(!plain.contains('\x1b'), "{plain:?}");
        let colored = complaint(&error, Color::Some);
        assert!(colored.starts_with("\x1b[1m\x1b[31merror:\x1b[0m "), "{colored:?}");
        assert!(colored.contains("\x1b[32mhint:\x1b[0m "), "{colored:?}");
    }

    /// Every command that does something, as it is typed.
    fn verbs(command: &clap::Command, path: &str) -> Vec<(String, clap::Command)> {
        let below = command.get_subcommands().filter(|it| it.get_name() != "help");
        let below = below.map(|it| (format!("{path} {}", it.get_name()), it));
        let below = below.flat_map(|(path, it)| {
            let deeper = verbs(it, &path);
            [(path, it.clone())].into_iter().chain(deeper).collect::<Vec<_>>()
        });
        below.collect()
    }

    #[test]
    fn every_command_has_examples_and_those_that_print_have_json() {
        // Groups, what goes on until it is told to end, and what prints for one program alone.
        let others = ["alias", "batch", "keys", "router", "worker", "completions", "man", "bench"];
        let mut command = Cli::command();
        command.build();
        let mut without = Vec::new();
        for (path, verb) in verbs(&command, "sconce") {
            let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            if !help.contains(&path) {
                without.push(format!("{path}: an example"));
            }
            let has = |name: &str| verb.get_arguments().any(|it| it.get_long() == Some(name));
            let is_other = others.iter().any(|name| path == format!("sconce {name}"));
            if !is_other && !has("json") {
                without.push(format!("{path}: --json"));
            }
        }
        assert!(without.is_empty(), "{without:?}");
    }
}
