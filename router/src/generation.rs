//! The text of a request's completions, as the workers' tokens arrive.
//!
//! Dropping a [`TextStream`] cancels what is still being generated.

mod calls;
mod choice;
mod meter;
mod report;
mod scores;

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::future::BoxFuture;
use sconce_proto::worker::{Finish, TokenOutput};

use crate::app::{App, Principal};
use crate::dispatch::{self, Outputs, Unanswered};
use crate::error::ApiError;
use crate::metrics::OpenStream;
use crate::model::Model;
use crate::prompt::Encoded;
use crate::routing::{Hold, Target};
use crate::shadow::{self, Original};
use crate::validate::{GenerateRequest, Prompts, TextRules};
use choice::Choice;
use meter::Meter;

pub(crate) use calls::{CallIds, Reading};
pub use choice::TokenLogprob;
pub use report::{Progress, Report, Timings};
pub use scores::Scores;

/// Every completion of a request, merged.
pub struct TextStream {
    model: Arc<Model>,
    /// One for each prompt.
    sources: Vec<Source>,
    /// Lets a prompt wait that no worker has answered.
    hold: Option<Arc<Hold>>,
    /// One for each prompt.
    scores: Vec<Scores>,
    /// Whose turn it is, so that no prompt waits for another.
    turn: usize,
    /// Completion `k` of prompt `p` is `p * n + k`.
    choices: Vec<Choice>,
    n: usize,
    stop: Vec<String>,
    text: TextRules,
    num_logprobs: Option<u32>,
    /// For errors.
    grammar_param: Option<&'static str>,
    usage: TokenUsage,
    meter: Meter,
    /// Computed tokens of each prompt.
    num_computed: Vec<u64>,
    /// Whose copy is compared with this.
    original: Option<Original>,
    /// Whether the last delta has yet to say how long everything took.
    owes_timings: bool,
}

/// Where the outputs of a prompt come from.
enum Source {
    /// From a worker.
    Worker(Outputs),
    /// From none yet.
    Held(BoxFuture<'static, Result<Outputs, dispatch::Error>>),
    /// All its completions have ended.
    Ended,
}

/// What one step adds to one completion.
#[derive(Debug, Default)]
pub struct Delta {
    /// Which completion.
    pub choice: u32,
    /// More text.
    pub text: String,
    /// More of what the model thinks before it answers.
    pub reasoning: String,
    /// More of its calls.
    pub calls: Vec<CallDelta>,
    /// The tokens of that text, if they were asked for.
    pub logprobs: Vec<TokenLogprob>,
    /// Set on the last delta of a completion.
    pub finish: Option<FinishReason>,
    /// What is said of the request itself; then there is nothing of a completion.
    pub report: Option<Report>,
}

/// What is new of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallDelta {
    /// It begins.
    Start {
        /// Which of the completion's calls.
        index: usize,
        /// Its id.
        id: String,
        /// What is called.
        name: String,
    },
    /// Its arguments go on.
    Arguments {
        /// Which of the completion's calls.
        index: usize,
        /// More of their JSON.
        fragment: String,
    },
}

/// Why a completion ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// An end token, or the end of a grammar.
    Stop,
    /// The stop text of this number among the request's.
    StopText(usize),
    /// The most tokens that were asked for, or the end of the context.
    Length,
    /// The model has called tools.
    ToolCalls,
}

/// Tokens that a request has cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenUsage {
    /// Tokens of its prompts.
    pub num_prompt: u64,
    /// Of those, tokens found in the prefix cache.
    pub num_cached: u64,
    /// Tokens of its completions.
    pub num_completion: u64,
    /// Of those, tokens of the model's reasoning.
    pub num_reasoning: u64,
}

impl FinishReason {
    /// As OpenAI names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop | Self::StopText(_) => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
        }
    }
}

