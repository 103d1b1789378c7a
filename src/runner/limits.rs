//! The limits that an executor has, of what was asked for and of what the model and the cache allow.

use super::ExecutorLimits;
use crate::models::config::DecoderConfig;

/// Why limits are impossible.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// A limit is zero.
    #[error("{0} must be at least 1")]
    Zero(&'static str),
    /// A longer context was asked for than the model knows positions.
    #[error("max_model_len is {given} and the model has {limit} positions")]
    ModelLen {
        /// Asked for.
        given: u32,
        /// What the model has.
        limit: usize,
    },
    /// Slots are numbered in 32 bits.
    #[error("a KV cache of {num_blocks} blocks has more slots than can be numbered")]
    TooManySlots {
        /// Asked for.
        num_blocks: u64,
    },
    /// One sequence of the greatest length would not fit.
    #[error(
        "the KV cache has room for {capacity} tokens, less than one sequence of max_model_len \
         {max_model_len}"
    )]
    KvCacheTooSmall {
        /// Tokens that fit.
        capacity: u64,
        /// Tokens of one sequence.
        max_model_len: u32,
    },
}

/// What was asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) block_size: u32,
    pub(super) max_num_batched_tokens: u32,
    pub(super) max_num_seqs: u32,
    pub(super) max_model_len: Option<u32>,
}

/// As many blocks as slots can be numbered for.
pub(super) fn check_blocks(num_blocks: u64, block_size: u32) -> Result<u32, LimitError> {
    if num_blocks == 0 {
        return Err(LimitError::Zero("the number of KV-cache blocks"));
    }
    if num_blocks.saturating_mul(block_size.into()) > u32::MAX.into() {
        return Err(LimitError::TooManySlots { num_blocks });
    }
    Ok(num_blocks as u32)
}

impl Asked {
    /// With a cache of so many blocks.
    pub(super) fn limits(
        self,
        config: &DecoderConfig,
        num_blocks: u32,
    ) -> Result<ExecutorLimits, LimitError> {
        let zeros = [
            ("block_size", self.block_size),
            ("max_num_batched_tokens", self.max_num_batched_tokens),
            ("max_num_seqs", self.max_num_seqs),
            ("max_model_len", self.max_model_len.unwrap_or(1)),
        ];
        if let Some((what, _)) = zeros.into_iter().find(|(_, given)| *given == 0) {
            return Err(LimitError::Zero(what));
        }
        let capacity = u64::from(num_blocks) * u64::from(self.block_size);
        let trained = config.max_position_embeddings;
        let max_model_len = match self.max_model_len {
            None => capacity.min(trained as u64) as u32,
            Some(given) if given as usize > trained => {
                return Err(LimitError::ModelLen { given, limit: trained });
            }
            Some(given) if u64::from(given) > capacity => {
                return Err(LimitError::KvCacheTooSmall { capacity, max_model_len: given });
            }
            Some(given) => given,
        };
        Ok(ExecutorLimits {
            block_size: self.block_size,
            num_blocks,
            max_num_batched_tokens: self.max_num_batched_tokens,
            max_num_seqs: self.max_num_seqs,
            max_model_len,
            vocab_size: config.vocab_size as u32,
        })
    }
}
