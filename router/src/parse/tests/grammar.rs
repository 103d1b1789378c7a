//! What a grammar allows is what its parser reads.

use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use serde_json::Value;

use super::{Formats, Parsed, Parser, ReasoningFormat, Start, Tool, ToolFormat, tools};
use crate::parse::{Forced, NumCalls, grammar};

/// Whether the markers are special tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Markers {
    Special,
    Text,
}

/// A vocabulary of single bytes, the markers, and an end.
struct Vocabulary {
    markers: Vec<&'static str>,
    environment: TokEnv,
}

const NUM_BYTES: u32 = 256;

impl Vocabulary {
    fn new(formats: Formats, markers: Markers) -> Self {
        let markers: Vec<_> = match markers {
            Markers::Special => formats.markers().collect(),
            Markers::Text => Vec::new(),
        };
        let bytes = (0..=u8::MAX).map(|byte| vec![byte]);
        let special = |text: &str| [&[0xFF], text.as_bytes()].concat();
        let mut words: Vec<_> = bytes.chain(markers.iter().map(|text| special(text))).collect();
        words.push(special("<|eos|>"));
        let num_words = words.len() as u32;
        let trie = TokTrie::from(&TokRxInfo::new(num_words, num_words - 1), &words);
        Self { markers, environment: Arc::new(ApproximateTokEnv::new(trie)) }
    }

    fn special(&self, text: &str) -> Option<u32> {
        let index = self.markers.iter().position(|marker| *marker == text)?;
        Some(NUM_BYTES + index as u32)
    }

    fn matcher(&self, grammar: &str) -> Matcher {
        let capabilities = InferenceCapabilities::default();
        let mut factory = ParserFactory::new(&self.environment, capabilities, &[]).unwrap();
        factory.quiet();
        let parser = factory.create_parser(TopLevelGrammar::from_lark(grammar.to_owned()));
        let matcher = Matcher::new(parser);
        assert_eq!(matcher.get_error(), None, "{grammar}");
        matcher
    }

    fn tokens(&self, text: &str) -> Vec<u32> {
        let mut tokens = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let marker = self.markers.iter().find(|marker| rest.starts_with(**marker));
            match marker {
                Some(marker) => tokens.extend(self.special(marker)),
                None => tokens.push(u32::from(rest.as_bytes()[0])),
            }
            // Characters of several bytes are not in these texts.
            rest = &rest[marker.map_or(1, |marker| marker.len())..];
        }
        tokens
    }

    fn text(&self, tokens: &[u32]) -> String {
        let mut bytes = Vec::new();
        for token in tokens {
            match token.checked_sub(NUM_BYTES) {
                None => bytes.push(*token as u8),
                Some(marker) => bytes.extend(self.markers[marker as usize].as_bytes()),
            }
        }
        String::from_utf8(bytes).unwrap()
    }
}

/// Writes a text that a grammar allows: at each step one of the things that end something, if any
/// fits, and else anything.
fn walk(vocabulary: &Vocabulary, mut matcher: Matcher, rng: &mut StdRng) -> String {
    let endings = ["\"", "}", "]", ")", "</parameter>", "</think>", "[/THINK]", "<|end|>"];
    let endings: Vec<_> = endings.map(|text| vocabulary.tokens(text)).into();
    let mut written = Vec::new();
    while !matcher.is_stopped() {
        assert!(written.len() < 20_000, "{:?}", vocabulary.text(&written));
        if matcher.is_accepting().unwrap() && rng.random() {
            break;
        }
        let patience = 1 + (written.len() as u32 / 100);
        let is_ending = rng.next_u32() % 8 < patience;
        let mut fits =
            |tokens: &&Vec<u32>| matcher.validate_tokens(tokens).unwrap() == tokens.len();
        let fitting: Vec<_> = endings.iter().filter(|_| is_ending).filter(&mut fits).collect();
        let ending = fitting.get(rng.next_u32() as usize % fitting.len().max(1)).copied().cloned();
        let tokens = ending.unwrap_or_else(|| {
            let mask = matcher.compute_mask().unwrap();
            let mut allowed: Vec<u32> = mask.to_list();
            allowed.retain(|token| *token < NUM_BYTES + vocabulary.markers.len() as u32);
            vec![allowed[rng.next_u32() as usize % allowed.len()]]
        });
        matcher.consume_tokens(&tokens).unwrap();
        written.extend(tokens);
    }
    vocabulary.text(&written)
}

