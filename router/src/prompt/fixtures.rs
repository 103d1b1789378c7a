//! Models for the tests of this crate.

use std::collections::HashMap;

use sconce_proto::worker::ModelInfo;
use serde_json::{Value, json};
use tokenizers::Tokenizer;

use crate::model::Model;
use crate::validate::{Chat, ChatMessage, PromptEnd, Role, Tools};

#[path = "../../tests/support/tokenizers.rs"]
mod tokenizer_json;

pub(crate) fn byte_level() -> Tokenizer {
    Tokenizer::from_bytes(tokenizer_json::byte_level().to_string()).unwrap()
}

pub(crate) fn sentencepiece() -> Tokenizer {
    Tokenizer::from_bytes(sentencepiece_json().to_string()).unwrap()
}

pub(crate) use tokenizer_json::ADDED;

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
    Model::load(info, tokenizer_json::byte_level().to_string().as_bytes()).unwrap()
}

/// A message that says this.
pub(crate) fn message(role: Role, content: &str) -> ChatMessage {
    ChatMessage {
        role,
        content: content.to_owned(),
        name: None,
        calls: Vec::new(),
        call_id: None,
        reasoning: None,
    }
}

/// A conversation that the assistant is to answer.
pub(crate) fn chat(messages: Vec<ChatMessage>) -> Chat {
    let (tools, end, variables) = (Tools::default(), PromptEnd::Answer, Vec::new());
    Chat { messages, tools, end, variables, param: "messages" }
}

/// SentencePiece's kind, as Llama 2 has it: `▁` for spaces, bytes for what the vocabulary lacks.
fn sentencepiece_json() -> Value {
    let mut vocab: Vec<String> = vec!["<unk>".into()];
    vocab.extend((0..=u8::MAX).map(|byte| format!("<0x{byte:02X}>")));
    vocab.extend(["▁", "a", "b", "c", "▁a", "▁b"].map(String::from));
    let first_added = vocab.len();
    let vocab: serde_json::Map<_, _> =
        vocab.into_iter().enumerate().map(|(id, token)| (token, json!(id))).collect();
    json!({
        "version": "1.0",
        "added_tokens": tokenizer_json::added(first_added),
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "Prepend", "prepend": "▁" },
            { "type": "Replace", "pattern": { "String": " " }, "content": "▁" },
        ]},
        "decoder": { "type": "Sequence", "decoders": [
            { "type": "Replace", "pattern": { "String": "▁" }, "content": " " },
            { "type": "ByteFallback" },
            { "type": "Fuse" },
            { "type": "Strip", "content": " ", "start": 1, "stop": 0 },
        ]},
        "model": {
            "type": "BPE", "vocab": vocab, "merges": ["▁ a", "▁ b"], "unk_token": "<unk>",
            "fuse_unk": true, "byte_fallback": true,
        },
    })
}
