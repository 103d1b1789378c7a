//! Counts of tokens that a server told, beside those of a tokenizer.
//!
//! Throughput and TPOT are only as true as the counts they are made of. Texts are counted after a run, so
//! that counting costs it nothing. Two differences are as they should be, and not complained of: what
//! a chat template puts around messages, and the token that ends an answer, which has no text.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokenizers::Tokenizer;

use crate::measure::Record;
use crate::request::Endpoint;

/// Requests of a run whose texts are kept and counted.
pub(crate) const MAX_CHECKED: usize = 10_000;

/// A share that counts may differ by: a text may be written in other tokens than it is read in.
const TOLERANCE: f64 = 0.02;

/// Why a tokenizer can't be used.
#[derive(Debug, thiserror::Error)]
#[error("{} is no tokenizer.json, and no directory with one: {reason}", path.display())]
pub(crate) struct Error {
    path: PathBuf,
    reason: String,
}

/// The texts of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Texts {
    pub(crate) asked: Vec<String>,
    /// `None`: some of it was no text.
    pub(crate) answer: Option<String>,
}

impl Texts {
    /// Of the body of a request.
    pub(crate) fn asked(body: &Value) -> Self {
        let mut asked = Vec::new();
        take(&body["prompt"], &mut asked);
        take(&body["input"], &mut asked);
        for message in body["messages"].as_array().into_iter().flatten() {
            take(&message["content"], &mut asked);
        }
        Self { asked, answer: Some(String::new()) }
    }
}

/// A text, the texts of a list, or those of parts.
fn take(value: &Value, texts: &mut Vec<String>) {
    match value {
        Value::String(text) => texts.push(text.clone()),
        Value::Array(values) => values.iter().for_each(|value| take(value, texts)),
        Value::Object(part) => part.get("text").into_iter().for_each(|text| take(text, texts)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// A tokenizer that counts.
#[derive(Clone, Debug)]
pub(crate) struct Counter {
    tokenizer: Arc<Tokenizer>,
    path: PathBuf,
}

/// Tokens of the same texts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// By the server's `usage`.
    pub(crate) usage: u64,
    /// By the tokenizer.
    pub(crate) tokenizer: u64,
    /// Requests that were compared.
    pub(crate) requests: u64,
}

/// What both say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TokenCheck {
    /// Prompts. Those of chats without what the template adds.
    pub(crate) input: Counts,
    /// Answers, without the tokens that end them.
    pub(crate) output: Counts,
}

impl Counts {
    fn add(&mut self, usage: u64, tokenizer: u64) {
        self.usage += usage;
        self.tokenizer += tokenizer;
        self.requests += 1;
    }

    /// By how much the server's are more, as a share of the tokenizer's.
    pub(crate) fn difference(&self) -> f64 {
        (self.usage as f64 - self.tokenizer as f64) / self.tokenizer.max(1) as f64
    }

    /// What the server has too many, or too few, when it may have `each` more in a request.
    fn excess(&self, each: u64) -> Option<f64> {
        let (usage, tokenizer) = (self.usage as f64, self.tokenizer as f64);
        let most = tokenizer * (1.0 + TOLERANCE) + (each * self.requests) as f64;
        let differs = usage > most || usage < tokenizer * (1.0 - TOLERANCE);
        (self.requests > 0 && differs).then(|| self.difference())
    }
}

impl Counter {
    /// Reads a `tokenizer.json`, or the one of a directory.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let file = if path.is_dir() { path.join("tokenizer.json") } else { path.to_owned() };
        let tokenizer = Tokenizer::from_file(&file);
        let refuse =
            |error: tokenizers::Error| Error { path: path.to_owned(), reason: error.to_string() };
        let mut tokenizer = tokenizer.map_err(refuse)?;
        // Whole texts are counted.
        tokenizer.with_truncation(None).map_err(refuse)?;
        tokenizer.with_padding(None);
        Ok(Self { tokenizer: Arc::new(tokenizer), path: path.to_owned() })
    }

    /// Where it is from.
    pub(crate) fn path(&self) -> String {
        self.path.display().to_string()
    }

    fn count(&self, text: &str, with_special_tokens: bool) -> Option<u64> {
        let encoding = self.tokenizer.encode_fast(text, with_special_tokens).ok()?;
        Some(encoding.len() as u64)
    }

    /// Compares the counts of requests whose texts were kept.
    pub(crate) fn check(&self, endpoint: Endpoint, records: &[Record]) -> TokenCheck {
        let mut check = TokenCheck::default();
        // A chat's template writes the special tokens itself.
        let has_special_tokens = endpoint != Endpoint::Chat;
        for record in records.iter().filter(|r| r.error.is_none() && !r.is_counted_here) {
            let Some(texts) = &record.texts else { continue };
            let asked = texts.asked.iter().map(|text| self.count(text, has_special_tokens));
            if let Some(asked) = asked.sum::<Option<u64>>() {
                check.input.add(record.prompt_tokens, asked);
            }
            let answer = texts.answer.as_ref().filter(|_| endpoint != Endpoint::Embeddings);
            if let Some(answer) = answer.and_then(|text| self.count(text, false)) {
                check.output.add(record.completion_tokens, answer);
            }
        }
        check
    }
}

