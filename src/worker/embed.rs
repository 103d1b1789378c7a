//! Embedding requests: their check, and the engine that computes them.

mod engine;

use std::time::Duration;

use sconce_proto::worker::{Embed, EmbedInput as Wire, ModelInfo};

use super::submit::Invalid;
use crate::engine::embed::{EmbedInput, Urgency};

pub(super) use engine::EmbedEngine;

/// A request that the engine can trust.
pub(crate) struct Checked {
    pub(crate) id: u64,
    pub(crate) inputs: Vec<EmbedInput>,
    /// How long it may wait for its first step.
    pub(crate) patience: Option<Duration>,
    pub(crate) urgency: Urgency,
}

/// Returns the request if it fits the model.
pub(crate) fn check(embed: Embed, info: &ModelInfo) -> Result<Checked, Invalid> {
    if embed.inputs.is_empty() {
        return Err(Invalid("there are no inputs".to_owned()));
    }
    let patience = Duration::from_millis(embed.queue_deadline_ms.into());
    let inputs = embed.inputs.into_iter().map(|input| check_input(input, info));
    Ok(Checked {
        id: embed.request_id,
        inputs: inputs.collect::<Result<_, _>>()?,
        patience: (!patience.is_zero()).then_some(patience),
        urgency: Urgency::of(embed.priority),
    })
}

fn check_input(input: Wire, info: &ModelInfo) -> Result<EmbedInput, Invalid> {
    let (given, limit) = (input.tokens.len(), info.max_model_len);
    if given == 0 || given > limit as usize {
        return Err(Invalid(format!("an input has {given} tokens and must have 1 to {limit}")));
    }
    if input.tokens.iter().any(|token| *token >= info.vocab_size) {
        return Err(Invalid(format!("a token is not below {}", info.vocab_size)));
    }
    let second_start = input.second_start.map(|start| start as usize);
    Ok(EmbedInput { token_ids: input.tokens, second_start })
}
