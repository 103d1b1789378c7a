//! Packs a checkpoint's tensors into a [`Decoder`].

use sconce_kernels::cpu::{Compute, Cpu, PackedMatrix, RopeStyle, RopeTable};
use sconce_kernels::dtype::Dtype;

use super::config::{self, DecoderConfig, RopeConfig};
use super::decoder::{Decoder, DecoderLayer, FeedForward, Mlp};
use super::experts::Experts;
use crate::layers::rope::Frequencies;
use crate::weights::{self, Checkpoint};

/// Why a checkpoint cannot be packed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A tensor cannot be read.
    #[error("cannot read the weights")]
    Checkpoint(#[from] weights::Error),
    /// Quantization was asked for and there is nothing that it applies to.
    #[error("there is nothing to quantize: the file's weights are quantized already")]
    NothingToQuantize,
    /// The kernels have no form for it.
    #[error("cannot pack {name}")]
    Pack {
        /// What should be packed.
        name: String,
        /// What the kernels refused.
        #[source]
        source: sconce_kernels::Error,
    },
}

/// Packs the decoder of `checkpoint` on all of `cpu`'s threads, for sequences of up to
/// `max_positions` tokens.
pub fn decoder(
    cpu: &Cpu,
    checkpoint: &Checkpoint,
    compute: Compute,
    max_positions: usize,
) -> Result<Decoder, Error> {
    let mut decoder = headless(cpu, checkpoint, compute, max_positions)?;
    if !decoder.config.tie_word_embeddings {
        let vocabulary = Source { cpu, checkpoint, compute: of_vocabulary(compute) };
        decoder.lm_head = Some(vocabulary.matrix(&["lm_head.weight".into()])?);
    }
    Ok(decoder)
}

/// As [`decoder`], for hidden states alone.
pub(crate) fn headless(
    cpu: &Cpu,
    checkpoint: &Checkpoint,
    compute: Compute,
    max_positions: usize,
) -> Result<Decoder, Error> {
    check_quantizes(checkpoint, compute)?;
    let config = checkpoint.config().clone();
    let source = Source { cpu, checkpoint, compute };
    let vocabulary = Source { compute: of_vocabulary(compute), ..source };
    let embed_tokens = vocabulary.matrix(&["model.embed_tokens.weight".into()])?;
    let layers = (0..config.num_hidden_layers).map(|index| source.layer(&config, index));
    Ok(Decoder {
        embed_tokens,
        layers: layers.collect::<Result<_, _>>()?,
        norm: source.norm(&config, "model.norm.weight")?,
        lm_head: None,
        rope: rope_table(&config.rope, max_positions)?,
        sliding_rope: match config.sliding_rope() {
            Some(rope) => Some(rope_table(rope, max_positions)?),
            None => None,
        },
        config,
    })
}

/// Refuses to quantize what is quantized already.
pub(crate) fn check_quantizes(checkpoint: &Checkpoint, compute: Compute) -> Result<(), Error> {
    match compute {
        Compute::Q8 | Compute::Q4 if !checkpoint.has_float_matrices() => {
            Err(Error::NothingToQuantize)
        }
        Compute::F32 | Compute::Int8 | Compute::Q8 | Compute::Q4 => Ok(()),
    }
}

/// 4 bits cost a vocabulary more than they cost a layer.
pub(crate) fn of_vocabulary(compute: Compute) -> Compute {
    if compute == Compute::Q4 { Compute::Q8 } else { compute }
}

/// Estimates the bytes of the packed weights, within a fifth.
pub(crate) fn packed_bytes(checkpoint: &Checkpoint, compute: Compute) -> u64 {
    bytes_of(checkpoint.sizes(), compute)
}

/// Estimates the bytes of packed tensors of these types and numbers of elements.
pub(crate) fn bytes_of(sizes: impl Iterator<Item = (Dtype, usize)>, compute: Compute) -> u64 {
    let bytes = sizes.map(|(dtype, num_elements)| {
        let dtype = match compute {
            Compute::F32 => Dtype::F32,
            Compute::Q8 if dtype.block_len() == 1 => Dtype::Q8_0,
            Compute::Q4 if dtype.block_len() == 1 => Dtype::Q4_1,
            // As they are packed.
            Compute::Int8 | Compute::Q8 | Compute::Q4 => match dtype {
                Dtype::Int4 => Dtype::Q4_1,
                Dtype::Int8 | Dtype::Dequantized => Dtype::Q8_0,
                dtype => dtype,
            },
        };
        num_elements / dtype.block_len() * dtype.block_bytes()
    });
    bytes.map(|bytes| bytes as u64).sum()
}

