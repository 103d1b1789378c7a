//! What the programs that quantize write, with random codes: for measurements of models whose weights are
//! not at hand. Scales are all the same, and zero points in the middle.
//!
//! All matrices of the layers are quantized but for what chooses experts, and the vocabulary is not:
//! lists of modules that are left out are not heeded.

use std::collections::HashMap;
use std::path::Path;

use half::{bf16, f16};
use safetensors::Dtype as StoredDtype;
use serde_json::{Map, Value};

use super::{Json, Quantization, block, json, of_json, text, unsupported};
use crate::models::config::DecoderConfig;
use crate::weights::Error;
use crate::weights::dummy::{AMPLITUDE, Contents, seed};
use crate::weights::file::{Span, Stored};

/// Columns of a group where nothing is said.
const GROUP: usize = 128;

/// How a matrix is stored.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Scheme {
    /// `group`: all columns if there is none.
    Gptq {
        bits: usize,
        group: Option<usize>,
        below: u16,
    },
    Awq {
        group: Option<usize>,
    },
    /// compressed-tensors' words.
    Words {
        bits: usize,
        group: Option<usize>,
    },
    /// Bytes with a scale per row.
    Int8,
    E4M3(Scales),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Scales {
    One,
    Rows,
    Blocks([usize; 2]),
}

/// Matrices of these names and shapes, as the configuration in `dir` says that they are quantized. `None`: they
/// are not.
pub(in super::super) fn matrices(
    dir: &Path,
    shapes: &[(String, [usize; 2])],
    config: &DecoderConfig,
) -> Result<Option<HashMap<String, Span>>, Error> {
    let Some(json) = json(dir)? else { return Ok(None) };
    let (quantization, scheme) = (of_json(&json)?, Scheme::of(&json)?);
    let mut tensors = HashMap::new();
    for (name, shape) in shapes {
        let module = name.strip_suffix(".weight").unwrap_or(name);
        for (part, contents, dtype, dims) in scheme.parts(seed(name), *shape) {
            let Some(made) = Stored::made(contents, dtype, &dims) else {
                return Err(unsupported(
                    &format!("the shape of {name}"),
                    format!("{shape:?}"),
                    "less",
                ));
            };
            tensors.insert(format!("{module}.{part}"), made);
        }
    }
    quantization.take_matrices(&mut tensors, Some(config)).map(Some)
}

