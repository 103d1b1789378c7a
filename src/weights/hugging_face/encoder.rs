//! The hyperparameters of an encoder in `config.json`.

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;
use serde_json::Value;

use super::{EncoderKind, optional_json, sentence};
use crate::{
    models::{
        encoder::config::{ClassifierActivation, EncoderConfig, HeadConfig},
        pooling::{PoolerConfig, Pooling},
    },
    weights::Error,
};

/// What DistilBERT's configuration calls what the others have too.
const DISTILBERT_KEYS: [(&str, &str); 5] = [
    ("dim", "hidden_size"),
    ("hidden_dim", "intermediate_size"),
    ("n_layers", "num_hidden_layers"),
    ("n_heads", "num_attention_heads"),
    ("activation", "hidden_act"),
];

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

/// Reads the configuration. `None` when the architecture is no encoder's.
pub(super) fn read(dir: &Path) -> Result<Option<(EncoderConfig, EncoderKind)>, Error> {
    let path = dir.join("config.json");
    let Some(mut json) = optional_json::<Value>(&path)? else { return Ok(None) };
    let Some((kind, classifies)) = architecture(&json) else { return Ok(None) };
    if kind == EncoderKind::DistilBert {
        as_bert(&mut json);
    }
    let json: ConfigJson =
        serde_json::from_value(json).map_err(|error| Error::malformed(&path, error.to_string()))?;
    check_features(&json)?;
    let head = if classifies {
        classifier(&json, kind)
    } else {
        let mean = PoolerConfig { pooling: Pooling::Mean, normalize: false };
        HeadConfig::Embed(sentence::pooler(dir)?.unwrap_or(mean))
    };
    let first_position = match kind {
        EncoderKind::Bert | EncoderKind::DistilBert => 0,
        EncoderKind::Roberta => json.pad_token_id.unwrap_or(1).saturating_add(1),
    };
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
        max_seq_length: sentence::max_seq_length(dir)?.unwrap_or(num_positions).min(num_positions),
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
    EncoderKind::of(name)
}

/// Gives DistilBERT's settings the others' names, and what it leaves out their values.
fn as_bert(json: &mut Value) {
    let Some(settings) = json.as_object_mut() else { return };
    for (distilbert, bert) in DISTILBERT_KEYS {
        if let Some(value) = settings.remove(distilbert) {
            settings.insert(bert.to_owned(), value);
        }
    }
    settings.insert("type_vocab_size".to_owned(), 1.into());
    settings.insert("layer_norm_eps".to_owned(), 1e-12.into());
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

fn classifier(json: &ConfigJson, kind: EncoderKind) -> HeadConfig {
    let named = json.id2label.as_ref().map(BTreeMap::len);
    // As transformers: two, unless said otherwise.
    let num_labels = named.or(json.num_labels).unwrap_or(2);
    let activation = match kind {
        EncoderKind::Bert | EncoderKind::Roberta => ClassifierActivation::Tanh,
        EncoderKind::DistilBert => ClassifierActivation::Relu,
    };
    HeadConfig::Classify { num_labels, activation }
}
