use std::sync::Arc;

use proptest::prelude::*;

use super::*;

#[path = "../../router/tests/support/tokenizers.rs"]
pub(crate) mod tokenizers_json;

/// `<|im_end|>` of the byte-level tokenizer.
fn compiler() -> (Compiler, u32) {
    let json = tokenizers_json::byte_level().to_string();
    let tokenizer = tokenizers::Tokenizer::from_bytes(&json).unwrap();
    let eos = tokenizer.token_to_id("<|im_end|>").unwrap();
    (Compiler::new(Arc::from(json.as_bytes()), vec![eos], 300), eos)
}

fn allowed(walk: &mut Walk) -> Vec<u32> {
    let bits = walk.allowed().unwrap();
    (0..300).filter(|token| bits[*token as usize / 32] >> (token % 32) & 1 == 1).collect()
}

/// Walks with the choices of `next`, a number of allowed tokens to one of them, and returns the
/// text and whether it is complete.
fn text(
    compiler: &Compiler,
    source: &Source,
    mut next: impl FnMut(usize) -> usize,
) -> (String, bool) {
    let json = tokenizers_json::byte_level().to_string();
    let tokenizer = tokenizers::Tokenizer::from_bytes(&json).unwrap();
    let table = sconce_proto::token_table::TokenTable::new(&tokenizer, 300).unwrap();
    let eos = tokenizer.token_to_id("<|im_end|>").unwrap();
    let mut walk = compiler.compile(source).unwrap().walk();
    let mut bytes = Vec::new();
    for _ in 0..400 {
        let tokens = allowed(&mut walk);
        let token = tokens[next(tokens.len())];
        let standing = walk.accept(token);
        if token == eos {
            return (String::from_utf8(bytes).unwrap(), true);
        }
        bytes.extend_from_slice(table.bytes(token));
        match standing {
            Standing::Open => {}
            Standing::Complete => return (String::from_utf8(bytes).unwrap(), true),
            Standing::Exhausted => panic!("exhausted after {bytes:?}"),
        }
    }
    (String::from_utf8_lossy(&bytes).into_owned(), false)
}

fn reason(source: &Source) -> String {
    compiler().0.compile(source).unwrap_err().to_string()
}

#[test]
fn a_text_that_can_only_go_one_way_goes_it_and_is_complete() {
    let (compiler, _) = compiler();
    let source = Source::Lark("start: \"yes\" | \"no\"".into());
    assert_eq!(text(&compiler, &source, |_| 0), ("no".into(), true));
    assert_eq!(text(&compiler, &source, |num| num - 1), ("yes".into(), true));
}

#[test]
fn end_tokens_are_allowed_where_the_text_may_end() {
    let (compiler, eos) = compiler();
    let mut walk = compiler.compile(&Source::Regex("[0-9]{2,}".into())).unwrap().walk();
    for (digit, may_end) in [(b'4', false), (b'2', false), (b'1', true)] {
        let tokens = allowed(&mut walk);
        assert_eq!(tokens.contains(&eos), may_end);
        assert_eq!(tokens.len(), 10 + usize::from(may_end));
        let token = tokens.iter().find(|token| **token != eos).unwrap() + u32::from(digit - b'0');
        assert_eq!(walk.accept(token), Standing::Open);
    }
    assert_eq!(walk.accept(eos), Standing::Complete);
}

#[test]
fn a_token_that_is_not_allowed_ends_the_walk() {
    let (compiler, eos) = compiler();
    let mut walk = compiler.compile(&Source::Regex("a+".into())).unwrap().walk();
    assert_eq!(walk.accept(eos), Standing::Exhausted);
    assert_eq!(walk.allowed(), Err(Exhausted));
}

#[test]
fn completions_of_one_grammar_walk_it_on_their_own() {
    let (compiler, _) = compiler();
    let grammar = compiler.compile(&Source::Regex("ab|cd".into())).unwrap();
    let (mut one, mut other) = (grammar.walk(), grammar.walk());
    let start = allowed(&mut one);
    one.accept(start[0]);
    assert_eq!(allowed(&mut other), start);
    assert_ne!(allowed(&mut one), start);
}

#[test]
fn a_grammar_is_compiled_once() {
    let (compiler, _) = compiler();
    let source = Source::Regex("[a-z]{3}".into());
    assert_eq!(compiler.compile(&source), compiler.compile(&source));
    for i in 0..100 {
        compiler.compile(&Source::Regex(format!("x{i}"))).unwrap();
    }
    let first = compiler.compile(&source).unwrap();
    assert_eq!(first, compiler.compile(&source).unwrap());
}

