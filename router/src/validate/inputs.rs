//! What is to be embedded or compared: each input with the parameter that it comes from.

use std::sync::Arc;

use super::number::Wide;
use crate::api::completions::request::{Item, Prompt};
use crate::error::ApiError;
use crate::prompt::inputs::{Content, Input};

/// What inputs are compared with.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) vocab_size: u32,
    pub(crate) max_inputs: usize,
}

/// The inputs of an embeddings request.
pub(crate) fn embeddings(input: Prompt, bounds: Bounds) -> Result<Vec<Input>, ApiError> {
    let items = match input {
        Prompt::Text(text) => return Ok(vec![text_input("input".to_owned(), text)?]),
        Prompt::List(items) => items,
    };
    match items.first() {
        None => return Err(empty("input", "empty_array")),
        Some(Item::Token(_)) => {
            let ids = items.into_iter().enumerate().map(|(i, item)| match item {
                Item::Token(id) => Ok(id),
                Item::Text(_) | Item::Tokens(_) => Err(mixed(i, "a token id")),
            });
            let ids = ids.collect::<Result<Vec<_>, _>>()?;
            return Ok(vec![token_input("input".to_owned(), &ids, bounds)?]);
        }
        Some(Item::Text(_) | Item::Tokens(_)) => {}
    }
    check_count("input", items.len(), bounds)?;
    let is_text = matches!(items.first(), Some(Item::Text(_)));
    let inputs = items.into_iter().enumerate().map(|(i, item)| match item {
        Item::Text(text) if is_text => text_input(format!("input[{i}]"), text),
        Item::Tokens(ids) if !is_text => token_input(format!("input[{i}]"), &ids, bounds),
        _ if is_text => Err(mixed(i, "a string")),
        _ => Err(mixed(i, "a list of token ids")),
    });
    inputs.collect()
}

/// Texts of one parameter, at least one, none of them empty.
pub(crate) fn texts(
    param: &str,
    texts: Vec<String>,
    bounds: Bounds,
) -> Result<Vec<Input>, ApiError> {
    if texts.is_empty() {
        return Err(empty(param, "empty_array"));
    }
    check_count(param, texts.len(), bounds)?;
    let inputs = texts.into_iter().enumerate();
    inputs.map(|(i, text)| text_input(format!("{param}[{i}]"), text)).collect()
}

/// Every second text, read together with its first one.
pub(crate) fn pair(first: &Arc<str>, second: Input) -> Input {
    let Input { content, param } = second;
    let content = match content {
        Content::Text(second) => Content::Pair(Arc::clone(first), second),
        content @ (Content::Pair(..) | Content::Tokens(_)) => content,
    };
    Input { content, param }
}

/// A text that is not empty.
pub(crate) fn text_input(param: String, text: String) -> Result<Input, ApiError> {
    if text.is_empty() {
        return Err(empty(&param, "empty_string"));
    }
    Ok(Input { content: Content::Text(text), param })
}

fn token_input(param: String, ids: &[Wide], bounds: Bounds) -> Result<Input, ApiError> {
    if ids.is_empty() {
        return Err(empty(&param, "empty_array"));
    }
    // The path of an id is only built where it is needed: there may be millions.
    let ids = ids.iter().enumerate().map(|(i, id)| {
        id.token(&param, bounds.vocab_size)
            .or_else(|_| id.token(&format!("{param}[{i}]"), bounds.vocab_size))
    });
    let tokens = ids.collect::<Result<_, _>>()?;
    Ok(Input { content: Content::Tokens(tokens), param })
}

fn check_count(param: &str, given: usize, bounds: Bounds) -> Result<(), ApiError> {
    let max = bounds.max_inputs;
    if given <= max {
        return Ok(());
    }
    let message = format!("`{param}` has {given} elements and may have at most {max}");
    Err(ApiError::invalid(param, "array_above_max_length", message))
}

fn empty(param: &str, code: &'static str) -> ApiError {
    ApiError::invalid(param, code, format!("`{param}` is empty"))
}

fn mixed(i: usize, expected: &str) -> ApiError {
    let param = format!("input[{i}]");
    let message = format!("`{param}` must be {expected}, as the elements before it");
    ApiError::invalid(param, "invalid_type", message)
}
