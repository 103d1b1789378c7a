//! The bytes that each token of a vocabulary stands for.
//!
//! Every token of the tokenizers served here stands for a fixed string of bytes, whatever its
//! neighbours are. The router makes text of them, the worker follows grammars with them.

use tokenizers::decoders::DecoderWrapper;
use tokenizers::{Decoder, Tokenizer};

/// The bytes of every token, in one allocation.
#[derive(Default)]
pub struct TokenTable {
    bytes: Vec<u8>,
    /// Where each token's bytes begin; one more than there are tokens.
    starts: Vec<u32>,
    special: Vec<bool>,
    longest: usize,
}

/// Why a tokenizer's tokens have no bytes of their own.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text of a token depends on its neighbours in a way that generative models don't use.
    #[error("tokenizers with a {0} decoder are not supported")]
    Unsupported(&'static str),
    /// The vocabulary's text is too large to index.
    #[error("the tokens of the vocabulary have more than 4 GiB of text")]
    TooLarge,
    /// A step of the decoder failed on a token.
    #[error("a token of the vocabulary can't be decoded")]
    Step(#[source] tokenizers::Error),
}

impl TokenTable {
    /// Reads a tokenizer. Ids from its vocabulary up to `vocab_size`, the width of the logits, stand
    /// for nothing.
    pub fn new(tokenizer: &Tokenizer, vocab_size: u32) -> Result<Self, Error> {
        let steps = steps(tokenizer.get_decoder())?;
        let added = tokenizer.get_added_tokens_decoder();
        let mut table =
            Self { bytes: Vec::new(), starts: vec![0], special: Vec::new(), longest: 1 };
        for id in 0..vocab_size {
            let token = tokenizer.id_to_token(id).unwrap_or_default();
            let bytes = decode(&steps, token)?;
            if !added.contains_key(&id) {
                table.longest = table.longest.max(bytes.len());
            }
            table.bytes.extend_from_slice(&bytes);
            table.starts.push(u32::try_from(table.bytes.len()).map_err(|_| Error::TooLarge)?);
            table.special.push(added.get(&id).is_some_and(|token| token.special));
        }
        Ok(table)
    }

    /// What a token adds to a text: nothing for a special token, or for an id that is none.
    pub fn text(&self, token: u32) -> &[u8] {
        if self.is_special(token) { &[] } else { self.bytes(token) }
    }

    /// What a token stands for, special tokens included.
    pub fn bytes(&self, token: u32) -> &[u8] {
        let at = |i: usize| self.starts.get(i).map(|start| *start as usize);
        let token = token as usize;
        match (at(token), at(token + 1)) {
            (Some(start), Some(end)) => self.bytes.get(start..end).unwrap_or_default(),
            _ => &[],
        }
    }

    /// Bytes of the longest token that text can contain.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// Whether a token is a mark of the model's, no text.
    pub fn is_special(&self, token: u32) -> bool {
        self.special.get(token as usize).copied().unwrap_or(false)
    }
}

/// One thing that a decoder does to each token.
enum Step<'a> {
    /// Characters stand for bytes, as in GPT-2.
    ByteLevel(Box<ByteLevel>),
    /// `<0xE4>` stands for a byte.
    ByteFallback,
    /// A character stands for a space.
    Space(char),
    /// Something the library does to one token alone.
    Alone(&'a DecoderWrapper),
    /// Tokens are words.
    Words,
}

fn steps(decoder: Option<&DecoderWrapper>) -> Result<Vec<Step<'_>>, Error> {
    let Some(decoder) = decoder else { return Ok(vec![Step::Words]) };
    let mut steps = Vec::new();
    collect(decoder, &mut steps)?;
    Ok(steps)
}

fn collect<'a>(decoder: &'a DecoderWrapper, steps: &mut Vec<Step<'a>>) -> Result<(), Error> {
    match decoder {
        DecoderWrapper::ByteLevel(_) => steps.push(Step::ByteLevel(Box::new(ByteLevel::new()))),
        DecoderWrapper::ByteFallback(_) => steps.push(Step::ByteFallback),
        DecoderWrapper::Metaspace(metaspace) => {
            steps.push(Step::Space(metaspace.get_replacement()));
        }
        DecoderWrapper::Replace(_) => steps.push(Step::Alone(decoder)),
        // Joining is what we do anyway. Stripping is meant for the beginning of a text, and a
        // completion is the continuation of one: its first token may well begin with a space.
        DecoderWrapper::Fuse(_) | DecoderWrapper::Strip(_) => {}
        DecoderWrapper::Sequence(sequence) => {
            for decoder in sequence.get_decoders() {
                collect(decoder, steps)?;
            }
        }
        DecoderWrapper::BPE(_) => return Err(Error::Unsupported("BPE")),
        DecoderWrapper::WordPiece(_) => return Err(Error::Unsupported("WordPiece")),
        DecoderWrapper::CTC(_) => return Err(Error::Unsupported("CTC")),
    }
    Ok(())
}

fn decode(steps: &[Step], mut token: String) -> Result<Vec<u8>, Error> {
    for step in steps {
        match step {
            Step::ByteLevel(map) => return Ok(map.bytes(token)),
            Step::ByteFallback => {
                if let Some(byte) = fallback_byte(&token) {
                    return Ok(vec![byte]);
                }
            }
            Step::Space(character) => token = token.replace(*character, " "),
            Step::Alone(decoder) => {
                token = decoder.decode_chain(vec![token]).map_err(Error::Step)?.concat();
            }
            Step::Words => token.insert(0, ' '),
        }
    }
    Ok(token.into_bytes())
}

fn fallback_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

/// GPT-2's map of characters to bytes: printable ones stand for themselves, the others for
/// characters from U+0100 on, in order.
struct ByteLevel([Option<u8>; 512]);

impl ByteLevel {
    fn new() -> Self {
        let mut map = [None; 512];
        let mut next = 256;
        for byte in 0..=u8::MAX {
            let character = match byte {
                b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => usize::from(byte),
                _ => {
                    next += 1;
                    next - 1
                }
            };
            if let Some(slot) = map.get_mut(character) {
                *slot = Some(byte);
            }
        }
        Self(map)
    }

    /// A token with a character that stands for no byte is an added one, written as it is.
    fn bytes(&self, token: String) -> Vec<u8> {
        let byte = |character| self.0.get(character as usize).copied().flatten();
        let bytes: Option<Vec<u8>> = token.chars().map(byte).collect();
        bytes.unwrap_or_else(|| token.into_bytes())
    }
}
