//! The one validator: every door's request becomes a [`GenerateRequest`] here, or an error that
//! names the parameter and the limit. Nothing is clamped. A request that did not pass can't be
//! generated from, because nothing else makes this type.

mod anthropic;
mod format;
mod functions;
pub(crate) mod inputs;
mod messages;
pub(crate) mod number;
mod options;
mod prompts;
pub(crate) mod responses;
mod sampling;
pub(crate) mod schema;
mod template;
#[cfg(test)]
mod tests;
pub(crate) mod tools;

use std::time::Instant;

use sconce_proto::worker::{ModelInfo, SamplingParams};

use crate::api::chat::request::ChatCompletionRequest;
use crate::api::completions::request::CompletionRequest;
use crate::api::messages::request::MessagesRequest;
use crate::api::responses::item::Item;
use crate::api::responses::request::ResponsesRequest;
use crate::config::Limits;
use crate::error::ApiError;
use crate::stream::ReportUsage;

use options::Bounds;

pub(crate) use messages::{Call, ChatMessage, Role};
pub(crate) use sampling::constrain;
pub(crate) use tools::Tools;

/// Completions' default for `max_tokens`, which OpenAI's users rely on.
const COMPLETIONS_MAX_TOKENS: u32 = 16;

/// Most log-probabilities of prompts in one answer: some megabytes of JSON.
const MAX_SCORES: usize = 256 << 10;

/// A request that this model can serve, if its prompts fit.
#[derive(Clone, Debug)]
pub(crate) struct GenerateRequest {
    /// What to continue.
    pub prompts: Prompts,
    /// Completions of each prompt.
    pub n: u32,
    /// Of those, how many of the likeliest are answered.
    pub num_kept: u32,
    /// What follows the completion of a text.
    pub suffix: Option<String>,
    /// How to sample. `max_tokens` is set by [`GenerateRequest::fit`], `bad_words` with the prompts'
    /// tokens.
    pub sampling: SamplingParams,
    /// The parameter that says what the text must be.
    pub grammar_param: Option<&'static str>,
    /// Texts that end a completion.
    pub stop: Vec<String>,
    /// Among the requests of one key: lower ones come first.
    pub priority: i32,
    /// Texts that must not be generated.
    pub bad_words: Vec<String>,
    /// What is part of a completion's text.
    pub text: TextRules,
    /// How to answer.
    pub reply: Reply,
    /// What is said of the request itself.
    pub reports: Reports,
    /// When it came.
    pub arrived: Instant,
    max_tokens: MaxTokens,
}

/// What is said of a request itself, beside its completions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reports {
    /// How much of the prompts is computed, after every step.
    pub progress: bool,
    /// How long everything took, at the end.
    pub timings: bool,
}

/// What is part of a completion's text, beside what tokens stand for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TextRules {
    /// The stop text that ended it.
    pub stop: bool,
    /// Special tokens.
    pub special: bool,
    /// The prompt before it.
    pub prompt: bool,
    /// Nothing but the prompt: no token is asked for.
    pub only_prompt: bool,
}

/// What to continue.
#[derive(Clone, Debug)]
pub(crate) enum Prompts {
    /// A conversation.
    Chat(Box<Chat>),
    /// Texts, at least one.
    Texts(Vec<String>),
    /// Tokens of the model, at least one prompt with at least one token each.
    Tokens(Vec<Vec<u32>>),
}

/// A conversation, and how its prompt is written.
#[derive(Clone, Debug)]
pub(crate) struct Chat {
    /// At least one.
    pub messages: Vec<ChatMessage>,
    /// What the model may call.
    pub tools: Tools,
    /// Where the prompt ends.
    pub end: PromptEnd,
    /// More of what the template may ask for: texts, numbers, booleans.
    pub variables: Vec<(String, serde_json::Value)>,
    /// The parameter that the messages come from.
    pub param: &'static str,
}

/// Where a conversation's prompt ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PromptEnd {
    /// Where the assistant's answer begins.
    Answer,
    /// After the last message.
    Message,
    /// In the last message, which goes on.
    OpenMessage,
}

/// How to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    /// As one object, or as events.
    pub mode: Mode,
    /// Log-probabilities of each token and so many alternatives.
    pub logprobs: Option<u32>,
    /// The same of the prompt's tokens.
    pub prompt_logprobs: Option<u32>,
    /// How calls are written.
    pub calls: CallStyle,
}

/// How an answer's calls are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CallStyle {
    /// As a list of tools' calls.
    #[default]
    Tools,
    /// As the one call of a function, for clients from before there were tools.
    Function,
}

/// As one object, or as events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// One JSON object.
    Whole,
    /// Server-sent events.
    Stream(ReportUsage),
}

