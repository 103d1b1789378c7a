//! Conversations and texts to tokens.
//!
//! Tokens have a provenance: what the model's chat template writes may be special tokens, what a
//! client writes is text. Text in which a client spells an added token is broken up by a mark before
//! it enters the template, and the mark is taken out after the template's own tokens are found; so
//! the template may trim, split and compare as it likes.

pub(crate) mod added;
pub(crate) mod conversation;
#[cfg(test)]
pub(crate) mod fixtures;
pub(crate) mod infill;
pub(crate) mod inputs;
mod json;
pub(crate) mod strftime;
pub(crate) mod template;

use std::sync::{Arc, LazyLock};
use std::thread::available_parallelism;

use sconce_proto::worker::TokenSequence;
use tokio::sync::Semaphore;

use crate::error::ApiError;
use crate::model::{ChatFormat, Model};
use crate::parse::Start;
use crate::validate::{Chat, GenerateRequest, PromptEnd, Prompts, context};
use added::{Mark, Trust};
use conversation::Conversation;
use template::RenderError;

/// More text than this is rendered and tokenised on a thread for blocking work.
const MAX_INLINE_BYTES: usize = 4 << 10;

/// Long prompts wait here for a processor: more at once would only take more memory.
static ENCODERS: LazyLock<Semaphore> =
    LazyLock::new(|| Semaphore::new(available_parallelism().map_or(1, usize::from)));

/// A request with its prompts' tokens.
#[derive(Debug)]
pub(crate) struct Encoded {
    pub(crate) request: GenerateRequest,
    pub(crate) prompts: Vec<Vec<u32>>,
    /// Where a conversation's answer begins.
    pub(crate) start: Start,
}

/// The tokens of each prompt of a request.
pub(crate) async fn encode(
    model: &Arc<Model>,
    request: GenerateRequest,
    fuel: u64,
) -> Result<Encoded, ApiError> {
    if num_bytes(&request) <= MAX_INLINE_BYTES {
        return encode_now(model, request, fuel);
    }
    let model = Arc::clone(model);
    // The semaphore is never closed.
    let permit = ENCODERS.acquire().await.map_err(|_| ApiError::Internal)?;
    let work = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        encode_now(&model, request, fuel)
    });
    work.await.unwrap_or_else(|error| {
        tracing::error!(%error, "encoding a prompt failed");
        Err(ApiError::Internal)
    })
}

fn num_bytes(request: &GenerateRequest) -> usize {
    let num_bad = request.bad_words.iter().map(String::len).sum::<usize>();
    let num_prompt = match &request.prompts {
        Prompts::Chat(chat) if !chat.tools.functions.is_empty() => usize::MAX,
        Prompts::Chat(chat) => chat.messages.iter().map(|m| m.content.len() + 64).sum(),
        Prompts::Texts(texts) => texts.iter().map(String::len).sum(),
        Prompts::Tokens(_) => 0,
    };
    num_prompt.saturating_add(num_bad)
}

fn encode_now(model: &Model, mut request: GenerateRequest, fuel: u64) -> Result<Encoded, ApiError> {
    request.sampling.bad_words = bad_words(model, &request.bad_words)?;
    let mut start = Start::Answer;
    let mut prompts = match &request.prompts {
        Prompts::Chat(conversation) => {
            let (tokens, begins) = chat(model, conversation, fuel)?;
            start = begins;
            vec![tokens]
        }
        Prompts::Texts(texts) => {
            let prompts = texts.iter().enumerate();
            let prompts = prompts.map(|(i, text)| {
                let param = || param(i, texts.len());
                // What comes before a suffix may be nothing.
                if request.suffix.is_some() {
                    begun(model, text, param)
                } else {
                    raw(model, text, param)
                }
            });
            prompts.collect::<Result<_, _>>()?
        }
        Prompts::Tokens(prompts) => prompts.clone(),
    };
    if let Some(suffix) = &request.suffix {
        let (between, ends) = infill(model, suffix, &prompts)?;
        prompts = between;
        request.sampling.stop_token_ids.extend(ends);
    }
    Ok(Encoded { request, prompts, start })
}

fn param(i: usize, num_prompts: usize) -> String {
    if num_prompts == 1 { "prompt".into() } else { format!("prompt[{i}]") }
}

