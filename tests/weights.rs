//! Checkpoints: what is read from good ones, and how broken ones are refused.

use std::{path::PathBuf, time::Instant};

use sconce::weights::Checkpoint;

#[test]
fn the_real_model_opens_fast_and_whole() {
    let Some(path) = std::env::var_os("SCONCE_TEST_MODEL").map(PathBuf::from) else {
        println!("skipped: SCONCE_TEST_MODEL names no model");
        return;
    };
    let start = Instant::now();
    let checkpoint = Checkpoint::open(&path).unwrap();
    println!("opened in {:?}", start.elapsed());
    let start = Instant::now();
    let json = checkpoint.tokenizer_json().unwrap();
    println!("{} bytes of tokenizer.json in {:?}", json.len(), start.elapsed());
    let start = Instant::now();
    let tokenizer = tokenizers::Tokenizer::from_bytes(&json).unwrap();
    println!("tokenizer in {:?}", start.elapsed());
    println!("{:?}", checkpoint.config());
    println!("{:?} {:?}", checkpoint.special_tokens(), checkpoint.eos_token_ids());
    println!("{:?}", tokenizer.encode("Hello  123 world", true).unwrap().get_ids());
    let start = Instant::now();
    println!("{}", checkpoint.tensor("model.embed_tokens.weight").unwrap().data.len());
    println!("embed in {:?}", start.elapsed());
}
