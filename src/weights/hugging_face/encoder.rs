//! The hyperparameters of an encoder in `config.json`, and what sentence-transformers' files say
//! of its hidden states.

use std::{
    collections::BTreeMap,
    path::{Component, Path},
};

use serde::Deserialize;
use serde_json::Value;

use super::optional_json;
use crate::{
    models::encoder::config::{EncoderConfig, HeadConfig, Pooling},
    weights::Error,
};

/// The families, which differ in names and in where positions begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::weights) enum EncoderKind {
    Bert,
    Roberta,
}

impl EncoderKind {
    /// What the names of tensors begin with where the model has a head.
    pub(in crate::weights) fn prefix(self) -> &'static str {
        match self {
            Self::Bert => "bert.",
            Self::Roberta => "roberta.",
        }
    }

    /// The names of the classifier's two matrices.
    pub(in crate::weights) fn classifier(self) -> [&'static str; 2] {
        match self {
            Self::Bert => ["pooler.dense", "classifier"],
            Self::Roberta => ["classifier.dense", "classifier.out_proj"],
        }
    }
}

#[derive(Deserialize)]
struct ConfigJson {
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    vocab_size: usize,
    max_position_embeddings: usize,
    type_vocab_size: usize,
    layer_norm_eps: f32,
    hidden_act: String,
    pad_token_id: Option<usize>,
    position_embedding_type: Option<String>,
    id2label: Option<BTreeMap<String, Value>>,
    num_labels: Option<usize>,
    #[serde(default)]
    is_decoder: bool,
}

/// `sentence_bert_config.json`.
#[derive(Default, Deserialize)]
struct SentenceJson {
    max_seq_length: Option<usize>,
}

/// An entry of `modules.json`.
#[derive(Deserialize)]
struct Module {
    #[serde(rename = "type")]
    kind: String,
    path: String,
}

/// `config.json` of the pooling module.
#[derive(Deserialize)]
struct PoolingJson {
    /// Newer files name the modes here.
    pooling_mode: Option<Value>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

/// Reads the configuration. `None` when the architecture is no encoder's.
pub(super) fn read(dir: &Path) -> Result<Option<(EncoderConfig, EncoderKind)>, Error> {
    let path = dir.join("config.json");
    let Some(json) = optional_json::<Value>(&path)? else { return Ok(None) };
    let Some((kind, classifies)) = architecture(&json) else { return Ok(None) };
    let json: ConfigJson =
        serde_json::from_value(json).map_err(|error| Error::malformed(&path, error.to_string()))?;
    check_features(&json)?;
    let head = if classifies { classifier(&json) } else { embedder(dir)? };
    let first_position = match kind {
        EncoderKind::Bert => 0,
        EncoderKind::Roberta => json.pad_token_id.unwrap_or(1).saturating_add(1),
    };
    let sentence: SentenceJson =
        optional_json(&dir.join("sentence_bert_config.json"))?.unwrap_or_default();
    let num_positions = json.max_position_embeddings.saturating_sub(first_position);
    let config = EncoderConfig {
        hidden_size: json.hidden_size,
        intermediate_size: json.intermediate_size,
        num_hidden_layers: json.num_hidden_layers,
        num_attention_heads: json.num_attention_heads,
        vocab_size: json.vocab_size,
        max_position_embeddings: json.max_position_embeddings,
        first_position,
        type_vocab_size: json.type_vocab_size,
        layer_norm_eps: json.layer_norm_eps,
        max_seq_length: sentence.max_seq_length.unwrap_or(num_positions).min(num_positions),
        head,
    };
    config.validate().map_err(|reason| Error::malformed(&path, reason))?;
    Ok(Some((config, kind)))
}

/// The family, and whether it has a classifier's head.
fn architecture(json: &Value) -> Option<(EncoderKind, bool)> {
    let [Value::String(name)] = json.get("architectures")?.as_array()?.as_slice() else {
        return None;
    };
    match name.as_str() {
        "BertModel" | "BertForMaskedLM" => Some((EncoderKind::Bert, false)),
        "BertForSequenceClassification" => Some((EncoderKind::Bert, true)),
        "RobertaModel" | "XLMRobertaModel" => Some((EncoderKind::Roberta, false)),
        "RobertaForSequenceClassification" | "XLMRobertaForSequenceClassification" => {
            Some((EncoderKind::Roberta, true))
        }
        _ => None,
    }
}

fn check_features(json: &ConfigJson) -> Result<(), Error> {
    let unsupported = |key: &str, found: &str, supported: &str| {
        Err(Error::unsupported(format!("{key} in config.json"), found, supported))
    };
    if json.hidden_act != "gelu" {
        return unsupported("hidden_act", &json.hidden_act, "gelu");
    }
    if json.is_decoder {
        return unsupported("is_decoder", "true", "false");
    }
    match json.position_embedding_type.as_deref() {
        None | Some("absolute") => Ok(()),
        Some(other) => unsupported("position_embedding_type", other, "absolute"),
    }
}

fn classifier(json: &ConfigJson) -> HeadConfig {
    let named = json.id2label.as_ref().map(BTreeMap::len);
    // As transformers: two, unless said otherwise.
    HeadConfig::Classify { num_labels: named.or(json.num_labels).unwrap_or(2) }
}

/// What follows the encoder in sentence-transformers' list of modules; without one, the mean.
fn embedder(dir: &Path) -> Result<HeadConfig, Error> {
    let path = dir.join("modules.json");
    let modules: Vec<Module> = optional_json(&path)?.unwrap_or_default();
    let (mut pooling, mut normalize) = (Pooling::Mean, false);
    for (i, Module { kind, path: module }) in modules.iter().enumerate() {
        match kind.rsplit('.').next().unwrap_or_default() {
            "Transformer" if i == 0 => {}
            "Pooling" => {
                let is_plain = |part| matches!(part, Component::Normal(_));
                if !Path::new(module).components().all(is_plain) {
                    let reason = format!("{module:?} is no folder here");
                    return Err(Error::malformed(&path, reason));
                }
                pooling = read_pooling(&dir.join(module).join("config.json"))?;
            }
            "Normalize" => normalize = true,
            _ => {
                let supported = "Transformer, Pooling, Normalize";
                return Err(Error::unsupported("a module in modules.json", kind, supported));
            }
        }
    }
    Ok(HeadConfig::Embed { pooling, normalize })
}

fn read_pooling(path: &Path) -> Result<Pooling, Error> {
    let Some(json) = optional_json::<PoolingJson>(path)? else {
        let reason = "modules.json speaks of a pooling module".to_owned();
        return Err(Error::NotFound { path: path.to_owned(), reason });
    };
    let mut modes: Vec<String> = match json.pooling_mode {
        Some(Value::String(mode)) => vec![mode],
        Some(Value::Array(modes)) => {
            modes.iter().filter_map(Value::as_str).map(str::to_owned).collect()
        }
        _ => Vec::new(),
    };
    let flags = json.rest.iter().filter(|(_, value)| **value == Value::Bool(true));
    modes.extend(flags.filter_map(|(key, _)| {
        let mode = key.strip_prefix("pooling_mode_")?;
        Some(mode.trim_end_matches("_tokens").trim_end_matches("_token").to_owned())
    }));
    match modes.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] | ["mean"] => Ok(Pooling::Mean),
        ["cls"] => Ok(Pooling::Cls),
        ["max"] => Ok(Pooling::Max),
        _ => Err(Error::unsupported("the pooling mode", modes.join(", "), "mean, cls, max")),
    }
}