/// The prompts for what comes between each of these and the suffix, and what ends it.
fn infill(
    model: &Model,
    suffix: &str,
    prompts: &[Vec<u32>],
) -> Result<(Vec<Vec<u32>>, Vec<u32>), ApiError> {
    const PARAM: &str = "suffix";
    let Some(infill) = &model.infill else {
        let message = "the model does not fill in the middle: its tokenizer has no tokens for that";
        return Err(ApiError::invalid(PARAM, "unsupported_value", message));
    };
    if suffix.len() > max_bytes(model) {
        return Err(too_long(PARAM, model));
    }
    let after = plain(model, suffix, || PARAM.to_owned())?;
    let bos = model.info.bos_token_id.filter(|_| model.info.add_bos_token);
    let between = prompts.iter().map(|before| {
        // It has been put before the text already, and belongs before all.
        let before = before.strip_prefix(bos.as_slice()).unwrap_or(before);
        with_bos(model, infill.prompt(before, &after))
    });
    Ok((between.collect(), infill.ends.clone()))
}

/// A conversation's tokens, and where its answer begins. The beginning-of-sequence token is there
/// once, whether the template writes it or the tokenizer adds it.
fn chat(model: &Model, request: &Chat, fuel: u64) -> Result<(Vec<u32>, Start), ApiError> {
    let (text, mark) = render(model, request, fuel)?;
    let tokens =
        model.added.encode(&model.tokenizer, &text, mark).map_err(|error| untokenizable(&error))?;
    let start = model.formats.reasoning.map_or(Start::Answer, |format| format.start(&text));
    Ok((with_bos(model, tokens), start))
}

/// A conversation's prompt, in which tokens that clients spell out are broken up by the mark.
fn render(model: &Model, request: &Chat, fuel: u64) -> Result<(String, Option<Mark>), ApiError> {
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
    let invalid = |message: String| ApiError::invalid("messages", "invalid_value", message);
    let mut conversation = Conversation::new(request, template.tool_support(), fuel);
    let mark = conversation.protect(&model.added).map_err(|()| {
        invalid("the `messages` use every private character that Unicode has".to_owned())
    })?;
    let max_bytes = max_bytes(model);
    let text = template.render(&conversation, max_bytes).map_err(|error| match error {
        RenderError::TooLong => too_long("messages", model),
        RenderError::Refused(reason) => {
            invalid(format!("the model's chat template does not take these `messages`: {reason}"))
        }
        RenderError::OutOfFuel => {
            invalid("the model's chat template takes too long with these `messages`".to_owned())
        }
    })?;
    match (request.end, mark) {
        (PromptEnd::OpenMessage, Some(mark)) => match text.rfind(&mark.end()) {
            Some(end) => Ok((text.get(..end).unwrap_or_default().to_owned(), Some(mark))),
            None => Err(ApiError::invalid(
                "continue_final_message",
                "unsupported_value",
                "the model's chat template does not write the last message as it is",
            )),
        },
        (_, mark) => Ok((text, mark)),
    }
}

/// A raw prompt's tokens: all of it is text.
fn raw(model: &Model, text: &str, param: impl Fn() -> String) -> Result<Vec<u32>, ApiError> {
    let tokens = begun(model, text, &param)?;
    if tokens.is_empty() {
        let message = format!("`{}` is empty", param());
        return Err(ApiError::invalid(param(), "empty_string", message));
    }
    Ok(tokens)
}

/// The tokens of a text that a prompt begins with.
fn begun(model: &Model, text: &str, param: impl Fn() -> String) -> Result<Vec<u32>, ApiError> {
    if text.len() > max_bytes(model) {
        return Err(too_long(&param(), model));
    }
    Ok(with_bos(model, plain(model, text, param)?))
}

/// A text's tokens, with nothing around them: all of it is text.
fn plain(model: &Model, text: &str, param: impl Fn() -> String) -> Result<Vec<u32>, ApiError> {
    let (text, mark) = if model.added.is_spelled_in(text) {
        let mark = Mark::absent_from([text]).ok_or_else(|| {
            let param = param();
            let message = format!("`{param}` uses every private character that Unicode has");
            ApiError::invalid(param, "invalid_value", message)
        })?;
        (model.added.break_up(text, Trust::Nothing, mark), Some(mark))
    } else {
        (text.into(), None)
    };
    model.added.encode(&model.tokenizer, &text, mark).map_err(|error| untokenizable(&error))
}

/// The tokens of texts that must not be generated: of each, those within a text and those after a
/// space, where these are others.
fn bad_words(model: &Model, words: &[String]) -> Result<Vec<TokenSequence>, ApiError> {
    let mut sequences: Vec<TokenSequence> = Vec::new();
    for (i, word) in words.iter().enumerate() {
        let param = || format!("bad_words[{i}]");
        let mut add = |text: &str| -> Result<(), ApiError> {
            let sequence = TokenSequence { tokens: plain(model, text, param)? };
            if !sequence.tokens.is_empty() && !sequences.contains(&sequence) {
                sequences.push(sequence);
            }
            Ok(())
        };
        add(word)?;
        let trimmed = word.trim_start();
        if !trimmed.is_empty() {
            add(&format!(" {trimmed}"))?;
        }
    }
    Ok(sequences)
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
