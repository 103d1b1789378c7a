//! Conversations and texts to tokens.
//!
//! Tokens have a provenance: what the model's chat template writes may be special tokens, what a
//! client writes is text. Text in which a client spells an added token is broken up by a mark before
//! it enters the template, and the mark is taken out after the template's own tokens are found; so
//! the template may trim, split and compare as it likes.

pub(crate) mod added;
#[cfg(test)]
pub(crate) mod fixtures;
pub(crate) mod inputs;
mod json;
mod strftime;
pub(crate) mod template;

use std::sync::{Arc, LazyLock};
use std::thread::available_parallelism;

use tokio::sync::Semaphore;

use crate::error::ApiError;
use crate::model::{ChatFormat, Model};
use crate::validate::{ChatMessage, GenerateRequest, Prompts, Role, context};
use added::{Mark, Trust};
use template::{Conversation, RenderError, Turn};

/// More text than this is rendered and tokenised on a thread for blocking work.
const MAX_INLINE_BYTES: usize = 4 << 10;

/// Long prompts wait here for a processor: more at once would only take more memory.
static ENCODERS: LazyLock<Semaphore> =
    LazyLock::new(|| Semaphore::new(available_parallelism().map_or(1, usize::from)));

/// The tokens of each prompt of a request.
pub(crate) async fn encode(
    model: &Arc<Model>,
    request: GenerateRequest,
    fuel: u64,
) -> Result<(GenerateRequest, Vec<Vec<u32>>), ApiError> {
    if num_bytes(&request.prompts) <= MAX_INLINE_BYTES {
        let prompts = encode_now(model, &request, fuel)?;
        return Ok((request, prompts));
    }
    let model = Arc::clone(model);
    // The semaphore is never closed.
    let permit = ENCODERS.acquire().await.map_err(|_| ApiError::Internal)?;
    let work = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        encode_now(&model, &request, fuel).map(|prompts| (request, prompts))
    });
    work.await.unwrap_or_else(|error| {
        tracing::error!(%error, "encoding a prompt failed");
        Err(ApiError::Internal)
    })
}

fn num_bytes(prompts: &Prompts) -> usize {
    match prompts {
        Prompts::Chat { messages, .. } => messages.iter().map(|m| m.content.len() + 64).sum(),
        Prompts::Texts(texts) => texts.iter().map(String::len).sum(),
        Prompts::Tokens(_) => 0,
    }
}

fn encode_now(
    model: &Model,
    request: &GenerateRequest,
    fuel: u64,
) -> Result<Vec<Vec<u32>>, ApiError> {
    match &request.prompts {
        Prompts::Chat { messages, add_generation_prompt } => {
            let conversation = Conversation {
                turns: messages.iter().map(turn).collect(),
                add_generation_prompt: *add_generation_prompt,
                fuel,
            };
            chat(model, conversation).map(|tokens| vec![tokens])
        }
        Prompts::Texts(texts) => {
            let prompts = texts.iter().enumerate();
            prompts.map(|(i, text)| raw(model, text, || param(i, texts.len()))).collect()
        }
        Prompts::Tokens(prompts) => Ok(prompts.clone()),
    }
}

fn param(i: usize, num_prompts: usize) -> String {
    if num_prompts == 1 { "prompt".into() } else { format!("prompt[{i}]") }
}

fn turn(message: &ChatMessage) -> Turn<'_> {
    Turn {
        role: message.role.as_str(),
        content: message.content.as_str().into(),
        name: message.name.as_deref().map(Into::into),
    }
}

