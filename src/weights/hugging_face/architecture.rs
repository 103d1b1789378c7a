//! The architectures of decoders, by their names in `config.json`, and what each reads there beside a
//! Llama's keys.

use std::path::Path;

use serde_json::{Value, json};

use super::{config::ConfigJson, rope};
use crate::{
    models::config::{Activation, Experts, Sliding, Variant},
    weights::Error,
};

/// The architecture whose heads may rotate in part.
pub(super) const PHI3: &str = "Phi3ForCausalLM";

/// A family of decoders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Architecture {
    Llama,
    Mistral,
    Mixtral,
    Qwen2,
    Qwen3,
    Qwen3Moe,
    Gemma2,
    Gemma3,
    Phi3,
}

const SUPPORTED: &str = "LlamaForCausalLM, MistralForCausalLM, MixtralForCausalLM, Qwen2ForCausalLM, \
    Qwen3ForCausalLM, Qwen3MoeForCausalLM, Gemma2ForCausalLM, Gemma3ForCausalLM, \
    Gemma3ForConditionalGeneration, Phi3ForCausalLM, and those without a head: LlamaModel, MistralModel, Qwen2Model, \
    Qwen3Model, Gemma2Model, Gemma3TextModel";

impl Architecture {
    pub(super) fn of(json: &Value) -> Result<Self, Error> {
        let name = match json.get("architectures").and_then(Value::as_array).map(Vec::as_slice) {
            Some([Value::String(name)]) => name.as_str(),
            _ => "",
        };
        match name {
            "LlamaForCausalLM" | "LlamaModel" => Ok(Self::Llama),
            "MistralForCausalLM" | "MistralModel" => Ok(Self::Mistral),
            "MixtralForCausalLM" => Ok(Self::Mixtral),
            "Qwen2ForCausalLM" | "Qwen2Model" => Ok(Self::Qwen2),
            "Qwen3ForCausalLM" | "Qwen3Model" => Ok(Self::Qwen3),
            "Qwen3MoeForCausalLM" => Ok(Self::Qwen3Moe),
            PHI3 => Ok(Self::Phi3),
            "Gemma2ForCausalLM" | "Gemma2Model" => Ok(Self::Gemma2),
            "Gemma3ForCausalLM" | "Gemma3TextModel" | "Gemma3ForConditionalGeneration" => {
                Ok(Self::Gemma3)
            }
            _ => {
                let found =
                    json.get("architectures").map_or("missing".to_owned(), Value::to_string);
                Err(Error::unsupported("architectures in config.json", found, SUPPORTED))
            }
        }
    }

    /// What keys mean that are missing. A model that sees images has its decoder's keys apart.
    pub(super) fn complete(self, json: Value) -> Value {
        let mut whole = self.defaults();
        let text = json.get("text_config").and_then(Value::as_object).cloned();
        let Value::Object(outer) = json else { return json };
        let parts = match text {
            None => vec![outer],
            Some(text) => {
                let shared = ["architectures", "auto_map", "quantization_config"];
                let outer = outer.into_iter().filter(|(key, _)| shared.contains(&key.as_str()));
                vec![text, outer.collect()]
            }
        };
        for (key, value) in parts.into_iter().flatten() {
            whole[key] = value;
        }
        whole
    }

    /// Of transformers' configurations, those that differ from Llama's: files leave them out.
    fn defaults(self) -> Value {
        match self {
            Self::Llama | Self::Mistral | Self::Qwen2 | Self::Qwen3Moe | Self::Phi3 => json!({}),
            Self::Mixtral => json!({ "rope_theta": 1e6 }),
            Self::Qwen3 => json!({ "head_dim": 128 }),
            Self::Gemma2 => json!({
                "attn_logit_softcapping": 50.0,
                "final_logit_softcapping": 30.0,
                "head_dim": 256,
                "num_key_value_heads": 4,
                "query_pre_attn_scalar": 256,
                "rms_norm_eps": 1e-6,
                "tie_word_embeddings": true,
                "vocab_size": 256_000,
            }),
            Self::Gemma3 => json!({
                "head_dim": 256,
                "max_position_embeddings": 131_072,
                "num_attention_heads": 8,
                "num_key_value_heads": 4,
                "query_pre_attn_scalar": 256,
                "rms_norm_eps": 1e-6,
                "rope_local_base_freq": 1e4,
                "rope_theta": 1e6,
                "tie_word_embeddings": true,
                "vocab_size": 262_208,
            }),
        }
    }

