//! Compiles grammars for one model, and keeps those that were used last.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{TokEnv, TokRxInfo, TokTrie, TokenizerEnv};
use llguidance::{Matcher, ParserFactory, panic_utils};
use sconce_proto::token_table::TokenTable;
use serde_json::{Value, json};
use tokenizers::{DecoderWrapper, Tokenizer};

use super::{Grammar, Invalid, Source, bounds, regular};
use crate::engine::request::TokenId;

/// Most grammars that are kept.
const MAX_CACHED: usize = 64;
/// Most bytes of text of those.
const MAX_CACHED_BYTES: usize = 1 << 20;
/// Most states of a lexer.
const MAX_STATES: usize = 20_000;
/// Most characters of an explanation.
const MAX_REASON: usize = 400;

/// A field of a schema that llguidance takes its options from.
const OPTIONS: &str = "x-guidance";
/// White space between the parts of JSON: a space, or a line break and what indents the next line.
/// Small models would write it forever.
const WHITE_SPACE: &str = r" |\n {0,16}";

/// Compiles grammars for one model.
pub struct Compiler {
    tokenizer_json: Arc<[u8]>,
    eos_token_ids: Vec<TokenId>,
    vocab_size: u32,
    /// Made for the first grammar: it takes a moment, and memory.
    factory: OnceLock<Result<ParserFactory, String>>,
    cache: Mutex<Cache>,
}

#[derive(Default)]
struct Cache {
    /// Least recently used first.
    entries: VecDeque<(Source, Grammar)>,
    num_bytes: usize,
}

impl Compiler {
    /// For a model with this `tokenizer.json` and logits of this width, that ends its completions
    /// with any of `eos_token_ids`.
    pub fn new(tokenizer_json: Arc<[u8]>, eos_token_ids: Vec<TokenId>, vocab_size: u32) -> Self {
        let (factory, cache) = (OnceLock::new(), Mutex::default());
        Self { tokenizer_json, eos_token_ids, vocab_size, factory, cache }
    }

    /// Compiles a grammar, or finds it. Takes milliseconds, and a second once: not for the engine's
    /// thread, nor an async one. Needs [`Self::STACK_BYTES`] of stack.
    pub fn compile(&self, source: &Source) -> Result<Grammar, Invalid> {
        if let Some(grammar) = self.cache().find(source) {
            return Ok(grammar);
        }
        bounds::check(source)?;
        let factory = self.factory.get_or_init(|| {
            let env = vocabulary(&self.tokenizer_json, (&self.eos_token_ids, self.vocab_size))?;
            factory(&env).map_err(|error| error.to_string())
        });
        let factory = factory.as_ref().map_err(|reason| Invalid(reason.clone()))?;
        let compiled = panic_utils::catch_unwind(AssertUnwindSafe(|| {
            let mut matcher = Matcher::new(factory.create_parser(grammar(source)?));
            // What comes first is found now, so that no completion's first step finds it hard.
            matcher.compute_mask()?;
            Ok(matcher)
        }));
        let grammar = Grammar::new(compiled.map_err(|error| reason(&error.to_string()))?);
        self.cache().insert(source.clone(), grammar.clone());
        Ok(grammar)
    }

    /// Stack of a thread that compiles: the compiler descends into what it reads.
    pub const STACK_BYTES: usize = 256 << 20;