/// A conversation's tokens. The beginning-of-sequence token is there once, whether the template
/// writes it or the tokenizer adds it.
fn chat(model: &Model, mut conversation: Conversation) -> Result<Vec<u32>, ApiError> {
    let template = match &model.chat {
        ChatFormat::Template(template) => template,
        ChatFormat::None => {
            let message = "the model has no chat template; use /v1/completions";
            return Err(ApiError::invalid("messages", "unsupported_value", message));
        }
        ChatFormat::Broken => {
            return Err(ApiError::BrokenTemplate { model: model.info.model.clone() });
        }
    };
    let mark = break_up(model, &mut conversation)?;
    let max_bytes = max_bytes(model);
    let text = template.render(&conversation, max_bytes).map_err(|error| match error {
        RenderError::TooLong => too_long("messages", model),
        RenderError::Refused(reason) => ApiError::invalid(
            "messages",
            "invalid_value",
            format!("the model's chat template does not take these `messages`: {reason}"),
        ),
        RenderError::OutOfFuel => ApiError::invalid(
            "messages",
            "invalid_value",
            "the model's chat template takes too long with these `messages`",
        ),
    })?;
    let tokens =
        model.added.encode(&model.tokenizer, &text, mark).map_err(|error| untokenizable(&error))?;
    Ok(with_bos(model, tokens))
}

/// Breaks up every added token that a client spells out.
fn break_up(model: &Model, conversation: &mut Conversation) -> Result<Option<Mark>, ApiError> {
    let texts = || {
        let turns = conversation.turns.iter();
        turns.flat_map(|turn| [Some(&turn.content), turn.name.as_ref()]).flatten()
    };
    if !texts().any(|text| model.added.is_spelled_in(text)) {
        return Ok(None);
    }
    let mark = Mark::absent_from(texts().map(AsRef::as_ref)).ok_or_else(|| {
        let message = "the `messages` use every private character that Unicode has";
        ApiError::invalid("messages", "invalid_value", message)
    })?;
    for turn in &mut conversation.turns {
        // Templates look for tokens such as `</think>` in what the model said before.
        let is_model = turn.role == Role::Assistant.as_str();
        let trust = if is_model { Trust::Markup } else { Trust::Nothing };
        for text in [Some(&mut turn.content), turn.name.as_mut()].into_iter().flatten() {
            *text = model.added.break_up(text, trust, mark).into_owned().into();
        }
    }
    Ok(Some(mark))
}

/// A raw prompt's tokens: all of it is text.
fn raw(model: &Model, text: &str, param: impl Fn() -> String) -> Result<Vec<u32>, ApiError> {
    if text.len() > max_bytes(model) {
        return Err(too_long(&param(), model));
    }
    let (text, mark) = if model.added.is_spelled_in(text) {
        let mark = Mark::absent_from([text]).ok_or_else(|| {
            let message = "the prompt uses every private character that Unicode has";
            ApiError::invalid(param(), "invalid_value", message)
        })?;
        (model.added.break_up(text, Trust::Nothing, mark), Some(mark))
    } else {
        (text.into(), None)
    };
    let tokens =
        model.added.encode(&model.tokenizer, &text, mark).map_err(|error| untokenizable(&error))?;
    let tokens = with_bos(model, tokens);
    if tokens.is_empty() {
        let message = format!("`{}` is empty", param());
        return Err(ApiError::invalid(param(), "empty_string", message));
    }
    Ok(tokens)
}

fn with_bos(model: &Model, mut tokens: Vec<u32>) -> Vec<u32> {
    if let (true, Some(bos)) = (model.info.add_bos_token, model.info.bos_token_id)
        && tokens.first() != Some(&bos)
    {
        tokens.insert(0, bos);
    }
    tokens
}

/// Longer texts have more tokens than the context, whatever they say, and need not be tokenised.
fn max_bytes(model: &Model) -> usize {
    model.tokens.longest().saturating_mul(context(&model.info) as usize)
}

fn too_long(param: &str, model: &Model) -> ApiError {
    let context = context(&model.info);
    let message =
        format!("`{param}`: the text is longer than the model's context of {context} tokens");
    ApiError::invalid(param, "context_length_exceeded", message)
}

fn untokenizable(error: &tokenizers::Error) -> ApiError {
    tracing::error!(%error, "the tokenizer failed");
    ApiError::Internal
}

#[cfg(test)]
mod tests;
