//! What `config.json` says of quantized weights: who packed them, and whether all of that is computed.
//!
//! Which matrices are quantized, with how many bits and in what groups, their tensors say: see
//! [`matrices`]. Lists of modules that are not are for programs that quantize.

mod dummy;
mod matrices;

use std::path::Path;

use serde_json::{Map, Value};

pub(super) use self::dummy::matrices as random_matrices;
use super::optional_json;
use crate::weights::Error;

/// Who packed a checkpoint's matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quantization {
    /// GPTQ (Frantar et al., 2022), as GPTQModel and AutoGPTQ write it: zero points are stored so much
    /// below their value.
    Gptq { below: u16 },
    /// AWQ (Lin et al., 2023), as AutoAWQ writes it.
    Awq,
    /// compressed-tensors and the others that keep the name `weight` for 8-bit floats. Scales may be of
    /// blocks of so many rows and columns.
    Compressed { block: Option<[usize; 2]> },
}

const METHODS: &str = "gptq, awq (gemm), compressed-tensors, fp8, fbgemm_fp8";

type Json = Map<String, Value>;

/// Reads how the weights in `dir` are quantized. `None`: not at all.
pub(super) fn read(dir: &Path) -> Result<Option<Quantization>, Error> {
    match json(dir)? {
        Some(json) => of_json(&json).map(Some),
        None => of_old_file(dir),
    }
}

/// What `config.json` says of it.
fn json(dir: &Path) -> Result<Option<Json>, Error> {
    let config: Option<Json> = optional_json(&dir.join("config.json"))?;
    let mut config = config.unwrap_or_default();
    let keys = ["quantization_config", "compression_config"];
    let found = keys.iter().find_map(|key| config.remove(*key).filter(|value| !value.is_null()));
    match found {
        Some(Value::Object(json)) => Ok(Some(json)),
        Some(other) => Err(unsupported("quantization_config", other.to_string(), "an object")),
        None => Ok(None),
    }
}

/// What AutoGPTQ and AutoAWQ wrote before `config.json` had it.
fn of_old_file(dir: &Path) -> Result<Option<Quantization>, Error> {
    if let Some(json) = optional_json::<Json>(&dir.join("quantize_config.json"))? {
        return gptq(&json).map(Some);
    }
    match optional_json::<Json>(&dir.join("quant_config.json"))? {
        Some(json) => awq(&json).map(Some),
        None => Ok(None),
    }
}

fn of_json(json: &Json) -> Result<Quantization, Error> {
    let method = match (text(json, "quant_method"), json.get("load_in_4bit")) {
        (Some(method), _) => method,
        (None, Some(_)) => "bitsandbytes",
        (None, None) if json.contains_key("config_groups") => "compressed-tensors",
        (None, None) => "missing",
    };
    match method {
        "gptq" => gptq(json),
        "awq" => awq(json),
        "compressed-tensors" => compressed(json),
        "fp8" => fp8(json),
        "fbgemm_fp8" => Ok(Quantization::Compressed { block: None }),
        other => Err(unsupported("quant_method", other, METHODS)),
    }
}

fn gptq(json: &Json) -> Result<Quantization, Error> {
    check_bits(json, &["bits"], &[4, 8])?;
    if json.get("is_marlin_format").and_then(Value::as_bool) == Some(true) {
        return Err(unsupported("is_marlin_format", "true", "false"));
    }
    match text(json, "checkpoint_format").or(text(json, "format")).unwrap_or("gptq") {
        "gptq" => Ok(Quantization::Gptq { below: 1 }),
        "gptq_v2" => Ok(Quantization::Gptq { below: 0 }),
        other => Err(unsupported("checkpoint_format", other, "gptq, gptq_v2")),
    }
}

fn awq(json: &Json) -> Result<Quantization, Error> {
    check_bits(json, &["bits", "w_bit"], &[4])?;
    if json.get("zero_point").and_then(Value::as_bool) == Some(false) {
        return Err(unsupported("zero_point", "false", "true"));
    }
    match text(json, "version") {
        Some(version) if !version.eq_ignore_ascii_case("gemm") => {
            Err(unsupported("version of awq", version, "gemm"))
        }
        _ => Ok(Quantization::Awq),
    }
}

