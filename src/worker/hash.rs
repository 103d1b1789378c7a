//! The hash model as a served model: a byte-level tokenizer made in code, a plain chat template,
//! and an executor that can be slow or fail when a test wants that.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use serde_json::json;

use super::cli::HashOptions;
use crate::engine::plan::{Sampled, Scored, StepPlan};
use crate::engine::request::TokenId;
use crate::runner::hash::HashModel;
use crate::runner::{Error, Executor, ExecutorLimits};

/// Ends a completion.
pub(crate) const EOS: TokenId = 256;
/// Begins a message.
const START: TokenId = 257;
/// Ends a message.
const END: TokenId = 258;
const SPECIAL: [(&str, TokenId); 3] =
    [("<|endoftext|>", EOS), ("<|im_start|>", START), ("<|im_end|>", END)];

pub(crate) const CHAT_TEMPLATE: &str = "{% for message in messages %}<|im_start|>\
{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}\
{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// The model with the delays and faults that were asked for.
pub(crate) struct HashExecutor {
    model: HashModel,
    step: Duration,
    fail_at: Option<u32>,
    /// When the steps in flight end at the earliest: one after the other, as on a device.
    ends: VecDeque<Instant>,
}

impl HashExecutor {
    pub(crate) fn new(options: &HashOptions) -> Self {
        let limits = ExecutorLimits {
            block_size: options.block_size,
            num_blocks: options.num_blocks,
            max_num_batched_tokens: options.max_num_batched_tokens,
            max_num_seqs: options.max_num_seqs,
            max_model_len: options.max_model_len,
            vocab_size: options.vocab_size,
        };
        let model = HashModel::new(limits, EOS).with_depth(options.depth);
        Self { model, step: options.step, fail_at: options.fail_at, ends: VecDeque::new() }
    }
}

impl Executor for HashExecutor {
    fn limits(&self) -> ExecutorLimits {
        self.model.limits()
    }

    fn depth(&self) -> usize {
        self.model.depth()
    }

    fn begin(&mut self, plan: &StepPlan) -> Result<(), Error> {
        let now = Instant::now();
        let begins = self.ends.back().map_or(now, |end| now.max(*end));
        self.ends.push_back(begins + self.step);
        self.model.begin(plan)
    }

    fn finish(&mut self, plan: &StepPlan, sampled: &mut Vec<Sampled>) -> Result<(), Error> {
        let fails = |position| {
            let mut samples = plan.samples.iter();
            samples.any(|at| (at.position..=at.position + at.num_drafts).contains(&position))
        };
        if self.fail_at.is_some_and(fails) {
            return Err(Error::Plan("--hash-fail-at was given".to_owned()));
        }
        self.model.finish(plan, sampled)?;
        let end = self.ends.pop_front();
        let rest = end.map_or(Duration::ZERO, |end| end.saturating_duration_since(Instant::now()));
        if !rest.is_zero() {
            #[expect(clippy::disallowed_methods, reason = "the delay was asked for")]
            std::thread::sleep(rest);
        }
        Ok(())
    }

    fn take_scored(&mut self) -> Vec<Scored> {
        self.model.take_scored()
    }
}

/// The tokens that a template may name.
pub(crate) fn special_tokens() -> BTreeMap<String, String> {
    let named = [("eos_token", EOS), ("bos_token", START)];
    named.into_iter().map(|(name, token)| (name.to_owned(), text(token).to_owned())).collect()
}

fn text(token: TokenId) -> &'static str {
    SPECIAL.iter().find(|(_, id)| *id == token).map_or("", |(text, _)| text)
}

/// A `tokenizer.json` that encodes every byte as itself, so that any text encodes. The ids above
/// bytes and special tokens are words, which only the model says.
pub(crate) fn tokenizer_json(vocab_size: u32) -> Vec<u8> {
    let mut vocab = serde_json::Map::new();
    for byte in 0..=255_u8 {
        vocab.insert(byte_char(byte).to_string(), json!(byte));
    }
    for (text, id) in SPECIAL {
        vocab.insert(text.to_owned(), json!(id));
    }
    for id in END + 1..vocab_size {
        // GPT-2's letter for a space.
        vocab.insert(format!("\u{120}w{id}"), json!(id));
    }
    let added: Vec<_> = SPECIAL
        .iter()
        .map(|(text, id)| {
            json!({
                "id": id, "content": text, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true,
            })
        })
        .collect();
    let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false });
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": null, "pre_tokenizer": byte_level, "post_processor": null,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": false, "vocab": vocab, "merges": [],
        },
    })
    .to_string()
    .into_bytes()
}

/// GPT-2's printable letter for a byte: itself where it is printable, else one above U+0100.
fn byte_char(byte: u8) -> char {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if printable(byte) {
        return byte.into();
    }
    let rank = (0..byte).filter(|byte| !printable(*byte)).count() as u32;
    char::from_u32(0x100 + rank).unwrap_or(char::REPLACEMENT_CHARACTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_encodes_to_its_bytes_and_back() {
        let tokenizer = tokenizers::Tokenizer::from_bytes(tokenizer_json(300)).unwrap();
        for text in ["", " a  b\n", "naïve 漢字 🕯️\u{0}", "\u{7f}\u{ad}"] {
            let encoding = tokenizer.encode(text, false).unwrap();
            let bytes: Vec<u8> = encoding.get_ids().iter().map(|id| *id as u8).collect();
            assert_eq!(bytes, text.as_bytes());
            assert_eq!(tokenizer.decode(encoding.get_ids(), false).unwrap(), text);
        }
    }

    #[test]
    fn every_token_has_a_text() {
        let tokenizer = tokenizers::Tokenizer::from_bytes(tokenizer_json(400)).unwrap();

        assert_eq!(tokenizer.get_vocab_size(true), 400);
        assert_eq!(tokenizer.decode(&[399, 300], false).unwrap(), " w399 w300");
        assert_eq!(tokenizer.encode("<|im_end|>", false).unwrap().get_ids(), [END]);
    }
}
