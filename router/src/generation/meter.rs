//! What a request's generation adds to the metrics.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{FinishReason, Timings};
use crate::dispatch::Error;
use crate::metrics::{self, Finished, InFlight, ModelMetrics, OpenStream, Rejection, Totals};
use crate::model::Model;

/// Measures one request.
pub(super) struct Meter {
    metrics: Arc<ModelMetrics>,
    totals: Arc<Totals>,
    _in_flight: InFlight,
    arrived: Instant,
    choices: Vec<Times>,
    /// The longest wait of a prompt for its first step.
    queue: Option<Duration>,
    /// How completions that are still running at the end will have ended.
    otherwise: Finished,
}

/// Of one completion.
#[derive(Clone, Copy, Default)]
struct Times {
    first: Option<Instant>,
    last: Option<Instant>,
    num_tokens: usize,
    is_finished: bool,
}

impl Meter {
    pub(super) fn new(model: &Model, num_choices: usize, arrived: Instant) -> Self {
        Self {
            metrics: metrics::of(&model.info.model, model.version_name()),
            totals: Arc::clone(&model.totals),
            _in_flight: model.totals.begin(),
            arrived,
            choices: vec![Times::default(); num_choices],
            queue: None,
            otherwise: Finished::Abort,
        }
    }

    pub(super) fn accepted(&self, num_prompt: usize, max_tokens: u32, n: u32) {
        self.metrics.accepted(num_prompt, max_tokens, n);
    }

    pub(super) fn cached(&self, num_tokens: u32) {
        self.metrics.cached(num_tokens as usize);
    }

    /// A completion's first step began so long after the worker had taken it.
    pub(super) fn queued(&mut self, wait: Duration) {
        self.metrics.queued(wait);
        self.totals.queued(wait);
        self.queue = self.queue.max(Some(wait));
    }

    pub(super) fn since_arrival(&self) -> Duration {
        self.arrived.elapsed()
    }

    pub(super) fn timings(&self) -> Timings {
        let since_arrival = |at: Instant| at.saturating_duration_since(self.arrived);
        let decode: Duration = self.choices.iter().map(|times| times.took()).sum();
        let num_next: usize =
            self.choices.iter().map(|times| times.num_tokens.saturating_sub(1)).sum();
        Timings {
            queue: self.queue,
            ttft: self.choices.iter().filter_map(|times| times.first).min().map(since_arrival),
            tpot: (num_next > 0).then(|| decode.div_f64(num_next as f64)),
            e2e: self.choices.iter().filter_map(|times| times.last).max().map(since_arrival),
        }
    }

    pub(super) fn token(&mut self, choice: usize) {
        let is_first = self.choices.iter().all(|times| times.first.is_none());
        let Some(times) = self.choices.get_mut(choice) else { return };
        let now = Instant::now();
        self.totals.token();
        if is_first {
            self.totals.first_token(now - self.arrived);
        }
        match times.last {
            None => self.metrics.first_token(now - self.arrived),
            Some(last) => self.metrics.next_token(now - last),
        }
        times.first.get_or_insert(now);
        times.last = Some(now);
        times.num_tokens += 1;
    }

    pub(super) fn finished(&mut self, choice: usize, reason: FinishReason) {
        let reason = match reason {
            FinishReason::Stop | FinishReason::StopText(_) | FinishReason::ToolCalls => {
                Finished::Stop
            }
            FinishReason::Length => Finished::Length,
        };
        let Some(times) = self.choices.get_mut(choice) else { return };
        times.is_finished = true;
        self.metrics.completed(reason, times.num_tokens, times.took());
        if self.choices.iter().all(|times| times.is_finished) {
            self.metrics.answered(self.arrived.elapsed());
        }
    }

    pub(super) fn failed(&mut self, error: &Error) {
        self.otherwise = Finished::Error;
        if error.is_failure() {
            self.totals.failed();
            self.metrics.failed();
        }
        let is_before_any_token = self.choices.iter().all(|times| times.first.is_none());
        let rejection = match error {
            Error::NoWorker { .. } => Rejection::NoWorker,
            Error::QueueFull { .. } => Rejection::QueueFull,
            Error::Deadline => Rejection::Deadline,
            Error::Refused(_) | Error::Grammar(_) => Rejection::Refused,
            Error::WorkerLost | Error::Stopping | Error::GrammarLimit | Error::BadWord => return,
        };
        if is_before_any_token {
            self.metrics.rejected(rejection);
            // A rejection is not a completion that failed.
            self.choices.clear();
        }
    }

    pub(super) fn stream_opened(&self) -> OpenStream {
        self.metrics.stream_opened()
    }
}

impl Times {
    fn took(self) -> Duration {
        self.first.zip(self.last).map(|(first, last)| last - first).unwrap_or_default()
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        for times in self.choices.iter().filter(|times| !times.is_finished) {
            self.metrics.completed(self.otherwise, times.num_tokens, times.took());
        }
    }
}