impl TextStream {
    /// Sends every prompt of a request to a worker.
    pub(crate) fn start(
        (app, principal): (&App, &Principal),
        target: &Target,
        Encoded { request, prompts, .. }: Encoded,
        reading: Option<&Reading>,
    ) -> Result<Self, ApiError> {
        let model = Arc::clone(&target.model);
        // Nothing is sent before everything is known to fit.
        let fits: Result<Vec<_>, _> =
            prompts.iter().map(|prompt| request.fit(prompt.len(), &model.info)).collect();
        request.check_scores(prompts.iter().map(Vec::len).sum())?;
        let fits = fits?;
        let n = request.n as usize;
        let num_choices = prompts.len() * n;
        let mut meter = Meter::new(&model, num_choices, request.arrived);
        let mut usage = TokenUsage::default();
        let mut sources = Vec::with_capacity(prompts.len());
        let mut scores = Vec::with_capacity(prompts.len());
        for (prompt, sampling) in prompts.into_iter().zip(fits) {
            usage.num_prompt += prompt.len() as u64;
            scores.push(Scores::new(prompt.first().copied().unwrap_or_default()));
            meter.accepted(prompt.len(), sampling.max_tokens, request.n);
            let cache_salt = principal.cache_salt;
            let (n, report_progress) = (request.n, request.reports.progress);
            let priority = principal.urgency.priority(request.priority);
            let generation =
                dispatch::Generation { prompt, n, sampling, cache_salt, report_progress, priority };
            let prepared = app.dispatcher.prepare(&model, generation);
            let source = prepared.and_then(|unsent| Source::new(unsent, target.hold.as_ref()));
            sources.push(source.inspect_err(|error| meter.failed(error))?);
        }
        let num_logprobs = request.reply.logprobs;
        let with_logprobs = num_logprobs.is_some();
        let echoes = echoes(&model, &request);
        let choice = |i: usize| match echoes.get(i / n) {
            Some(prompt) => Choice::after(prompt.clone(), with_logprobs),
            None => Choice::new(with_logprobs, reading),
        };
        let choices = (0..num_choices).map(choice).collect();
        let original = shadow::begin((app, principal), target, &request, (reading, num_choices));
        let GenerateRequest { stop, text, grammar_param, reports, .. } = request;
        Ok(Self {
            num_computed: vec![0; sources.len()],
            original,
            owes_timings: reports.timings,
            turn: 0,
            model,
            sources,
            hold: target.hold.clone(),
            scores,
            choices,
            n,
            stop,
            text,
            num_logprobs,
            grammar_param,
            usage,
            meter,
        })
    }

    /// How many completions there are.
    pub fn num_choices(&self) -> u32 {
        self.choices.len() as u32
    }

    /// The prompt's tokens of a completion, where they were asked for.
    pub(crate) fn scores(&self, choice: usize) -> Option<&Scores> {
        self.scores.get(choice.checked_div(self.n)?)
    }

    /// The `num` likeliest completions of each prompt by their tokens' mean, in that order.
    pub(crate) fn likeliest(&self, num: usize) -> Vec<usize> {
        let mean = |choice: usize| self.choices.get(choice).map(Choice::mean_logprob);
        let mut kept = Vec::new();
        for first in (0..self.choices.len()).step_by(self.n.max(1)) {
            let mut choices: Vec<_> = (first..first + self.n).collect();
            choices.sort_by(|a, b| {
                mean(*b).partial_cmp(&mean(*a)).unwrap_or(std::cmp::Ordering::Equal)
            });
            kept.extend(choices.into_iter().take(num));
        }
        kept
    }

    /// Counts this as an open event stream until the guard is dropped.
    pub(crate) fn opened(&self) -> OpenStream {
        self.meter.stream_opened()
    }

    /// Tokens so far.
    pub fn usage(&self) -> TokenUsage {
        self.usage
    }

    /// How long everything took so far.
    pub fn timings(&self) -> Timings {
        self.meter.timings()
    }

    /// Waits for the next delta. Nothing follows an error, or the end of the last completion.
    pub async fn next(&mut self) -> Option<Result<Delta, ApiError>> {
        let mut delta = Delta::default();
        let next = std::future::poll_fn(|cx| self.poll_next(cx, &mut delta)).await;
        next.map(|result| result.map(|()| delta))
    }

