//! Checkpoints: what is read from good ones, and how broken ones are refused.

#![expect(clippy::unwrap_used, reason = "a test's helpers may")]

mod gguf;
mod gguf_broken;
mod gguf_file;
mod quantized;
mod safetensors;

use std::{
    error::Error,
    fmt::Write,
    path::PathBuf,
    time::{Duration, Instant},
};

use sconce::weights::Checkpoint;

/// An error and its causes, or the panic that there is none.
fn refusal(opened: Result<Checkpoint, sconce::weights::Error>) -> String {
    let Err(error) = opened else { panic!("the checkpoint opened") };
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        write!(text, ": {error}").unwrap();
        cause = error.source();
    }
    text
}

/// Most memory that this process ever had, in MiB.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kib.map_or(0, |kib| kib.trim().parse::<u64>().unwrap() / 1024)
}

/// Reads everything of a checkpoint that opened. Must not panic, whatever it holds.
fn read_all(checkpoint: &Checkpoint) {
    for name in ["model.embed_tokens.weight", "model.norm.weight"] {
        let tensor = checkpoint.tensor(name).unwrap();
        assert_eq!(tensor.to_f32().is_none(), tensor.dtype.block_len() > 1);
    }
    if let Ok(json) = checkpoint.tokenizer_json() {
        // The router's parser may refuse it, with an error.
        let _ = tokenizers::Tokenizer::from_bytes(json);
    }
}

#[test]
fn the_real_model_opens_in_a_fraction_of_a_second() {
    let Some(path) = std::env::var_os("SCONCE_TEST_MODEL").map(PathBuf::from) else {
        println!("skipped: SCONCE_TEST_MODEL is not set");
        return;
    };
    let start = Instant::now();

    let checkpoint = Checkpoint::open(&path).unwrap();
    let opened = start.elapsed();
    let json = checkpoint.tokenizer_json().unwrap();
    println!("opened in {opened:?}, tokenizer.json after {:?}", start.elapsed());

    assert!(opened < Duration::from_millis(500), "{opened:?}");
    let config = checkpoint.config();
    assert_eq!((config.hidden_size, config.num_hidden_layers, config.vocab_size), (576, 30, 49152));
    assert!(config.tie_word_embeddings && !checkpoint.has_tensor("lm_head.weight"));
    assert_eq!(checkpoint.eos_token_ids(), [0, 2]);
    assert_eq!(checkpoint.special_tokens()["bos_token"], "<|im_start|>");
    assert!(!checkpoint.add_bos_token());
    assert!(checkpoint.chat_template().unwrap().contains("<|im_start|>"));
    tokenizers::Tokenizer::from_bytes(json).unwrap();
}
