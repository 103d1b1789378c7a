//! The architectures of decoders, by GGUF's names, and what each reads of the metadata beside a llama's
//! keys.

use super::metadata::Metadata;
use crate::{
    models::config::{Activation, Experts, RopeConfig, RopeScaling, RopeStyle, Sliding, Variant},
    weights::Error,
};

/// A family of decoders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Architecture {
    Llama,
    Qwen2,
    Qwen3,
    Qwen3Moe,
    Gemma2,
    Gemma3,
    Phi3,
}

const ALL: [Architecture; 7] = [
    Architecture::Llama,
    Architecture::Qwen2,
    Architecture::Qwen3,
    Architecture::Qwen3Moe,
    Architecture::Gemma2,
    Architecture::Gemma3,
    Architecture::Phi3,
];

/// Keys that every architecture reads.
const KEYS: [&str; 19] = [
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_rms_epsilon",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "pooling_type",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.type",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "rope.scale_linear",
    "vocab_size",
];

/// Keys without a meaning for the results.
const HARMLESS: [&str; 3] =
    ["rope.scaling.finetuned", "tensor_data_layout", "use_parallel_residual"];

/// A file's metadata of its architecture.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a> {
    pub(super) architecture: Architecture,
    pub(super) metadata: &'a Metadata,
}

impl Architecture {
    pub(super) fn of(metadata: &Metadata) -> Result<Self, Error> {
        let name = metadata.str("general.architecture")?.unwrap_or("none");
        let supported = || ALL.map(Self::name).join(", ");
        let known = ALL.into_iter().find(|architecture| architecture.name() == name);
        known.ok_or_else(|| Error::unsupported("general.architecture", name, supported()))
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Qwen3Moe => "qwen3moe",
            Self::Gemma2 => "gemma2",
            Self::Gemma3 => "gemma3",
            Self::Phi3 => "phi3",
        }
    }

    /// Whether MLPs have norms of their own before and after, beside those of attention.
    pub(super) fn is_gemma(self) -> bool {
        matches!(self, Self::Gemma2 | Self::Gemma3)
    }

    /// How its rows are ordered for the rotation.
    fn rope_style(self) -> RopeStyle {
        if self == Self::Llama { RopeStyle::Interleaved } else { RopeStyle::Half }
    }

    /// Keys that it reads beside [`KEYS`].
    fn own_keys(self) -> &'static [&'static str] {
        match self {
            Self::Llama => &["attention.sliding_window", "expert_count", "expert_used_count"],
            Self::Qwen2 | Self::Qwen3 => &[],
            Self::Phi3 => &["attention.sliding_window"],
            Self::Qwen3Moe => &[
                "expert_count",
                "expert_used_count",
                "expert_feed_forward_length",
                "expert_gating_func",
                "expert_shared_count",
                "expert_weights_norm",
                "expert_weights_scale",
            ],
            Self::Gemma2 | Self::Gemma3 => &[
                "attention.sliding_window",
                "attention.sliding_window_pattern",
                "attn_logit_softcapping",
                "final_logit_softcapping",
                "rope.freq_base_swa",
            ],
        }
    }
}

