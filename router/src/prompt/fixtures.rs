//! Models for the tests of this crate.

use std::collections::HashMap;

use sconce_proto::worker::ModelInfo;
use tokenizers::Tokenizer;

use crate::model::Model;

#[path = "../../tests/support/tokenizers.rs"]
mod json;

pub(crate) fn byte_level() -> Tokenizer {
    Tokenizer::from_bytes(json::byte_level().to_string()).unwrap()
}

pub(crate) fn sentencepiece() -> Tokenizer {
    Tokenizer::from_bytes(json::sentencepiece().to_string()).unwrap()
}

pub(crate) use json::ADDED;

pub(crate) fn info() -> ModelInfo {
    let tokens = [("bos_token", "<|im_start|>"), ("eos_token", "<|im_end|>")];
    ModelInfo {
        model: "tiny".into(),
        version: "1".into(),
        max_model_len: 256,
        vocab_size: 300,
        max_num_seqs: 8,
        block_size: 16,
        num_blocks: 64,
        special_tokens: HashMap::from(tokens.map(|(k, v)| (k.into(), v.into()))),
        max_logprobs: 20,
        max_queue: 8,
        ..ModelInfo::default()
    }
}

/// A byte-level model with this chat template.
pub(crate) fn model(chat_template: &str) -> Model {
    let info = ModelInfo { chat_template: chat_template.into(), ..info() };
    Model::load(info, json::byte_level().to_string().as_bytes()).unwrap()
}
