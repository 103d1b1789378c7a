//! The encoder of the BERT family on the CPU, described by an [`EncoderConfig`].
//!
//! Inputs lie one after the other without padding, so that a short text beside a long one costs
//! what it has. An input's result is the same bit for bit whatever else is in the batch.

pub mod config;
mod head;
pub(crate) mod load;

use sconce_kernels::cpu::{
    ActivationDtype, Activations, Cpu, FullAttention, LayerNorm, Operands, Output, PackedMatrix,
};

use self::config::EncoderConfig;
use self::head::Head;
use crate::engine::embed::EmbedBatch;

type Result<T> = std::result::Result<T, sconce_kernels::Error>;

/// A model's weights, packed for the processor. Named as in Hugging Face's checkpoints.
#[derive(Debug)]
pub struct Encoder {
    config: EncoderConfig,
    /// `[vocab_size, hidden_size]`
    word_embeddings: PackedMatrix,
    /// `[max_position_embeddings, hidden_size]`
    position_embeddings: Vec<f32>,
    /// `[type_vocab_size, hidden_size]`
    token_type_embeddings: Vec<f32>,
    /// Of the embeddings, which no matrix makes: its linear bias is zero.
    norm: Norm,
    layers: Vec<EncoderLayer>,
    head: Head,
}

/// A matrix and its bias.
#[derive(Debug)]
struct Linear {
    /// `[rows, cols]`
    weight: PackedMatrix,
    /// `[rows]`
    bias: Vec<f32>,
}

/// A layer norm, and the bias of the matrix before it.
#[derive(Debug)]
struct Norm {
    linear_bias: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

/// One layer's weights.
#[derive(Debug)]
struct EncoderLayer {
    /// `[3 * hidden_size, hidden_size]`
    qkv: Linear,
    /// `[hidden_size, hidden_size]`
    attention_output: PackedMatrix,
    attention_norm: Norm,
    /// `[intermediate_size, hidden_size]`
    intermediate: Linear,
    /// `[hidden_size, intermediate_size]`
    output: PackedMatrix,
    output_norm: Norm,
}

/// Every buffer of a forward pass, sized for the largest batch.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// `[max_tokens, hidden_size]`: the residual stream.
    hidden_states: Vec<f32>,
    /// `[max_tokens, hidden_size]`: what is added to it.
    added: Vec<f32>,
    /// `[max_tokens, 3 * hidden_size]`
    qkv: Vec<f32>,
    /// `[max_tokens, intermediate_size]`
    intermediate: Vec<f32>,
    activations: Activations,
}

impl Encoder {
    /// The shape.
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// Bytes of the packed matrices.
    pub fn num_bytes(&self) -> usize {
        self.matrices().map(PackedMatrix::num_bytes).sum()
    }

    fn matrices(&self) -> impl Iterator<Item = &PackedMatrix> {
        let layers = self.layers.iter().flat_map(|layer| {
            [&layer.qkv.weight, &layer.attention_output, &layer.intermediate.weight, &layer.output]
        });
        layers.chain([&self.word_embeddings]).chain(self.head.matrices())
    }

    /// Allocates the buffers for batches of up to `max_tokens` tokens.
    pub(crate) fn workspace(
        &self,
        cpu: &Cpu,
        max_tokens: usize,
        dtype: ActivationDtype,
    ) -> Workspace {
        let config = &self.config;
        let operands = (self.matrices())
            .map(PackedMatrix::operands)
            .fold(Operands::default(), |all, one| all | one);
        let max_cols = config.hidden_size.max(config.intermediate_size);
        Workspace {
            hidden_states: vec![0.0; max_tokens * config.hidden_size],
            added: vec![0.0; max_tokens * config.hidden_size],
            qkv: vec![0.0; max_tokens * 3 * config.hidden_size],
            intermediate: vec![0.0; max_tokens * config.intermediate_size],
            activations: Activations::new(cpu, max_tokens, max_cols, operands, dtype),
        }
    }

    /// Appends what comes of each input of the batch to `out`: `[num_inputs, num_outputs]`.
    pub(crate) fn forward(
        &self,
        cpu: &Cpu,
        workspace: &mut Workspace,
        batch: &EmbedBatch,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        self.embed(cpu, workspace, batch)?;
        for layer in &self.layers {
            self.attend(layer, cpu, workspace, batch)?;
            self.feed_forward(layer, cpu, workspace, batch)?;
        }
        self.finish(cpu, workspace, batch, out)
    }

