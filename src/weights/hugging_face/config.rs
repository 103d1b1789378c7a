//! The hyperparameters in `config.json`.

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;
use serde_json::Value;

use super::architecture::Architecture;
use super::{optional_json, rope};
use crate::{models::config::DecoderConfig, weights::Error};

/// Settings of Llama and its relatives that change the results, if they are on. What reads an
/// architecture takes those that it knows ([`Architecture::reads`]), and others are refused.
const FEATURES: [&str; 24] = [
    "alibi",
    "attention_multiplier",
    "attn_logit_softcapping",
    "clip_qkv",
    "decoder_sparse_step",
    "embedding_multiplier",
    "final_logit_softcapping",
    "logit_scale",
    "logits_scaling",
    "mlp_only_layers",
    "n_shared_experts",
    "no_rope_layers",
    "num_experts",
    "num_local_experts",
    "partial_rotary_factor",
    "qk_layernorm",
    "query_pre_attn_scalar",
    "residual_multiplier",
    "rope_interleaved",
    "rope_local_base_freq",
    "shared_expert_intermediate_size",
    "use_bidirectional_attention",
    "use_qk_norm",
    "use_sliding_window",
];

#[derive(Deserialize)]
pub(super) struct ConfigJson {
    #[serde(default)]
    pub(super) architectures: Vec<String>,
    pub(super) hidden_size: usize,
    pub(super) intermediate_size: usize,
    pub(super) num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    pub(super) head_dim: Option<usize>,
    vocab_size: usize,
    pub(super) max_position_embeddings: usize,
    rms_norm_eps: f32,
    hidden_act: Option<String>,
    hidden_activation: Option<String>,
    pub(super) rope_theta: Option<f32>,
    pub(super) rope_scaling: Option<Value>,
    pub(super) rope_parameters: Option<Value>,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    pub(super) layer_types: Option<Vec<String>>,
    #[serde(flatten)]
    pub(super) rest: BTreeMap<String, Value>,
}

/// Reads the configuration. Refuses other architectures and features that we do not compute.
pub(super) fn read(path: &Path) -> Result<DecoderConfig, Error> {
    let Some(json) = optional_json::<Value>(path)? else {
        let reason = "the weights have no config.json beside them".to_owned();
        return Err(Error::NotFound { path: path.to_owned(), reason });
    };
    // Before the rest: another architecture may lack fields that a llama has.
    let architecture = Architecture::of(&json)?;
    let json: ConfigJson = serde_json::from_value(architecture.complete(json))
        .map_err(|error| Error::malformed(path, error.to_string()))?;
    check_features(&json, architecture)?;
    let heads = json.num_attention_heads;
    let head_dim = match json.head_dim {
        Some(head_dim) => head_dim,
        None if heads > 0 && json.hidden_size.is_multiple_of(heads) => json.hidden_size / heads,
        None => {
            let reason = format!("{heads} heads do not divide a width of {}", json.hidden_size);
            return Err(Error::malformed(path, reason));
        }
    };
    let config = DecoderConfig {
        hidden_size: json.hidden_size,
        intermediate_size: architecture.intermediate_size(&json)?,
        num_hidden_layers: json.num_hidden_layers,
        num_attention_heads: heads,
        num_key_value_heads: json.num_key_value_heads.unwrap_or(heads),
        head_dim,
        vocab_size: json.vocab_size,
        max_position_embeddings: json.max_position_embeddings,
        rms_norm_eps: json.rms_norm_eps,
        rope: rope::read(path, &json, head_dim)?,
        tie_word_embeddings: json.tie_word_embeddings,
        attention_bias: architecture.has_bias(),
        variant: architecture.variant(path, &json, head_dim)?,
    };
    config.validate().map_err(|reason| Error::malformed(path, reason))?;
    Ok(config)
}

/// Whether the architecture has no LM head: what it computes is hidden states.
pub(super) fn is_headless(path: &Path) -> Result<bool, Error> {
    let json: Option<Value> = optional_json(path)?;
    let name = json.as_ref().and_then(|json| json.pointer("/architectures/0")?.as_str());
    Ok(name.is_some_and(|name| name.ends_with("Model")))
}

fn check_features(json: &ConfigJson, architecture: Architecture) -> Result<(), Error> {
    let unsupported = |key: &str, found: String, supported: &str| {
        Err(Error::unsupported(format!("{key} in config.json"), found, supported))
    };
    debug_assert_eq!(json.architectures.len(), 1, "checked before");
    let activation = json.hidden_activation.as_deref().or(json.hidden_act.as_deref());
    let activations = architecture.activations();
    if let Some(other) = activation.filter(|activation| !activations.contains(activation)) {
        return unsupported("hidden_act", other.to_owned(), activations[0]);
    }
    // Transformers' Llama gives the output projection a bias too, which no kernel adds.
    if json.attention_bias || json.mlp_bias {
        return unsupported("attention_bias or mlp_bias", "true".to_owned(), "false");
    }
    if json.rest.get("auto_map").is_some_and(|map| map.get("AutoModelForCausalLM").is_some()) {
        return unsupported("auto_map", "a model with code of its own".to_owned(), "none");
    }
    let others = FEATURES.iter().filter(|key| !architecture.reads(key));
    match others.into_iter().find_map(|key| Some((key, json.rest.get(*key).filter(is_on)?))) {
        Some((key, value)) => unsupported(key, value.to_string(), "null"),
        None => Ok(()),
    }
}

/// Whether a feature's value is anything but absent, off, zero experts, or times one.
fn is_on(value: &&Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Number(number) => !number.as_f64().is_some_and(|n| n == 0.0 || n == 1.0),
        Value::Array(array) => !array.is_empty(),
        Value::Bool(true) | Value::String(_) | Value::Object(_) => true,
    }
}
