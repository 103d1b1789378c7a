//! The stand-in hub as a process, for tests that are not in Rust.
//!
//! It says its two URLs on a line of JSON, then takes a command a line on its standard input and
//! answers each with a line. It ends when its input does, so that it never outlives its test.

use std::io::{BufRead, Write};
use std::path::PathBuf;

use sconce_stand_in_hub::{Fault, Host, StandIn};
use serde::Deserialize;
use serde_json::{Value, json};

/// What a test can say.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Command {
    /// A file with a text.
    Put {
        repo: String,
        file: String,
        text: String,
    },
    /// A file with `size` bytes that do not repeat soon; the same ones for the same seed.
    PutBytes {
        repo: String,
        file: String,
        size: usize,
        seed: u64,
    },
    /// A file as it is on this machine.
    PutFile {
        repo: String,
        file: String,
        path: PathBuf,
    },
    MoveTo(String),
    Gate {
        repo: String,
        token: String,
    },
    Rename {
        from: String,
        to: String,
    },
    Misbehave {
        host: Host,
        faults: Vec<Fault>,
    },
    Behave,
    Limit(String),
    OfferXet,
    Page(usize),
    /// Answers with all requests, and the bytes that left the second host.
    Seen,
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let hub = StandIn::start().await;
    say(&json!({ "url": hub.url(), "cdn": hub.cdn_url() }))?;
    // The server runs on the runtime's other threads.
    tokio::task::spawn_blocking(move || {
        for line in std::io::stdin().lock().lines() {
            say(&obey(&hub, serde_json::from_str(&line?)?)?)?;
        }
        Ok(())
    })
    .await?
}

fn obey(hub: &StandIn, command: Command) -> std::io::Result<Value> {
    match command {
        Command::Put { repo, file, text } => hub.put(&repo, &file, text.as_bytes()),
        Command::PutBytes { repo, file, size, seed } => hub.put(&repo, &file, &bytes(size, seed)),
        Command::PutFile { repo, file, path } => hub.put(&repo, &file, &std::fs::read(path)?),
        Command::MoveTo(commit) => hub.move_to(&commit),
        Command::Gate { repo, token } => hub.gate(&repo, &token),
        Command::Rename { from, to } => hub.rename(&from, &to),
        Command::Misbehave { host, faults } => hub.misbehave_at(host, &faults),
        Command::Behave => hub.behave(),
        Command::Limit(value) => hub.limit(&value),
        Command::OfferXet => hub.offer_xet(),
        Command::Page(size) => hub.page(size),
        Command::Seen => {
            return Ok(json!({ "requests": hub.seen(), "num_bytes": hub.num_bytes() }));
        }
    }
    Ok(Value::Null)
}

/// An LCG's high bytes.
fn bytes(size: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let next = |_| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..size).map(next).collect()
}

fn say(value: &Value) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{value}")?;
    out.flush()
}