#[test]
fn what_can_not_be_enforced_is_refused_with_a_reason() {
    for (schema, word) in [
        (r#"{"type": "strin"}"#, "strin"),
        (r#"{"not": {"type": "string"}}"#, "not"),
        (r#"{"$ref": "https://example.com/schema"}"#, "https://example.com/schema"),
        (r#"{"type": "array", "uniqueItems": true}"#, "uniqueItems"),
        (r#"{"allOf": [{"$id": "http://a/", "$ref": "b"}]}"#, "$id"),
        (r#"{"x-guidance": {"lenient": true}}"#, "x-guidance"),
    ] {
        let reason = reason(&Source::JsonSchema(schema.into()));
        assert!(reason.contains(word) && reason.len() < 500, "{schema}: {reason}");
    }
    assert_eq!(reason(&Source::Regex("(a|b".into())), "unclosed group");
    for regex in ["(", "(a+)+$", "((a*))+b", "\\1", "(?=a)"] {
        assert!(!reason(&Source::Regex(regex.into())).is_empty(), "{regex}");
    }
    for lark in ["", "start: nothing", "a: \"b\"", "start: \"a", "start: start"] {
        assert!(!reason(&Source::Lark(lark.into())).is_empty(), "{lark}");
    }
}

#[test]
fn deep_long_and_wide_grammars_are_refused_before_they_cost_anything() {
    let chain: String = (0..5000).map(|i| format!("a{i}: a{}\n", i + 1)).collect();
    for (source, word) in [
        (
            Source::Lark(format!("start: {}\"a\"{}", "(".repeat(60_000), ")".repeat(60_000))),
            "paren",
        ),
        (Source::Regex(format!("{}a{}", "(".repeat(60_000), ")".repeat(60_000))), "paren"),
        (Source::Lark(format!("start: a0\n{chain}a5000: \"b\"\n")), "rules"),
        (Source::Regex("a".repeat(300_000)), "bytes"),
    ] {
        assert!(reason(&source).contains(word), "{source:?}");
    }
}

/// What is just within the bounds must fit a compiling thread's stack.
#[test]
fn the_deepest_grammars_that_are_taken_fit_the_stack() {
    let work = || {
        let (compiler, _) = compiler();
        let nested = |open: &str, close: &str, inner: &str, num: usize| {
            format!("{}{inner}{}", open.repeat(num), close.repeat(num))
        };
        let chain: String = (0..900).map(|i| format!("a{i}: a{}\n", i + 1)).collect();
        let mut object = r#"{"type": "integer"}"#.to_owned();
        for _ in 0..60 {
            object = format!(r#"{{"type": "object", "properties": {{"a": {object}}}}}"#);
        }
        for source in [
            Source::Lark(format!("start: {}", nested("(", ")", "\"a\"", 9_000))),
            Source::Lark(format!("start: {}", nested("[", "]", "\"a\"", 9_000))),
            Source::Lark(format!("start: a0\n{chain}a900: \"b\"\n")),
            Source::Regex(nested("(", ")", "a", 9_000)),
            Source::Regex(nested("(?:a|", ")*", "b", 200)),
            Source::JsonSchema(object),
        ] {
            // Taken or refused, but answered.
            let _ = compiler.compile(&source);
        }
    };
    let thread = std::thread::Builder::new().stack_size(Compiler::STACK_BYTES);
    thread.spawn(work).unwrap().join().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_chosen_the_text_is_of_the_schema(choices in prop::collection::vec(0_usize..1000, 400)) {
        let (compiler, _) = compiler();
        let schema = r#"{"type": "object", "properties": {"name": {"type": "string", "maxLength": 5},
            "ages": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 120},
            "minItems": 1, "maxItems": 3}, "kind": {"enum": ["a", "b", null]}},
            "required": ["name", "ages", "kind"], "additionalProperties": false}"#;
        let mut choices = choices.into_iter();
        let (text, is_complete) =
            text(&compiler, &Source::JsonSchema(schema.into()), |num| choices.next().unwrap() % num);
        prop_assert!(is_complete, "{}", text);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        prop_assert!(value["name"].as_str().unwrap().chars().count() <= 5);
        let ages = value["ages"].as_array().unwrap();
        prop_assert!((1..=3).contains(&ages.len()));
        prop_assert!(ages.iter().all(|age| (0..=120).contains(&age.as_u64().unwrap())));
        prop_assert!(["a", "b"].map(Into::into).contains(&value["kind"]) || value["kind"].is_null());
        prop_assert_eq!(value.as_object().unwrap().len(), 3);
    }
}