impl TokenCheck {
    /// What can't be explained by templates and ends.
    pub(crate) fn warnings(&self, endpoint: Endpoint) -> Vec<String> {
        let mut warnings = Vec::new();
        let mut warn = |what: &str, difference: Option<f64>| {
            if let Some(difference) = difference {
                warnings.push(format!(
                    "the server's count of {what} tokens differs from the tokenizer's by {:+.1} %: \
                     another tokenizer, or a wrong count",
                    difference * 100.0
                ));
            }
        };
        // A template may add any number, and takes nothing away.
        let of_template = if endpoint == Endpoint::Chat { u32::MAX.into() } else { 0 };
        warn("input", self.input.excess(of_template));
        warn("output", self.output.excess(1));
        warnings
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A tokenizer of words, which puts one token before a text.
    fn counter() -> (Counter, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let json = json!({
            "version": "1.0", "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
            "padding": null, "normalizer": null, "decoder": null,
            "added_tokens": [{"id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
            "pre_tokenizer": {"type": "WhitespaceSplit"},
            "post_processor": {"type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}},
            "model": {"type": "WordLevel", "vocab": {"<s>": 0, "?": 1}, "unk_token": "?"},
        });
        std::fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
        (Counter::open(folder.path()).unwrap(), folder)
    }

    fn record(prompt_tokens: u64, completion_tokens: u64, body: &Value, answer: &str) -> Record {
        let texts = Texts { answer: Some(answer.to_owned()), ..Texts::asked(body) };
        Record { prompt_tokens, completion_tokens, texts: Some(texts), ..Record::default() }
    }

    #[test]
    fn texts_are_found_wherever_a_body_has_them() {
        let body = json!({
            "prompt": "a", "input": ["b", "c"],
            "messages": [{"role": "user", "content": [{"type": "text", "text": "d"}]}, {"content": null}],
        });
        assert_eq!(Texts::asked(&body).asked, ["a", "b", "c", "d"]);
    }

    #[test]
    fn counts_that_agree_are_not_complained_of() {
        let (counter, _folder) = counter();
        let whole = json!({"prompt": "one two three"});
        // The prompt has a special token before it, and the answer one behind it.
        let check = counter
            .check(Endpoint::Completions, &[record(4, 6, &whole, "one two three four five")]);
        assert_eq!(check.input, Counts { usage: 4, tokenizer: 4, requests: 1 });
        assert_eq!(check.output, Counts { usage: 6, tokenizer: 5, requests: 1 });
        assert_eq!(check.warnings(Endpoint::Completions), Vec::<String>::new());

        let chat = json!({"messages": [{"role": "user", "content": "one two three"}]});
        let check = counter.check(Endpoint::Chat, &[record(30, 1, &chat, "one")]);
        assert_eq!(check.input, Counts { usage: 30, tokenizer: 3, requests: 1 });
        assert_eq!(check.warnings(Endpoint::Chat), Vec::<String>::new());
    }

    #[test]
    fn counts_that_differ_are_told() {
        let (counter, _folder) = counter();
        let chat = json!({"messages": [{"role": "user", "content": "one two three"}]});
        let answer = "one two three four";

        let more = counter.check(Endpoint::Chat, &[record(2, 8, &chat, answer)]);
        let warnings = more.warnings(Endpoint::Chat);
        assert!(warnings[0].contains("input") && warnings[0].contains("-33.3 %"), "{warnings:?}");
        assert!(warnings[1].contains("output") && warnings[1].contains("+100.0 %"), "{warnings:?}");

        let fewer = counter.check(Endpoint::Chat, &[record(3, 2, &chat, answer)]);
        assert_eq!(fewer.warnings(Endpoint::Chat).len(), 1);
    }

    #[test]
    fn what_the_server_did_not_tell_is_not_compared() {
        let (counter, _folder) = counter();
        let body = json!({"prompt": "one"});
        let counted_here = Record { is_counted_here: true, ..record(9, 9, &body, "one") };
        let failed = Record { error: Some("http_500".to_owned()), ..record(9, 9, &body, "one") };
        let called = Record {
            texts: Some(Texts { answer: None, ..Texts::asked(&body) }),
            ..record(2, 9, &body, "")
        };

        let check = counter.check(Endpoint::Completions, &[counted_here, failed, called]);
        assert_eq!((check.input.requests, check.output.requests), (1, 0));
    }

    #[test]
    fn what_is_no_tokenizer_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = Counter::open(folder.path()).unwrap_err();
        assert!(error.to_string().contains(&folder.path().display().to_string()));
    }
}
