//! The tensors that a configuration asks for: all must be there, in the right shape, and no other.
//! Only to embed, a model needs no LM head.

use std::collections::{HashMap, HashSet};

use sconce_kernels::dtype::Dtype;

use super::{Error, file::Span};
use crate::models::config::DecoderConfig;

/// Parts what some families' files have in one: queries, keys and values, gates and factors.
pub(super) fn part(config: &DecoderConfig, spans: &mut HashMap<String, Span>) {
    let (q, kv, ff) = (config.q_size(), config.kv_size(), config.intermediate_size);
    for layer in 0..config.num_hidden_layers {
        for (prefix, whole, parts) in [
            ("self_attn", "qkv_proj", &[("q_proj", q), ("k_proj", kv), ("v_proj", kv)][..]),
            ("mlp", "gate_up_proj", &[("gate_proj", ff), ("up_proj", ff)][..]),
        ] {
            let name = |part: &str| format!("model.layers.{layer}.{prefix}.{part}.weight");
            let rows: Vec<_> = parts.iter().map(|(_, rows)| *rows).collect();
            // What has other rows is refused later, as a tensor that nothing reads.
            let Some(found) = spans.get(&name(whole)).and_then(|span| span.split_rows(&rows))
            else {
                continue;
            };
            spans.remove(&name(whole));
            spans.extend(parts.iter().zip(found).map(|((part, _), span)| (name(part), span)));
        }
        if layer == 0 && spans.len() < config.num_hidden_layers {
            // The configuration lies, which is said later.
            return;
        }
    }
}

/// Checks the tensors against the configuration.
pub(super) fn check(config: &DecoderConfig, spans: &HashMap<String, Span>) -> Result<(), Error> {
    let expect = |name: &str, shape: &[usize]| {
        let span = spans.get(name).ok_or_else(|| Error::MissingTensor(name.to_owned()))?;
        if span.shape != shape {
            let (found, expected) = (span.shape.clone(), shape.to_vec());
            return Err(Error::Shape { name: name.to_owned(), found, expected });
        }
        let is_float = matches!(span.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16);
        if shape.len() == 1 && !is_float {
            return Err(Error::NotFloat { name: name.to_owned(), dtype: span.dtype });
        }
        Ok(())
    };
    let hidden = config.hidden_size;
    expect("model.embed_tokens.weight", &[config.vocab_size, hidden])?;
    expect("model.norm.weight", &[hidden])?;
    if !config.tie_word_embeddings && spans.contains_key("lm_head.weight") {
        expect("lm_head.weight", &[config.vocab_size, hidden])?;
    }
    let parts = layer(config);
    for number in 0..config.num_hidden_layers {
        for (part, shape) in &parts {
            expect(&format!("model.layers.{number}.{part}"), shape)?;
        }
    }
    refuse_others(config, spans)
}

/// All the tensors, of random numbers, the matrices of one type.
pub(super) fn random(
    config: &DecoderConfig,
    matrices: Dtype,
) -> Result<HashMap<String, Span>, Error> {
    let table = vec![config.vocab_size, config.hidden_size];
    let mut shapes = vec![
        ("model.embed_tokens.weight".to_owned(), table.clone()),
        ("model.norm.weight".to_owned(), vec![config.hidden_size]),
    ];
    if !config.tie_word_embeddings {
        shapes.push(("lm_head.weight".to_owned(), table));
    }
    let parts = layer(config);
    for number in 0..config.num_hidden_layers {
        let named = parts
            .iter()
            .map(|(part, shape)| (format!("model.layers.{number}.{part}"), shape.clone()));
        shapes.extend(named);
    }
    let spans = shapes.into_iter().map(|(name, shape)| {
        let dtype = if shape.len() == 1 { Dtype::BF16 } else { matrices };
        match Span::random(&name, dtype, &shape) {
            Some(span) => Ok((name, span)),
            None => Err(Error::unsupported(name, format!("of shape {shape:?}"), "one that fits")),
        }
    });
    spans.collect()
}

