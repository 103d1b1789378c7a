//! How many tokens a second one core of the load generator takes in: each token an event, a chunk
//! and a write of its own. At once, as a server sends them that has nothing to wait for; and with a
//! pause after each, so that each is also a wake-up and a read of the client's. Before that, how long
//! it takes from a process's start until its first request is at the server.
//!
//!     cargo bench -p sconce-bench
//!
//! The server is another process, so that only the client's computing is counted.

#![expect(clippy::unwrap_used, reason = "a bench that can't be set up should stop")]
#![expect(clippy::print_stdout, reason = "prints the figure")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use sconce_bench::Bench;
use serde_json::Value;

const TOKENS: usize = 500;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    bench: Bench,
}

fn main() {
    let mut words = std::env::args().skip(1);
    match words.next().as_deref() {
        Some("serve") => {
            return serve(Duration::from_micros(words.next().unwrap().parse().unwrap()));
        }
        Some("send") => return send(&words.next().unwrap()),
        _ => (),
    }
    measure_start();
    for pause in ["0", "1000"] {
        measure(pause);
    }
}

/// Starts a client, and takes the time until its request has come.
fn measure_start() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut times = Vec::new();
    for _ in 0..30 {
        let start = Instant::now();
        let program = std::env::current_exe().unwrap();
        let mut command = Command::new(program);
        command.args(["send", &url]).stdout(Stdio::null()).stderr(Stdio::null());
        let mut client = command.spawn().unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0; 4]).unwrap();
        times.push(start.elapsed());
        client.kill().unwrap();
        client.wait().unwrap();
    }
    times.sort();
    println!(
        "\nfrom start to the first request: {:.1?} in the median, {:.1?} at most\n",
        times[times.len() / 2],
        times[times.len() - 1]
    );
}

/// Sends one request.
fn send(url: &str) {
    let words = ["bench", "--url", url, "--model", "m", "-n", "1", "--no-live"];
    let _ = Cli::parse_from(words).bench.run();
}

/// Against a server that pauses for so many microseconds before each token.
fn measure(pause: &str) {
    let mut server = Command::new(std::env::current_exe().unwrap())
        .args(["serve", pause])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut url = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut url).unwrap();
    for concurrency in ["1", "16", "64"] {
        let out = tempfile::NamedTempFile::new().unwrap();
        let json = out.path().to_str().unwrap();
        let words = ["bench", "--url", url.trim(), "--model", "m", "--concurrency", concurrency];
        let num_requests = if concurrency == "1" && pause != "0" { "20" } else { "1000" };
        let words =
            words.into_iter().chain(["-n", num_requests, "--no-live", "--output-json", json]);
        Cli::parse_from(words).bench.run().unwrap();
        let result: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
        let number = |name: &str| result[name].as_f64().unwrap();
        let cpu = result["client"]["cpu_seconds"].as_f64().unwrap();
        println!(
            "\npause {pause} µs, concurrency {concurrency}: {:.0} tokens/s, {:.0} tokens per second of one core\n",
            number("output_throughput"),
            number("total_output_tokens") / cpu
        );
    }
    // It ends with its standard input.
    drop(server.stdin.take());
    server.wait().unwrap();
}

/// Serves until standard input ends.
fn serve(pause: Duration) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            std::thread::spawn(move || answer(&stream, pause));
        }
    });
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

/// Answers the requests of one connection, whatever they ask.
fn answer(stream: &TcpStream, pause: Duration) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let chunk = |data: &str| {
        let event = format!("data: {data}\n\n");
        format!("{:x}\r\n{event}\r\n", event.len()).into_bytes()
    };
    let token = chunk(
        r#"{"id":"chatcmpl-0123456789","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":" hello"},"logprobs":null,"finish_reason":null}],"usage":null}"#,
    );
    let usage = format!(
        r#"{{"choices":[],"usage":{{"prompt_tokens":128,"completion_tokens":{TOKENS},"total_tokens":0}}}}"#
    );
    let end = [chunk(&usage), chunk("[DONE]"), b"0\r\n\r\n".to_vec()].concat();
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
            if line == "\r\n" {
                break;
            }
        }
        reader.read_exact(&mut vec![0; length]).ok()?;
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        writer.write_all(head.as_bytes()).ok()?;
        for _ in 0..TOKENS {
            if !pause.is_zero() {
                #[expect(clippy::disallowed_methods, reason = "the pace of the server")]
                std::thread::sleep(pause);
            }
            writer.write_all(&token).ok()?;
        }
        writer.write_all(&end).ok()?;
    }
}