/// A tensor's name within its module, what it holds, and its type and shape.
type Part = (&'static str, Contents, StoredDtype, Vec<usize>);

impl Scheme {
    fn of(json: &Json) -> Result<Self, Error> {
        match (of_json(json)?, text(json, "quant_method")) {
            (Quantization::Gptq { below }, _) => {
                let bits = number(json, "bits").unwrap_or(4);
                Ok(Self::Gptq { bits, group: group(json, &["group_size"]), below })
            }
            (Quantization::Awq, _) => {
                Ok(Self::Awq { group: group(json, &["group_size", "q_group_size"]) })
            }
            (Quantization::Compressed { block: Some(block) }, _) => {
                Ok(Self::E4M3(Scales::Blocks(block)))
            }
            (Quantization::Compressed { .. }, Some("fp8")) => Ok(Self::E4M3(Scales::One)),
            (Quantization::Compressed { .. }, Some("fbgemm_fp8")) => Ok(Self::E4M3(Scales::Rows)),
            (Quantization::Compressed { .. }, _) => Self::of_groups(json),
        }
    }

    /// The first group's of compressed-tensors.
    fn of_groups(json: &Json) -> Result<Self, Error> {
        let groups = json.get("config_groups").and_then(Value::as_object);
        let first = groups.and_then(|groups| groups.values().next()).and_then(Value::as_object);
        let weights = first.and_then(|group| group.get("weights")).and_then(Value::as_object);
        let (Some(first), Some(weights)) = (first, weights) else {
            return Err(unsupported("config_groups", "none", "a group with weights"));
        };
        let format = text(first, "format").or(text(json, "format")).unwrap_or_default();
        let bits = number(weights, "num_bits").unwrap_or(8);
        match text(weights, "type").unwrap_or("int") {
            "float" => match (text(weights, "strategy"), block(weights, "block_structure")?) {
                (_, Some(block)) => Ok(Self::E4M3(Scales::Blocks(block))),
                (Some("tensor"), None) => Ok(Self::E4M3(Scales::One)),
                (_, None) => Ok(Self::E4M3(Scales::Rows)),
            },
            _ if bits == 4 || format == "pack-quantized" => {
                let is_grouped = text(weights, "strategy") != Some("channel");
                let group = group(weights, &["group_size"]).filter(|_| is_grouped);
                Ok(Self::Words { bits, group })
            }
            _ => Ok(Self::Int8),
        }
    }

    fn parts(self, seed: u64, [n, k]: [usize; 2]) -> Vec<Part> {
        use StoredDtype::{BF16, F8_E4M3, F16, F32, I8, I32, I64};
        let groups = |group: Option<usize>| k.checked_div(group.unwrap_or(k)).unwrap_or(1);
        let codes = Contents::Codes { seed };
        let middle = |byte: u8| Contents::Repeated(vec![byte]);
        // Codes reach half their number to either side.
        let scale = |bits: usize| AMPLITUDE / (1 << (bits - 1)) as f32;
        let halves = |bits| Contents::Repeated(f16::from_f32(scale(bits)).to_le_bytes().to_vec());
        let bf16s = |bits| Contents::Repeated(bf16::from_f32(scale(bits)).to_le_bytes().to_vec());
        match self {
            Self::Gptq { bits, group, below } => {
                let zero = if bits == 4 { 0x88 - 0x11 * below as u8 } else { 128 - below as u8 };
                let groups = groups(group);
                vec![
                    ("qweight", codes, I32, vec![k * bits / 32, n]),
                    ("qzeros", middle(zero), I32, vec![groups, n * bits / 32]),
                    ("scales", halves(bits), F16, vec![groups, n]),
                ]
            }
            Self::Awq { group } => {
                let groups = groups(group);
                vec![
                    ("qweight", codes, I32, vec![k, n / 8]),
                    ("qzeros", middle(0x88), I32, vec![groups, n / 8]),
                    ("scales", halves(4), F16, vec![groups, n]),
                ]
            }
            Self::Words { bits, group } => {
                let dims = [n as i64, k as i64].map(i64::to_le_bytes).concat();
                vec![
                    ("weight_packed", codes, I32, vec![n, k * bits / 32]),
                    ("weight_shape", Contents::Repeated(dims), I64, vec![2]),
                    ("weight_scale", bf16s(bits), BF16, vec![n, groups(group)]),
                ]
            }
            Self::Int8 => vec![
                ("weight", codes, I8, vec![n, k]),
                ("weight_scale", bf16s(8), BF16, vec![n, 1]),
            ],
            Self::E4M3(scales) => {
                // The greatest number is 448.
                let scale = Contents::Repeated((AMPLITUDE / 448.0).to_le_bytes().to_vec());
                let (name, dims) = match scales {
                    Scales::One => ("weight_scale", vec![1]),
                    Scales::Rows => ("weight_scale", vec![n, 1]),
                    Scales::Blocks([rows, cols]) => {
                        ("weight_scale_inv", vec![n.div_ceil(rows), k.div_ceil(cols)])
                    }
                };
                let weight = ("weight", Contents::E4M3 { seed }, F8_E4M3, vec![n, k]);
                vec![weight, (name, scale, F32, dims)]
            }
        }
    }
}

fn number(json: &Map<String, Value>, key: &str) -> Option<usize> {
    json.get(key).and_then(Value::as_u64).and_then(|number| usize::try_from(number).ok())
}

/// Columns of a group: the first of the keys that is there. `None`: all columns, which is written as -1.
fn group(json: &Map<String, Value>, keys: &[&str]) -> Option<usize> {
    match keys.iter().find_map(|key| json.get(*key).and_then(Value::as_i64)) {
        Some(given) => usize::try_from(given).ok().filter(|group| *group > 0),
        None => Some(GROUP),
    }
}