/// Names and shapes of the matrices that programs quantize: the layers', but for what chooses experts.
pub(super) fn quantizable(config: &DecoderConfig) -> Vec<(String, [usize; 2])> {
    let parts = layer(config).into_iter().filter_map(|(part, shape)| {
        let shape = <[usize; 2]>::try_from(shape).ok()?;
        (part != "mlp.gate.weight").then_some((part, shape))
    });
    let parts: Vec<_> = parts.collect();
    let of_layer = |number| {
        parts.iter().map(move |(part, shape)| (format!("model.layers.{number}.{part}"), *shape))
    };
    (0..config.num_hidden_layers).flat_map(of_layer).collect()
}

/// Names and shapes of one layer's tensors.
fn layer(config: &DecoderConfig) -> Vec<(String, Vec<usize>)> {
    let hidden = config.hidden_size;
    let q = config.num_attention_heads * config.head_dim;
    let kv = config.num_key_value_heads * config.head_dim;
    let mut parts = vec![
        ("input_layernorm.weight", vec![hidden]),
        ("self_attn.q_proj.weight", vec![q, hidden]),
        ("self_attn.k_proj.weight", vec![kv, hidden]),
        ("self_attn.v_proj.weight", vec![kv, hidden]),
        ("self_attn.o_proj.weight", vec![hidden, q]),
        ("post_attention_layernorm.weight", vec![hidden]),
    ];
    if config.attention_bias {
        parts.extend([
            ("self_attn.q_proj.bias", vec![q]),
            ("self_attn.k_proj.bias", vec![kv]),
            ("self_attn.v_proj.bias", vec![kv]),
        ]);
    }
    if config.variant.qk_norm {
        parts.extend([
            ("self_attn.q_norm.weight", vec![config.head_dim]),
            ("self_attn.k_norm.weight", vec![config.head_dim]),
        ]);
    }
    if config.variant.post_norms {
        parts.extend([
            ("pre_feedforward_layernorm.weight", vec![hidden]),
            ("post_feedforward_layernorm.weight", vec![hidden]),
        ]);
    }
    let parts = parts.into_iter().map(|(name, shape)| (name.to_owned(), shape));
    parts.chain(feed_forward(config)).collect()
}

/// Names and shapes of a layer's MLP, or of its experts.
fn feed_forward(config: &DecoderConfig) -> Vec<(String, Vec<usize>)> {
    let (hidden, ff) = (config.hidden_size, config.intermediate_size);
    let mlp = |prefix: &str| {
        [
            (format!("{prefix}.gate_proj.weight"), vec![ff, hidden]),
            (format!("{prefix}.up_proj.weight"), vec![ff, hidden]),
            (format!("{prefix}.down_proj.weight"), vec![hidden, ff]),
        ]
    };
    let Some(experts) = config.variant.experts else { return mlp("mlp").into() };
    let router = ("mlp.gate.weight".to_owned(), vec![experts.num_experts, hidden]);
    let mlps = (0..experts.num_experts).flat_map(|index| mlp(&format!("mlp.experts.{index}")));
    [router].into_iter().chain(mlps).collect()
}

/// A tensor that nothing reads means that the model is more than the configuration says.
fn refuse_others(config: &DecoderConfig, spans: &HashMap<String, Span>) -> Result<(), Error> {
    let parts = layer(config);
    let parts: HashSet<&str> = parts.iter().map(|(name, _)| name.as_str()).collect();
    let known = |name: &str| match name.strip_prefix("model.layers.") {
        Some(rest) => rest.split_once('.').is_some_and(|(number, part)| {
            number.parse().is_ok_and(|number: usize| number < config.num_hidden_layers)
                && parts.contains(part)
        }),
        None => matches!(
            name,
            "model.embed_tokens.weight"
                | "model.norm.weight"
                | "lm_head.weight"
                | "rope_freqs.weight"
        ),
    };
    match spans.keys().find(|name| !known(name)) {
        Some(name) => {
            Err(Error::unsupported("a tensor", name, "those that the configuration names"))
        }
        None => Ok(()),
    }
}