#[derive(Clone, Copy, Debug)]
enum MaxTokens {
    /// What the client asks for.
    Exactly(u32),
    /// A default, and less where the context has less.
    UpTo(u32),
}

/// Validates a chat request.
pub(crate) fn chat(
    request: ChatCompletionRequest,
    info: &ModelInfo,
    limits: &Limits,
) -> Result<GenerateRequest, ApiError> {
    let bounds = Bounds { info, limits };
    let num_logprobs = match (request.logprobs, request.top_logprobs) {
        (true, top) => Some(top.unwrap_or(0)),
        (false, None) => None,
        (false, Some(_)) => {
            let message = "`top_logprobs` needs `logprobs` to be true";
            return Err(ApiError::invalid("top_logprobs", "invalid_value", message));
        }
    };
    let logprobs = bounds.logprobs("top_logprobs", num_logprobs)?;
    let max_tokens = match request.max_completion_tokens.or(request.options.max_tokens) {
        Some(max) => MaxTokens::Exactly(max),
        None => MaxTokens::UpTo(u32::MAX),
    };
    let messages = messages::parse(request.messages, limits)?;
    let end = template::end(request.add_generation_prompt, request.continue_final_message)?;
    let variables =
        template::variables(request.chat_template_kwargs, request.reasoning_effort.as_deref())?;
    // Some clients send an empty list beside their tools.
    let functions = request.functions.filter(|functions| !functions.is_empty());
    let is_deprecated = functions.is_some() || request.function_call.is_some();
    let (tools, calls) = if is_deprecated {
        if request.tools.is_some() || request.tool_choice.is_some() {
            let param = if functions.is_some() { "functions" } else { "function_call" };
            let message = format!("`{param}` can't be had with `tools`, which have replaced it");
            return Err(ApiError::invalid(param, "invalid_value", message));
        }
        let functions = functions.unwrap_or_default();
        (functions::parse(functions, request.function_call)?, CallStyle::Function)
    } else {
        let parallel = request.parallel_tool_calls;
        (tools::parse(request.tools, request.tool_choice, parallel)?, CallStyle::Tools)
    };
    let prompts =
        Prompts::Chat(Box::new(Chat { messages, tools, end, variables, param: "messages" }));
    let mut chat = bounds.request(request.options, prompts, (max_tokens, logprobs))?;
    chat.reply.calls = calls;
    Ok(chat)
}

/// Validates a text-completion request.
pub(crate) fn completions(
    request: CompletionRequest,
    info: &ModelInfo,
    limits: &Limits,
) -> Result<GenerateRequest, ApiError> {
    let bounds = Bounds { info, limits };
    let logprobs = bounds.logprobs("logprobs", request.logprobs)?;
    let only_prompt = request.echo && request.options.max_tokens == Some(0);
    let max_tokens = match request.options.max_tokens {
        // A prompt is computed for the token after it, which is then not part of the answer.
        Some(0) if only_prompt => MaxTokens::Exactly(1),
        Some(0) => {
            let message = "`max_tokens` is 0 and must be at least 1 without `echo`";
            return Err(ApiError::invalid("max_tokens", "integer_below_min_value", message));
        }
        Some(max) => MaxTokens::Exactly(max),
        None => MaxTokens::UpTo(COMPLETIONS_MAX_TOKENS),
    };
    let prompts = prompts::parse(request.prompt, &bounds)?;
    let mut completions = bounds.request(request.options, prompts, (max_tokens, logprobs))?;
    completions.text.prompt = request.echo;
    completions.text.only_prompt = only_prompt;
    if let Some(best_of) = request.best_of {
        bounds.best_of(&mut completions, best_of)?;
    }
    completions.suffix = request.suffix.filter(|suffix| !suffix.is_empty());
    if request.echo && completions.suffix.is_some() {
        let message = "`suffix` can't be had with `echo`";
        return Err(ApiError::invalid("suffix", "invalid_value", message));
    }
    if let (true, Some(num)) = (request.echo, logprobs) {
        let of_prompt = &mut completions.sampling.num_prompt_logprobs;
        *of_prompt = Some(of_prompt.unwrap_or(0).max(num));
    }
    Ok(completions)
}

/// Validates a request of Anthropic's Messages API, or one for a count of its tokens.
pub(crate) fn messages(
    mut request: MessagesRequest,
    info: &ModelInfo,
    limits: &Limits,
) -> Result<GenerateRequest, ApiError> {
    let bounds = Bounds { info, limits };
    let max_tokens = match request.max_tokens {
        Some(max) => MaxTokens::Exactly(max),
        None => MaxTokens::UpTo(1),
    };
    let stop = bounds.stop("stop_sequences", request.stop_sequences)?;
    let chat = anthropic::chat(&mut request.input, request.max_tokens, limits)?;
    let format = request.input.output_config.and_then(|config| config.format);
    let constraint = format.as_ref().map(format::output).transpose()?;
    let prompts = Prompts::Chat(Box::new(chat));
    let mut request = bounds.request(request.options, prompts, (max_tokens, None))?;
    request.constrain(constraint)?;
    Ok(GenerateRequest { stop, ..request })
}

