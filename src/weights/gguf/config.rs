//! The hyperparameters in a GGUF file's metadata.

use sconce_kernels::dtype::Dtype;

use super::{
    Gguf,
    architecture::{Architecture, Keys},
    metadata::Metadata,
    names::ROPE_FREQS,
};
use crate::{
    models::{
        config::{DecoderConfig, RopeConfig, RopeScaling},
        pooling::{PoolerConfig, Pooling},
    },
    weights::Error,
};

/// Reads the configuration. Refuses other architectures and features that we do not compute.
pub(super) fn read(gguf: &Gguf) -> Result<DecoderConfig, Error> {
    let metadata = &gguf.metadata;
    let keys = Keys { architecture: Architecture::of(metadata)?, metadata };
    keys.check()?;
    let hidden_size = keys.required_usize("embedding_length")?;
    let num_attention_heads = keys.required_usize("attention.head_count")?;
    let head_dim = head_dim(keys, hidden_size, num_attention_heads)?;
    let num_key_value_heads = keys.usize("attention.head_count_kv")?.unwrap_or(num_attention_heads);
    let rope = rope(gguf, keys, head_dim)?;
    let num_hidden_layers = keys.required_usize("block_count")?;
    let config = DecoderConfig {
        hidden_size,
        intermediate_size: keys.intermediate_size()?,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads,
        head_dim,
        vocab_size: vocab_size(gguf)?,
        max_position_embeddings: keys.required_usize("context_length")?,
        rms_norm_eps: keys
            .f32("attention.layer_norm_rms_epsilon")?
            .ok_or_else(|| metadata.malformed("its metadata lacks the epsilon of the norms"))?,
        tie_word_embeddings: !gguf.spans.contains_key("lm_head.weight"),
        attention_bias: gguf.spans.contains_key("model.layers.0.self_attn.q_proj.bias"),
        variant: keys.variant(num_hidden_layers, rope.dim)?,
        rope,
    };
    config.validate().map_err(|reason| metadata.malformed(reason))?;
    Ok(config)
}

/// How embeddings are made, of a model that is made for them. As llama.cpp's server has it, they
/// get length 1.
pub(super) fn pooler(metadata: &Metadata) -> Result<Option<PoolerConfig>, Error> {
    let keys = Keys { architecture: Architecture::of(metadata)?, metadata };
    let pooling = match keys.usize("pooling_type")? {
        None | Some(0) => return Ok(None),
        Some(1) => Pooling::Mean,
        Some(2) => Pooling::Cls,
        Some(3) => Pooling::Last,
        Some(other) => {
            let supported = "0 (none), 1 (mean), 2 (cls), 3 (last)";
            let what = keys.key("pooling_type");
            return Err(Error::unsupported(what, other.to_string(), supported));
        }
    };
    Ok(Some(PoolerConfig { pooling, normalize: true }))
}

fn head_dim(keys: Keys<'_>, hidden: usize, heads: usize) -> Result<usize, Error> {
    let key = keys.usize("attention.key_length")?;
    let value = keys.usize("attention.value_length")?;
    if key.is_some() && value.is_some() && key != value {
        let found = format!("{key:?}, values {value:?}");
        return Err(Error::unsupported("the width of a key", found, "equal widths"));
    }
    match key.or(value) {
        Some(head_dim) => Ok(head_dim),
        None if heads > 0 && hidden.is_multiple_of(heads) => Ok(hidden / heads),
        None => {
            let reason = format!("{heads} heads do not divide a width of {hidden}");
            Err(keys.metadata.malformed(reason))
        }
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

fn rope(gguf: &Gguf, keys: Keys<'_>, head_dim: usize) -> Result<RopeConfig, Error> {
    let dim = keys.usize("rope.dimension_count")?.unwrap_or(head_dim);
    let scaling = scaling(keys)?;
    let scaling = match (factors(gguf, dim)?, scaling) {
        (None, scaling) => scaling,
        (Some(factors), RopeScaling::None) => RopeScaling::Factors(factors),
        (Some(_), scaling) => {
            let found = format!("{scaling:?} beside {ROPE_FREQS}");
            return Err(Error::unsupported("the scaling of RoPE", found, "one of them"));
        }
    };
    let theta = keys.f32("rope.freq_base")?.unwrap_or(10_000.0);
    Ok(keys.rope(theta, dim, scaling))
}

fn scaling(keys: Keys<'_>) -> Result<RopeScaling, Error> {
    let metadata = keys.metadata;
    let factor = match keys.f32("rope.scaling.factor")? {
        Some(factor) => Some(factor),
        None => keys.f32("rope.scale_linear")?,
    };
    let kind = metadata.str(&keys.key("rope.scaling.type"))?;
    match (kind, factor) {
        (Some("none"), _) | (None, None) => Ok(RopeScaling::None),
        // A factor without a type is an old converter's linear scaling.
        (Some("linear") | None, Some(factor)) if factor == 1.0 || factor == 0.0 => {
            Ok(RopeScaling::None)
        }
        (Some("linear") | None, Some(factor)) => Ok(RopeScaling::Linear { factor }),
        (Some("yarn"), Some(factor)) => Ok(RopeScaling::Yarn {
            factor,
            original_max_position_embeddings: keys
                .required_usize("rope.scaling.original_context_length")?,
            beta_fast: keys.f32("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
            beta_slow: keys.f32("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
            attention_factor: None,
        }),
        (Some("linear" | "yarn"), None) => {
            let key = keys.key("rope.scaling.factor");
            Err(metadata.malformed(format!("its metadata lacks {key}")))
        }
        (Some(other), _) => {
            Err(Error::unsupported(keys.key("rope.scaling.type"), other, "none, linear, yarn"))
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
