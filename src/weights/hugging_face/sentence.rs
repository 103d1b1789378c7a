//! What sentence-transformers' files say of a model's hidden states, whatever computes them.

use std::{
    collections::BTreeMap,
    path::{Component, Path},
};

use serde::Deserialize;
use serde_json::Value;

use super::optional_json;
use crate::{
    models::pooling::{PoolerConfig, Pooling},
    weights::Error,
};

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

/// Most tokens of one input, where that is said.
pub(super) fn max_seq_length(dir: &Path) -> Result<Option<usize>, Error> {
    let json: SentenceJson =
        optional_json(&dir.join("sentence_bert_config.json"))?.unwrap_or_default();
    Ok(json.max_seq_length)
}

/// What follows the model in the list of modules. `None` without a list.
pub(super) fn pooler(dir: &Path) -> Result<Option<PoolerConfig>, Error> {
    let path = dir.join("modules.json");
    let Some(modules) = optional_json::<Vec<Module>>(&path)? else { return Ok(None) };
    let mut pooler = PoolerConfig { pooling: Pooling::Mean, normalize: false };
    for (i, Module { kind, path: module }) in modules.iter().enumerate() {
        match kind.rsplit('.').next().unwrap_or_default() {
            "Transformer" if i == 0 => {}
            "Pooling" => {
                let is_plain = |part| matches!(part, Component::Normal(_));
                if !Path::new(module).components().all(is_plain) {
                    let reason = format!("{module:?} is no folder here");
                    return Err(Error::malformed(&path, reason));
                }
                pooler.pooling = read_pooling(&dir.join(module).join("config.json"))?;
            }
            "Normalize" => pooler.normalize = true,
            _ => {
                let supported = "Transformer, Pooling, Normalize";
                return Err(Error::unsupported("a module in modules.json", kind, supported));
            }
        }
    }
    Ok(Some(pooler))
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
        ["lasttoken"] => Ok(Pooling::Last),
        _ => {
            let supported = "mean, cls, max, lasttoken";
            Err(Error::unsupported("the pooling mode", modes.join(", "), supported))
        }
    }
}
