use proptest::prelude::*;
use tokenizers::Tokenizer;

use super::*;
use crate::prompt::fixtures;

fn text_of(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let table = TokenTable::new(tokenizer, tokenizer.get_vocab_size(true) as u32 + 7).unwrap();
    let mut detokenizer = Detokenizer::default();
    let mut text = String::new();
    for id in ids {
        detokenizer.push(table.text(*id), &mut text);
    }
    detokenizer.finish(&mut text);
    text
}

#[test]
fn a_character_is_never_split() {
    let mut detokenizer = Detokenizer::default();
    let mut text = String::new();
    for byte in "a👩‍👧é".bytes() {
        detokenizer.push(&[byte], &mut text);
        assert!("a👩‍👧é".starts_with(&text), "{text:?}");
    }
    assert_eq!(text, "a👩‍👧é");
}

#[test]
fn bytes_that_are_no_text_are_replaced_at_once() {
    let mut detokenizer = Detokenizer::default();
    let mut text = String::new();
    detokenizer.push(b"\xff\xf0\x9f", &mut text);
    assert_eq!(text, "\u{fffd}");
    detokenizer.push(b"a", &mut text);
    assert_eq!(text, "\u{fffd}\u{fffd}a");
    detokenizer.push(b"\xe2\x82", &mut text);
    detokenizer.finish(&mut text);
    assert_eq!(text, "\u{fffd}\u{fffd}a\u{fffd}");
}

#[test]
fn ids_beyond_the_vocabulary_are_no_text() {
    let tokenizer = fixtures::byte_level();
    let table = TokenTable::new(&tokenizer, 1000).unwrap();
    assert_eq!(table.text(999), b"");
    assert_eq!(table.text(u32::MAX), b"");
}

#[test]
fn a_special_token_has_bytes_but_is_no_text() {
    let tokenizer = fixtures::byte_level();
    let table = TokenTable::new(&tokenizer, 1000).unwrap();
    let id = tokenizer.token_to_id("<|im_end|>").unwrap();
    assert_eq!((table.text(id), table.bytes(id)), (&b""[..], &b"<|im_end|>"[..]));
    let id = tokenizer.token_to_id("<think>").unwrap();
    assert_eq!(table.text(id), b"<think>");
}

#[test]
fn a_decoder_that_looks_at_neighbours_is_refused() {
    let mut tokenizer = fixtures::byte_level();
    tokenizer.with_decoder(Some(tokenizers::decoders::wordpiece::WordPiece::default()));
    assert!(matches!(TokenTable::new(&tokenizer, 10), Err(Error::Unsupported("WordPiece"))));
}

proptest! {
    #[test]
    fn byte_level_deltas_are_the_whole_decoded(ids in prop::collection::vec(0_u32..280, 0..64)) {
        let tokenizer = fixtures::byte_level();
        prop_assert_eq!(text_of(&tokenizer, &ids), tokenizer.decode(&ids, true).unwrap());
    }

    #[test]
    fn sentencepiece_deltas_are_the_whole_decoded(text in "[ a-cé👍\n]{0,24}") {
        let tokenizer = fixtures::sentencepiece();
        let ids = tokenizer.encode_fast(&*text, false).unwrap().get_ids().to_vec();
        let text = text_of(&tokenizer, &ids);
        // The library strips the space that begins a text, as if nothing came before it.
        let stripped = text.strip_prefix(' ').unwrap_or(&text);
        prop_assert_eq!(stripped, tokenizer.decode(&ids, true).unwrap());
    }

    #[test]
    fn deltas_are_the_bytes_read_leniently(tokens in prop::collection::vec(
        prop::collection::vec(prop_oneof![any::<u8>(), Just(0xF0), Just(0x9F), Just(0x92)], 0..6),
        0..24,
    )) {
        let mut detokenizer = Detokenizer::default();
        let mut text = String::new();
        for token in &tokens {
            detokenizer.push(token, &mut text);
            prop_assert!(detokenizer.pending.len() < 4);
        }
        detokenizer.finish(&mut text);
        prop_assert_eq!(text, String::from_utf8_lossy(&tokens.concat()).into_owned());
    }
}