fn fp8(json: &Json) -> Result<Quantization, Error> {
    match text(json, "fmt").unwrap_or("e4m3") {
        "e4m3" | "float8_e4m3fn" => {
            Ok(Quantization::Compressed { block: block(json, "weight_block_size")? })
        }
        other => Err(unsupported("fmt of fp8", other, "e4m3")),
    }
}

fn compressed(json: &Json) -> Result<Quantization, Error> {
    check_format(json)?;
    let is_sparse = |json: &&Value| {
        json.get("format").and_then(Value::as_str).is_some_and(|format| format != "dense")
    };
    if let Some(sparsity) = json.get("sparsity_config").filter(is_sparse) {
        return Err(unsupported("sparsity_config", sparsity["format"].to_string(), "dense"));
    }
    let is_there = |value: &&Value| match value {
        Value::Object(object) => !object.is_empty(),
        other => !other.is_null(),
    };
    if json.get("transform_config").filter(is_there).is_some() {
        // Rotations of activations that the forward pass would have to make.
        return Err(unsupported("transform_config", "given", "null"));
    }
    let groups = json.get("config_groups").and_then(Value::as_object);
    let mut blocks = None;
    for (name, group) in groups.into_iter().flatten() {
        if let Some(group) = group.as_object() {
            check_format(group)?;
        }
        if group.get("output_activations").filter(is_there).is_some() {
            return Err(unsupported(&format!("output_activations of {name}"), "given", "null"));
        }
        let Some(weights) = group.get("weights").and_then(Value::as_object) else { continue };
        let (kind, bits) = (text(weights, "type").unwrap_or("int"), weights.get("num_bits"));
        let bits = bits.and_then(Value::as_u64);
        if !matches!((kind, bits), ("int", Some(4 | 8)) | ("float", Some(8))) {
            let found =
                format!("{kind} of {} bits", bits.map_or("unknown".into(), |n| n.to_string()));
            let supported = "int of 4 or 8 bits, float of 8 bits";
            return Err(unsupported(&format!("weights of {name}"), found, supported));
        }
        blocks = match (blocks, block(weights, "block_structure")?) {
            (Some(one), Some(other)) if one != other => {
                let found = format!("{one:?} and {other:?}");
                return Err(unsupported("block_structure", found, "one"));
            }
            (one, other) => one.or(other),
        };
    }
    Ok(Quantization::Compressed { block: blocks })
}

/// Rows and columns of a block with a scale.
fn block(json: &Json, key: &str) -> Result<Option<[usize; 2]>, Error> {
    let Some(value) = json.get(key).filter(|value| !value.is_null()) else { return Ok(None) };
    match serde_json::from_value::<[usize; 2]>(value.clone()) {
        Ok(block) if block.iter().all(|size| (1..1 << 20).contains(size)) => Ok(Some(block)),
        _ => Err(unsupported(key, value.to_string(), "two sizes, or null")),
    }
}

fn check_format(json: &Json) -> Result<(), Error> {
    const FORMATS: [&str; 5] =
        ["pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "dense"];
    match text(json, "format") {
        Some(format) if !FORMATS.contains(&format) => {
            Err(unsupported("format of compressed-tensors", format, FORMATS.join(", ")))
        }
        _ => Ok(()),
    }
}

/// Checks the first of the keys that is there.
fn check_bits(json: &Json, keys: &[&str], supported: &[u64]) -> Result<(), Error> {
    let Some((key, bits)) = keys.iter().find_map(|key| Some((key, json.get(*key)?))) else {
        return Ok(());
    };
    if bits.as_u64().is_some_and(|bits| supported.contains(&bits)) {
        return Ok(());
    }
    let supported: Vec<_> = supported.iter().map(u64::to_string).collect();
    Err(unsupported(key, bits.to_string(), supported.join(", ")))
}

fn text<'a>(json: &'a Json, key: &str) -> Option<&'a str> {
    json.get(key).and_then(Value::as_str)
}

fn unsupported(what: &str, found: impl Into<String>, supported: impl Into<String>) -> Error {
    Error::unsupported(
        format!("{what} in the configuration of quantized weights"),
        found,
        supported,
    )
}
