//! An encoder on the processor: packed weights and the buffers of a step.

use sconce_kernels::cpu::{Cpu, Isa};

use super::Error;
use super::cpu::{LoadError, RunnerOptions, check_memory};
use crate::engine::embed::EmbedBatch;
use crate::models::encoder::config::EncoderConfig;
use crate::models::encoder::{Encoder, Workspace, load};
use crate::models::load as packing;
use crate::weights::EncoderCheckpoint;

/// What an encoder has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncoderLimits {
    /// Most tokens of one input.
    pub max_model_len: u32,
    /// Most tokens of one step; at least as many as one input may have.
    pub max_num_batched_tokens: u32,
    /// Tokens that have an embedding.
    pub vocab_size: u32,
}

/// Runs an encoder on the processor.
pub struct EncoderRunner {
    cpu: Cpu,
    encoder: Encoder,
    workspace: Workspace,
    limits: EncoderLimits,
}

impl EncoderRunner {
    /// Packs the checkpoint's weights for this processor and allocates all that a step needs.
    pub fn load(
        checkpoint: &EncoderCheckpoint,
        options: &RunnerOptions,
    ) -> Result<Self, LoadError> {
        let limits = Self::limits_of(checkpoint.config(), options)?;
        let cpu = Cpu::new(options.num_threads, options.isa.unwrap_or_else(Isa::detect))?;
        let needed = packing::bytes_of(checkpoint.sizes(), options.compute);
        check_memory("the model's weights", needed)?;
        let encoder = load::encoder(&cpu, checkpoint, options.compute)?;
        let max_tokens = limits.max_num_batched_tokens as usize;
        let workspace = encoder.workspace(max_tokens, options.activation_dtype);
        Ok(Self { cpu, encoder, workspace, limits })
    }

    /// What a model will take once it is loaded.
    pub fn limits_of(
        config: &EncoderConfig,
        options: &RunnerOptions,
    ) -> Result<EncoderLimits, LoadError> {
        let limit = config.num_positions();
        let max_model_len = match options.max_model_len {
            None => config.max_seq_length as u32,
            Some(0) => return Err(LoadError::Zero("max_model_len")),
            Some(given) if given as usize > limit => {
                return Err(LoadError::ModelLen { given, limit });
            }
            Some(given) => given,
        };
        Ok(EncoderLimits {
            max_model_len,
            max_num_batched_tokens: options.max_num_batched_tokens.max(max_model_len),
            vocab_size: config.vocab_size as u32,
        })
    }

    /// The model's shape.
    pub fn config(&self) -> &EncoderConfig {
        self.encoder.config()
    }

    /// What it has room for.
    pub fn limits(&self) -> EncoderLimits {
        self.limits
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.cpu.isa()
    }

    /// Bytes of the packed weights.
    pub fn weight_bytes(&self) -> usize {
        self.encoder.num_bytes()
    }

    /// Appends what comes of each input of the batch to `out`: `[num_inputs, num_outputs]`.
    ///
    /// An error is fatal for the worker: what a request can cause was refused before.
    pub fn forward(&mut self, batch: &EmbedBatch, out: &mut Vec<f32>) -> Result<(), Error> {
        let (given, limit) = (batch.token_ids.len(), self.limits.max_num_batched_tokens as usize);
        if given > limit {
            return Err(Error::Plan(format!("{given} tokens, at most {limit}")));
        }
        let longest = batch.lens.iter().max().copied().unwrap_or(0);
        if longest > self.limits.max_model_len as usize || batch.lens.contains(&0) {
            return Err(Error::Plan(format!("an input of {longest} tokens or of none")));
        }
        Ok(self.encoder.forward(&self.cpu, &mut self.workspace, batch, out)?)
    }
}
