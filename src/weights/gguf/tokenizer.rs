//! The `tokenizer.json` that a GGUF file's vocabulary stands for.
//!
//! Two kinds: byte-level BPE ("gpt2"), whose merges are listed, and SentencePiece BPE ("llama"),
//! whose merges follow from the pieces' scores.

use std::collections::{HashMap, HashSet};

use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::{
    metadata::Metadata,
    pre_tokenizer::{Recipe, byte_level},
};
use crate::weights::{Error, hugging_face::template};

// Types of tokens; 5 is unused.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
pub(super) const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

/// Cutting a piece at each character takes time with the square of its length.
const MAX_PIECE_BYTES: usize = 1024;

#[derive(Serialize)]
struct TokenizerJson<'a> {
    version: &'static str,
    truncation: Option<()>,
    padding: Option<()>,
    added_tokens: Vec<AddedToken<'a>>,
    normalizer: Value,
    pre_tokenizer: Value,
    post_processor: Value,
    decoder: Value,
    model: Bpe<'a>,
}

#[derive(Serialize)]
struct AddedToken<'a> {
    id: usize,
    content: &'a str,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
    special: bool,
}

#[derive(Serialize)]
struct Bpe<'a> {
    r#type: &'static str,
    dropout: Option<f32>,
    unk_token: Option<&'a str>,
    continuing_subword_prefix: Option<()>,
    end_of_word_suffix: Option<()>,
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    #[serde(serialize_with = "vocabulary")]
    vocab: &'a [&'a str],
    merges: Vec<(&'a str, &'a str)>,
}

fn vocabulary<S: Serializer>(tokens: &[&str], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(tokens.iter().enumerate().map(|(id, token)| (token, id)))
}

/// What both kinds have.
struct Tokens<'a> {
    tokens: Vec<&'a str>,
    types: Vec<i32>,
    ids: HashMap<&'a str, usize>,
}

/// Builds the `tokenizer.json`.
pub(super) fn json(metadata: &Metadata) -> Result<Vec<u8>, Error> {
    let tokens = Tokens::read(metadata)?;
    let tokenizer = match Kind::read(metadata)? {
        Kind::ByteLevel(recipe) => byte_level_bpe(metadata, &tokens, recipe)?,
        Kind::SentencePiece => sentence_piece(metadata, &tokens)?,
    };
    serde_json::to_vec(&tokenizer).map_err(|error| metadata.malformed(error.to_string()))
}

/// Whether raw prompts begin with the BOS token.
pub(super) fn adds_bos(metadata: &Metadata) -> Result<bool, Error> {
    let default = match Kind::read(metadata)? {
        Kind::ByteLevel(recipe) => recipe.add_bos_token,
        Kind::SentencePiece => true,
    };
    Ok(metadata.bool("tokenizer.ggml.add_bos_token")?.unwrap_or(default))
}

/// Whether texts end with the EOS token.
pub(super) fn adds_eos(metadata: &Metadata) -> Result<bool, Error> {
    Ok(metadata.bool("tokenizer.ggml.add_eos_token")?.unwrap_or(false))
}

enum Kind {
    ByteLevel(&'static Recipe),
    SentencePiece,
}

impl Kind {
    fn read(metadata: &Metadata) -> Result<Self, Error> {
        match metadata.str("tokenizer.ggml.model")? {
            Some("gpt2") => Recipe::named(metadata.str("tokenizer.ggml.pre")?).map(Self::ByteLevel),
            Some("llama") => Ok(Self::SentencePiece),
            model => {
                let found = model.unwrap_or("missing");
                Err(Error::unsupported("tokenizer.ggml.model", found, "gpt2, llama"))
            }
        }
    }
}

impl<'a> Tokens<'a> {
    fn read(metadata: &'a Metadata) -> Result<Self, Error> {
        let tokens = metadata
            .strings("tokenizer.ggml.tokens")?
            .ok_or_else(|| metadata.malformed("its metadata lacks tokenizer.ggml.tokens"))?;
        let types = match metadata.i32s("tokenizer.ggml.token_type")? {
            Some(types) => types,
            None => vec![NORMAL; tokens.len()],
        };
        if types.len() != tokens.len() {
            let (types, tokens) = (types.len(), tokens.len());
            return Err(metadata.malformed(format!("it has {tokens} tokens and {types} types")));
        }
        let mut ids = HashMap::with_capacity(tokens.len());
        for (id, token) in tokens.iter().enumerate() {
            if let Some(first) = ids.insert(*token, id) {
                let reason = format!("tokens {first} and {id} are both {token:?}");
                return Err(metadata.malformed(reason));
            }
        }
        Ok(Self { tokens, types, ids })
    }

    /// Tokens that are found in text before it is normalized or cut.
    fn added(&self) -> Vec<AddedToken<'a>> {
        let tokens = self.tokens.iter().zip(&self.types).enumerate();
        let added = tokens.filter(|(_, (token, kind))| {
            matches!(**kind, CONTROL | USER_DEFINED | UNKNOWN) && !token.is_empty()
        });
        added
            .map(|(id, (content, kind))| AddedToken {
                id,
                content,
                single_word: false,
                lstrip: false,
                rstrip: false,
                normalized: false,
                special: *kind != USER_DEFINED,
            })
            .collect()
    }

