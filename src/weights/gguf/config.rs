//! The hyperparameters in a GGUF file's metadata.

use sconce_kernels::dtype::Dtype;

use super::{Gguf, metadata::Metadata, names::ROPE_FREQS};
use crate::{
    models::{
        config::{DecoderConfig, RopeConfig, RopeScaling, RopeStyle},
        pooling::{PoolerConfig, Pooling},
    },
    weights::Error,
};

/// Every key of the architecture that is read here. Another one would change the results in a way
/// that we do not know, so it is refused.
const KEYS: [&str; 22] = [
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_rms_epsilon",
    "attention.sliding_window",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "expert_count",
    "expert_used_count",
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

/// Reads the configuration. Refuses other architectures and features that we do not compute.
pub(super) fn read(gguf: &Gguf) -> Result<DecoderConfig, Error> {
    let metadata = &gguf.metadata;
    check_features(metadata)?;
    let hidden_size = metadata.required_usize("llama.embedding_length")?;
    let num_attention_heads = metadata.required_usize("llama.attention.head_count")?;
    let head_dim = head_dim(metadata, hidden_size, num_attention_heads)?;
    let num_key_value_heads =
        metadata.usize("llama.attention.head_count_kv")?.unwrap_or(num_attention_heads);
    let config = DecoderConfig {
        hidden_size,
        intermediate_size: metadata.required_usize("llama.feed_forward_length")?,
        num_hidden_layers: metadata.required_usize("llama.block_count")?,
        num_attention_heads,
        num_key_value_heads,
        head_dim,
        vocab_size: vocab_size(gguf)?,
        max_position_embeddings: metadata.required_usize("llama.context_length")?,
        rms_norm_eps: metadata
            .f32("llama.attention.layer_norm_rms_epsilon")?
            .ok_or_else(|| metadata.malformed("its metadata lacks the epsilon of the norms"))?,
        rope: rope(gguf, head_dim)?,
        tie_word_embeddings: !gguf.spans.contains_key("lm_head.weight"),
        attention_bias: gguf.spans.contains_key("model.layers.0.self_attn.q_proj.bias"),
    };
    config.validate().map_err(|reason| metadata.malformed(reason))?;
    Ok(config)
}

/// How embeddings are made, of a model that is made for them. As llama.cpp's server has it, they
/// get length 1.
pub(super) fn pooler(metadata: &Metadata) -> Result<Option<PoolerConfig>, Error> {
    let pooling = match metadata.usize("llama.pooling_type")? {
        None | Some(0) => return Ok(None),
        Some(1) => Pooling::Mean,
        Some(2) => Pooling::Cls,
        Some(3) => Pooling::Last,
        Some(other) => {
            let supported = "0 (none), 1 (mean), 2 (cls), 3 (last)";
            return Err(Error::unsupported("llama.pooling_type", other.to_string(), supported));
        }
    };
    Ok(Some(PoolerConfig { pooling, normalize: true }))
}

fn check_features(metadata: &Metadata) -> Result<(), Error> {
    let architecture = metadata.str("general.architecture")?.unwrap_or("none");
    if architecture != "llama" {
        return Err(Error::unsupported("general.architecture", architecture, "llama"));
    }
    for key in metadata.values.keys() {
        let Some(key) = key.strip_prefix("llama.") else { continue };
        if !KEYS.contains(&key) && !HARMLESS.contains(&key) {
            return Err(Error::unsupported("llama's metadata", key, KEYS.join(", ")));
        }
    }
    for (key, what) in [
        ("llama.expert_count", "a mixture of experts"),
        ("llama.attention.sliding_window", "sliding-window attention"),
    ] {
        let value = metadata.usize(key)?.unwrap_or(0);
        if value != 0 {
            return Err(Error::unsupported(key, format!("{value} ({what})"), "0"));
        }
    }
    Ok(())
}

fn head_dim(metadata: &Metadata, hidden: usize, heads: usize) -> Result<usize, Error> {
    let key = metadata.usize("llama.attention.key_length")?;
    let value = metadata.usize("llama.attention.value_length")?;
    if key.is_some() && value.is_some() && key != value {
        let found = format!("{key:?}, values {value:?}");
        return Err(Error::unsupported("the width of a key", found, "equal widths"));
    }
    match key.or(value) {
        Some(head_dim) => Ok(head_dim),
        None if heads > 0 && hidden.is_multiple_of(heads) => Ok(hidden / heads),
        None => Err(metadata.malformed(format!("{heads} heads do not divide a width of {hidden}"))),
    }
}

/// Rows of the embedding table: converters are known to write another `vocab_size`.
fn vocab_size(gguf: &Gguf) -> Result<usize, Error> {
    let embedding = gguf.span("model.embed_tokens.weight")?;
    let rows = embedding.shape.first().copied().unwrap_or(0);
    let num_tokens = gguf.metadata.strings("tokenizer.ggml.tokens")?.map_or(0, |list| list.len());
    if num_tokens > rows {
        let reason = format!("it has {num_tokens} tokens and embeds {rows}");
        return Err(gguf.metadata.malformed(reason));
    }
    Ok(rows)
}

fn rope(gguf: &Gguf, head_dim: usize) -> Result<RopeConfig, Error> {
    let metadata = &gguf.metadata;
    let dim = metadata.usize("llama.rope.dimension_count")?.unwrap_or(head_dim);
    let scaling = scaling(metadata)?;
    let scaling = match (factors(gguf, dim)?, scaling) {
        (None, scaling) => scaling,
        (Some(factors), RopeScaling::None) => RopeScaling::Factors(factors),
        (Some(_), scaling) => {
            let found = format!("{scaling:?} beside {ROPE_FREQS}");
            return Err(Error::unsupported("the scaling of RoPE", found, "one of them"));
        }
    };
    let theta = metadata.f32("llama.rope.freq_base")?.unwrap_or(10_000.0);
    Ok(RopeConfig { theta, dim, style: RopeStyle::Interleaved, scaling })
}

fn scaling(metadata: &Metadata) -> Result<RopeScaling, Error> {
    let factor = match metadata.f32("llama.rope.scaling.factor")? {
        Some(factor) => Some(factor),
        None => metadata.f32("llama.rope.scale_linear")?,
    };
    let kind = metadata.str("llama.rope.scaling.type")?;
    match (kind, factor) {
        (Some("none"), _) | (None, None) => Ok(RopeScaling::None),
        // A factor without a type is an old converter's linear scaling.
        (Some("linear") | None, Some(factor)) if factor == 1.0 || factor == 0.0 => {
            Ok(RopeScaling::None)
        }
        (Some("linear") | None, Some(factor)) => Ok(RopeScaling::Linear { factor }),
        (Some("yarn"), Some(factor)) => Ok(RopeScaling::Yarn {
            factor,
            original_max_position_embeddings: metadata
                .required_usize("llama.rope.scaling.original_context_length")?,
            beta_fast: metadata.f32("llama.rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
            beta_slow: metadata.f32("llama.rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
            attention_factor: None,
        }),
        (Some("linear" | "yarn"), None) => {
            Err(metadata.malformed("its metadata lacks llama.rope.scaling.factor"))
        }
        (Some(other), _) => {
            Err(Error::unsupported("llama.rope.scaling.type", other, "none, linear, yarn"))
        }
    }
}

fn factors(gguf: &Gguf, dim: usize) -> Result<Option<Vec<f32>>, Error> {
    let Some(span) = gguf.spans.get(ROPE_FREQS) else { return Ok(None) };
    if span.dtype != Dtype::F32 || span.shape != [dim / 2] {
        let reason =
            format!("{ROPE_FREQS} is {:?} {:?}, not F32 [{}]", span.dtype, span.shape, dim / 2);
        return Err(gguf.metadata.malformed(reason));
    }
    let bytes = span.read()?;
    let (values, _) = bytes.as_chunks::<4>();
    Ok(Some(values.iter().map(|value| f32::from_le_bytes(*value)).collect()))
}
