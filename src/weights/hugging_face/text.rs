//! What the tokenizer's files say of prompts and their ends.

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;
use serde_json::{Value, json};

use super::{TOKENIZER, optional_json, optional_text};
use crate::weights::{Error, GenerationConfig, TextConfig};

/// Names by which a template may know a special token.
const SPECIAL: [&str; 7] =
    ["bos_token", "cls_token", "eos_token", "mask_token", "pad_token", "sep_token", "unk_token"];

#[derive(Default, Deserialize)]
struct TokenizerConfig {
    add_bos_token: Option<bool>,
    add_eos_token: Option<bool>,
    chat_template: Option<ChatTemplate>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ChatTemplate {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

/// `config.json` and `generation_config.json` both have these.
#[derive(Default, Deserialize)]
struct TokenIds {
    bos_token_id: Option<u32>,
    eos_token_id: Option<OneOrMany>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(u32),
    Many(Vec<u32>),
}

/// The parts of `tokenizer.json` that are read here.
#[derive(Default, Deserialize)]
struct TokenizerJson {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    #[serde(default)]
    post_processor: Value,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
}

pub(super) fn read(dir: &Path) -> Result<TextConfig, Error> {
    let config: TokenizerConfig = read_json(dir, "tokenizer_config.json")?;
    let special_tokens_map: BTreeMap<String, Value> = read_json(dir, "special_tokens_map.json")?;
    let tokenizer: TokenizerJson = read_json(dir, TOKENIZER)?;
    let (model, generation): (TokenIds, TokenIds) =
        (read_json(dir, "config.json")?, read_json(dir, "generation_config.json")?);

    let mut special_tokens = BTreeMap::new();
    for name in SPECIAL {
        let token = config.rest.get(name).filter(|token| !token.is_null());
        if let Some(token) = token.or(special_tokens_map.get(name)).and_then(content) {
            special_tokens.insert(name.to_owned(), token.to_owned());
        }
    }
    let id_of = |name: &str| {
        let content = special_tokens.get(name)?;
        tokenizer.added_tokens.iter().find(|token| token.content == *content).map(|token| token.id)
    };
    let bos_token_id = id_of("bos_token").or(generation.bos_token_id).or(model.bos_token_id);
    let mut eos_token_ids: Vec<u32> = id_of("eos_token").into_iter().collect();
    for ids in [model.eos_token_id, generation.eos_token_id].into_iter().flatten() {
        match ids {
            OneOrMany::One(id) => eos_token_ids.push(id),
            OneOrMany::Many(ids) => eos_token_ids.extend(ids),
        }
    }
    eos_token_ids.sort_unstable();
    eos_token_ids.dedup();
    let adds_bos = || {
        let bos = special_tokens.get("bos_token");
        bos.is_some_and(|bos| begins_with(&tokenizer.post_processor, bos))
    };
    Ok(TextConfig {
        chat_template: chat_template(dir, config.chat_template)?,
        bos_token_id,
        add_bos_token: bos_token_id.is_some() && config.add_bos_token.unwrap_or_else(adds_bos),
        add_eos_token: config.add_eos_token == Some(true),
        eos_token_ids,
        special_tokens,
        generation: generation_config(dir)?,
    })
}

fn generation_config(dir: &Path) -> Result<GenerationConfig, Error> {
    let path = dir.join("generation_config.json");
    let Some(text) = optional_text(&path)? else { return Ok(GenerationConfig::default()) };
    GenerationConfig::read(&text).map_err(|reason| Error::malformed(&path, reason))
}

/// The tokenizer as transformers changes it where `add_eos_token` is set: its post-processor puts
/// the end token after a text. `None` when that is not asked for.
pub(super) fn with_eos(dir: &Path) -> Result<Option<Vec<u8>>, Error> {
    let config: TokenizerConfig = read_json(dir, "tokenizer_config.json")?;
    if config.add_eos_token != Some(true) {
        return Ok(None);
    }
    let text = read(dir)?;
    let path = dir.join(TOKENIZER);
    let mut tokenizer: Value = read_json(dir, TOKENIZER)?;
    let id_of = |name: &str| {
        let content = text.special_tokens.get(name)?;
        let added = tokenizer.get("added_tokens")?.as_array()?;
        let token = added.iter().find(|token| token["content"] == **content)?;
        Some((content.as_str(), u32::try_from(token["id"].as_u64()?).ok()?))
    };
    let Some(eos) = id_of("eos_token") else {
        let reason = "the tokenizer puts an end token after texts, and has none";
        return Err(Error::malformed(&path, reason));
    };
    let bos = if text.add_bos_token { id_of("bos_token") } else { None };
    let template = template(bos, Some(eos));
    let Some(fields) = tokenizer.as_object_mut() else {
        return Err(Error::malformed(&path, "it is no object"));
    };
    fields.insert("post_processor".to_owned(), template);
    let json = serde_json::to_vec(&tokenizer);
    json.map(Some).map_err(|error| Error::malformed(&path, error.to_string()))
}

/// A post-processor that puts these tokens before and after every text.
pub(in crate::weights) fn template(bos: Option<(&str, u32)>, eos: Option<(&str, u32)>) -> Value {
    let special =
        |(text, _): (&str, u32), kind| json!({"SpecialToken": {"id": text, "type_id": kind}});
    let around = |name: &str, kind: u8| {
        let text = json!({"Sequence": {"id": name, "type_id": kind}});
        let [bos, eos] = [bos, eos].map(|token| token.map(|token| special(token, kind)));
        bos.into_iter().chain([text]).chain(eos).collect::<Vec<_>>()
    };
    let tokens = bos
        .into_iter()
        .chain(eos)
        .map(|(text, id)| (text.to_owned(), json!({"id": text, "ids": [id], "tokens": [text]})));
    let pair = [around("A", 0), around("B", 1)].concat();
    json!({
        "type": "TemplateProcessing",
        "single": around("A", 0),
        "pair": pair,
        "special_tokens": tokens.collect::<serde_json::Map<_, _>>(),
    })
}

fn read_json<T: Default + for<'de> Deserialize<'de>>(dir: &Path, name: &str) -> Result<T, Error> {
    Ok(optional_json(&dir.join(name))?.unwrap_or_default())
}

/// A token is its text, or an object with it.
fn content(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}

/// A file of its own comes before the one in `tokenizer_config.json`.
fn chat_template(dir: &Path, inline: Option<ChatTemplate>) -> Result<Option<String>, Error> {
    if let Some(template) = optional_text(&dir.join("chat_template.jinja"))? {
        return Ok(Some(template));
    }
    Ok(match inline {
        None => None,
        Some(ChatTemplate::One(template)) => Some(template),
        Some(ChatTemplate::Named(templates)) => {
            templates.into_iter().find(|t| t.name == "default").map(|t| t.template)
        }
    })
}

/// Whether a post-processor, or one of a sequence, puts `token` first.
fn begins_with(post_processor: &Value, token: &str) -> bool {
    if let Some(processors) = post_processor.get("processors").and_then(Value::as_array) {
        return processors.iter().any(|processor| begins_with(processor, token));
    }
    let first = post_processor.pointer("/single/0/SpecialToken/id");
    first.and_then(Value::as_str) == Some(token)
}