fn rope_table(rope: &RopeConfig, max_positions: usize) -> Result<RopeTable, Error> {
    let Frequencies { inv_freq, magnitude } = Frequencies::new(rope);
    let style = match rope.style {
        config::RopeStyle::Half => RopeStyle::Half,
        config::RopeStyle::Interleaved => RopeStyle::Interleaved,
    };
    RopeTable::new(&inv_freq, max_positions, magnitude, style)
        .map_err(|source| Error::Pack { name: "the rotary embedding".into(), source })
}

/// Where weights come from and what they become.
#[derive(Clone, Copy)]
struct Source<'a> {
    cpu: &'a Cpu,
    checkpoint: &'a Checkpoint,
    compute: Compute,
}

impl Source<'_> {
    fn layer(&self, config: &DecoderConfig, index: usize) -> Result<DecoderLayer, Error> {
        let name = |rest: &str| format!("model.layers.{index}.{rest}");
        let qkv = ["q", "k", "v"];
        let qkv_bias = if config.attention_bias {
            let parts = qkv.map(|part| self.vector(&name(&format!("self_attn.{part}_proj.bias"))));
            Some(parts.into_iter().collect::<Result<Vec<_>, _>>()?.concat())
        } else {
            None
        };
        let qkv = qkv.map(|part| name(&format!("self_attn.{part}_proj.weight")));
        let norm = |part: &str| self.norm(config, &name(&format!("{part}.weight")));
        let qk_norms = match config.variant.qk_norm {
            true => Some([norm("self_attn.q_norm")?, norm("self_attn.k_norm")?]),
            false => None,
        };
        let (mlp_layernorm, post_norms) = config.variant.mlp_and_post_norms();
        let post_norms = match post_norms {
            Some([attention, mlp]) => Some([norm(attention)?, norm(mlp)?]),
            None => None,
        };
        Ok(DecoderLayer {
            input_layernorm: norm("input_layernorm")?,
            qkv_proj: self.matrix(&qkv)?,
            qkv_bias,
            qk_norms,
            o_proj: self.matrix(&[name("self_attn.o_proj.weight")])?,
            mlp_layernorm: norm(mlp_layernorm)?,
            mlp: match config.variant.experts {
                None => FeedForward::Dense(self.mlp(&name("mlp"))?),
                Some(experts) => FeedForward::Experts(self.experts(experts, &name("mlp"))?),
            },
            post_norms,
        })
    }

    fn mlp(&self, prefix: &str) -> Result<Mlp, Error> {
        let name = |part: &str| format!("{prefix}.{part}_proj.weight");
        Ok(Mlp {
            gate_up_proj: self.matrix(&[name("gate"), name("up")])?,
            down_proj: self.matrix(&[name("down")])?,
        })
    }

    fn experts(&self, config: config::Experts, prefix: &str) -> Result<Experts, Error> {
        let mlps = (0..config.num_experts).map(|i| self.mlp(&format!("{prefix}.experts.{i}")));
        // A few wrong choices cost more than the router's few weights.
        let exact = Source { compute: Compute::F32, ..*self };
        let router = exact.matrix(&[format!("{prefix}.gate.weight")]);
        Ok(Experts { config, router: router?, mlps: mlps.collect::<Result<_, _>>()? })
    }

    /// Stacks tensors along their rows. The checkpoint has checked all shapes.
    fn matrix(&self, names: &[String]) -> Result<PackedMatrix, Error> {
        let matrices = names.iter().map(|name| self.checkpoint.matrix(name));
        let matrices: Vec<_> = matrices.collect::<Result<_, _>>()?;
        let parts: Vec<_> = matrices.iter().map(weights::Matrix::part).collect();
        PackedMatrix::pack(self.cpu, &parts, self.compute)
            .map_err(|source| Error::Pack { name: names.join(", "), source })
    }

    /// A norm's weights as they are multiplied with.
    fn norm(&self, config: &DecoderConfig, name: &str) -> Result<Vec<f32>, Error> {
        let mut weights = self.vector(name)?;
        weights.iter_mut().for_each(|weight| *weight += config.variant.norm_offset);
        Ok(weights)
    }

    fn vector(&self, name: &str) -> Result<Vec<f32>, Error> {
        let tensor = self.checkpoint.tensor(name)?;
        let quantized = || weights::Error::NotFloat { name: name.into(), dtype: tensor.dtype };
        Ok(tensor.to_f32().ok_or_else(quantized)?)
    }
}
