//! Worker processes, and dispatchers in front of them.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use sconce::engine::request::{Request, SamplingParams};
use sconce::runner::ExecutorLimits;
use sconce::runner::hash::HashModel;
use sconce_proto::worker::{self as wire, EngineStats, Finish};
use sconce_router::config::Config;
use sconce_router::dispatch::{Dispatcher, Error, Generation, Outputs};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Longer than anything here takes; a wait that reaches it has failed.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// Steps that may be in flight, as a flag's values.
pub(crate) const DEPTHS: [&str; 2] = ["1", "2"];

const EOS: u32 = 256;
const VOCAB: u32 = 512;
const MAX_MODEL_LEN: u32 = 4096;

/// A worker that serves the hash model. Killed when dropped.
pub(crate) struct Worker {
    pub(crate) address: String,
    /// What it said when it was ready.
    pub(crate) ready: Value,
    child: Child,
    log: JoinHandle<String>,
}

/// The command that makes a worker at `unix:DIRECTORY/w`.
pub(crate) fn command(directory: &TempDir, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sconce"));
    let listen = format!("unix:{}/w", directory.path().display());
    command
        .args(["worker", "--model", "hash", "--name", "m", "--version", "1", "--listen", &listen])
        .args(["--max-model-len", &MAX_MODEL_LEN.to_string()])
        .args(args)
        .env_remove("RUST_LOG")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

impl Worker {
    pub(crate) async fn start(directory: &TempDir, args: &[&str]) -> Self {
        Self::spawn(command(directory, args)).await
    }

    /// A worker that serves the model in a directory.
    pub(crate) async fn serve(model: &Path, directory: &TempDir, args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sconce"));
        let listen = format!("unix:{}/w", directory.path().display());
        command.arg("worker").arg("--model").arg(model);
        command.args(["--name", "m", "--version", "1", "--listen", &listen]).args(args);
        command.env_remove("RUST_LOG").kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self::spawn(command).await
    }

    async fn spawn(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let mut stderr = child.stderr.take().unwrap();
        let log = tokio::spawn(async move {
            let mut log = String::new();
            stderr.read_to_string(&mut log).await.unwrap();
            log
        });
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = timeout(LONG, lines.next_line()).await.unwrap().unwrap().unwrap();
        let ready: Value = serde_json::from_str(line.strip_prefix("ready ").unwrap()).unwrap();
        let address = ready["address"].as_str().unwrap().to_owned();
        Self { address, ready, child, log }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    pub(crate) fn close_stdin(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Waits for the process's end. Returns its status and its log.
    pub(crate) async fn ended(mut self) -> (ExitStatus, String) {
        // Held open until now: `wait` closes it.
        let stdin = self.child.stdin.take();
        let status = timeout(LONG, self.child.wait()).await.expect("it does not end").unwrap();
        drop(stdin);
        (status, self.log.await.unwrap())
    }
}

/// A dispatcher whose workers are all ready.
pub(crate) async fn dispatcher(workers: &[&Worker]) -> Dispatcher {
    let workers = workers.iter().map(|worker| worker.address.clone()).collect();
    let dispatcher = Dispatcher::new(&Config { workers, ..Config::default() });
    until_ready(&dispatcher).await;
    dispatcher
}

pub(crate) async fn until_ready(dispatcher: &Dispatcher) {
    let all_ready = || dispatcher.status().iter().all(|worker| worker.ready);
    until("ready", all_ready).await;
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, is_so: impl Fn() -> bool) {
    let poll = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(2));
        while !is_so() {
            ticks.tick().await;
        }
    };
    timeout(LONG, poll).await.unwrap_or_else(|_| panic!("never {what}"));
}

pub(crate) fn stats(dispatcher: &Dispatcher) -> EngineStats {
    dispatcher.status()[0].stats.unwrap_or_default()
}

/// Waits until the engine holds nothing.
pub(crate) async fn until_idle(dispatcher: &Dispatcher) {
    let idle = || {
        let (stats, status) = (stats(dispatcher), dispatcher.status());
        stats.num_running == 0 && stats.num_waiting == 0 && status[0].num_in_flight == 0
    };
    until("idle", idle).await;
    assert_eq!(stats(dispatcher).num_used_blocks, 0, "blocks are still held");
}

/// A prompt, of which some begin alike, to be continued by up to `max_tokens`.
pub(crate) fn generation(number: u32, max_tokens: u32) -> Generation {
    let shared = (0..number % 5 * 12).map(|position| position % 200);
    let own = (0..1 + number % 23).map(|position| (number * 31 + position * 7) % VOCAB);
    let sampling = wire::SamplingParams {
        temperature: (number % 2) as f32,
        top_p: 1.0,
        typical_p: 1.0,
        repetition_penalty: 1.0,
        seed: u64::from(number / 3),
        max_tokens,
        ignore_eos: !number.is_multiple_of(3),
        ..wire::SamplingParams::default()
    };
    let salt = [u8::from(number.is_multiple_of(7)); 16];
    let prompt = shared.chain(own).collect();
    Generation { prompt, n: 1, sampling, cache_salt: salt, priority: 0, report_progress: false }
}

/// A completion that goes on until it has so many tokens.
pub(crate) fn endless(number: u32, max_tokens: u32) -> Generation {
    let mut generation = generation(number, max_tokens);
    generation.sampling.ignore_eos = true;
    generation
}

/// What the hash model must answer, by completion.
pub(crate) fn expected(generation: &Generation) -> Vec<Vec<u32>> {
    let limits = ExecutorLimits {
        block_size: 16,
        num_blocks: 1,
        max_num_batched_tokens: 1,
        max_num_seqs: 1,
        max_model_len: MAX_MODEL_LEN,
        vocab_size: VOCAB,
    };
    let sampling = SamplingParams {
        temperature: generation.sampling.temperature,
        seed: generation.sampling.seed,
        max_tokens: generation.sampling.max_tokens,
        ignore_eos: generation.sampling.ignore_eos,
        ..SamplingParams::default()
    };
    let request = Request {
        prompt: generation.prompt.clone(),
        n: generation.n,
        sampling,
        cache_salt: u128::from_le_bytes(generation.cache_salt),
        report_progress: false,
        priority: 0,
    };
    let model = HashModel::new(limits, EOS);
    (0..generation.n).map(|index| model.expected(&request, index)).collect()
}

pub(crate) fn send(dispatcher: &Dispatcher, generation: Generation) -> Result<Outputs, Error> {
    dispatcher.generate(&dispatcher.model("m").unwrap(), generation)
}

/// Reads a generation to its end: the tokens by completion.
pub(crate) async fn read(mut outputs: Outputs, n: u32) -> Result<Vec<Vec<u32>>, Error> {
    let mut tokens = vec![Vec::new(); n as usize];
    while let Some(output) = timeout(LONG, outputs.next()).await.expect("nothing comes") {
        let output = output?;
        tokens[output.index as usize].extend(output.token);
        assert_ne!(output.finish(), Finish::Cancelled);
    }
    Ok(tokens)
}

/// Reads so many tokens.
pub(crate) async fn read_some(outputs: &mut Outputs, num: usize) -> Vec<u32> {
    let mut tokens = Vec::new();
    while tokens.len() < num {
        let output = timeout(LONG, outputs.next()).await.expect("nothing comes").unwrap().unwrap();
        tokens.extend(output.token);
    }
    tokens
}
