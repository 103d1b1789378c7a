//! What every door takes beside the prompt, compared with the model and the limits.

use std::time::Instant;

use sconce_proto::worker::ModelInfo;

use super::{
    CallStyle, GenerateRequest, MaxTokens, Mode, Prompts, Reply, Reports, TextRules, format,
    sampling,
};
use crate::api::options::{Options, StreamOptions};
use crate::config::Limits;
use crate::error::ApiError;
use crate::stream::ReportUsage;

/// Most texts of `bad_words`, and bytes of one.
const MAX_BAD_WORDS: usize = 128;
const MAX_BAD_WORD_BYTES: usize = 256;

/// What a request is compared with.
pub(super) struct Bounds<'a> {
    pub(super) info: &'a ModelInfo,
    pub(super) limits: &'a Limits,
}

impl Bounds<'_> {
    pub(super) fn request(
        &self,
        mut options: Options,
        prompts: Prompts,
        (mut max_tokens, logprobs): (MaxTokens, Option<u32>),
    ) -> Result<GenerateRequest, ApiError> {
        if let Some(defaults) = &self.info.sampling_defaults {
            options.sampling.fill(defaults);
            if let (MaxTokens::UpTo(_), Some(max)) = (max_tokens, defaults.max_tokens) {
                max_tokens = MaxTokens::UpTo(max);
            }
        }
        let mut sampling = sampling::lower(&options.sampling, self)?;
        sampling.num_logprobs = logprobs;
        let prompt_logprobs = self.logprobs("prompt_logprobs", options.prompt_logprobs)?;
        sampling.num_prompt_logprobs = prompt_logprobs;
        if options.stream && prompt_logprobs.is_some() {
            let message = "`prompt_logprobs` can't be had with `stream`";
            return Err(ApiError::invalid("prompt_logprobs", "invalid_value", message));
        }
        let constraint = format::lower(options.response_format, options.structured_outputs)?;
        let grammar_param = constraint.as_ref().map(|constraint| constraint.param);
        if let Some(constraint) = constraint {
            sampling::constrain(&mut sampling, (constraint.param, constraint.grammar))?;
        }
        if let MaxTokens::Exactly(max) = max_tokens
            && sampling.min_tokens > max
        {
            let message = format!(
                "`min_tokens` is {} and must be at most the {max} of `max_tokens`",
                sampling.min_tokens
            );
            return Err(ApiError::invalid("min_tokens", "integer_above_max_value", message));
        }
        let n = self.n("n", options.n)?;
        Ok(GenerateRequest {
            n,
            num_kept: n,
            suffix: None,
            priority: options.priority,
            stop: self.stop("stop", options.stop)?,
            bad_words: texts("bad_words", options.bad_words, MAX_BAD_WORDS, MAX_BAD_WORD_BYTES)?,
            text: TextRules {
                stop: options.include_stop,
                special: options.skip_special_tokens == Some(false),
                prompt: false,
                only_prompt: false,
            },
            reply: Reply {
                mode: mode(options.stream, options.stream_options)?,
                logprobs,
                prompt_logprobs,
                calls: CallStyle::Tools,
            },
            reports: Reports {
                progress: options
                    .stream_options
                    .is_some_and(|options| options.include_progress == Some(true)),
                timings: options.include_timings,
            },
            arrived: Instant::now(),
            prompts,
            sampling,
            grammar_param,
            max_tokens,
        })
    }

    fn n(&self, param: &str, n: Option<u32>) -> Result<u32, ApiError> {
        let n = n.unwrap_or(1);
        let max = self.limits.max_n.min(self.info.max_num_seqs.max(1));
        if n <= max {
            return Ok(n);
        }
        let message = format!("`{param}` is {n} and must be at most {max}");
        Err(ApiError::invalid(param, "integer_above_max_value", message))
    }

    /// Has more completions generated than are answered.
    pub(super) fn best_of(
        &self,
        request: &mut GenerateRequest,
        best_of: u32,
    ) -> Result<(), ApiError> {
        let n = request.num_kept;
        if best_of < n {
            let message = format!("`best_of` is {best_of} and must be at least the {n} of `n`");
            return Err(ApiError::invalid("best_of", "integer_below_min_value", message));
        }
        request.n = self.n("best_of", Some(best_of))?;
        if best_of > n {
            if request.reply.mode != Mode::Whole {
                let message = "`best_of` above `n` can't be had with `stream`";
                return Err(ApiError::invalid("best_of", "invalid_value", message));
            }
            request.sampling.num_logprobs.get_or_insert(0);
        }
        Ok(())
    }

    pub(super) fn logprobs(&self, param: &str, num: Option<u32>) -> Result<Option<u32>, ApiError> {
        let max = self.info.max_logprobs;
        match num {
            Some(num) if num > max => {
                let message = format!("`{param}` is {num} and must be at most {max}");
                Err(ApiError::invalid(param, "integer_above_max_value", message))
            }
            num => Ok(num),
        }
    }

    /// The texts that end a completion: the model's, where the request has none.
    pub(super) fn stop(&self, param: &str, stop: Vec<String>) -> Result<Vec<String>, ApiError> {
        if let (true, Some(defaults)) = (stop.is_empty(), &self.info.sampling_defaults) {
            return Ok(defaults.stop.clone());
        }
        let Limits { max_stop, max_stop_bytes, .. } = *self.limits;
        texts(param, stop, max_stop, max_stop_bytes)
    }
}

/// So many texts, none of them empty or longer than so many bytes.
fn texts(
    param: &str,
    texts: Vec<String>,
    max: usize,
    max_bytes: usize,
) -> Result<Vec<String>, ApiError> {
    if texts.len() > max {
        let message = format!("`{param}` has {} texts and may have {max}", texts.len());
        return Err(ApiError::invalid(param, "array_above_max_length", message));
    }
    for (i, text) in texts.iter().enumerate() {
        let param = format!("{param}[{i}]");
        if text.is_empty() {
            let message = format!("`{param}` is empty");
            return Err(ApiError::invalid(param, "empty_string", message));
        }
        if text.len() > max_bytes {
            let num_bytes = text.len();
            let message = format!("`{param}` has {num_bytes} bytes and may have {max_bytes}");
            return Err(ApiError::invalid(param, "string_above_max_length", message));
        }
    }
    Ok(texts)
}

fn mode(stream: bool, options: Option<StreamOptions>) -> Result<Mode, ApiError> {
    let options = match (stream, options) {
        (true, options) => options.unwrap_or_default(),
        (false, None) => return Ok(Mode::Whole),
        (false, Some(_)) => {
            let message = "`stream_options` needs `stream` to be true";
            return Err(ApiError::invalid("stream_options", "invalid_value", message));
        }
    };
    let is_on = |option: Option<bool>| option.unwrap_or(false);
    Ok(Mode::Stream(match (is_on(options.include_usage), is_on(options.continuous_usage_stats)) {
        (true, false) => ReportUsage::AtEnd,
        (_, true) => ReportUsage::Always,
        (false, false) => ReportUsage::Never,
    }))
}
