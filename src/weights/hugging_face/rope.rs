//! The rotary embedding in `config.json`. One of layers that slide may be beside it.

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;
use serde_json::{Value, json};

use super::architecture::PHI3;
use super::config::ConfigJson;
use crate::{
    models::config::{RopeConfig, RopeScaling, RopeStyle},
    weights::Error,
};

/// Keys of embeddings by the type of a layer.
const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";

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

/// Reads the embedding of the layers that see all positions.
pub(super) fn read(path: &Path, json: &ConfigJson, head_dim: usize) -> Result<RopeConfig, Error> {
    let value = json.rope_parameters.as_ref().or(json.rope_scaling.as_ref());
    let value = value.and_then(|value| value.get(FULL)).or(value);
    parse(path, value, json, head_dim)
}

/// Reads the embedding of the layers that slide, where it is one of their own.
pub(super) fn sliding(
    path: &Path,
    json: &ConfigJson,
    head_dim: usize,
) -> Result<Option<RopeConfig>, Error> {
    let own = json.rope_parameters.as_ref().and_then(|value| value.get(SLIDING));
    let theta = json.rest.get("rope_local_base_freq").filter(|theta| !theta.is_null());
    let of_theta = theta.map(|theta| json!({ "rope_theta": theta }));
    let value = own.or(of_theta.as_ref());
    value.map(|value| parse(path, Some(value), json, head_dim)).transpose()
}

fn parse(
    path: &Path,
    value: Option<&Value>,
    json: &ConfigJson,
    head_dim: usize,
) -> Result<RopeConfig, Error> {
    let broken = |error: serde_json::Error| Error::malformed(path, error.to_string());
    let rope = value.filter(|value| !value.is_null()).map(RopeJson::deserialize);
    let rope = rope.transpose().map_err(broken)?.unwrap_or_default();
    if let Some((key, value)) = rope.rest.iter().find(|(_, value)| !value.is_null()) {
        let what = format!("{key} of RoPE in config.json");
        return Err(Error::unsupported(what, value.to_string(), "none"));
    }
    let of_model = json.rest.get("partial_rotary_factor").and_then(Value::as_f64);
    let part = rope.partial_rotary_factor.or(of_model.map(|part| part as f32)).unwrap_or(1.0);
    if part != 1.0 && json.architectures != [PHI3] {
        let what = "partial_rotary_factor in config.json";
        return Err(Error::unsupported(what, part.to_string(), "1"));
    }
    let dim = (head_dim as f32 * part) as usize;
    let theta = rope.rope_theta.or(json.rope_theta).unwrap_or(10_000.0);
    let scaling = scaling(path, &rope, json.max_position_embeddings)?;
    Ok(RopeConfig { theta, dim, style: RopeStyle::Half, scaling })
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
