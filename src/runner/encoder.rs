//! An encoder on the processor: packed weights and the buffers of a step.

use sconce_kernels::cpu::{Cpu, Isa};

use super::cpu::{LoadError, RunnerOptions, check_memory};
use super::limits::LimitError;
use super::{Embedder, EmbedderLimits, Error};
use crate::engine::embed::EmbedBatch;
use crate::models::encoder::config::EncoderConfig;
use crate::models::encoder::{Encoder, Workspace, load};
use crate::models::load as packing;
use crate::weights::EncoderCheckpoint;

/// Runs an encoder on the processor.
pub struct EncoderRunner {
    cpu: Cpu,
    encoder: Encoder,
    workspace: Workspace,
    limits: EmbedderLimits,
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
        let workspace = encoder.workspace(&cpu, max_tokens, options.activation_dtype);
        Ok(Self { cpu, encoder, workspace, limits })
    }

    /// What a model will take once it is loaded.
    pub fn limits_of(
        config: &EncoderConfig,
        options: &RunnerOptions,
    ) -> Result<EmbedderLimits, LoadError> {
        let max_model_len = max_model_len(options, config.num_positions())?;
        let max_model_len = max_model_len.unwrap_or(config.max_seq_length as u32);
        Ok(EmbedderLimits {
            max_model_len,
            max_num_batched_tokens: options.max_num_batched_tokens.max(max_model_len),
            vocab_size: config.vocab_size as u32,
        })
    }

    /// The model's shape.
    pub fn config(&self) -> &EncoderConfig {
        self.encoder.config()
    }
}

impl Embedder for EncoderRunner {
    fn limits(&self) -> EmbedderLimits {
        self.limits
    }

    fn num_outputs(&self) -> usize {
        self.config().num_outputs()
    }

    fn isa(&self) -> Isa {
        self.cpu.isa()
    }

    fn weight_bytes(&self) -> usize {
        self.encoder.num_bytes()
    }

    fn forward(&mut self, batch: &EmbedBatch, out: &mut Vec<f32>) -> Result<(), Error> {
        self.limits.check(batch)?;
        Ok(self.encoder.forward(&self.cpu, &mut self.workspace, batch, out)?)
    }
}

/// The length that is asked for, of a model with so many positions.
pub(super) fn max_model_len(
    options: &RunnerOptions,
    num_positions: usize,
) -> Result<Option<u32>, LoadError> {
    match options.max_model_len {
        Some(0) => Err(LimitError::Zero("max_model_len").into()),
        Some(given) if given as usize > num_positions => {
            Err(LimitError::ModelLen { given, limit: num_positions }.into())
        }
        given => Ok(given),
    }
}
