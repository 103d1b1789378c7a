//! What streaming costs the router: tokens per second of its CPU time, and memory per idle stream.
//!
//! Starts the release binary's worker with the hash model, which costs next to nothing, and one
//! router; then reads many streams at once and divides the tokens by the CPU time that the router
//! process used. `SCONCE_BIN` names another binary.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const STREAMS: usize = 64;
const TOKENS: usize = 4000;
const IDLE_STREAMS: usize = 1000;
/// Longer than headers are held back, and shorter than a request may wait for its turn.
const PATIENCE: Duration = Duration::from_secs(40);

fn main() {
    let binary = std::env::var_os("SCONCE_BIN").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/release/sconce"),
        PathBuf::from,
    );
    if !binary.exists() {
        println!("build it first: cargo build --release ({} is not there)", binary.display());
        return;
    }
    throughput(&binary);
    idle_memory(&binary);
}

/// A worker and a router, killed on drop.
struct Pair {
    worker: Child,
    router: Child,
    address: String,
    _state: tempfile::TempDir,
}

impl Pair {
    fn start(binary: &PathBuf, worker_flags: &[&str]) -> Self {
        let state = tempfile::tempdir().expect("a temporary directory");
        let socket = format!("unix:{}", state.path().join("worker.sock").display());
        let mut worker = Command::new(binary)
            .args(["worker", "--model", "hash", "--name", "hash", "--listen", &socket])
            .args(worker_flags)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the worker starts");
        line_with(&mut worker, "ready");
        let mut router = Command::new(binary)
            .args(["router", "--listen", "127.0.0.1:0", "--no-auth", "--worker", &socket])
            .arg("--database")
            .arg(state.path().join("keys.db"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("the router starts");
        let line = line_with(&mut router, "listening");
        let address = line.rsplit("http://").next().unwrap_or_default().trim().to_owned();
        let pair = Self { worker, router, address, _state: state };
        while !pair.get("/ready").starts_with("HTTP/1.1 200") {
            std::thread::yield_now();
        }
        pair
    }

    fn get(&self, path: &str) -> String {
        let mut socket = TcpStream::connect(&self.address).expect("the router listens");
        write!(socket, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .expect("sent");
        let mut reply = String::new();
        socket.read_to_string(&mut reply).expect("answered");
        reply
    }

    /// Opens a stream of `tokens` tokens and returns its connection, with the request sent.
    fn stream(&self, index: usize, tokens: usize) -> TcpStream {
        let body = format!(
            r#"{{"model":"hash","prompt":"stream {index}","max_tokens":{tokens},"temperature":0,"ignore_eos":true,"stream":true,"stream_options":{{"include_usage":true}}}}"#
        );
        let mut socket = TcpStream::connect(&self.address).expect("the router listens");
        write!(
            socket,
            "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .expect("sent");
        socket
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for child in [&mut self.router, &mut self.worker] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The first line of a child's stdout that starts with `word`.
fn line_with(child: &mut Child, word: &str) -> String {
    let stdout = child.stdout.take().expect("stdout is piped");
    let mut lines = BufReader::new(stdout).lines();
    loop {
        let line = lines.next().expect("the child is alive").expect("text");
        if line.starts_with(word) {
            return line;
        }
    }
}

/// CPU time that a process has used.
fn cpu_time(child: &Child) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).expect("the process runs");
    let fields: Vec<&str> =
        stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 =
        fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime");
    Duration::from_millis(ticks * 10)
}

fn resident_kib(child: &Child) -> usize {
    fs::read_to_string(format!("/proc/{}/status", child.id()))
        .expect("the process runs")
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|kib| kib.parse().ok())
        .expect("VmRSS")
}

fn throughput(binary: &PathBuf) {
    let pair = Pair::start(binary, &["--max-num-seqs", "64"]);
    let begun = Instant::now();
    let before = cpu_time(&pair.router);
    let readers: Vec<_> = (0..STREAMS)
        .map(|index| {
            let mut socket = pair.stream(index, TOKENS);
            std::thread::spawn(move || {
                let mut buffer = vec![0; 1 << 16];
                let mut tail = Vec::new();
                let mut events = 0;
                loop {
                    let n = socket.read(&mut buffer).expect("the stream goes on");
                    if n == 0 {
                        break;
                    }
                    events += buffer[..n].windows(6).filter(|at| at == b"data: ").count();
                    tail.extend_from_slice(&buffer[..n]);
                    let from = tail.len().saturating_sub(4096);
                    tail.drain(..from);
                }
                let tail = String::from_utf8_lossy(&tail).replace(' ', "");
                assert!(tail.contains("data:[DONE]"), "a stream was cut: {tail}");
                assert!(
                    tail.contains(&format!("\"completion_tokens\":{TOKENS}")),
                    "tokens are missing: {tail}"
                );
                events
            })
        })
        .collect();
    let events: usize = readers.into_iter().map(|reader| reader.join().expect("read")).sum();
    let wall = begun.elapsed();
    let cpu = cpu_time(&pair.router).saturating_sub(before);
    let tokens = (STREAMS * TOKENS) as f64;
    println!(
        "router: {STREAMS} streams, {tokens} tokens in {events} events: {:.0} tokens per second of \
         the router's CPU time ({:.2} us per token), {:.0} tokens/s by the clock",
        tokens / cpu.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / tokens,
        tokens / wall.as_secs_f64(),
    );
}

fn idle_memory(binary: &PathBuf) {
    let pair = Pair::start(
        binary,
        &["--max-num-seqs", "8", "--max-queue", "4096", "--hash-step-us", "500000"],
    );
    let before = resident_kib(&pair.router);
    let streams: Vec<_> = (0..IDLE_STREAMS).map(|index| pair.stream(index, TOKENS)).collect();
    // Every request has been read and is open or queued once the server reports them all.
    let begun = Instant::now();
    while open_streams(&pair) < IDLE_STREAMS {
        assert!(begun.elapsed() < PATIENCE, "{} of {IDLE_STREAMS} are open", open_streams(&pair));
        #[expect(clippy::disallowed_methods, reason = "polling for nothing would be measured")]
        std::thread::sleep(Duration::from_millis(200));
    }
    let after = resident_kib(&pair.router);
    println!(
        "router: {:.1} KiB resident per idle stream ({IDLE_STREAMS} streams, {before} -> {after} KiB)",
        (after - before) as f64 / streams.len() as f64
    );
}

fn open_streams(pair: &Pair) -> usize {
    pair.get("/metrics")
        .lines()
        .filter(|line| line.starts_with("sconce_open_streams"))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum::<f64>() as usize
}
