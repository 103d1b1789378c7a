//! Filling in the middle: the tokens with which a model is told what comes before and after.
//!
//! A tokenizer has them under one of a few sets of names, which its family was trained with.

use tokenizers::Tokenizer;

/// The tokens of a model that fills in the middle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Infill {
    prefix: u32,
    suffix: u32,
    /// What the completion follows. Without it, that is the prefix, which then comes last.
    middle: Option<u32>,
    /// Tokens that end the completion, beside the model's own.
    pub(crate) ends: Vec<u32>,
}

/// Names of the tokens before the prefix, before the suffix, and before the middle.
const NAMES: &[(&str, &str, Option<&str>)] = &[
    // Qwen2.5-Coder, CodeGemma, newer Granite
    ("<|fim_prefix|>", "<|fim_suffix|>", Some("<|fim_middle|>")),
    // StarCoder, StableCode, Granite
    ("<fim_prefix>", "<fim_suffix>", Some("<fim_middle>")),
    // SantaCoder
    ("<fim-prefix>", "<fim-suffix>", Some("<fim-middle>")),
    // DeepSeek
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", Some("<｜fim▁end｜>")),
    // CodeLlama
    ("▁<PRE>", "▁<SUF>", Some("▁<MID>")),
    // GLM-4, CodeGeeX
    ("<|code_prefix|>", "<|code_suffix|>", Some("<|code_middle|>")),
    // Codestral
    ("[PREFIX]", "[SUFFIX]", None),
];

/// What models write where the middle ends, beside their end tokens.
const ENDS: &[&str] = &[
    "<|endoftext|>",
    "<|fim_pad|>",
    "<fim_pad>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<|file_separator|>",
    "<file_sep>",
    "▁<EOT>",
];

impl Infill {
    /// The tokens, if the tokenizer has them.
    pub(crate) fn of(tokenizer: &Tokenizer) -> Option<Self> {
        let id = |name: &str| tokenizer.token_to_id(name);
        let (prefix, suffix, middle) = NAMES.iter().find_map(|(prefix, suffix, middle)| {
            let middle = match middle {
                Some(middle) => Some(id(middle)?),
                None => None,
            };
            Some((id(prefix)?, id(suffix)?, middle))
        })?;
        let ends = ENDS.iter().filter_map(|name| id(name)).collect();
        Some(Self { prefix, suffix, middle, ends })
    }

    /// The prompt for what comes between two texts.
    pub(crate) fn prompt(&self, before: &[u32], after: &[u32]) -> Vec<u32> {
        match self.middle {
            Some(middle) => [&[self.prefix], before, &[self.suffix], after, &[middle]].concat(),
            None => [&[self.suffix], after, &[self.prefix], before].concat(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokenizers::AddedToken;

    use super::*;
    use crate::prompt::fixtures;

    fn tokenizer(names: &[&str]) -> Tokenizer {
        let mut tokenizer = fixtures::byte_level();
        let tokens = names.iter().map(|name| AddedToken::from(*name, false));
        tokenizer.add_tokens(tokens.collect::<Vec<_>>()).unwrap();
        tokenizer
    }

    #[test]
    fn every_family_has_its_tokens_and_their_order() {
        for (prefix, suffix, middle) in NAMES {
            let names: Vec<_> = [*prefix, *suffix].into_iter().chain(*middle).collect();
            let tokenizer = tokenizer(&names);
            let infill = Infill::of(&tokenizer).unwrap();
            let ids: Vec<_> =
                names.iter().map(|name| tokenizer.token_to_id(name).unwrap()).collect();
            let expected = match ids[..] {
                [prefix, suffix, middle] => vec![prefix, 1, suffix, 2, middle],
                _ => vec![ids[1], 2, ids[0], 1],
            };
            assert_eq!(infill.prompt(&[1], &[2]), expected, "{prefix}");
        }
        assert_eq!(Infill::of(&tokenizer(&["<fim_prefix>", "<fim_suffix>"])), None);
    }
}
