//! The prompts of a text completion: one or many, texts or tokens.

use super::number::Wide;
use super::{Bounds, Prompts};
use crate::api::completions::request::{Item, Prompt};
use crate::error::ApiError;

pub(super) fn parse(prompt: Prompt, bounds: &Bounds) -> Result<Prompts, ApiError> {
    let items = match prompt {
        Prompt::Text(text) => return Ok(Prompts::Texts(vec![text])),
        Prompt::List(items) => items,
    };
    match items.first() {
        None => Err(ApiError::invalid("prompt", "empty_array", "`prompt` is empty")),
        Some(Item::Token(_)) => {
            let ids = items.into_iter().enumerate().map(|(i, item)| match item {
                Item::Token(id) => Ok(id),
                Item::Text(_) | Item::Tokens(_) => Err(mixed(i, "a token id")),
            });
            let ids = ids.collect::<Result<Vec<_>, _>>()?;
            Ok(Prompts::Tokens(vec![tokens("prompt", &ids, bounds)?]))
        }
        Some(Item::Text(_)) => {
            check_count(items.len(), bounds)?;
            let texts = items.into_iter().enumerate().map(|(i, item)| match item {
                Item::Text(text) => Ok(text),
                Item::Token(_) | Item::Tokens(_) => Err(mixed(i, "a string")),
            });
            Ok(Prompts::Texts(texts.collect::<Result<_, _>>()?))
        }
        Some(Item::Tokens(_)) => {
            check_count(items.len(), bounds)?;
            let prompts = items.iter().enumerate().map(|(i, item)| match item {
                Item::Tokens(ids) => tokens(&format!("prompt[{i}]"), ids, bounds),
                Item::Token(_) | Item::Text(_) => Err(mixed(i, "a list of token ids")),
            });
            Ok(Prompts::Tokens(prompts.collect::<Result<_, _>>()?))
        }
    }
}

fn tokens(param: &str, ids: &[Wide], bounds: &Bounds) -> Result<Vec<u32>, ApiError> {
    if ids.is_empty() {
        return Err(ApiError::invalid(param, "empty_array", format!("`{param}` is empty")));
    }
    let vocab_size = bounds.info.vocab_size;
    // The path of an id is only built where it is needed: there may be millions.
    let ids = ids.iter().enumerate().map(|(i, id)| {
        id.token(param, vocab_size).or_else(|_| id.token(&format!("{param}[{i}]"), vocab_size))
    });
    ids.collect()
}

fn check_count(given: usize, bounds: &Bounds) -> Result<(), ApiError> {
    let max = bounds.limits.max_prompts;
    if given <= max {
        return Ok(());
    }
    let message = format!("`prompt` has {given} prompts and may have {max}");
    Err(ApiError::invalid("prompt", "array_above_max_length", message))
}

fn mixed(i: usize, expected: &str) -> ApiError {
    let param = format!("prompt[{i}]");
    let message = format!("`{param}` must be {expected}, as the elements before it");
    ApiError::invalid(param, "invalid_type", message)
}