    /// Puts the next delta into `delta`.
    pub(crate) fn poll_next(
        &mut self,
        cx: &mut Context,
        delta: &mut Delta,
    ) -> Poll<Option<Result<(), ApiError>>> {
        loop {
            let (source, output) = match self.poll_output(cx) {
                Poll::Ready(Some((source, output))) => {
                    (source, output.map(|output| self.text.only(output)))
                }
                Poll::Ready(None) if std::mem::take(&mut self.owes_timings) => {
                    delta.clear();
                    delta.report = Some(Report::Timings(self.timings()));
                    return Poll::Ready(Some(Ok(())));
                }
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            };
            let taken = output.and_then(|output| self.take(source, output, delta));
            match taken {
                Ok(true) => {
                    if let Some(original) = &mut self.original {
                        original.add(delta);
                    }
                    return Poll::Ready(Some(Ok(())));
                }
                Ok(false) => {}
                Err(error) => {
                    self.meter.failed(&error);
                    // The other prompts are of no use without this one.
                    self.sources.clear();
                    self.owes_timings = false;
                    return Poll::Ready(Some(Err(self.explain(error))));
                }
            }
        }
    }

    /// The error, with the parameter that it is about.
    fn explain(&self, error: dispatch::Error) -> ApiError {
        match (error, self.grammar_param) {
            (dispatch::Error::Grammar(reason), Some(param)) => {
                let message = format!("`{param}` can't be enforced: {reason}");
                ApiError::invalid(param, "invalid_grammar", message)
            }
            (error, _) => error.into(),
        }
    }

    /// The next output of any prompt, and which one's.
    fn poll_output(
        &mut self,
        cx: &mut Context,
    ) -> Poll<Option<(usize, Result<TokenOutput, dispatch::Error>)>> {
        let num_sources = self.sources.len();
        let mut is_over = true;
        for step in 0..num_sources {
            let i = (self.turn + step) % num_sources;
            let Some(source) = self.sources.get_mut(i) else { continue };
            is_over &= matches!(source, Source::Ended);
            if let Poll::Ready(Some(output)) = source.poll_next(cx, self.hold.as_ref()) {
                self.turn = i + 1;
                return Poll::Ready(Some((i, output)));
            }
        }
        if is_over { Poll::Ready(None) } else { Poll::Pending }
    }

    /// Adds an output to its completion. Whether `delta` has something to say.
    fn take(
        &mut self,
        source: usize,
        mut output: TokenOutput,
        delta: &mut Delta,
    ) -> Result<bool, dispatch::Error> {
        if !output.prompt_logprobs.is_empty() {
            let scores = self.scores.get_mut(source).map(|scores| &mut scores.rest);
            scores.into_iter().for_each(|scores| scores.append(&mut output.prompt_logprobs));
            if output.token.is_none() && output.finish() == Finish::NotFinished {
                return Ok(false);
            }
        }
        let first = source * self.n;
        let index = output.index as usize;
        let choice = (index < self.n).then(|| self.choices.get_mut(first + index)).flatten();
        let Some(choice) = choice else {
            tracing::error!(index, "a worker sent a token of a completion that does not exist");
            return Err(dispatch::Error::WorkerLost);
        };
        if choice.is_finished() {
            return Ok(false);
        }
        if let (0, Some(num_cached)) = (index, output.num_cached) {
            self.usage.num_cached += u64::from(num_cached);
            self.meter.cached(num_cached);
        }
        if let (0, Some(queue_us)) = (index, output.queue_us) {
            self.meter.queued(Duration::from_micros(queue_us.into()));
        }
        if let (Some(num_computed), None, Finish::NotFinished) =
            (output.num_computed, output.token, output.finish())
        {
            delta.clear();
            delta.report = self.progress(source, num_computed);
            return Ok(delta.report.is_some());
        }
        if output.token.is_some() {
            self.usage.num_completion += 1;
            self.meter.token(first + index);
        }
        delta.choice = (first + index) as u32;
        delta.clear();
        if let (Some(prompt), Some(scores)) = (choice.scored_prompt(), self.scores.get(source)) {
            let how = (prompt, self.num_logprobs.unwrap_or(0) as usize);
            delta.logprobs = scores.tokens(how, &self.model.tokens);
        }
        let rules = (&self.model.tokens, &*self.stop, self.text);
        delta.finish = choice.take(&output, rules, delta)?;
        if output.token.is_some() && !delta.reasoning.is_empty() {
            self.usage.num_reasoning += 1;
        }
        if let Some(reason) = delta.finish {
            self.meter.finished(first + index, reason);
            let siblings = self.choices.get(first..first + self.n).unwrap_or_default();
            if siblings.iter().all(Choice::is_finished)
                && let Some(source) = self.sources.get_mut(source)
            {
                *source = Source::Ended;
            }
        }
        Ok(delta.finish.is_some() || !delta.is_empty())
    }