    /// The sum of the three embeddings, normalized.
    fn embed(&self, cpu: &Cpu, workspace: &mut Workspace, batch: &EmbedBatch) -> Result<()> {
        let (hidden, num_tokens) = (self.config.hidden_size, batch.token_ids.len());
        let hidden_states = &mut workspace.hidden_states[..num_tokens * hidden];
        let added = &mut workspace.added[..num_tokens * hidden];
        cpu.embed(&self.word_embeddings, &batch.token_ids, added)?;
        let mut rows = hidden_states.chunks_exact_mut(hidden);
        for input in &batch.inputs {
            for (position, row) in rows.by_ref().take(input.num_tokens).enumerate() {
                let kind = usize::from(input.second_start.is_some_and(|start| position >= start));
                // A model with one type of token gives it to both texts.
                let kind = kind.min(self.config.type_vocab_size - 1);
                let position = self.config.first_position + position;
                let position = &self.position_embeddings[position * hidden..][..hidden];
                let kind = &self.token_type_embeddings[kind * hidden..][..hidden];
                for ((row, position), kind) in row.iter_mut().zip(position).zip(kind) {
                    *row = position + kind;
                }
            }
        }
        cpu.add_layer_norm(added, self.norm(&self.norm), hidden_states)
    }

    fn norm<'a>(&self, norm: &'a Norm) -> LayerNorm<'a> {
        LayerNorm {
            linear_bias: &norm.linear_bias,
            weight: &norm.weight,
            bias: &norm.bias,
            eps: self.config.layer_norm_eps,
        }
    }

    fn attend(
        &self,
        layer: &EncoderLayer,
        cpu: &Cpu,
        workspace: &mut Workspace,
        batch: &EmbedBatch,
    ) -> Result<()> {
        let (config, num_tokens) = (&self.config, batch.token_ids.len());
        let hidden = config.hidden_size;
        let Workspace { hidden_states, added, qkv, activations, .. } = workspace;
        let hidden_states = &mut hidden_states[..num_tokens * hidden];
        let added = &mut added[..num_tokens * hidden];
        let qkv = &mut qkv[..num_tokens * 3 * hidden];

        cpu.activations(hidden_states, num_tokens, None, activations)?;
        cpu.matmul(&layer.qkv.weight, activations, Output::Store(&mut *qkv))?;
        cpu.add_bias(qkv, &layer.qkv.bias)?;
        let attention = FullAttention {
            qkv,
            num_heads: config.num_attention_heads,
            head_dim: config.head_dim(),
            scale: (config.head_dim() as f32).sqrt().recip(),
            lens: &batch.lens,
        };
        cpu.full_attention(attention, added)?;
        cpu.activations(added, num_tokens, None, activations)?;
        cpu.matmul(&layer.attention_output, activations, Output::Store(&mut *added))?;
        cpu.add_layer_norm(added, self.norm(&layer.attention_norm), hidden_states)
    }

    fn feed_forward(
        &self,
        layer: &EncoderLayer,
        cpu: &Cpu,
        workspace: &mut Workspace,
        batch: &EmbedBatch,
    ) -> Result<()> {
        let (config, num_tokens) = (&self.config, batch.token_ids.len());
        let Workspace { hidden_states, added, intermediate, activations, .. } = workspace;
        let hidden_states = &mut hidden_states[..num_tokens * config.hidden_size];
        let added = &mut added[..num_tokens * config.hidden_size];
        let intermediate = &mut intermediate[..num_tokens * config.intermediate_size];

        cpu.activations(hidden_states, num_tokens, None, activations)?;
        let Linear { weight, bias } = &layer.intermediate;
        cpu.matmul(weight, activations, Output::Store(&mut *intermediate))?;
        cpu.gelu(intermediate, num_tokens, bias, activations)?;
        cpu.matmul(&layer.output, activations, Output::Store(&mut *added))?;
        cpu.add_layer_norm(added, self.norm(&layer.output_norm), hidden_states)
    }

    fn finish(
        &self,
        cpu: &Cpu,
        workspace: &mut Workspace,
        batch: &EmbedBatch,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        let hidden = self.config.hidden_size;
        let Workspace { hidden_states, added, activations, .. } = workspace;
        let hidden_states = &hidden_states[..batch.token_ids.len() * hidden];
        match &self.head {
            Head::Pool(pooler) => {
                pooler.pool(hidden_states, hidden, &batch.lens, out);
                Ok(())
            }
            Head::Classify(classifier) => {
                let firsts = &mut added[..batch.lens.len() * hidden];
                classifier.run(cpu, (hidden_states, firsts), (&batch.lens, activations), out)
            }
        }
    }
}