impl Keys<'_> {
    /// A key of the architecture, whole.
    pub(super) fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture.name())
    }

    pub(super) fn usize(&self, key: &str) -> Result<Option<usize>, Error> {
        self.metadata.usize(&self.key(key))
    }

    pub(super) fn required_usize(&self, key: &str) -> Result<usize, Error> {
        self.metadata.required_usize(&self.key(key))
    }

    pub(super) fn f32(&self, key: &str) -> Result<Option<f32>, Error> {
        self.metadata.f32(&self.key(key))
    }

    /// Refuses keys that nothing reads: what they would change is not known.
    pub(super) fn check(&self) -> Result<(), Error> {
        let (prefix, own) = (self.key(""), self.architecture.own_keys());
        for key in self.metadata.values.keys() {
            let Some(key) = key.strip_prefix(&prefix) else { continue };
            if !KEYS.contains(&key) && !HARMLESS.contains(&key) && !own.contains(&key) {
                let what = format!("{}'s metadata", self.architecture.name());
                return Err(Error::unsupported(what, key, [&KEYS, own].concat().join(", ")));
            }
        }
        for key in ["expert_gating_func", "expert_shared_count", "expert_weights_scale"] {
            let is_number = self.metadata.values.contains_key(&self.key(key));
            let found = match key {
                _ if !is_number => continue,
                "expert_weights_scale" => self.f32(key)?.unwrap_or(0.0),
                _ => self.usize(key)?.unwrap_or(0) as f32,
            };
            // Of the gating functions, 1 is the softmax.
            if found != 0.0 && (found != 1.0 || key == "expert_shared_count") {
                return Err(Error::unsupported(self.key(key), found.to_string(), "none"));
            }
        }
        Ok(())
    }

    /// Width of an MLP, or of each expert.
    pub(super) fn intermediate_size(&self) -> Result<usize, Error> {
        match self.architecture {
            Architecture::Qwen3Moe => self.required_usize("expert_feed_forward_length"),
            _ => self.required_usize("feed_forward_length"),
        }
    }

    /// The rotary embedding of a base and a scaling.
    pub(super) fn rope(&self, theta: f32, dim: usize, scaling: RopeScaling) -> RopeConfig {
        RopeConfig { theta, dim, style: self.architecture.rope_style(), scaling }
    }

    /// What is not as in a llama, of a model with so many layers, of which the first `rope` dimensions of
    /// a head rotate.
    pub(super) fn variant(&self, num_layers: usize, rope_dim: usize) -> Result<Variant, Error> {
        use Architecture::{Gemma2, Gemma3, Qwen3, Qwen3Moe};
        let mut variant = Variant {
            qk_norm: matches!(self.architecture, Qwen3 | Qwen3Moe | Gemma3),
            sliding: self.sliding(num_layers, rope_dim)?,
            experts: self.experts()?,
            ..Variant::default()
        };
        if self.architecture.is_gemma() {
            let hidden_size = self.required_usize("embedding_length")?;
            variant.attn_logit_softcapping = self.f32("attn_logit_softcapping")?;
            variant.final_logit_softcapping = self.f32("final_logit_softcapping")?;
            variant.embedding_scale = Some((hidden_size as f32).sqrt());
            variant.post_norms = true;
            variant.hidden_act = Activation::GeluTanh;
            // The file doesn't say it: of all sizes, those with so many layers scale by other than the
            // width of a head.
            let is_27b = num_layers == if self.architecture == Gemma2 { 46 } else { 62 };
            if is_27b {
                let heads = self.required_usize("attention.head_count")?.max(1);
                variant.attention_scale = Some(((hidden_size / heads) as f32).sqrt().recip());
            }
        }
        Ok(variant)
    }

    fn sliding(&self, num_layers: usize, rope_dim: usize) -> Result<Option<Sliding>, Error> {
        let window = self.usize("attention.sliding_window")?.filter(|window| *window > 0);
        let pattern = match self.architecture {
            Architecture::Llama | Architecture::Phi3 => usize::MAX,
            Architecture::Gemma2 => 2,
            Architecture::Gemma3 => 6,
            Architecture::Qwen2 | Architecture::Qwen3 | Architecture::Qwen3Moe => return Ok(None),
        };
        let key = self.key("attention.sliding_window_pattern");
        // Of each layer, or how many layers from one that sees all to the next.
        let layers = if self.metadata.is_array(&key) {
            self.metadata.bools(&key)?.unwrap_or_default()
        } else {
            let pattern = self.metadata.usize(&key)?.unwrap_or(pattern).max(1);
            (0..num_layers.min(1 << 20)).map(|layer| (layer + 1) % pattern != 0).collect()
        };
        let Some(window) = window else { return Ok(None) };
        let context = self.required_usize("context_length")?;
        if self.architecture != Architecture::Gemma3 && window >= context {
            return Ok(None);
        }
        let rope = match self.architecture {
            Architecture::Gemma3 => {
                let theta = self.f32("rope.freq_base_swa")?.unwrap_or(10_000.0);
                Some(self.rope(theta, rope_dim, RopeScaling::None))
            }
            _ => None,
        };
        Ok(Some(Sliding { window, layers, rope }))
    }

    fn experts(&self) -> Result<Option<Experts>, Error> {
        let num_experts = match self.architecture {
            Architecture::Llama | Architecture::Qwen3Moe => self.usize("expert_count")?,
            _ => None,
        };
        let Some(num_experts) = num_experts.filter(|number| *number > 0) else { return Ok(None) };
        let norms = self.metadata.bool(&self.key("expert_weights_norm"))?;
        Ok(Some(Experts {
            num_experts,
            num_experts_per_tok: self.required_usize("expert_used_count")?,
            norm_topk_prob: norms.unwrap_or(true),
        }))
    }
}