/// Validates a request of the Responses API, or one for a count of its tokens. `items` are the
/// conversation that it continues and its own input.
pub(crate) fn response(
    request: &mut ResponsesRequest,
    items: &[Item],
    (info, limits): (&ModelInfo, &Limits),
) -> Result<GenerateRequest, ApiError> {
    let bounds = Bounds { info, limits };
    if request.stream_options.is_some() && !request.options.stream {
        let message = "`stream_options` needs `stream` to be true";
        return Err(ApiError::invalid("stream_options", "invalid_value", message));
    }
    let logprobs = responses::logprobs(request, &bounds)?;
    let max_tokens = match request.max_output_tokens {
        Some(max) => MaxTokens::Exactly(max),
        None => MaxTokens::UpTo(u32::MAX),
    };
    let text = responses::text(request.text.as_ref())?;
    let chat = responses::chat(request, items, limits)?;
    let options = std::mem::take(&mut request.options);
    if text.is_some() && options.structured_outputs.is_some() {
        let message = "`structured_outputs` and `text.format` can't both be given";
        return Err(ApiError::invalid("structured_outputs", "invalid_value", message));
    }
    let prompts = Prompts::Chat(Box::new(chat));
    let mut request = bounds.request(options, prompts, (max_tokens, logprobs))?;
    request.constrain(text)?;
    Ok(request)
}

impl GenerateRequest {
    /// Adds what the text must be.
    fn constrain(&mut self, constraint: Option<format::Constraint>) -> Result<(), ApiError> {
        let Some(constraint) = constraint else { return Ok(()) };
        self.grammar_param = Some(constraint.param);
        sampling::constrain(&mut self.sampling, (constraint.param, constraint.grammar))
    }

    /// The parameter that prompts come from.
    pub(crate) fn prompt_param(&self) -> &'static str {
        match &self.prompts {
            Prompts::Chat(chat) => chat.param,
            Prompts::Texts(_) | Prompts::Tokens(_) => "prompt",
        }
    }

    /// Whether the log-probabilities of so many prompt tokens are not too many.
    pub(crate) fn check_scores(&self, num_prompt: usize) -> Result<(), ApiError> {
        let Some(num) = self.sampling.num_prompt_logprobs else { return Ok(()) };
        let each = (num as usize + 1) * self.n as usize;
        let given = num_prompt.saturating_mul(each);
        if given <= MAX_SCORES {
            return Ok(());
        }
        let param =
            if self.reply.prompt_logprobs.is_some() { "prompt_logprobs" } else { "logprobs" };
        let message = format!(
            "`{param}` asks for {given} numbers of {num_prompt} prompt tokens, and an answer may have \
             {MAX_SCORES}"
        );
        Err(ApiError::invalid(param, "integer_above_max_value", message))
    }

    /// The sampling parameters for a prompt of so many tokens, if prompt and completion fit into
    /// the model's context together.
    pub(crate) fn fit(
        &self,
        num_prompt: usize,
        info: &ModelInfo,
    ) -> Result<SamplingParams, ApiError> {
        let context = u64::from(context(info));
        let given = num_prompt as u64;
        let asked = match self.max_tokens {
            MaxTokens::Exactly(max) => u64::from(max),
            // A prompt needs room for one token at least.
            MaxTokens::UpTo(_) => 1,
        };
        if given + asked > context {
            let param = self.prompt_param();
            let message = format!(
                "the model's context is {context} tokens; the {param} have {given} and the \
                 completion may have {asked}"
            );
            return Err(ApiError::invalid(param, "context_length_exceeded", message));
        }
        let left = context - given;
        let max_tokens = match self.max_tokens {
            MaxTokens::Exactly(max) => max,
            MaxTokens::UpTo(max) => u32::try_from(left).unwrap_or(max).min(max),
        };
        if self.sampling.min_tokens > max_tokens {
            let message = format!(
                "`min_tokens` is {} and at most {max_tokens} tokens will be generated",
                self.sampling.min_tokens
            );
            return Err(ApiError::invalid("min_tokens", "integer_above_max_value", message));
        }
        Ok(SamplingParams { max_tokens, ..self.sampling.clone() })
    }
}

/// Tokens that one sequence can have: the model's limit, or the whole cache where that is smaller.
pub(crate) fn context(info: &ModelInfo) -> u32 {
    match info.num_blocks.saturating_mul(info.block_size) {
        // A worker that does not page.
        0 => info.max_model_len,
        capacity => info.max_model_len.min(capacity),
    }
}
