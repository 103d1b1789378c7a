//! The tokenizer made from a GGUF file, against transformers' on a corpus of hard lines.
//!
//! Needs a model (`SCONCE_TEST_MODEL`) and a Python with transformers (`SCONCE_TEST_PYTHON`).

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a test's helpers may")]

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use sconce::weights::Checkpoint;
use serde::Deserialize;
use tokenizers::Tokenizer;

const NUM_LINES: usize = 12_000;

#[derive(Deserialize)]
struct Line {
    text: String,
    ids: Vec<u32>,
    plain: Vec<u32>,
    decoded: Option<String>,
    converted: Option<Vec<u32>>,
}

fn environment(name: &str) -> Option<PathBuf> {
    let value = std::env::var_os(name).map(PathBuf::from);
    if value.is_none() {
        println!("skipped: {name} is not set");
    }
    value
}

fn tokenizer(model: &Path) -> Tokenizer {
    let checkpoint = Checkpoint::open(model).unwrap();
    Tokenizer::from_bytes(checkpoint.tokenizer_json().unwrap()).unwrap()
}

/// The corpus and its encodings by transformers.
fn reference(python: &Path, model: &Path) -> Vec<Line> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/reference/encode.py");
    let mut child = Command::new(python)
        .arg(script)
        .arg(model)
        .arg(NUM_LINES.to_string())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let lines = output.lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap());
    let lines: Vec<Line> = lines.collect();
    assert!(child.wait().unwrap().success());
    assert_eq!(lines.len(), NUM_LINES);
    lines
}

fn encode(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode_fast(text, false).unwrap().get_ids().to_vec()
}

#[test]
fn encodes_and_decodes_as_the_original() {
    let (Some(model), Some(python)) =
        (environment("SCONCE_TEST_MODEL"), environment("SCONCE_TEST_PYTHON"))
    else {
        return;
    };
    let tokenizer = tokenizer(&model);
    let mut plain = tokenizer.clone();
    plain.set_encode_special_tokens(true);

    let lines = reference(&python, &model);
    let differs = |line: &&Line| {
        encode(&tokenizer, &line.text) != line.ids
            || encode(&plain, &line.text) != line.plain
            || tokenizer.decode(&line.ids, false).unwrap()
                != *line.decoded.as_ref().unwrap_or(&line.text)
    };
    let different: Vec<_> = lines.iter().filter(differs).map(|line| &line.text).collect();

    assert_eq!(different, [""; 0], "{} of {NUM_LINES} lines", different.len());
    // Where transformers' own conversion differs, it is by the digits that it does not cut off.
    let deviations: Vec<_> = lines.iter().filter(|line| line.converted.is_some()).collect();
    println!("transformers deviates from the original in {} lines", deviations.len());
    for line in deviations {
        assert!(line.text.contains(char::is_numeric), "{:?}", line.text);
    }
}
