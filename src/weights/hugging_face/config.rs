//! The hyperparameters in `config.json`.

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;
use serde_json::Value;

use super::{optional_json, sentence};
use crate::{
    models::config::{DecoderConfig, RopeConfig, RopeScaling, RopeStyle},
    weights::Error,
};

/// Settings of relatives of Llama that change the results, and values that turn them off.
const FEATURES: [&str; 17] = [
    "alibi",
    "attention_multiplier",
    "attn_logit_softcapping",
    "clip_qkv",
    "embedding_multiplier",
    "final_logit_softcapping",
    "logit_scale",
    "logits_scaling",
    "no_rope_layers",
    "num_experts",
    "num_local_experts",
    "partial_rotary_factor",
    "qk_layernorm",
    "residual_multiplier",
    "rope_interleaved",
    "use_qk_norm",
    "use_sliding_window",
];

#[derive(Deserialize)]
struct ConfigJson {
    #[serde(default)]
    architectures: Vec<String>,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: usize,
    max_position_embeddings: usize,
    rms_norm_eps: f32,
    hidden_act: Option<String>,
    rope_theta: Option<f32>,
    rope_scaling: Option<RopeJson>,
    rope_parameters: Option<RopeJson>,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    layer_types: Option<Vec<String>>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

#[derive(Default, Deserialize)]
struct RopeJson {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f32>,
    factor: Option<f32>,
    low_freq_factor: Option<f32>,
    high_freq_factor: Option<f32>,
    original_max_position_embeddings: Option<usize>,
    beta_fast: Option<f32>,
    beta_slow: Option<f32>,
    attention_factor: Option<f32>,
    mscale: Option<f32>,
    mscale_all_dim: Option<f32>,
    truncate: Option<bool>,
    partial_rotary_factor: Option<f32>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

/// Reads the configuration. Refuses other architectures and features that we do not compute.
pub(super) fn read(path: &Path) -> Result<DecoderConfig, Error> {
    let Some(json) = optional_json::<Value>(path)? else {
        let reason = "the weights have no config.json beside them".to_owned();
        return Err(Error::NotFound { path: path.to_owned(), reason });
    };
    // Before the rest: another architecture may lack fields that a llama has.
    let architecture = architecture(&json)?;
    let json: ConfigJson =
        serde_json::from_value(json).map_err(|error| Error::malformed(path, error.to_string()))?;
    check_features(&json)?;
    let dir = path.parent().unwrap_or(Path::new(""));
    let num_positions = num_positions(&json, architecture, sentence::max_seq_length(dir)?)?;
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
        intermediate_size: json.intermediate_size,
        num_hidden_layers: json.num_hidden_layers,
        num_attention_heads: heads,
        num_key_value_heads: json.num_key_value_heads.unwrap_or(heads),
        head_dim,
        vocab_size: json.vocab_size,
        max_position_embeddings: num_positions,
        rms_norm_eps: json.rms_norm_eps,
        rope: rope(path, &json, head_dim)?,
        tie_word_embeddings: json.tie_word_embeddings,
        attention_bias: false,
    };
    config.validate().map_err(|reason| Error::malformed(path, reason))?;
    Ok(config)
}

/// Whether the architecture has no LM head: what it computes is hidden states.
pub(super) fn is_headless(path: &Path) -> Result<bool, Error> {
    let json: Option<Value> = optional_json(path)?;
    let name = json.as_ref().and_then(|json| json.pointer("/architectures/0")?.as_str());
    Ok(matches!(name, Some("LlamaModel" | "MistralModel")))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Architecture {
    Llama,
    Mistral,
}

fn architecture(json: &Value) -> Result<Architecture, Error> {
    let name = match json.get("architectures").and_then(Value::as_array).map(Vec::as_slice) {
        Some([Value::String(name)]) => name.as_str(),
        _ => "",
    };
    match name {
        "LlamaForCausalLM" | "LlamaModel" => Ok(Architecture::Llama),
        "MistralForCausalLM" | "MistralModel" => Ok(Architecture::Mistral),
        _ => {
            let found = json.get("architectures").map_or("missing".to_owned(), Value::to_string);
            let supported = "LlamaForCausalLM, MistralForCausalLM, LlamaModel, MistralModel";
            Err(Error::unsupported("architectures in config.json", found, supported))
        }
    }
}

fn check_features(json: &ConfigJson) -> Result<(), Error> {
    let unsupported = |key: &str, found: String, supported: &str| {
        Err(Error::unsupported(format!("{key} in config.json"), found, supported))
    };
    debug_assert_eq!(json.architectures.len(), 1, "checked before");
    match json.hidden_act.as_deref() {
        None | Some("silu" | "swish") => {}
        Some(other) => return unsupported("hidden_act", other.to_owned(), "silu"),
    }
    // Transformers' Llama gives the output projection a bias too, which no kernel adds.
    if json.attention_bias || json.mlp_bias {
        return unsupported("attention_bias or mlp_bias", "true".to_owned(), "false");
    }
    let types = json.layer_types.iter().flatten();
    if let Some(kind) = types.into_iter().find(|kind| *kind != "full_attention") {
        return unsupported("layer_types", kind.clone(), "full_attention");
    }
    if json.rest.get("auto_map").is_some_and(|map| map.get("AutoModelForCausalLM").is_some()) {
        return unsupported("auto_map", "a model with code of its own".to_owned(), "none");
    }
    match FEATURES.iter().find_map(|key| Some((key, json.rest.get(*key).filter(is_on)?))) {
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

/// Positions that attention sees all of. A window as wide as the context is none, and so is one as
/// wide as the longest text that the model is meant to embed. Mistral without the key has one of
/// 4,096.
fn num_positions(
    json: &ConfigJson,
    architecture: Architecture,
    max_seq_length: Option<usize>,
) -> Result<usize, Error> {
    let all = json.max_position_embeddings;
    let (window, found) = match json.rest.get("sliding_window") {
        Some(Value::Null) => return Ok(all),
        None if architecture == Architecture::Llama => return Ok(all),
        Some(window) => (window.as_u64().unwrap_or(0) as usize, window.to_string()),
        None => (4096, "missing, which means 4096".to_owned()),
    };
    match max_seq_length {
        _ if all <= window => Ok(all),
        Some(longest) if longest <= window => Ok(longest),
        _ => Err(Error::unsupported("sliding_window in config.json", found, "null")),
    }
}

fn rope(path: &Path, json: &ConfigJson, head_dim: usize) -> Result<RopeConfig, Error> {
    let empty = RopeJson::default();
    let rope = json.rope_parameters.as_ref().or(json.rope_scaling.as_ref()).unwrap_or(&empty);
    if let Some((key, value)) = rope.rest.iter().find(|(_, value)| !value.is_null()) {
        let what = format!("{key} of RoPE in config.json");
        return Err(Error::unsupported(what, value.to_string(), "none"));
    }
    if rope.partial_rotary_factor.is_some_and(|factor| factor != 1.0) {
        let found = format!("{:?}", rope.partial_rotary_factor);
        return Err(Error::unsupported("partial_rotary_factor in config.json", found, "1"));
    }
    let theta = rope.rope_theta.or(json.rope_theta).unwrap_or(10_000.0);
    let scaling = scaling(path, rope, json.max_position_embeddings)?;
    Ok(RopeConfig { theta, dim: head_dim, style: RopeStyle::Half, scaling })
}

fn scaling(path: &Path, rope: &RopeJson, max_positions: usize) -> Result<RopeScaling, Error> {
    let required = |name: &str, value: Option<f32>| {
        value.ok_or_else(|| Error::malformed(path, format!("RoPE's scaling lacks {name}")))
    };
    let original = rope.original_max_position_embeddings.unwrap_or(max_positions);
    match rope.rope_type.as_deref().unwrap_or("default") {
        "default" => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear { factor: required("factor", rope.factor)? }),
        "llama3" => Ok(RopeScaling::Llama3 {
            factor: required("factor", rope.factor)?,
            low_freq_factor: required("low_freq_factor", rope.low_freq_factor)?,
            high_freq_factor: required("high_freq_factor", rope.high_freq_factor)?,
            original_max_position_embeddings: original,
        }),
        "yarn" => {
            if rope.truncate == Some(false) {
                return Err(Error::unsupported("truncate of YaRN", "false", "true"));
            }
            let factor = rope.factor.unwrap_or(max_positions as f32 / original as f32);
            Ok(RopeScaling::Yarn {
                factor,
                original_max_position_embeddings: original,
                beta_fast: rope.beta_fast.filter(|beta| *beta != 0.0).unwrap_or(32.0),
                beta_slow: rope.beta_slow.filter(|beta| *beta != 0.0).unwrap_or(1.0),
                attention_factor: attention_factor(rope, factor),
            })
        }
        other => {
            let supported = "default, linear, llama3, yarn";
            Err(Error::unsupported("rope_type in config.json", other, supported))
        }
    }
}

/// YaRN's magnitude, if given or to be taken from DeepSeek's two scales.
fn attention_factor(rope: &RopeJson, factor: f32) -> Option<f32> {
    let magnitude = |scale: f32| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
    let scales = rope.mscale.zip(rope.mscale_all_dim).filter(|(a, b)| *a != 0.0 && *b != 0.0);
    rope.attention_factor.or(scales.map(|(of, all)| magnitude(of) / magnitude(all)))
}