    /// What there is to say when so much of a prompt is computed. Less than before, after a
    /// preemption, is not worth a word.
    fn progress(&mut self, source: usize, num_computed: u32) -> Option<Report> {
        let known = self.num_computed.get_mut(source)?;
        if u64::from(num_computed) <= *known {
            return None;
        }
        *known = num_computed.into();
        Some(Report::Progress(Progress {
            num_prompt: self.usage.num_prompt,
            num_cached: self.usage.num_cached,
            num_computed: self.num_computed.iter().sum::<u64>().min(self.usage.num_prompt),
            since_arrival: self.meter.since_arrival(),
        }))
    }
}

impl Source {
    /// Sends a prompt to a worker, now or when there is one.
    fn new(unsent: Box<Unanswered>, hold: Option<&Arc<Hold>>) -> Result<Self, dispatch::Error> {
        match (unsent.send(), hold) {
            (Ok(outputs), _) => Ok(Self::Worker(outputs)),
            (Err((error, unsent)), Some(hold)) => {
                Ok(Self::Held(Arc::clone(hold).resend(unsent, error)))
            }
            (Err((error, _)), None) => Err(error),
        }
    }

    /// The next output; nothing after the last.
    fn poll_next(
        &mut self,
        cx: &mut Context,
        hold: Option<&Arc<Hold>>,
    ) -> Poll<Option<Result<TokenOutput, dispatch::Error>>> {
        loop {
            *self = match self {
                Self::Ended => return Poll::Ready(None),
                Self::Held(sent) => match ready!(sent.as_mut().poll(cx)) {
                    Ok(outputs) => Self::Worker(outputs),
                    Err(error) => {
                        *self = Self::Ended;
                        return Poll::Ready(Some(Err(error)));
                    }
                },
                Self::Worker(outputs) => {
                    // A receive on a channel: dropping it loses neither an output nor the wake-up.
                    let next = ready!(pin!(outputs.next()).poll(cx));
                    // Every completion reports its end before the outputs end.
                    let output = next.unwrap_or(Err(dispatch::Error::WorkerLost));
                    let unanswered = outputs.take_unanswered();
                    match (output, unanswered, hold) {
                        (Err(error), Some(unanswered), Some(hold)) => {
                            Self::Held(Arc::clone(hold).resend(unanswered, error))
                        }
                        (output, ..) => return Poll::Ready(Some(output)),
                    }
                }
            };
        }
    }
}

impl TextRules {
    /// An output without what is not part of the text: all of it where only the prompt is.
    fn only(self, output: TokenOutput) -> TokenOutput {
        if !self.only_prompt || output.token.is_none() {
            return output;
        }
        let finish = Finish::Length.into();
        TokenOutput { token: None, logprobs: None, finish, ..output }
    }
}

/// The texts of the prompts, where completions begin with them.
fn echoes(model: &Model, request: &GenerateRequest) -> Vec<String> {
    let text = |tokens: &Vec<u32>| {
        let bytes = tokens.iter().flat_map(|token| model.tokens.bytes(*token)).copied();
        String::from_utf8_lossy(&bytes.collect::<Vec<_>>()).into_owned()
    };
    match &request.prompts {
        Prompts::Texts(texts) if request.text.prompt => texts.clone(),
        Prompts::Tokens(prompts) if request.text.prompt => prompts.iter().map(text).collect(),
        Prompts::Texts(_) | Prompts::Tokens(_) | Prompts::Chat(_) => Vec::new(),
    }
}

impl Delta {
    fn clear(&mut self) {
        self.text.clear();
        self.reasoning.clear();
        self.calls.clear();
        self.logprobs.clear();
        self.finish = None;
        self.report = None;
    }

    fn is_empty(&self) -> bool {
        self.text.is_empty()
            && self.reasoning.is_empty()
            && self.calls.is_empty()
            && self.logprobs.is_empty()
    }
}
