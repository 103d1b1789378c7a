//! What a GGUF file's metadata says of prompts and their ends.

use std::collections::BTreeMap;

use super::{
    metadata::Metadata,
    tokenizer::{self, CONTROL},
};
use crate::weights::{Error, GenerationConfig, TextConfig};

/// Tokens that end a turn or a document whenever a vocabulary has them. Files often name only one
/// of theirs.
const END_TOKENS: [&str; 6] =
    ["<|endoftext|>", "<|im_end|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>"];

pub(super) fn read(metadata: &Metadata) -> Result<TextConfig, Error> {
    let tokens = metadata.strings("tokenizer.ggml.tokens")?.unwrap_or_default();
    let id = |name: &str| {
        let key = format!("tokenizer.ggml.{name}_token_id");
        match metadata.usize(&key)? {
            Some(id) if id >= tokens.len() => {
                let len = tokens.len();
                Err(metadata.malformed(format!("{key} is {id} in a vocabulary of {len}")))
            }
            Some(id) => Ok(u32::try_from(id).ok()),
            None => Ok(None),
        }
    };
    let bos_token_id = id("bos")?;
    let mut special_tokens = BTreeMap::new();
    for (name, key) in [
        ("bos", "bos"),
        ("eos", "eos"),
        ("unk", "unknown"),
        ("pad", "padding"),
        ("sep", "seperator"),
    ] {
        if let Some(id) = id(key)? {
            special_tokens.insert(format!("{name}_token"), tokens[id as usize].to_owned());
        }
    }
    let mut eos_token_ids = Vec::new();
    for name in ["eos", "eot", "eom"] {
        eos_token_ids.extend(id(name)?);
    }
    let types = metadata.i32s("tokenizer.ggml.token_type")?.unwrap_or_default();
    let typed = tokens.iter().zip(&types).zip(0..);
    eos_token_ids.extend(typed.filter_map(|((token, kind), id)| {
        (*kind == CONTROL && END_TOKENS.contains(token)).then_some(id)
    }));
    eos_token_ids.sort_unstable();
    eos_token_ids.dedup();
    Ok(TextConfig {
        chat_template: metadata.str("tokenizer.chat_template")?.map(str::to_owned),
        special_tokens,
        bos_token_id,
        add_bos_token: bos_token_id.is_some() && tokenizer::adds_bos(metadata)?,
        add_eos_token: tokenizer::adds_eos(metadata)?,
        eos_token_ids,
        generation: GenerationConfig::default(),
    })
}