    /// Puts the BOS token before a prompt and the EOS token after it if the file wants them, after
    /// the `inner` processor.
    fn post_processor(&self, metadata: &Metadata, inner: Option<Value>) -> Result<Value, Error> {
        let token = |is_added: bool, name: &str| match metadata.usize(name)? {
            Some(id) if is_added => Ok(self.tokens.get(id).map(|text| (*text, id as u32))),
            _ => Ok::<_, Error>(None),
        };
        let bos = token(adds_bos(metadata)?, "tokenizer.ggml.bos_token_id")?;
        let eos = token(adds_eos(metadata)?, "tokenizer.ggml.eos_token_id")?;
        if bos.is_none() && eos.is_none() {
            return Ok(inner.unwrap_or(Value::Null));
        }
        let template = template(bos, eos);
        Ok(match inner {
            Some(inner) => json!({"type": "Sequence", "processors": [inner, template]}),
            None => template,
        })
    }
}

fn byte_level_bpe<'a>(
    metadata: &'a Metadata,
    tokens: &'a Tokens<'a>,
    recipe: &Recipe,
) -> Result<TokenizerJson<'a>, Error> {
    let merges = metadata
        .strings("tokenizer.ggml.merges")?
        .ok_or_else(|| metadata.malformed("its metadata lacks tokenizer.ggml.merges"))?;
    let merges = merges.into_iter().map(|merge| match merge.split_once(' ') {
        Some((left, right)) if tokens.ids.contains_key(left) && tokens.ids.contains_key(right) => {
            Ok((left, right))
        }
        _ => Err(metadata.malformed(format!("the merge {merge:?} is not of two tokens"))),
    });
    Ok(TokenizerJson {
        version: "1.0",
        truncation: None,
        padding: None,
        added_tokens: tokens.added(),
        normalizer: recipe.normalizer(),
        pre_tokenizer: recipe.pre_tokenizer(),
        post_processor: tokens.post_processor(metadata, Some(byte_level(true)))?,
        decoder: byte_level(true),
        model: Bpe {
            r#type: "BPE",
            dropout: None,
            unk_token: None,
            continuing_subword_prefix: None,
            end_of_word_suffix: None,
            fuse_unk: false,
            byte_fallback: false,
            ignore_merges: recipe.ignore_merges,
            vocab: &tokens.tokens,
            merges: merges.collect::<Result<_, _>>()?,
        },
    })
}

fn sentence_piece<'a>(
    metadata: &'a Metadata,
    tokens: &'a Tokens<'a>,
) -> Result<TokenizerJson<'a>, Error> {
    let scores = metadata.f32s("tokenizer.ggml.scores")?.unwrap_or_default();
    if scores.len() != tokens.tokens.len() || scores.iter().any(|score| score.is_nan()) {
        return Err(metadata.malformed("its tokens do not have one score each"));
    }
    if let Some(id) = tokens.tokens.iter().position(|token| token.len() > MAX_PIECE_BYTES) {
        let len = tokens.tokens[id].len();
        return Err(metadata.malformed(format!("token {id} is {len} bytes long")));
    }
    let unknown = tokens.types.iter().position(|kind| *kind == UNKNOWN);
    let unknown = metadata.usize("tokenizer.ggml.unknown_token_id")?.or(unknown);
    let prefix = metadata.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let mut normalizers =
        vec![json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"})];
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": "▁"}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    Ok(TokenizerJson {
        version: "1.0",
        truncation: None,
        padding: None,
        added_tokens: tokens.added(),
        normalizer: json!({"type": "Sequence", "normalizers": normalizers}),
        pre_tokenizer: Value::Null,
        post_processor: tokens.post_processor(metadata, None)?,
        decoder: json!({"type": "Sequence", "decoders": decoders}),
        model: Bpe {
            r#type: "BPE",
            dropout: None,
            unk_token: unknown.and_then(|id| tokens.tokens.get(id).copied()),
            continuing_subword_prefix: None,
            end_of_word_suffix: None,
            fuse_unk: true,
            byte_fallback: true,
            ignore_merges: false,
            vocab: &tokens.tokens,
            merges: merges(tokens, &scores),
        },
    })
}

/// The merges that make the pieces, best score first: SentencePiece merges the neighbors that give
/// the piece with the best score, whichever they are. Only normal pieces come from text.
fn merges<'a>(tokens: &Tokens<'a>, scores: &[f32]) -> Vec<(&'a str, &'a str)> {
    let normal = |id: &usize| tokens.types[*id] == NORMAL;
    let parts: HashSet<_> =
        tokens.ids.iter().filter(|(_, id)| normal(id)).map(|(t, _)| *t).collect();
    let mut pieces: Vec<_> = (0..tokens.tokens.len()).filter(normal).collect();
    pieces.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    let mut merges = Vec::new();
    for piece in pieces {
        let piece = tokens.tokens[piece];
        let first = merges.len();
        let cuts = piece.char_indices().skip(1).map(|(at, _)| piece.split_at(at));
        merges.extend(cuts.filter(|(left, right)| parts.contains(left) && parts.contains(right)));
        merges[first..].sort_by_key(|(left, right)| (tokens.ids[left], tokens.ids[right]));
    }
    merges
}