    fn cache(&self) -> std::sync::MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cache {
    fn find(&mut self, source: &Source) -> Option<Grammar> {
        let at = self.entries.iter().position(|(other, _)| other == source)?;
        let entry = self.entries.remove(at)?;
        let grammar = entry.1.clone();
        self.entries.push_back(entry);
        Some(grammar)
    }

    fn insert(&mut self, source: Source, grammar: Grammar) {
        self.num_bytes += source.text().len();
        self.entries.push_back((source, grammar));
        while self.entries.len() > MAX_CACHED || self.num_bytes > MAX_CACHED_BYTES {
            let Some((source, _)) = self.entries.pop_front() else { return };
            self.num_bytes -= source.text().len();
        }
    }
}

fn grammar(source: &Source) -> anyhow::Result<TopLevelGrammar> {
    Ok(match source {
        Source::JsonSchema(schema) => {
            let mut schema: Value = serde_json::from_str(schema)?;
            // Its options could take back what the schema asks for.
            anyhow::ensure!(schema.get(OPTIONS).is_none(), "`{OPTIONS}` is not supported");
            // To some drafts the one moves the other, to some it means nothing.
            anyhow::ensure!(!has_moved_reference(&schema), "`$id` beside `$ref` is not supported");
            if let Some(fields) = schema.as_object_mut() {
                fields.insert(OPTIONS.to_owned(), json!({ "whitespace_pattern": WHITE_SPACE }));
            }
            TopLevelGrammar::from_json_schema(schema)
        }
        Source::Regex(regex) => {
            regular::check(regex)?;
            TopLevelGrammar::from_regex(regex)
        }
        Source::Lark(lark) => TopLevelGrammar::from_lark(lark.clone()),
    })
}

/// Whether a schema somewhere in it has both. Of whatever else looks like a schema too: such texts
/// are rare.
fn has_moved_reference(schema: &Value) -> bool {
    match schema {
        Value::Object(fields) => {
            fields.contains_key("$ref") && fields.contains_key("$id")
                || fields.values().any(has_moved_reference)
        }
        Value::Array(values) => values.iter().any(has_moved_reference),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// The compiler's explanation: its first line, and no more than fits an error.
fn reason(text: &str) -> Invalid {
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("it can't be compiled");
    Invalid(line.chars().take(MAX_REASON).collect())
}

fn factory(env: &TokEnv) -> anyhow::Result<ParserFactory> {
    let mut factory = ParserFactory::new_simple(env)?;
    factory.quiet();
    // Its errors would carry what was generated so far. Each state takes one to two kilobytes of
    // each completion.
    *factory.limits_mut() = ParserLimits {
        verbose_errors: false,
        max_lexer_states: MAX_STATES,
        ..ParserLimits::default()
    };
    Ok(factory)
}

fn vocabulary(
    tokenizer_json: &[u8],
    (eos_token_ids, vocab_size): (&[TokenId], u32),
) -> Result<TokEnv, String> {
    let mut tokenizer = Tokenizer::from_bytes(tokenizer_json)
        .map_err(|_| "the model's tokenizer can't be read".to_owned())?;
    // Left over from training in some files.
    let _ = tokenizer.with_truncation(None);
    tokenizer.with_padding(None);
    // A text that looks like a special token is a text.
    tokenizer.set_encode_special_tokens(true);
    let table = TokenTable::new(&tokenizer, vocab_size).map_err(|error| error.to_string())?;
    let Some(first) = eos_token_ids.first() else {
        return Err("the model has no token that ends a text".to_owned());
    };
    let words: Vec<_> = (0..vocab_size).map(|token| word(&table, token)).collect();
    let trie = TokTrie::from(&TokRxInfo::new(vocab_size, *first), &words);
    let trie = trie.with_eos_tokens(eos_token_ids);
    Ok(Arc::new(Vocabulary { is_plain: is_plain(&tokenizer), trie, tokenizer }))
}

/// A token's bytes as the trie has them: special tokens are marked, and no text.
fn word(table: &TokenTable, token: TokenId) -> Vec<u8> {
    let bytes = table.bytes(token);
    if table.is_special(token) {
        return [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes].concat();
    }
    bytes.to_vec()
}

/// Whether a text's tokens are the same in the middle of another text: nothing is put before it.
fn is_plain(tokenizer: &Tokenizer) -> bool {
    matches!(tokenizer.get_decoder(), Some(DecoderWrapper::ByteLevel(_)))
        && tokenizer.get_normalizer().is_none()
}

/// The model's tokens, as llguidance asks for them.
struct Vocabulary {
    trie: TokTrie,
    tokenizer: Tokenizer,
    is_plain: bool,
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        if !self.is_plain {
            return self.trie.greedy_tokenize(bytes);
        }
        self.trie.tokenize_with_greedy_fallback(bytes, |text| {
            let encoding = self.tokenizer.encode_fast(text, false);
            encoding.map_or_else(
                |_| self.trie.greedy_tokenize(text.as_bytes()),
                |encoding| encoding.get_ids().to_vec(),
            )
        })
    }

    fn tokenize_is_canonical(&self) -> bool {
        self.is_plain
    }
}
