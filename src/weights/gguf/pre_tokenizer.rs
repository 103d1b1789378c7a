//! How text is cut before byte-level merges, by GGUF's name of it.
//!
//! GGUF names a recipe instead of storing it. Each one here is that of the original
//! `tokenizer.json`, which differs from what other readers of GGUF take for some of them.

use serde_json::{Value, json};

use crate::weights::Error;

/// A byte-level tokenizer but for its vocabulary.
#[derive(Debug)]
pub(super) struct Recipe {
    /// GGUF's names of it.
    names: &'static [&'static str],
    /// Text is composed (NFC) first.
    composes: bool,
    split: Split,
    /// A piece that is a token is not merged from bytes.
    pub(super) ignore_merges: bool,
    /// Prompts begin with the BOS token unless the file says otherwise.
    pub(super) add_bos_token: bool,
}

#[derive(Debug)]
enum Split {
    /// GPT-2's words.
    Words,
    /// Digits one by one, then GPT-2's words.
    DigitsThenWords,
    /// Matches of a pattern and what is between them.
    Pattern(&'static str),
    /// One pattern after the other, each within the pieces of those before, then single digits.
    PatternsThenDigits(&'static [&'static str]),
}

const RECIPES: [Recipe; 5] = [
    Recipe {
        names: &["gpt-2", "default"],
        composes: false,
        split: Split::Words,
        ignore_merges: false,
        add_bos_token: false,
    },
    Recipe {
        names: &["smollm", "starcoder", "refact"],
        composes: false,
        split: Split::DigitsThenWords,
        ignore_merges: false,
        add_bos_token: false,
    },
    Recipe {
        names: &["llama-bpe", "llama3", "llama-v3"],
        composes: false,
        split: Split::Pattern(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
        ignore_merges: true,
        add_bos_token: true,
    },
    Recipe {
        names: &["qwen2", "deepseek-r1-qwen"],
        composes: true,
        split: Split::Pattern(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
        ignore_merges: false,
        add_bos_token: false,
    },
    Recipe {
        names: &["deepseek-coder"],
        composes: false,
        split: Split::PatternsThenDigits(&[
            "[\r\n]",
            r"\s?\p{L}+",
            r"\s?\p{P}+",
            "[一-龥ࠀ-一가-퟿]+",
        ]),
        ignore_merges: false,
        add_bos_token: false,
    },
];

impl Recipe {
    /// The recipe with GGUF's `name`.
    pub(super) fn named(name: Option<&str>) -> Result<&'static Self, Error> {
        let found = RECIPES.iter().find(|recipe| name.is_some_and(|n| recipe.names.contains(&n)));
        found.ok_or_else(|| {
            let known: Vec<_> = RECIPES.iter().flat_map(|recipe| recipe.names).copied().collect();
            let name = name.unwrap_or("missing");
            Error::unsupported("tokenizer.ggml.pre", name, known.join(", "))
        })
    }

    /// The normalizer of a `tokenizer.json`.
    pub(super) fn normalizer(&self) -> Value {
        if self.composes { json!({"type": "NFC"}) } else { Value::Null }
    }

    /// The pre-tokenizer of a `tokenizer.json`.
    pub(super) fn pre_tokenizer(&self) -> Value {
        let digits = json!({"type": "Digits", "individual_digits": true});
        let steps = match self.split {
            Split::Words => return byte_level(true),
            Split::DigitsThenWords => vec![digits, byte_level(true)],
            Split::Pattern(pattern) => vec![isolate(pattern), byte_level(false)],
            Split::PatternsThenDigits(patterns) => {
                let patterns = patterns.iter().map(|pattern| isolate(pattern));
                patterns.chain([digits, byte_level(false)]).collect()
            }
        };
        json!({"type": "Sequence", "pretokenizers": steps})
    }
}

fn isolate(pattern: &str) -> Value {
    let pattern = json!({"Regex": pattern});
    json!({"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false})
}

/// Bytes as characters; with `use_regex` split into GPT-2's words before.
pub(super) fn byte_level(use_regex: bool) -> Value {
    json!({
        "type": "ByteLevel",
        "add_prefix_space": false,
        "trim_offsets": true,
        "use_regex": use_regex,
    })
}
