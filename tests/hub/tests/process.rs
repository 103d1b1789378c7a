//! The stand-in as a process, as tests in other languages start it.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

#[test]
fn it_says_where_it_is_obeys_and_ends_with_its_input() {
    let mut process = Command::new(env!("CARGO_BIN_EXE_sconce-stand-in-hub"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = process.stdin.take().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let mut answer = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };

    let hello = answer();
    assert!(hello["url"].as_str().unwrap().starts_with("http://"), "{hello}");
    assert_ne!(hello["url"], hello["cdn"]);

    writeln!(input, "{}", json!({"put": {"repo": "o/m", "file": "a.txt", "text": "x"}})).unwrap();
    assert_eq!(answer(), Value::Null);
    writeln!(input, "{}", json!("seen")).unwrap();
    assert_eq!(answer(), json!({"requests": [], "num_bytes": 0}));

    drop(input);
    assert!(process.wait().unwrap().success());
}
