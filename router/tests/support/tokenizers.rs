//! A small tokenizer as a `tokenizer.json` text.

use serde_json::{Value, json};

/// Tokens that chat templates write, with whether they are special.
pub(crate) const ADDED: [(&str, bool); 16] = [
    ("<|endoftext|>", true),
    ("<|im_start|>", true),
    ("<|im_end|>", true),
    ("<|begin_of_text|>", true),
    ("<|start_header_id|>", true),
    ("<|end_header_id|>", true),
    ("<|eot_id|>", true),
    ("<s>", true),
    ("</s>", true),
    ("[INST]", true),
    ("[/INST]", true),
    ("<think>", false),
    ("</think>", false),
    ("<tool_call>", false),
    ("<|im", false),
    ("    ", false),
];

/// GPT-2's byte-level kind: ids 0 to 255 are the bytes, then come a few
/// merges, then the added tokens.
pub(crate) fn byte_level() -> Value {
    let mut alphabet: Vec<(u8, char)> = Vec::new();
    let mut next = 256;
    for byte in 0..=u8::MAX {
        let character = match byte {
            b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => char::from(byte),
            _ => {
                next += 1;
                char::from_u32(next - 1).unwrap()
            }
        };
        alphabet.push((byte, character));
    }
    let mut vocab: Vec<String> = alphabet.iter().map(|(_, c)| c.to_string()).collect();
    let merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("Ġ", "w"), ("<", "|")];
    vocab.extend(merges.iter().map(|(left, right)| format!("{left}{right}")));
    let first_added = vocab.len();
    let vocab: serde_json::Map<_, _> =
        vocab.into_iter().enumerate().map(|(id, token)| (token, json!(id))).collect();
    json!({
        "version": "1.0",
        "added_tokens": added(first_added),
        "pre_tokenizer": {
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true,
        },
        "decoder": {
            "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true,
        },
        "model": {
            "type": "BPE", "vocab": vocab,
            "merges": merges.map(|(left, right)| format!("{left} {right}")),
        },
    })
}

/// The added tokens, with ids from `first` on.
pub(crate) fn added(first: usize) -> Vec<Value> {
    let tokens = ADDED.iter().enumerate();
    let token = |(i, (content, special)): (usize, &(&str, bool))| {
        json!({
            "id": first + i, "content": content, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": special,
        })
    };
    tokens.map(token).collect()
}
