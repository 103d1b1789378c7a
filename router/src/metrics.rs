//! What the router counts and measures, for `/metrics`.
//!
//! [`of`] gives the handles of one model version; a request fetches them once and then records
//! without a lock, a lookup or an allocation. Labels are models, versions and statuses, never
//! keys, users or requests.

mod batch;
pub mod catalogue;
mod engine;
mod split;
mod totals;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

pub(crate) use batch::*;
use catalogue::{Kind, METRICS};
pub use engine::Engine;
pub(crate) use split::{Part, Split};
pub use totals::{InFlight, Pending, Totals};

static EXPORTER: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
static MODELS: OnceLock<RwLock<ByVersion>> = OnceLock::new();

/// Versions that have metrics of their own. What comes after them shares one.
const MAX_VERSIONS: usize = 256;

/// Models by name and version.
type ByVersion = HashMap<(String, String), Arc<ModelMetrics>>;

/// Why a completion ended, as clients are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finished {
    /// A stop string or an end token.
    Stop,
    /// The token limit.
    Length,
    /// The client went away.
    Abort,
    /// The worker was lost, or something else failed.
    Error,
}

/// Why a generation was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// No worker serves the model now.
    NoWorker,
    /// The worker's queue is full.
    QueueFull,
    /// It waited too long.
    Deadline,
    /// The worker would not take it.
    Refused,
}

/// Why a request is sent to a worker again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resend {
    /// The one that had it was ending.
    Draining,
    /// The one that had it was full.
    QueueFull,
    /// The one that had it was lost.
    Lost,
}