    /// Whether a key that changes results is read: here, or where the rotary embedding is.
    pub(super) fn reads(self, key: &str) -> bool {
        match self {
            Self::Llama | Self::Mistral => false,
            Self::Mixtral => key == "num_local_experts",
            Self::Phi3 => key == "partial_rotary_factor",
            Self::Qwen2 | Self::Qwen3 => key == "use_sliding_window",
            Self::Qwen3Moe => matches!(key, "num_experts" | "num_local_experts"),
            Self::Gemma2 | Self::Gemma3 => matches!(
                key,
                "attn_logit_softcapping"
                    | "final_logit_softcapping"
                    | "query_pre_attn_scalar"
                    | "rope_local_base_freq"
            ),
        }
    }

    /// What `hidden_act` may be.
    pub(super) fn activations(self) -> &'static [&'static str] {
        if self.is_gemma() { &["gelu_pytorch_tanh"] } else { &["silu", "swish"] }
    }

    /// Whether the projections of queries, keys and values have biases.
    pub(super) fn has_bias(self) -> bool {
        self == Self::Qwen2
    }

    fn is_gemma(self) -> bool {
        matches!(self, Self::Gemma2 | Self::Gemma3)
    }

    /// Width of an MLP, or of each expert.
    pub(super) fn intermediate_size(self, json: &ConfigJson) -> Result<usize, Error> {
        match self {
            Self::Qwen3Moe => Ok(count(json, "moe_intermediate_size")?.unwrap_or(768)),
            _ => Ok(json.intermediate_size),
        }
    }

    /// What is not as in a Llama.
    pub(super) fn variant(
        self,
        path: &Path,
        json: &ConfigJson,
        head_dim: usize,
    ) -> Result<Variant, Error> {
        let mut variant = Variant {
            qk_norm: matches!(self, Self::Qwen3 | Self::Qwen3Moe | Self::Gemma3),
            sliding: self.sliding(path, json, head_dim)?,
            experts: self.experts(json)?,
            ..Variant::default()
        };
        if self.is_gemma() {
            let scalar = number(json, "query_pre_attn_scalar")?;
            variant.attention_scale = scalar.map(|scalar| scalar.sqrt().recip());
            variant.attn_logit_softcapping = number(json, "attn_logit_softcapping")?;
            variant.final_logit_softcapping = number(json, "final_logit_softcapping")?;
            variant.embedding_scale = Some((json.hidden_size as f32).sqrt());
            variant.norm_offset = 1.0;
            variant.post_norms = true;
            variant.hidden_act = Activation::GeluTanh;
        }
        Ok(variant)
    }

    /// The windows, where any layer has one that is narrower than the context or an embedding of its
    /// own.
    fn sliding(
        self,
        path: &Path,
        json: &ConfigJson,
        head_dim: usize,
    ) -> Result<Option<Sliding>, Error> {
        let Some(window) = self.window(json)? else {
            let types = json.layer_types.iter().flatten();
            return match types.into_iter().find(|kind| *kind != "full_attention") {
                Some(kind) => {
                    let what = "layer_types in config.json, without a window,";
                    Err(Error::unsupported(what, kind, "full_attention"))
                }
                None => Ok(None),
            };
        };
        let rope = match self {
            Self::Gemma3 => rope::sliding(path, json, head_dim)?,
            _ => None,
        };
        if window >= json.max_position_embeddings && rope.is_none() {
            return Ok(None);
        }
        if self == Self::Llama {
            let found = window.to_string();
            return Err(Error::unsupported("sliding_window in config.json", found, "null"));
        }
        let layers = match &json.layer_types {
            Some(types) => types.iter().map(|kind| self.slides(kind)).collect::<Result<_, _>>()?,
            None => {
                let pattern = self.pattern(json)?;
                (0..json.num_hidden_layers.min(1 << 20)).map(pattern).collect()
            }
        };
        Ok(Some(Sliding { window, layers, rope }))
    }

    /// How many positions layers see that slide, if any do.
    fn window(self, json: &ConfigJson) -> Result<Option<usize>, Error> {
        let given = json.rest.get("sliding_window");
        let default = match self {
            Self::Llama | Self::Mixtral | Self::Phi3 => None,
            Self::Qwen2 | Self::Qwen3 | Self::Qwen3Moe => {
                // Otherwise the window means nothing.
                let uses = json.rest.get("use_sliding_window").and_then(Value::as_bool);
                if uses != Some(true) {
                    return Ok(None);
                }
                Some(4096)
            }
            Self::Mistral | Self::Gemma2 | Self::Gemma3 => Some(4096),
        };
        if given.is_none() { Ok(default) } else { count(json, "sliding_window") }
    }

    /// Whether layers of a type slide.
    fn slides(self, kind: &str) -> Result<bool, Error> {
        let may_mix = matches!(self, Self::Qwen2 | Self::Qwen3 | Self::Gemma2 | Self::Gemma3);
        match kind {
            "sliding_attention" => Ok(true),
            "full_attention" if may_mix => Ok(false),
            _ => {
                let supported =
                    if may_mix { "sliding_attention, full_attention" } else { "sliding_attention" };
                Err(Error::unsupported("layer_types in config.json", kind, supported))
            }
        }
    }

    /// Which layers slide, where the file does not say it of each.
    fn pattern(self, json: &ConfigJson) -> Result<Box<dyn Fn(usize) -> bool>, Error> {
        match self {
            Self::Qwen2 | Self::Qwen3 => {
                let first = count(json, "max_window_layers")?.unwrap_or(28);
                Ok(Box::new(move |layer| layer >= first))
            }
            Self::Gemma2 => Ok(Box::new(|layer| layer % 2 == 0)),
            Self::Gemma3 => {
                let pattern = match count(json, "sliding_window_pattern")? {
                    Some(pattern) => Some(pattern),
                    None => count(json, "_sliding_window_pattern")?,
                };
                let pattern = pattern.unwrap_or(6).max(1);
                Ok(Box::new(move |layer| (layer + 1) % pattern != 0))
            }
            Self::Llama | Self::Mistral | Self::Mixtral | Self::Qwen3Moe | Self::Phi3 => {
                Ok(Box::new(|_| true))
            }
        }
    }

    fn experts(self, json: &ConfigJson) -> Result<Option<Experts>, Error> {
        let (num_experts, per_tok, norm_topk_prob) = match self {
            Self::Mixtral => (count(json, "num_local_experts")?.unwrap_or(8), 2, true),
            Self::Qwen3Moe => {
                let num_experts = match count(json, "num_experts")? {
                    Some(num_experts) => Some(num_experts),
                    None => count(json, "num_local_experts")?,
                };
                let norms = json.rest.get("norm_topk_prob").and_then(Value::as_bool);
                (num_experts.unwrap_or(128), 8, norms.unwrap_or(false))
            }
            _ => return Ok(None),
        };
        let num_experts_per_tok = count(json, "num_experts_per_tok")?.unwrap_or(per_tok);
        Ok(Some(Experts { num_experts, num_experts_per_tok, norm_topk_prob }))
    }
}

/// A key's number, if it has one and not null.
fn count(json: &ConfigJson, key: &str) -> Result<Option<usize>, Error> {
    match json.rest.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64() {
            Some(number) => Ok(Some(number as usize)),
            None => Err(wrong(key, value, "a count")),
        },
    }
}

/// A key's number, if it has one and not null.
fn number(json: &ConfigJson, key: &str) -> Result<Option<f32>, Error> {
    match json.rest.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_f64() {
            Some(number) => Ok(Some(number as f32)),
            None => Err(wrong(key, value, "a number")),
        },
    }
}

fn wrong(key: &str, value: &Value, expected: &str) -> Error {
    Error::unsupported(format!("{key} in config.json"), value.to_string(), expected)
}
