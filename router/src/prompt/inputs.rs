//! Texts to the tokens of an encoder: what it embeds, or the two texts that it compares.
//!
//! All of a client's text is text. The special tokens around it are those that the tokenizer's
//! post-processor puts there.

use std::sync::Arc;

use sconce_proto::worker::EmbedInput;

use super::added::{Mark, Trust};
use super::{ENCODERS, MAX_INLINE_BYTES};
use crate::error::ApiError;
use crate::model::Model;

/// Tokens of one request. More would not fit into a message to a worker.
const MAX_TOKENS: usize = 2 << 20;

/// What a vector is asked for.
#[derive(Debug)]
pub(crate) struct Input {
    pub(crate) content: Content,
    /// The parameter that it comes from.
    pub(crate) param: String,
}

/// What an input says.
#[derive(Debug)]
pub(crate) enum Content {
    Text(String),
    /// Two texts that are read together.
    Pair(Arc<str>, String),
    /// Tokens of the model, special ones included.
    Tokens(Vec<u32>),
}

impl Input {
    fn num_bytes(&self) -> usize {
        match &self.content {
            Content::Text(text) => text.len(),
            Content::Pair(first, second) => first.len() + second.len(),
            Content::Tokens(_) => 0,
        }
    }
}

/// The tokens of each input, if they fit into the model's context.
pub(crate) async fn encode(
    model: &Arc<Model>,
    inputs: Vec<Input>,
) -> Result<Vec<EmbedInput>, ApiError> {
    if inputs.iter().map(Input::num_bytes).sum::<usize>() <= MAX_INLINE_BYTES {
        return encode_now(model, inputs);
    }
    let model = Arc::clone(model);
    // The semaphore is never closed.
    let permit = ENCODERS.acquire().await.map_err(|_| ApiError::Internal)?;
    let work = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        encode_now(&model, inputs)
    });
    work.await.unwrap_or_else(|error| {
        tracing::error!(%error, "encoding inputs failed");
        Err(ApiError::Internal)
    })
}

fn encode_now(model: &Model, inputs: Vec<Input>) -> Result<Vec<EmbedInput>, ApiError> {
    let mut num_tokens = 0;
    let mut encoded = Vec::with_capacity(inputs.len());
    for Input { content, param } in inputs {
        let input = match content {
            Content::Tokens(tokens) => EmbedInput { tokens, second_start: None },
            Content::Text(text) => encode_texts(model, &text, None, &param)?,
            Content::Pair(first, second) => encode_texts(model, &first, Some(&second), &param)?,
        };
        let (given, limit) = (input.tokens.len(), model.info.max_model_len);
        if given > limit as usize {
            let message =
                format!("`{param}` has {given} tokens and the model takes at most {limit}");
            return Err(ApiError::invalid(param, "context_length_exceeded", message));
        }
        if given == 0 {
            let message = format!("`{param}` has no tokens");
            return Err(ApiError::invalid(param, "empty_string", message));
        }
        num_tokens += given;
        if num_tokens > MAX_TOKENS {
            let message =
                format!("up to `{param}` there are more than {MAX_TOKENS} tokens together");
            return Err(ApiError::invalid(param, "array_above_max_length", message));
        }
        encoded.push(input);
    }
    Ok(encoded)
}

fn encode_texts(
    model: &Model,
    first: &str,
    second: Option<&str>,
    param: &str,
) -> Result<EmbedInput, ApiError> {
    let encode = |text: &str| {
        let (text, mark) = if model.added.is_spelled_in(text) {
            let mark = Mark::absent_from([text]).ok_or_else(|| {
                let message = format!("`{param}` uses every private character that Unicode has");
                ApiError::invalid(param, "invalid_value", message)
            })?;
            (model.added.break_up(text, Trust::Nothing, mark), Some(mark))
        } else {
            (text.into(), None)
        };
        let encoding = model.added.encoding(&model.tokenizer, &text, mark);
        encoding.map_err(|error| super::untokenizable(&error))
    };
    let (first, second) = (encode(first)?, second.map(encode).transpose()?);
    let encoding = model.tokenizer.post_process(first, second, true);
    let encoding = encoding.map_err(|error| super::untokenizable(&error))?;
    let second_start = encoding.get_type_ids().iter().position(|kind| *kind == 1);
    Ok(EmbedInput {
        tokens: encoding.get_ids().to_vec(),
        second_start: second_start.map(|start| start as u32),
    })
}