/// The handles of one model version.
pub struct ModelMetrics {
    labels: [(&'static str, String); 2],
    ttft: Histogram,
    itl: Histogram,
    tpot: Histogram,
    e2e: Histogram,
    queue: Histogram,
    prompt_length: Histogram,
    generation_length: Histogram,
    max_tokens: Histogram,
    n: Histogram,
    cancel_to_free: Histogram,
    prompt_tokens: Counter,
    cached_tokens: Counter,
    generation_tokens: Counter,
    failed: Counter,
    shadowed: Counter,
    different: Counter,
    open_streams: Gauge,
    engines: engine::Sums,
}

/// Counts an event stream for as long as it is held.
pub struct OpenStream(Gauge);

/// The metrics of a model version. Looks them up under a lock: once for each request.
pub fn of(model: &str, version: &str) -> Arc<ModelMetrics> {
    install();
    let models = MODELS.get_or_init(RwLock::default);
    let key = (model.to_owned(), version.to_owned());
    let known = models.read().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
    known.unwrap_or_else(|| {
        let mut models = models.write().unwrap_or_else(PoisonError::into_inner);
        let is_full = models.len() >= MAX_VERSIONS && !models.contains_key(&key);
        let key = if is_full { ("other".to_owned(), "other".to_owned()) } else { key };
        let fresh = || Arc::new(ModelMetrics::register(&key.0, &key.1));
        let metrics = models.get(&key).cloned().unwrap_or_else(fresh);
        models.insert(key, Arc::clone(&metrics));
        metrics
    })
}

impl ModelMetrics {
    fn register(model: &str, version: &str) -> Self {
        use catalogue::*;
        let labels = [("model_name", model.to_owned()), ("version", version.to_owned())];
        Self {
            ttft: histogram!(TIME_TO_FIRST_TOKEN, &labels),
            itl: histogram!(INTER_TOKEN_LATENCY, &labels),
            tpot: histogram!(TIME_PER_OUTPUT_TOKEN, &labels),
            e2e: histogram!(E2E_LATENCY, &labels),
            queue: histogram!(QUEUE_TIME, &labels),
            prompt_length: histogram!(PROMPT_LENGTH, &labels),
            generation_length: histogram!(GENERATION_LENGTH, &labels),
            max_tokens: histogram!(MAX_TOKENS, &labels),
            n: histogram!(PARAM_N, &labels),
            cancel_to_free: histogram!(CANCEL_TO_FREE, &labels),
            prompt_tokens: counter!(PROMPT_TOKENS, &labels),
            cached_tokens: counter!(CACHED_TOKENS, &labels),
            generation_tokens: counter!(GENERATION_TOKENS, &labels),
            failed: counter!(FAILED, &labels),
            shadowed: counter!(SHADOWED, &labels),
            different: counter!(SHADOW_DIFFERENT, &labels),
            open_streams: gauge!(OPEN_STREAMS, &labels),
            engines: engine::Sums::register(&labels),
            labels,
        }
    }

    /// A generation was accepted: its prompt's tokens, and what it asks for.
    pub fn accepted(&self, num_prompt_tokens: usize, max_tokens: u32, n: u32) {
        self.prompt_length.record(num_prompt_tokens as f64);
        self.prompt_tokens.increment(num_prompt_tokens as u64);
        self.max_tokens.record(max_tokens);
        self.n.record(n);
    }

    /// A request for vectors was accepted, with inputs of so many tokens.
    pub fn accepted_inputs(&self, lens: impl Iterator<Item = usize>) {
        for len in lens {
            self.prompt_length.record(len as f64);
            self.prompt_tokens.increment(len as u64);
        }
    }

    /// Prompt tokens that the prefix cache held.
    pub fn cached(&self, num_tokens: usize) {
        self.cached_tokens.increment(num_tokens as u64);
    }

    /// The first step began, so long after the worker had taken the prompt.
    pub fn queued(&self, wait: Duration) {
        self.queue.record(wait);
    }

    /// The first token came, so long after the request.
    pub fn first_token(&self, since_arrival: Duration) {
        self.ttft.record(since_arrival);
        self.generation_tokens.increment(1);
    }

    /// A later token came, so long after the one before it.
    pub fn next_token(&self, since_previous: Duration) {
        self.itl.record(since_previous);
        self.generation_tokens.increment(1);
    }

    /// A completion ended with so many tokens, the first and the last so far apart.
    pub fn completed(&self, reason: Finished, num_tokens: usize, first_to_last: Duration) {
        self.ended(reason);
        self.generation_length.record(num_tokens as f64);
        if num_tokens > 1 {
            self.tpot.record(first_to_last.as_secs_f64() / (num_tokens - 1) as f64);
        }
    }

    /// A completion ended, or a request for vectors.
    pub fn ended(&self, reason: Finished) {
        let reason = match reason {
            Finished::Stop => "stop",
            Finished::Length => "length",
            Finished::Abort => "abort",
            Finished::Error => "error",
        };
        self.count(catalogue::REQUEST_SUCCESS, ("finished_reason", reason));
    }

    /// A request was answered to its end, so long after it came.
    pub fn answered(&self, since_arrival: Duration) {
        self.e2e.record(since_arrival);
    }

    /// A request failed by no fault of the client.
    pub fn failed(&self) {
        self.failed.increment(1);
    }

    /// A request was sent to a worker again, after the last one had not answered it.
    pub fn resent(&self, reason: Resend) {
        let reason = match reason {
            Resend::Draining => "draining",
            Resend::QueueFull => "queue_full",
            Resend::Lost => "lost",
        };
        self.count(catalogue::RESENT, ("reason", reason));
    }

    /// This version answered a copy of a request.
    pub fn shadowed(&self, is_different: bool) {
        self.shadowed.increment(1);
        self.different.increment(is_different.into());
    }

    /// A generation was refused.
    pub fn rejected(&self, reason: Rejection) {
        let reason = match reason {
            Rejection::NoWorker => "no_worker",
            Rejection::QueueFull => "queue_full",
            Rejection::Deadline => "deadline",
            Rejection::Refused => "refused",
        };
        self.count(catalogue::REJECTED, ("reason", reason));
    }

    /// A cancelled request's blocks are free, so long after its cancellation.
    pub fn cancelled(&self, to_free: Duration) {
        self.cancel_to_free.record(to_free);
    }

    /// Counts an event stream until the returned guard is dropped.
    pub fn stream_opened(&self) -> OpenStream {
        self.open_streams.increment(1);
        OpenStream(self.open_streams.clone())
    }

    fn count(&self, name: &'static str, label: (&'static str, &'static str)) {
        let [(model, model_name), (version, version_name)] = &self.labels;
        counter!(
            name,
            *model => model_name.clone(), *version => version_name.clone(), label.0 => label.1
        )
        .increment(1);
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}

/// Makes this process's metrics readable through [`render`]. Later calls do nothing.
pub fn install() {
    EXPORTER.get_or_init(|| {
        let exporter = builder().and_then(PrometheusBuilder::install_recorder);
        if let Ok(handle) = &exporter {
            describe();
            return Some(handle.clone());
        }
        tracing::error!("another recorder is installed; /metrics stays empty");
        None
    });
}

fn builder() -> Result<PrometheusBuilder, metrics_exporter_prometheus::BuildError> {
    let mut builder = PrometheusBuilder::new();
    for metric in METRICS {
        if let Kind::Histogram(buckets) = metric.kind {
            let name = Matcher::Full(metric.name.to_owned());
            builder = builder.set_buckets_for_metric(name, buckets)?;
        }
    }
    Ok(builder)
}

fn describe() {
    for metric in METRICS {
        match metric.kind {
            Kind::Counter => metrics::describe_counter!(metric.name, metric.help),
            Kind::Gauge => metrics::describe_gauge!(metric.name, metric.help),
            Kind::Histogram(_) => metrics::describe_histogram!(metric.name, metric.help),
        }
    }
}

/// All metrics in Prometheus' text format.
pub fn render() -> String {
    EXPORTER.get().and_then(Option::as_ref).map(PrometheusHandle::render).unwrap_or_default()
}

/// Folds what histograms gathered into their buckets, so that they stay small between scrapes.
pub(crate) fn upkeep() {
    if let Some(Some(exporter)) = EXPORTER.get() {
        exporter.run_upkeep();
    }
}

/// `GET /metrics`.
#[utoipa::path(
    get, path = "/metrics", tag = "operations", summary = "Metrics in Prometheus' text format",
    responses((
        status = 200, body = String, content_type = "text/plain; version=0.0.4",
        description = "One sample a line, with their help texts",
    )),
)]
pub(crate) async fn scrape() -> Response {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], render()).into_response()
}