#[derive(Debug)]
struct Setting {
    formats: Formats,
    start: Start,
    markers: Markers,
    num_calls: NumCalls,
}

impl Setting {
    fn grammar(&self, vocabulary: &Vocabulary, tools: &[Tool]) -> String {
        let forced = Forced {
            tools,
            num_calls: self.num_calls,
            reasoning: self.formats.reasoning,
            start: self.start,
            special: &|text| vocabulary.special(text),
        };
        grammar(self.formats.tools.unwrap(), &forced)
    }

    fn check(&self, rng: &mut StdRng) {
        let vocabulary = Vocabulary::new(self.formats, self.markers);
        let grammar = self.grammar(&vocabulary, &tools());
        let text = walk(&vocabulary, vocabulary.matcher(&grammar), rng);

        let parsed = Parsed::of(Parser::new(self.formats, self.start, &tools()), [&*text]);

        assert_eq!(parsed.content, "", "{text:?}");
        let num = parsed.calls.len();
        assert!(num == 1 || (num > 1 && self.num_calls == NumCalls::Any), "{text:?}");
        for (name, arguments) in &parsed.calls {
            check_call(name, arguments).unwrap_or_else(|| panic!("{name} {arguments} {text:?}"));
        }
    }
}

/// Whether a call is one that the schemas of the tools allow.
fn check_call(name: &str, arguments: &str) -> Option<()> {
    let arguments: serde_json::Map<String, Value> = serde_json::from_str(arguments).ok()?;
    let has = |name: &str, check: fn(&Value) -> bool| arguments.get(name).is_none_or(check);
    let is_unit = |unit: &Value| ["celsius", "fahrenheit"].map(Value::from).contains(unit);
    let is_valid = match name {
        "ping" => arguments.is_empty(),
        "get_weather" => {
            arguments.contains_key("city")
                && has("city", Value::is_string)
                && has("unit", is_unit)
                && has("days", Value::is_number)
        }
        "search" => {
            arguments.contains_key("query")
                && has("query", Value::is_string)
                && has("filters", Value::is_object)
                && has("limit", |limit| limit.is_null() || limit.is_number())
                && has("exact", Value::is_boolean)
        }
        _ => false,
    };
    is_valid.then_some(())
}

fn any_setting() -> impl Strategy<Value = Setting> {
    let tools = prop::sample::select(ToolFormat::ALL.as_slice());
    let reasoning = prop::option::of(prop::sample::select(vec![
        ReasoningFormat::Think,
        ReasoningFormat::DeepSeekR1,
        ReasoningFormat::Mistral,
    ]));
    let markers = prop::sample::select(vec![Markers::Special, Markers::Text]);
    let num_calls = prop::sample::select(vec![NumCalls::One, NumCalls::Any]);
    let start = prop::sample::select(vec![Start::Answer, Start::Reasoning]);
    (tools, reasoning, markers, num_calls, start).prop_map(
        |(tools, reasoning, markers, num_calls, start)| {
            let is_harmony = tools == ToolFormat::Harmony;
            let reasoning = if is_harmony { Some(ReasoningFormat::Harmony) } else { reasoning };
            let formats = Formats { tools: Some(tools), reasoning };
            let start = if reasoning.is_none() || is_harmony { Start::Answer } else { start };
            Setting { formats, start, markers, num_calls }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_a_grammar_allows_is_read_as_calls(setting in any_setting(), seed in any::<[u8; 32]>()) {
        setting.check(&mut StdRng::from_seed(seed));
    }
}
