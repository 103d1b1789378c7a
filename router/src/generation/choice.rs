//! One completion: its tokens' text, up to where a stop text begins, and what that text is.

use std::collections::VecDeque;

use sconce_proto::worker::{Finish, TokenOutput};

use super::calls::Calls;
use super::{Delta, FinishReason, Reading};
use crate::detokenizer::{Detokenizer, TokenTable};
use crate::dispatch::Error;
use crate::stop::{Scan, scan};
use crate::validate::TextRules;

/// A token and how likely it was.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub token: u32,
    /// Its log-probability; none of a prompt's first, which follows nothing.
    pub logprob: Option<f32>,
    /// The likeliest tokens, best first.
    pub top: Vec<(u32, f32)>,
    /// Where its text begins in the completion, in characters.
    pub offset: usize,
}

/// The state of one completion.
pub(super) struct Choice {
    detokenizer: Detokenizer,
    /// Text that was not sent yet: it may be the beginning of a stop text.
    held: String,
    logprobs: Option<Logprobs>,
    /// Takes the text apart, where it may be more than text.
    calls: Option<Calls>,
    /// What the text begins with.
    prompt: Option<String>,
    is_finished: bool,
    /// Of its tokens, as far as their log-probabilities came.
    likelihood: Likelihood,
}

/// How likely a completion's tokens were together.
#[derive(Clone, Copy, Debug, Default)]
struct Likelihood {
    sum: f64,
    num_tokens: u32,
}

/// Log-probabilities of tokens whose text is still held back.
#[derive(Default)]
struct Logprobs {
    waiting: VecDeque<(TokenLogprob, Span)>,
    /// Of the text that the tokens make.
    num_bytes: usize,
    num_chars: usize,
    /// Of the text that was sent.
    num_sent: usize,
}

/// Bytes of the completion's text.
struct Span {
    start: usize,
    end: usize,
}

impl Choice {
    pub(super) fn new(with_logprobs: bool, reading: Option<&Reading>) -> Self {
        Self {
            detokenizer: Detokenizer::default(),
            held: String::new(),
            logprobs: with_logprobs.then(Logprobs::default),
            calls: reading.map(Calls::new),
            prompt: None,
            is_finished: false,
            likelihood: Likelihood::default(),
        }
    }

    /// One whose text begins with its prompt.
    pub(super) fn after(prompt: String, with_logprobs: bool) -> Self {
        let logprobs = with_logprobs.then(|| Logprobs {
            num_bytes: prompt.len(),
            num_chars: prompt.chars().count(),
            ..Logprobs::default()
        });
        Self { prompt: Some(prompt), logprobs, ..Self::new(false, None) }
    }

    /// The prompt, where it is yet to be sent with its tokens.
    pub(super) fn scored_prompt(&self) -> Option<&str> {
        self.logprobs.as_ref().and(self.prompt.as_deref())
    }

    /// The mean log-probability of its tokens; of none, as of impossible ones.
    pub(super) fn mean_logprob(&self) -> f64 {
        let Likelihood { sum, num_tokens } = self.likelihood;
        if num_tokens == 0 { f64::NEG_INFINITY } else { sum / f64::from(num_tokens) }
    }

    pub(super) fn is_finished(&self) -> bool {
        self.is_finished
    }

    /// Adds an output, and puts what can be sent of it into `delta`.
    pub(super) fn take(
        &mut self,
        output: &TokenOutput,
        (tokens, stop, rules): (&TokenTable, &[String], TextRules),
        delta: &mut Delta,
    ) -> Result<Option<FinishReason>, Error> {
        let finish = match output.finish() {
            Finish::NotFinished => None,
            Finish::StopToken | Finish::GrammarEnd => Some(FinishReason::Stop),
            Finish::GrammarLimit => return Err(Error::GrammarLimit),
            Finish::BadWord => return Err(Error::BadWord),
            Finish::Length => Some(FinishReason::Length),
            Finish::Deadline => return Err(Error::Deadline),
            // Only we cancel, and then nobody listens.
            Finish::Cancelled => return Err(Error::WorkerLost),
        };
        if let Some(logprobs) = &output.logprobs {
            self.likelihood.sum += f64::from(logprobs.logprob);
            self.likelihood.num_tokens += 1;
        }
        delta.text.push_str(&self.prompt.take().unwrap_or_default());
        // A token that ended the completion is not part of its text.
        let token = output.token.filter(|_| output.finish() != Finish::StopToken);
        if let Some(token) = token {
            let start = self.held.len();
            let is_marker = self.calls.as_ref().is_some_and(|calls| calls.is_marker(token));
            let text =
                if is_marker || rules.special { tokens.bytes(token) } else { tokens.text(token) };
            self.detokenizer.push(text, &mut self.held);
            if let Some(logprobs) = &mut self.logprobs {
                logprobs.push(token, output, self.held.get(start..).unwrap_or_default());
            }
        }
        if finish.is_some() {
            self.detokenizer.finish(&mut self.held);
        }
        let mut finish = match scan(stop, &mut self.held, &mut delta.text) {
            Scan::Stopped(i) => {
                let stop = stop.get(i).filter(|_| rules.stop);
                delta.text.push_str(stop.map_or("", String::as_str));
                Some(FinishReason::StopText(i))
            }
            Scan::Open => finish,
        };
        if finish.is_some() {
            delta.text.push_str(&std::mem::take(&mut self.held));
        }
        if let Some(logprobs) = &mut self.logprobs {
            logprobs.release(finish, delta);
        }
        if let Some(calls) = &mut self.calls {
            finish = calls.take_apart(delta, finish);
        }
        self.is_finished = finish.is_some();
        Ok(finish)
    }
}

impl Logprobs {
    fn push(&mut self, token: u32, output: &TokenOutput, text: &str) {
        let (start, offset) = (self.num_bytes, self.num_chars);
        self.num_bytes += text.len();
        self.num_chars += text.chars().count();
        let Some(logprobs) = &output.logprobs else { return };
        let top = logprobs.top.iter().map(|top| (top.token, top.logprob)).collect();
        let logprob = TokenLogprob { token, logprob: Some(logprobs.logprob), top, offset };
        self.waiting.push_back((logprob, Span { start, end: self.num_bytes }));
    }

    /// Moves the tokens whose text was sent into `delta`. Of a token that runs into a stop text
    /// the beginning was sent; tokens after it are dropped.
    fn release(&mut self, finish: Option<FinishReason>, delta: &mut Delta) {
        self.num_sent += delta.text.len();
        while let Some((_, span)) = self.waiting.front() {
            let is_sent = span.end <= self.num_sent;
            let is_begun = finish.is_some() && span.start < self.num_sent;
            if !is_sent && !is_begun {
                break;
            }
            delta.logprobs.extend(self.waiting.pop_front().map(|(logprob, _)| logprob));
        }
    }
}