/// Counts an answer that is made without a reader for as long as it is held.
pub(crate) struct DetachedStream(());

impl DetachedStream {
    pub(crate) fn new() -> Self {
        gauge!(catalogue::DETACHED_STREAMS).increment(1);
        Self(())
    }
}

impl Drop for DetachedStream {
    fn drop(&mut self) {
        gauge!(catalogue::DETACHED_STREAMS).decrement(1);
    }
}

/// A client came back to a stream.
pub(crate) fn stream_resumed() {
    counter!(catalogue::STREAMS_RESUMED).increment(1);
}

/// An answer was cancelled because nobody came back for it.
pub(crate) fn stream_abandoned() {
    counter!(catalogue::STREAMS_ABANDONED).increment(1);
}

/// A repeated request got the answer to the first.
pub(crate) fn replayed() {
    counter!(catalogue::IDEMPOTENT_REPLAYS).increment(1);
}

/// So many bytes of answers are kept.
pub(crate) fn kept_bytes(num: usize) {
    gauge!(catalogue::KEPT_BYTES).set(num as f64);
}

/// How a request's wait for a replica ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HoldEnd {
    /// There is one.
    Ready,
    /// None came in time.
    Timeout,
    /// Too many were waiting already.
    Full,
    /// The client went away, or the name did.
    Abort,
}

/// A request's copy was not made, or not answered.
pub(crate) fn shadow_skipped() {
    counter!(catalogue::SHADOW_SKIPPED).increment(1);
}

/// The gauge of requests that wait for a replica.
pub(crate) fn held() -> Gauge {
    gauge!(catalogue::HELD)
}

/// A request waited so long for a replica.
pub(crate) fn hold_ended(end: HoldEnd, took: Duration) {
    let outcome = match end {
        HoldEnd::Ready => "ready",
        HoldEnd::Timeout => "timeout",
        HoldEnd::Full => "full",
        HoldEnd::Abort => "abort",
    };
    counter!(catalogue::HOLDS_ENDED, "outcome" => outcome).increment(1);
    histogram!(catalogue::HOLD_TIME).record(took);
}

/// The routing table that is followed now.
pub(crate) fn table_generation(generation: u64) {
    gauge!(catalogue::TABLE_GENERATION).set(generation as f64);
}

/// Whether the launcher is followed.
pub(crate) fn launcher_connected(is_connected: bool) {
    gauge!(catalogue::ROUTING_CONNECTED).set(if is_connected { 1.0 } else { 0.0 });
}

/// A file was stored. Its purpose is one of a few words.
pub(crate) fn file_stored(purpose: &'static str) {
    counter!(catalogue::FILES_STORED, "purpose" => purpose).increment(1);
}

/// So many bytes were written to a file.
pub(crate) fn file_bytes_received(num: usize) {
    counter!(catalogue::FILE_BYTES_RECEIVED).increment(num as u64);
}

/// So many bytes were read from a file.
pub(crate) fn file_bytes_sent(num: usize) {
    counter!(catalogue::FILE_BYTES_SENT).increment(num as u64);
}

/// An answer's head was made.
pub(crate) fn http_answered(route: &str, status: u16) {
    counter!(
        catalogue::HTTP_REQUESTS, "route" => route.to_owned(), "status" => status.to_string()
    )
    .increment(1);
}

/// An answer ended, so long after its request.
pub(crate) fn http_ended(route: &str, took: Duration) {
    histogram!(catalogue::HTTP_DURATION, "route" => route.to_owned()).record(took);
}

/// The gauge of open connections.
pub(crate) fn connections() -> Gauge {
    gauge!(catalogue::CONNECTIONS)
}

/// A connection was closed because too many were open.
pub(crate) fn connection_refused() {
    counter!(catalogue::CONNECTIONS_REFUSED).increment(1);
}
